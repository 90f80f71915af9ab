#include "architectures.h"

#include <cmath>
#include <map>
#include <stdexcept>

namespace ponder::golden {

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
  const auto it = known.find(name);
  if (it != known.end()) return it->second;
  std::string names;
  for (const auto& [one, sizes] : known) names += (names.empty() ? "" : ", ") + one;
  throw std::invalid_argument("unknown shape '" + name + "'; known: " + names);
}

void check(const Sizes& s) {
  if (s.architecture != "qwen2" && s.architecture != "llama" && s.architecture != "qwen3") {
    throw std::invalid_argument("unknown architecture '" + s.architecture +
                                "'; known: qwen2, llama, qwen3");
  }
  const std::map<std::string, int64_t> positive = {
      {"--layers", s.layers},   {"--hidden", s.hidden},     {"--ffn", s.intermediate},
      {"--heads", s.heads},     {"--kv-heads", s.kv_heads}, {"--vocab", s.vocabulary},
      {"--context", s.context},
  };
  for (const auto& [option, value] : positive) {
    if (value < 1 || value > (int64_t{1} << 30)) {
      throw std::invalid_argument(option + " is " + std::to_string(value) + ", must be positive");
    }
  }
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

Json config(const Sizes& s, const std::string& dtype, int64_t bos, int64_t eos) {
  const bool qwen2 = s.architecture == "qwen2", llama = s.architecture == "llama";
  Json c;
  c["architectures"] = {qwen2   ? "Qwen2ForCausalLM"
                        : llama ? "LlamaForCausalLM"
                                : "Qwen3ForCausalLM"};
  if (!qwen2) c["attention_bias"] = false;
  c["attention_dropout"] = 0.0;
  c["bos_token_id"] = bos;
  c["eos_token_id"] = eos;
  if (s.head_dim != 0) c["head_dim"] = s.head_dim;
  c["hidden_act"] = "silu";
  c["hidden_size"] = s.hidden;
  c["initializer_range"] = 0.02;
  c["intermediate_size"] = s.intermediate;
  c["max_position_embeddings"] = s.context;
  c["model_type"] = s.architecture;
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
  c["torch_dtype"] = dtype;
  c["use_cache"] = true;
  if (!llama) c["use_sliding_window"] = false;
  c["vocab_size"] = s.vocabulary;
  return c;
}

std::vector<TensorSpec> tensors(const Sizes& s) {
  const int64_t head_dim = s.head_dim != 0 ? s.head_dim : s.hidden / s.heads;
  const int64_t q = s.heads * head_dim, kv = s.kv_heads * head_dim;
  const double small = 0.1;
  // What is added to the residual stream is kept small, so that its size does not grow with depth.
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(s.layers));
  const auto fan = [](int64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); };

  std::vector<TensorSpec> all;
  all.push_back({"model.embed_tokens.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden)});
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto add = [&](const std::string& name, std::vector<int64_t> shape, double mean,
                         double deviation) {
      all.push_back({layer + name, std::move(shape), mean, deviation});
    };
    add("input_layernorm.weight", {s.hidden}, 1, small);
    add("self_attn.q_proj.weight", {q, s.hidden}, 0, fan(s.hidden));
    add("self_attn.k_proj.weight", {kv, s.hidden}, 0, fan(s.hidden));
    add("self_attn.v_proj.weight", {kv, s.hidden}, 0, fan(s.hidden));
    if (s.architecture == "qwen2") {
      add("self_attn.q_proj.bias", {q}, 0, small);
      add("self_attn.k_proj.bias", {kv}, 0, small);
      add("self_attn.v_proj.bias", {kv}, 0, small);
    }
    if (s.architecture == "qwen3") {
      add("self_attn.q_norm.weight", {head_dim}, 1, small);
      add("self_attn.k_norm.weight", {head_dim}, 1, small);
    }
    add("self_attn.o_proj.weight", {s.hidden, q}, 0, residual * fan(q));
    add("post_attention_layernorm.weight", {s.hidden}, 1, small);
    add("mlp.gate_proj.weight", {s.intermediate, s.hidden}, 0, fan(s.hidden));
    add("mlp.up_proj.weight", {s.intermediate, s.hidden}, 0, fan(s.hidden));
    add("mlp.down_proj.weight", {s.hidden, s.intermediate}, 0, residual * fan(s.intermediate));
  }
  all.push_back({"model.norm.weight", {s.hidden}, 1, small});
  if (!s.tied) all.push_back({"lm_head.weight", {s.vocabulary, s.hidden}, 0, 2 * fan(s.hidden)});
  return all;
}

}  // namespace ponder::golden
