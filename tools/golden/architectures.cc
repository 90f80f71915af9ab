#include "architectures.h"

#include <cmath>
#include <map>
#include <stdexcept>

namespace ponder::golden {

namespace {

// The class and the model_type of config.json.
struct Names {
  const char* class_name;
  const char* model_type;
};

const std::map<std::string, Names>& architectures() {
  static const std::map<std::string, Names> known = {
      {"qwen2", {"Qwen2ForCausalLM", "qwen2"}},
      {"llama", {"LlamaForCausalLM", "llama"}},
      {"qwen3", {"Qwen3ForCausalLM", "qwen3"}},
      {"qwen3moe", {"Qwen3MoeForCausalLM", "qwen3_moe"}},
      {"deepseek2", {"DeepseekV2ForCausalLM", "deepseek_v2"}},
      {"deepseek3", {"DeepseekV3ForCausalLM", "deepseek_v3"}},
  };
  return known;
}

bool is_mixture(const Sizes& s) { return s.is_deepseek() || s.architecture == "qwen3moe"; }

Json deepseek_config(const Sizes& s) {
  const LatentSizes& l = s.latent;
  const MixtureSizes& m = s.mixture;
  const bool v3 = s.architecture == "deepseek3";
  // V2 and V3 were stretched from 4096 tokens by YaRN.
  const Json yarn = {{"beta_fast", 32},
                     {"beta_slow", 1},
                     {"factor", 40},
                     {"mscale", v3 ? 1.0 : 0.707},
                     {"mscale_all_dim", v3 ? 1.0 : 0.707},
                     {"original_max_position_embeddings", 4096},
                     {"type", "yarn"}};
  return {{"first_k_dense_replace", m.dense_layers},
          {"kv_lora_rank", l.kv_rank},
          {"moe_intermediate_size", m.intermediate},
          {"moe_layer_freq", 1},
          {"n_group", m.groups},
          {"n_routed_experts", m.experts},
          {"n_shared_experts", m.shared},
          {"norm_topk_prob", v3},
          {"num_experts_per_tok", m.chosen},
          {"num_nextn_predict_layers", m.draft_layer ? 1 : 0},
          {"q_lora_rank", l.q_rank > 0 ? Json(l.q_rank) : Json()},
          {"qk_nope_head_dim", l.nope_dim},
          {"qk_rope_head_dim", l.rope_dim},
          {"rope_scaling", s.context > 4096 ? yarn : Json()},
          {"routed_scaling_factor", m.scale},
          {"scoring_func", v3 ? "sigmoid" : "softmax"},
          {"topk_group", m.groups_kept},
          {"topk_method", v3             ? "noaux_tc"
                          : m.groups > 1 ? "group_limited_greedy"
                                         : "greedy"},
          {"v_head_dim", l.value_dim}};
}

}  // namespace

std::string known_architectures() {
  std::string names;
  for (const auto& [name, unused] : architectures()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

Sizes preset(const std::string& name) {
  static const std::map<std::string, Sizes> known = {
      {"tiny", Sizes{}},
      {"qwen2.5-0.5b", {"qwen2", 24, 896, 4864, 14, 2, 0, 151936, 32768, 1e6, false, true}},
      {"qwen2.5-1.5b", {"qwen2", 28, 1536, 8960, 12, 2, 0, 151936, 32768, 1e6, false, true}},
      {"qwen2.5-7b", {"qwen2", 28, 3584, 18944, 28, 4, 0, 152064, 32768, 1e6, false, false}},
      {"llama-3.2-1b", {"llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5, true, true}},
      {"llama-3.1-8b", {"llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 5e5, true, false}},
      {"qwen3-8b", {"qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, 1e6, false, false}},
  };
  if (name == "deepseek-r1") {
    return {"deepseek3",
            61,
            7168,
            18432,
            128,
            128,
            0,
            129280,
            163840,
            1e4,
            false,
            false,
            {1536, 512, 128, 64, 128},
            {256, 8, 2048, 1, 8, 4, 3, 2.5, true}};
  }
  if (name == "deepseek-v2-lite") {
    return {"deepseek2",
            27,
            2048,
            10944,
            16,
            16,
            0,
            102400,
            163840,
            1e4,
            false,
            false,
            {0, 512, 128, 64, 128},
            {64, 6, 1408, 2, 1, 1, 1, 1.0, false}};
  }
  if (name == "deepseek-v2") {
    return {"deepseek2",
            60,
            5120,
            12288,
            128,
            128,
            0,
            102400,
            163840,
            1e4,
            false,
            false,
            {1536, 512, 128, 64, 128},
            {160, 6, 1536, 2, 8, 3, 1, 16.0, false}};
  }
  if (name == "qwen3-30b-a3b") {
    return {"qwen3moe", 48,    2048, 6144,  32,    4,  128,
            151936,     40960, 1e6,  false, false, {}, {128, 8, 768, 0, 1, 1, 0, 1.0, false}};
  }
  const auto it = known.find(name);
  if (it != known.end()) return it->second;
  std::string names = "deepseek-r1, deepseek-v2, deepseek-v2-lite, qwen3-30b-a3b";
  for (const auto& [one, sizes] : known) names += ", " + one;
  throw std::invalid_argument("unknown shape '" + name + "'; known: " + names);
}

void check(const Sizes& s) {
  if (architectures().count(s.architecture) == 0) {
    throw std::invalid_argument("unknown architecture '" + s.architecture +
                                "'; known: " + known_architectures());
  }
  const LatentSizes& l = s.latent;
  const MixtureSizes& m = s.mixture;
  std::map<std::string, int64_t> positive = {
      {"--layers", s.layers},   {"--hidden", s.hidden},     {"--ffn", s.intermediate},
      {"--heads", s.heads},     {"--kv-heads", s.kv_heads}, {"--vocab", s.vocabulary},
      {"--context", s.context},
  };
  if (is_mixture(s)) {
    positive.insert({{"--experts", m.experts},
                     {"--experts-chosen", m.chosen},
                     {"--expert-ffn", m.intermediate},
                     {"--expert-groups", m.groups},
                     {"--expert-groups-kept", m.groups_kept}});
  }
  if (s.is_deepseek()) {
    positive.insert({{"--kv-rank", l.kv_rank},
                     {"--nope-dim", l.nope_dim},
                     {"--rope-dim", l.rope_dim},
                     {"--value-dim", l.value_dim}});
  }
  for (const auto& [option, value] : positive) {
    if (value < 1 || value > (int64_t{1} << 30)) {
      throw std::invalid_argument(option + " is " + std::to_string(value) + ", must be positive");
    }
  }
  if (is_mixture(s) && (m.experts % m.groups != 0 || m.groups_kept > m.groups ||
                        m.chosen > m.experts / m.groups * m.groups_kept)) {
    throw std::invalid_argument("that many experts cannot be chosen from these groups");
  }
  if (m.shared < 0 || m.dense_layers < 0 || l.q_rank < 0 || l.rope_dim % 2 != 0) {
    throw std::invalid_argument("sizes must not be negative, and --rope-dim even");
  }
  if (s.is_deepseek()) return;  // heads have widths of their own
  if (s.heads % s.kv_heads != 0) {
    throw std::invalid_argument("--heads must be a multiple of --kv-heads");
  }
  if (s.head_dim == 0 && s.hidden % s.heads != 0) {
    throw std::invalid_argument("--hidden is no multiple of --heads: give --head-dim");
  }
  if (s.head_dim < 0 || s.head_dim % 2 != 0) {
    throw std::invalid_argument("--head-dim must be even");
  }
}

Json config(const Sizes& s, ElementType type, int64_t bos, int64_t eos) {
  const Names& names = architectures().at(s.architecture);
  const bool qwen2 = s.architecture == "qwen2", llama = s.architecture == "llama";
  Json c;
  c["architectures"] = {names.class_name};
  if (!qwen2) c["attention_bias"] = false;
  c["attention_dropout"] = 0.0;
  c["bos_token_id"] = bos;
  c["eos_token_id"] = eos;
  if (s.head_dim != 0) {
    c["head_dim"] = s.head_dim;
  } else if (s.architecture.starts_with("qwen3")) {
    c["head_dim"] = s.hidden / s.heads;  // where transformers takes 128 for granted
  }
  c["hidden_act"] = "silu";
  c["hidden_size"] = s.hidden;
  c["initializer_range"] = 0.02;
  c["intermediate_size"] = s.intermediate;
  c["max_position_embeddings"] = s.context;
  c["model_type"] = names.model_type;
  c["num_attention_heads"] = s.heads;
  c["num_hidden_layers"] = s.layers;
  c["num_key_value_heads"] = s.kv_heads;
  c["rms_norm_eps"] = llama ? 1e-5 : 1e-6;
  if (s.llama3_scaling) {
    c["rope_scaling"] = {{"factor", 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 8192},
                         {"rope_type", "llama3"}};
  }
  c["rope_theta"] = s.rope_theta;
  c["tie_word_embeddings"] = s.tied;
  c["torch_dtype"] = type == ElementType::kF32   ? "float32"
                     : type == ElementType::kF16 ? "float16"
                                                 : "bfloat16";
  c["use_cache"] = true;
  if (s.is_deepseek()) c.update(deepseek_config(s));
  if (s.architecture == "qwen3moe") {
    c.update({{"decoder_sparse_step", 1},
              {"mlp_only_layers", Json::array()},
              {"moe_intermediate_size", s.mixture.intermediate},
              {"norm_topk_prob", true},
              {"num_experts", s.mixture.experts},
              {"num_experts_per_tok", s.mixture.chosen}});
  }
  if (type == ElementType::kF8) {
    c["quantization_config"] = {{"activation_scheme", "dynamic"},
                                {"fmt", "e4m3"},
                                {"quant_method", "fp8"},
                                {"weight_block_size", {128, 128}}};
  }
  if (!llama && !s.is_deepseek()) c["use_sliding_window"] = false;
  c["vocab_size"] = s.vocabulary;
  return c;
}

std::vector<TensorSpec> tensors(const Sizes& s) {
  using Storage = TensorSpec::Storage;
  const int64_t head_dim = s.head_dim != 0 ? s.head_dim : s.hidden / s.heads;
  const int64_t q = s.heads * head_dim, kv = s.kv_heads * head_dim;
  const LatentSizes& l = s.latent;
  const MixtureSizes& m = s.mixture;
  const double small = 0.1;
  // What is added to the residual stream is kept small, so that its size does not grow with depth.
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(s.layers));
  const auto fan = [](int64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); };

  std::vector<TensorSpec> all;
  std::string layer;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, double mean,
                       double deviation, Storage storage = Storage::kModel) {
    all.push_back({layer + name, std::move(shape), mean, deviation, storage});
  };
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols, double gain = 1) {
    add(name + ".weight", {rows, cols}, 0, gain * fan(cols), Storage::kLinear);
  };
  const auto feed_forward = [&](const std::string& name, int64_t width, double gain) {
    linear(name + "gate_proj", width, s.hidden);
    linear(name + "up_proj", width, s.hidden);
    linear(name + "down_proj", s.hidden, width, gain);
  };
  const auto add_layer = [&](int64_t i) {
    layer = "model.layers." + std::to_string(i) + ".";
    add("input_layernorm.weight", {s.hidden}, 1, small);
    if (s.is_deepseek()) {
      const int64_t key = l.nope_dim + l.rope_dim;
      if (l.q_rank > 0) {
        linear("self_attn.q_a_proj", l.q_rank, s.hidden);
        add("self_attn.q_a_layernorm.weight", {l.q_rank}, 1, small);
        linear("self_attn.q_b_proj", s.heads * key, l.q_rank);
      } else {
        linear("self_attn.q_proj", s.heads * key, s.hidden);
      }
      linear("self_attn.kv_a_proj_with_mqa", l.kv_rank + l.rope_dim, s.hidden);
      add("self_attn.kv_a_layernorm.weight", {l.kv_rank}, 1, small);
      linear("self_attn.kv_b_proj", s.heads * (l.nope_dim + l.value_dim), l.kv_rank);
      linear("self_attn.o_proj", s.hidden, s.heads * l.value_dim, residual);
    } else {
      linear("self_attn.q_proj", q, s.hidden);
      linear("self_attn.k_proj", kv, s.hidden);
      linear("self_attn.v_proj", kv, s.hidden);
      if (s.architecture == "qwen2") {
        add("self_attn.q_proj.bias", {q}, 0, small);
        add("self_attn.k_proj.bias", {kv}, 0, small);
        add("self_attn.v_proj.bias", {kv}, 0, small);
      }
      if (s.architecture == "qwen3" || s.architecture == "qwen3moe") {
        add("self_attn.q_norm.weight", {head_dim}, 1, small);
        add("self_attn.k_norm.weight", {head_dim}, 1, small);
      }
      linear("self_attn.o_proj", s.hidden, q, residual);
    }
    add("post_attention_layernorm.weight", {s.hidden}, 1, small);
    if (!is_mixture(s) || (s.is_deepseek() && i < m.dense_layers)) {
      feed_forward("mlp.", s.intermediate, residual);
      return;
    }
    add("mlp.gate.weight", {m.experts, s.hidden}, 0, fan(s.hidden));
    if (s.architecture == "deepseek3") {
      add("mlp.gate.e_score_correction_bias", {m.experts}, 0, small, Storage::kF32);
    }
    for (int64_t e = 0; e < m.experts; ++e) {
      feed_forward("mlp.experts." + std::to_string(e) + ".", m.intermediate, residual / m.scale);
    }
    if (s.is_deepseek() && m.shared > 0) {
      feed_forward("mlp.shared_experts.", m.shared * m.intermediate, residual);
    }
  };

  add("model.embed_tokens.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden));
  for (int64_t i = 0; i < s.layers; ++i) add_layer(i);
  if (s.is_deepseek() && m.draft_layer) {
    add_layer(s.layers);
    add("embed_tokens.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden));
    add("enorm.weight", {s.hidden}, 1, small);
    add("hnorm.weight", {s.hidden}, 1, small);
    add("eh_proj.weight", {s.hidden, 2 * s.hidden}, 0, fan(2 * s.hidden));
    add("shared_head.norm.weight", {s.hidden}, 1, small);
    add("shared_head.head.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden));
  }
  layer.clear();
  add("model.norm.weight", {s.hidden}, 1, small);
  if (!s.tied) add("lm_head.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden));
  return all;
}

}  // namespace ponder::golden
