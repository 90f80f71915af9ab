#include "lib/format/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "lib/base/quote.h"
#include "lib/format/file_checkpoint.h"
#include "lib/format/gguf.h"

namespace ponder {
namespace {

struct Architecture {
  absl::string_view name;        // in GGUF, and as Hugging Face's model_type
  absl::string_view class_name;  // in Hugging Face's "architectures"
  // The converter has put the rows of the query and key matrices into the order of a rotation of
  // neighbours (2i, 2i+1); Hugging Face's order rotates (i, i + E/2).
  bool interleaved;
};

constexpr Architecture kArchitectures[] = {{"qwen2", "Qwen2ForCausalLM", false},
                                           {"llama", "LlamaForCausalLM", true},
                                           {"qwen3", "Qwen3ForCausalLM", false},
                                           {"qwen3moe", "Qwen3MoeForCausalLM", false},
                                           {"deepseek2", "DeepseekV3ForCausalLM", true}};

struct Name {
  absl::string_view gguf, hugging_face;
};

constexpr Name kTopNames[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr Name kLayerNames[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    // Mixtures of experts; the experts of a layer are one tensor, which Hugging Face has no name
    // for.
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
    // Multi-head latent attention; kv_b may be split into k_b, transposed, and v_b.
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"attn_k_b", "self_attn.k_b_proj"},
    {"attn_v_b", "self_attn.v_b_proj"}};

template <size_t N>
absl::string_view find_name(const Name (&names)[N], absl::string_view gguf) {
  for (const Name& name : names) {
    if (name.gguf == gguf) return name.hugging_face;
  }
  return {};
}

// "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight". Names that are not of a weight
// we know stay as they are.
std::string hugging_face_name(absl::string_view gguf) {
  const size_t dot = gguf.rfind('.');
  if (dot == gguf.npos) return std::string(gguf);
  const absl::string_view stem = gguf.substr(0, dot), ending = gguf.substr(dot);
  if (ending != ".weight" && ending != ".bias") return std::string(gguf);
  if (const absl::string_view top = find_name(kTopNames, stem); !top.empty()) {
    return absl::StrCat(top, ending);
  }
  absl::string_view rest = stem;
  if (!absl::ConsumePrefix(&rest, "blk.")) return std::string(gguf);
  const size_t border = rest.find('.');
  if (border == rest.npos) return std::string(gguf);
  const absl::string_view layer = rest.substr(0, border);
  uint32_t number = 0;
  if (!absl::SimpleAtoi(layer, &number)) return std::string(gguf);
  if (rest.substr(border + 1) == "exp_probs_b" && ending == ".bias") {
    return absl::StrCat("model.layers.", number, ".mlp.gate.e_score_correction_bias");
  }
  const absl::string_view part = find_name(kLayerNames, rest.substr(border + 1));
  if (part.empty()) return std::string(gguf);
  return absl::StrCat("model.layers.", number, ".", part, ending);
}

// Reads metadata under the architecture's own prefix into a configuration; remembers the first
// failure.
class ConfigWriter {
 public:
  ConfigWriter(const GgufMetadata& metadata, const Architecture& architecture,
               absl::string_view what)
      : metadata_(metadata), prefix_(absl::StrCat(architecture.name, ".")), what_(what) {}

  Json take() { return std::move(config_); }
  const Status& status() const { return status_; }
  void set(const char* key, Json value) { config_[key] = std::move(value); }
  void fail(const Status& status) {
    if (status_.ok()) status_ = status;
  }

  // A size that must be there. Where layers have one each, all must be the same.
  void size(const char* key, absl::string_view suffix) {
    const std::optional<int64_t> value = whole(suffix);
    if (!value.has_value()) {
      return fail(
          corrupt_error(what_, ": metadata ", quote(prefix_ + std::string(suffix)), " is missing"));
    }
    config_[key] = *value;
  }
  void optional_size(const char* key, absl::string_view suffix) {
    if (const std::optional<int64_t> value = whole(suffix)) config_[key] = *value;
  }

  std::optional<int64_t> whole(absl::string_view suffix) {
    const std::string key = prefix_ + std::string(suffix);
    const GgufValue* value = metadata_.find(key);
    const auto* list = value == nullptr ? nullptr : std::get_if<std::vector<int64_t>>(value);
    if (list == nullptr) return keep(metadata_.integer(key));
    if (list->empty() || !std::all_of(list->begin(), list->end(),
                                      [list](int64_t v) { return v == list->front(); })) {
      fail(unsupported_error(what_, ": metadata ", quote(key),
                             " differs from layer to layer;"
                             " such models are not supported"));
      return std::nullopt;
    }
    return list->front();
  }
  std::optional<double> number(absl::string_view suffix) {
    const std::string key = prefix_ + std::string(suffix);
    const std::optional<double> value = keep(metadata_.number(key));
    // JSON has no words for these, and no model has a use for them.
    if (value.has_value() && !std::isfinite(*value)) {
      fail(corrupt_error(what_, ": metadata ", quote(key), " is not a finite number"));
      return std::nullopt;
    }
    return value;
  }
  std::optional<std::string> text(absl::string_view suffix) {
    return keep(metadata_.text(prefix_ + std::string(suffix)));
  }
  std::optional<bool> boolean(absl::string_view suffix) {
    return keep(metadata_.boolean(prefix_ + std::string(suffix)));
  }

 private:
  template <typename T>
  std::optional<T> keep(const StatusOr<std::optional<T>>& value) {
    fail(value.status());
    return value.ok() ? *value : std::nullopt;
  }

  const GgufMetadata& metadata_;
  const std::string prefix_;
  const absl::string_view what_;
  Json config_ = Json::object();
  Status status_;
};

// Llama 3.1's scaling comes as a tensor that says by how much each frequency is divided.
StatusOr<Json> frequency_factors(const FileSource& source, const GgufFiles& gguf,
                                 const GgufTensor& tensor, absl::string_view what) {
  constexpr int64_t kMost = 4096;
  if (tensor.type->dtype != DType::kF32 || tensor.shape.size() != 1 || tensor.shape[0] > kMost) {
    return corrupt_error(what, ": tensor ", quote(tensor.name), " must be a short list of F32");
  }
  std::vector<float> factors(static_cast<size_t>(tensor.shape[0]));
  PONDER_RETURN_IF_ERROR(
      source.read(gguf.files[tensor.file], tensor.offset, factors.data(), tensor.bytes));
  Json list = Json::array();
  for (const float factor : factors) {
    if (!(factor > 0) || !std::isfinite(factor)) {
      return corrupt_error(what, ": tensor ", quote(tensor.name),
                           " has a factor that is not"
                           " positive");
    }
    list.push_back(factor);
  }
  return list;
}

Status write_rope(const FileSource& source, const GgufFiles& gguf, absl::string_view what,
                  const Architecture& architecture, ConfigWriter* config) {
  const bool deepseek = architecture.name == "deepseek2";
  config->set("rope_theta", config->number("rope.freq_base").value_or(10000.0));
  if (architecture.interleaved) config->set("rope_interleaved", true);
  if (const GgufTensor* factors = gguf.find("rope_freqs.weight"); factors != nullptr) {
    PONDER_ASSIGN_OR_RETURN(Json list, frequency_factors(source, gguf, *factors, what));
    Json scaling = {{"rope_type", "factors"}};
    scaling["factors"] = std::move(list);
    config->set("rope_scaling", std::move(scaling));
    return OkStatus();
  }
  const std::string type = config->text("rope.scaling.type").value_or("none");
  if (type == "none") return OkStatus();
  if (type != "linear" && type != "yarn") {
    return unsupported_error(what, ": rope scaling of type ", quote(type),
                             " is not supported; known are none, linear and yarn");
  }
  Json scaling = {{"rope_type", type}};
  scaling["factor"] = config->number("rope.scaling.factor").value_or(1.0);
  if (const auto original = config->whole("rope.scaling.original_context_length")) {
    scaling["original_max_position_embeddings"] = *original;
  }
  const std::pair<const char*, const char*> yarn[] = {
      {"attn_factor", "rope.scaling.yarn_attn_factor"},
      {"beta_fast", "rope.scaling.yarn_beta_fast"},
      {"beta_slow", "rope.scaling.yarn_beta_slow"}};
  for (const auto& [key, suffix] : yarn) {
    if (const auto value = config->number(suffix)) scaling[key] = *value;
  }
  if (deepseek && type == "yarn") {
    // The converter keeps a tenth of mscale_all_dim and drops mscale, which is the same in every
    // model: cos and sin then stay as they are, and the softmax has all of the temperature.
    if (const auto tenth = config->number("rope.scaling.yarn_log_multiplier")) {
      scaling["mscale"] = *tenth * 10;
      scaling["mscale_all_dim"] = *tenth * 10;
    } else {
      scaling["attention_factor"] = 1.0;
    }
  }
  config->set("rope_scaling", std::move(scaling));
  return OkStatus();
}

// Heads, widths and routing of latent attention and mixtures: architecture deepseek2.
void write_deepseek(ConfigWriter* config, absl::string_view what) {
  config->size("kv_lora_rank", "attention.kv_lora_rank");
  if (const auto rank = config->whole("attention.q_lora_rank"); rank.value_or(0) != 0) {
    config->set("q_lora_rank", *rank);
  }
  config->size("qk_rope_head_dim", "rope.dimension_count");
  // Older conversions have the widths of a head under names that newer ones use for the latent's.
  const auto keys = config->whole("attention.key_length_mla");
  const auto values = config->whole("attention.value_length_mla");
  const int64_t key = keys ? *keys : config->whole("attention.key_length").value_or(0);
  const int64_t nope = key - config->whole("rope.dimension_count").value_or(0);
  if (nope < 1) {
    return config->fail(corrupt_error(what, ": keys of ", key, " elements leave none beside the ",
                                      "rotary part (\"deepseek2.rope.dimension_count\")"));
  }
  config->set("qk_nope_head_dim", nope);
  config->set("v_head_dim", values ? *values : config->whole("attention.value_length").value_or(0));
  config->optional_size("first_k_dense_replace", "leading_dense_block_count");
  config->optional_size("n_shared_experts", "expert_shared_count");
  const auto experts = config->whole("expert_count");
  config->set("n_routed_experts", experts.value_or(0));
  if (const auto scale = config->number("expert_weights_scale"); scale.has_value()) {
    config->set("routed_scaling_factor", *scale);
  }
  const int64_t gating = config->whole("expert_gating_func").value_or(1);
  if (gating < 0 || gating > 2) {  // 0: not told
    config->fail(unsupported_error(what, ": expert_gating_func ", gating,
                                   " is not supported; known are 1 (softmax) and 2 (sigmoid)"));
  }
  auto groups = config->whole("expert_group_count");
  auto kept = config->whole("expert_group_used_count");
  // Older conversions of DeepSeek-V2 and of V3 and R1 do not say that experts are chosen by groups.
  if (!groups.has_value() && experts == 256 && gating == 2) groups = 8, kept = 4;
  if (!groups.has_value() && experts == 160 && gating != 2) groups = 8, kept = 3;
  config->set("n_group", groups.value_or(1));
  config->set("topk_group", kept.value_or(1));
  config->set("scoring_func", gating == 2 ? "sigmoid" : "softmax");
  config->set("topk_method", gating == 2              ? "noaux_tc"
                             : groups.value_or(1) > 1 ? "group_limited_greedy"
                                                      : "greedy");
}

// A head's width: keys and values alike.
void write_heads(ConfigWriter* config, absl::string_view what) {
  config->optional_size("head_dim", "attention.key_length");
  const auto keys = config->whole("attention.key_length");
  const auto values = config->whole("attention.value_length");
  if (keys != values && values.has_value()) {
    config->fail(unsupported_error(what, ": keys of ", keys.value_or(0), " and values of ", *values,
                                   " elements a head are not supported for this architecture"));
  }
}

StatusOr<Json> read_config(const FileSource& source, const GgufFiles& gguf,
                           const Architecture& architecture, absl::string_view what) {
  const GgufTensor* embedding = gguf.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return corrupt_error(what, ": has no matrix \"token_embd.weight\"; it is not a language model");
  }
  ConfigWriter config(gguf.metadata, architecture, what);
  config.set("architectures", Json::array({std::string(architecture.class_name)}));
  config.set("model_type", std::string(architecture.name));
  config.set("vocab_size", embedding->shape[0]);
  config.set("tie_word_embeddings", gguf.find("output.weight") == nullptr);
  config.size("hidden_size", "embedding_length");
  config.size("intermediate_size", "feed_forward_length");
  config.size("num_hidden_layers", "block_count");
  config.size("num_attention_heads", "attention.head_count");
  config.optional_size("num_key_value_heads", "attention.head_count_kv");
  config.size("max_position_embeddings", "context_length");
  const bool deepseek = architecture.name == "deepseek2";
  if (deepseek) {
    write_deepseek(&config, what);
  } else {
    write_heads(&config, what);
  }
  if (config.whole("expert_count").has_value()) {
    config.size("moe_intermediate_size", "expert_feed_forward_length");
    config.size("num_experts_per_tok", "expert_used_count");
    // Qwen3's conversions say nothing, and all its mixtures normalise.
    config.set("norm_topk_prob", config.boolean("expert_weights_norm").value_or(!deepseek));
    if (!deepseek) config.size("num_experts", "expert_count");
  }
  const auto eps = config.number("attention.layer_norm_rms_epsilon");
  if (eps.has_value()) config.set("rms_norm_eps", *eps);
  PONDER_RETURN_IF_ERROR(write_rope(source, gguf, what, architecture, &config));
  PONDER_RETURN_IF_ERROR(config.status());
  return config.take();
}

// Sampling that the converter found in generation_config.json, and the tokens that end a text.
Status read_defaults(const GgufMetadata& m, absl::string_view what, GenerationDefaults* d) {
  PONDER_ASSIGN_OR_RETURN(const auto temperature, m.number("general.sampling.temp"));
  PONDER_ASSIGN_OR_RETURN(const auto top_p, m.number("general.sampling.top_p"));
  PONDER_ASSIGN_OR_RETURN(const auto min_p, m.number("general.sampling.min_p"));
  PONDER_ASSIGN_OR_RETURN(const auto top_k, m.integer("general.sampling.top_k"));
  PONDER_ASSIGN_OR_RETURN(const auto penalty, m.number("general.sampling.penalty_repeat"));
  const auto check = [&what](absl::string_view name, const std::optional<double>& value, double low,
                             double high) {
    if (!value.has_value() || (*value >= low && *value <= high)) return OkStatus();
    return corrupt_error(what, ": metadata \"general.sampling.", name, "\" is ", *value,
                         ", must be from ", low, " to ", high);
  };
  PONDER_RETURN_IF_ERROR(check("temp", temperature, 0, 1000));
  PONDER_RETURN_IF_ERROR(check("top_p", top_p, 0, 1));
  PONDER_RETURN_IF_ERROR(check("min_p", min_p, 0, 1));
  PONDER_RETURN_IF_ERROR(check("penalty_repeat", penalty, 1e-3, 1000));
  const auto narrow = [](const std::optional<double>& value) {
    return value.has_value() ? std::optional<float>(static_cast<float>(*value)) : std::nullopt;
  };
  d->temperature = narrow(temperature);
  d->top_p = narrow(top_p);
  d->min_p = narrow(min_p);
  d->repetition_penalty = narrow(penalty);
  if (top_k.has_value() && *top_k >= 0 && *top_k <= std::numeric_limits<int32_t>::max()) {
    d->top_k = static_cast<int32_t>(*top_k);
  }

  // Ids out of range mean "none": some writers put all bits there.
  const auto id = [&m](absl::string_view key) -> StatusOr<std::optional<int32_t>> {
    PONDER_ASSIGN_OR_RETURN(const auto value, m.integer(absl::StrCat("tokenizer.ggml.", key)));
    if (!value.has_value() || *value < 0 || *value > std::numeric_limits<int32_t>::max()) {
      return std::optional<int32_t>();
    }
    return std::optional<int32_t>(static_cast<int32_t>(*value));
  };
  PONDER_ASSIGN_OR_RETURN(d->bos_id, id("bos_token_id"));
  PONDER_ASSIGN_OR_RETURN(d->pad_id, id("padding_token_id"));
  for (absl::string_view key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    PONDER_ASSIGN_OR_RETURN(const auto end, id(key));
    if (end.has_value() &&
        std::find(d->eos_ids.begin(), d->eos_ids.end(), *end) == d->eos_ids.end()) {
      d->eos_ids.push_back(*end);
    }
  }
  return OkStatus();
}

Status read_settings(const GgufMetadata& m, const GenerationDefaults& d, TokenizerSettings* s) {
  PONDER_ASSIGN_OR_RETURN(const auto* tokens, m.texts("tokenizer.ggml.tokens"));
  const auto text = [tokens](const std::optional<int32_t>& id) {
    const bool known =
        id.has_value() && tokens != nullptr && static_cast<size_t>(*id) < tokens->size();
    return known ? (*tokens)[static_cast<size_t>(*id)] : std::string();
  };
  s->bos_token = text(d.bos_id);
  s->pad_token = text(d.pad_id);
  if (!d.eos_ids.empty()) s->eos_token = text(d.eos_ids.front());
  PONDER_ASSIGN_OR_RETURN(s->add_bos, m.boolean("tokenizer.ggml.add_bos_token"));
  PONDER_ASSIGN_OR_RETURN(s->add_eos, m.boolean("tokenizer.ggml.add_eos_token"));
  PONDER_ASSIGN_OR_RETURN(auto chat, m.text("tokenizer.chat_template"));
  if (chat.has_value()) s->chat_template = *std::move(chat);
  return OkStatus();
}

StatusOr<std::unique_ptr<Checkpoint>> make_checkpoint(std::shared_ptr<const FileSource> source,
                                                      Allocator* allocator, absl::string_view what,
                                                      std::vector<GgufTensor> tensors,
                                                      const GgufFiles& gguf) {
  auto checkpoint = std::make_unique<FileCheckpoint>(std::move(source), allocator);
  for (size_t i = 0; i < gguf.files.size(); ++i) {
    PONDER_RETURN_IF_ERROR(checkpoint->add_file(gguf.files[i], gguf.sizes[i]).status());
  }
  std::vector<std::string> names;
  names.reserve(tensors.size());
  for (GgufTensor& tensor : tensors) {
    names.push_back(hugging_face_name(tensor.name));
    checkpoint->add({names.back(), tensor.type->name, tensor.type->dtype, tensor.file,
                     tensor.offset, tensor.bytes, std::move(tensor.shape)});
  }
  checkpoint->finish();
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return corrupt_error(what, ": has tensor ", quote(*twice), " under two names");
  }
  return checkpoint;
}

}  // namespace

std::string gguf_name(absl::string_view hugging_face) {
  absl::string_view rest = hugging_face;
  absl::string_view layer;
  if (absl::ConsumePrefix(&rest, "model.layers.")) {
    const size_t dot = rest.find('.');
    if (dot == rest.npos) return std::string(hugging_face);
    layer = rest.substr(0, dot);
    rest.remove_prefix(dot + 1);
  }
  const std::string prefix = layer.empty() ? "" : absl::StrCat("blk.", layer, ".");
  if (!layer.empty() && rest == "mlp.gate.e_score_correction_bias") {
    return absl::StrCat(prefix, "exp_probs_b.bias");
  }
  const size_t dot = rest.rfind('.');
  if (dot == rest.npos) return std::string(hugging_face);
  const absl::string_view stem = rest.substr(0, dot), ending = rest.substr(dot);
  const auto search = [&](const auto& names) {
    for (const Name& name : names) {
      if (name.hugging_face == stem) return absl::StrCat(prefix, name.gguf, ending);
    }
    return std::string(hugging_face);
  };
  return layer.empty() ? search(kTopNames) : search(kLayerNames);
}

Status open_gguf(std::shared_ptr<const FileSource> source, absl::string_view file,
                 Allocator* allocator, ModelFiles* files) {
  const std::string what = absl::StrCat(source->where(), "/", excerpt(file, 255));
  PONDER_ASSIGN_OR_RETURN(GgufFiles gguf, read_gguf(*source, file));
  PONDER_ASSIGN_OR_RETURN(const auto name, gguf.metadata.text("general.architecture"));
  if (!name.has_value()) {
    return corrupt_error(what, ": metadata \"general.architecture\" is missing");
  }
  const Architecture* architecture = nullptr;
  for (const Architecture& one : kArchitectures) {
    if (one.name == *name) architecture = &one;
  }
  if (architecture == nullptr) {
    return unsupported_error(what, ": models of architecture ", quote(*name),
                             " are not supported; known are qwen2,"
                             " llama, qwen3, qwen3moe and deepseek2");
  }
  PONDER_ASSIGN_OR_RETURN(files->config, read_config(*source, gguf, *architecture, what));
  files->architecture = std::string(architecture->class_name);
  PONDER_RETURN_IF_ERROR(read_defaults(gguf.metadata, what, &files->defaults));
  PONDER_RETURN_IF_ERROR(read_settings(gguf.metadata, files->defaults, &files->tokenizer));
  std::vector<GgufTensor> tensors = std::move(gguf.tensors);
  PONDER_ASSIGN_OR_RETURN(files->weights, make_checkpoint(std::move(source), allocator, what,
                                                          std::move(tensors), gguf));
  files->gguf = std::move(gguf.metadata);
  return OkStatus();
}

}  // namespace ponder
