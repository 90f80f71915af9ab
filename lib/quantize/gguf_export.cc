#include "lib/quantize/gguf_export.h"

#include <cmath>
#include <numbers>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "lib/base/json.h"
#include "lib/base/quote.h"
#include "lib/format/gguf_model.h"
#include "lib/text/tokenizer_gguf.h"

namespace ponder::quantization {
namespace {

struct Architecture {
  absl::string_view class_name, name;
  bool neighbours;  // llama.cpp rotates pairs (2i, 2i+1)
};
constexpr Architecture kArchitectures[] = {{"Qwen2ForCausalLM", "qwen2", false},
                                           {"LlamaForCausalLM", "llama", true},
                                           {"Qwen3ForCausalLM", "qwen3", false}};

using Metadata = std::vector<std::pair<std::string, GgufValue>>;

// ---- the tokenizer ------------------------------------------------------------------------------

const Json* member(const Json& json, const char* key) {
  if (!json.is_object()) return nullptr;
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}
std::string text_of(const Json* json) {
  return json != nullptr && json->is_string() ? json->get<std::string>() : std::string();
}

// The steps of "normalizer" or "pre_tokenizer": one, or a sequence.
std::vector<const Json*> steps_of(const Json* json, const char* list) {
  std::vector<const Json*> steps;
  if (json == nullptr) return steps;
  if (text_of(member(*json, "type")) != "Sequence") return {json};
  const Json* all = member(*json, list);
  if (all != nullptr && all->is_array()) {
    for (const Json& step : *all) steps.push_back(&step);
  }
  return steps;
}

Status unknown_tokenizer(absl::string_view what) {
  return unsupported_error("tokenizer.json: ", what,
                           ", for which GGUF has no name that is known here; quantise a GGUF file "
                           "that its makers converted instead");
}

StatusOr<std::string> pre_tokenizer_of(const Json& json) {
  std::vector<std::string> patterns;
  for (const Json* step : steps_of(member(json, "pre_tokenizer"), "pretokenizers")) {
    const std::string type = text_of(member(*step, "type"));
    if (type == "ByteLevel") continue;
    const Json* pattern = member(*step, "pattern");
    const std::string regex = pattern != nullptr ? text_of(member(*pattern, "Regex")) : "";
    if (type != "Split" || regex.empty()) {
      return unknown_tokenizer(absl::StrCat("its pre-tokenizer has a step of type ", quote(type)));
    }
    patterns.push_back(regex);
  }
  bool nfc = false;
  for (const Json* step : steps_of(member(json, "normalizer"), "normalizers")) {
    const std::string type = text_of(member(*step, "type"));
    if (type != "NFC") {
      return unknown_tokenizer(absl::StrCat("its normalizer has a step of type ", quote(type)));
    }
    nfc = true;
  }
  std::string name = gguf_pre_tokenizer(patterns, nfc);
  if (name.empty()) return unknown_tokenizer("it cuts texts by regular expressions of its own");
  return name;
}

// Tokens between messages, which llama.cpp's converter takes for control tokens whatever
// tokenizer.json calls them.
bool is_marker(absl::string_view text) {
  return (absl::StartsWith(text, "<|") && absl::EndsWith(text, "|>")) ||
         (absl::StartsWith(text, "<｜") && absl::EndsWith(text, "｜>"));
}

Status add_tokenizer(const ModelFiles& files, int64_t vocabulary, Metadata* metadata) {
  constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;
  PONDER_ASSIGN_OR_RETURN(const Json json,
                          parse_json_object(files.tokenizer_json, "tokenizer.json"));
  const Json* model = member(json, "model");
  const Json* vocab = model != nullptr ? member(*model, "vocab") : nullptr;
  const Json* merges = model != nullptr ? member(*model, "merges") : nullptr;
  if (vocab == nullptr || !vocab->is_object() || merges == nullptr || !merges->is_array() ||
      text_of(member(*model, "type")) != "BPE") {
    return unknown_tokenizer("it is not a BPE vocabulary with merges");
  }
  const Json* fallback = member(*model, "byte_fallback");
  if (fallback != nullptr && fallback->is_boolean() && fallback->get<bool>()) {
    return unknown_tokenizer("it spells unknown characters as bytes (SentencePiece)");
  }
  PONDER_ASSIGN_OR_RETURN(const std::string pre, pre_tokenizer_of(json));

  std::vector<std::string> tokens(static_cast<size_t>(vocabulary));
  std::vector<int64_t> types(tokens.size(), kUnused);
  std::optional<int64_t> bos, eos, pad;
  const auto enter = [&](int64_t id, const std::string& text, int64_t type) {
    if (id < 0 || id >= vocabulary) {
      return corrupt_error("tokenizer.json: token ", quote(text), " has the id ", id,
                           " in a vocabulary of ", vocabulary);
    }
    tokens[static_cast<size_t>(id)] = text;
    types[static_cast<size_t>(id)] = type;
    if (text == files.tokenizer.bos_token) bos = id;
    if (text == files.tokenizer.eos_token) eos = id;
    if (text == files.tokenizer.pad_token) pad = id;
    return OkStatus();
  };
  for (const auto& [text, id] : vocab->items()) {
    if (!id.is_number_integer()) return corrupt_error("tokenizer.json: an id is no number");
    PONDER_RETURN_IF_ERROR(enter(id.get<int64_t>(), text, kNormal));
  }
  if (const Json* added = member(json, "added_tokens"); added != nullptr && added->is_array()) {
    for (const Json& token : *added) {
      const Json* id = member(token, "id");
      const Json* special = member(token, "special");
      if (id == nullptr || !id->is_number_integer()) {
        return corrupt_error("tokenizer.json: an added token has no id");
      }
      const std::string text = text_of(member(token, "content"));
      const bool control =
          (special != nullptr && special->is_boolean() && special->get<bool>()) || is_marker(text);
      PONDER_RETURN_IF_ERROR(
          enter(id->get<int64_t>(), text, control ? kControl : kUserDefined));
    }
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == kUnused) tokens[i] = absl::StrCat("[PAD", i, "]");
  }
  std::vector<std::string> pairs;
  pairs.reserve(merges->size());
  for (const Json& merge : *merges) {
    if (merge.is_string()) {
      pairs.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      pairs.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      return corrupt_error("tokenizer.json: merge ", pairs.size(), " is no pair");
    }
  }
  // Without a word in tokenizer_config.json the post-processor decides.
  bool add_bos = false;
  for (const Json* step : steps_of(member(json, "post_processor"), "processors")) {
    const Json* single = member(*step, "single");
    if (single == nullptr || !single->is_array() || single->empty()) continue;
    add_bos = member((*single)[0], "SpecialToken") != nullptr;
  }
  if (files.defaults.bos_id.has_value() && !bos.has_value()) bos = *files.defaults.bos_id;
  if (!files.defaults.eos_ids.empty() && !eos.has_value()) eos = files.defaults.eos_ids[0];
  const auto add = [&](const char* key, GgufValue value) {
    metadata->emplace_back(absl::StrCat("tokenizer.ggml.", key), std::move(value));
  };
  add("model", std::string("gpt2"));
  add("pre", pre);
  add("tokens", std::move(tokens));
  add("token_type", std::move(types));
  add("merges", std::move(pairs));
  if (bos.has_value()) add("bos_token_id", *bos);
  if (eos.has_value()) add("eos_token_id", *eos);
  if (pad.has_value()) add("padding_token_id", *pad);
  add("add_bos_token", bos.has_value() && files.tokenizer.add_bos.value_or(add_bos));
  add("add_eos_token", files.tokenizer.add_eos.value_or(false));
  if (!files.tokenizer.chat_template.empty()) {
    metadata->emplace_back("tokenizer.chat_template", files.tokenizer.chat_template);
  }
  return OkStatus();
}

// ---- the configuration --------------------------------------------------------------------------

// Llama 3.1's scaling as divisors of the frequencies (transformers, modeling_rope_utils.py).
std::vector<float> llama3_factors(const Config& scaling, double theta, int64_t width) {
  const double factor = scaling.f("factor"), low = scaling.f("low_freq_factor");
  const double high = scaling.f("high_freq_factor");
  const double original = scaling.f("original_max_position_embeddings");
  std::vector<float> factors;
  for (int64_t i = 0; i < width / 2; ++i) {
    const double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double divisor = 1;
    if (wavelength > original / low) {
      divisor = factor;
    } else if (wavelength > original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

Status convert(const ModelFiles& files, const Architecture& architecture, GgufExport* out) {
  const Config config(files.config, "config.json");
  Metadata& metadata = out->metadata;
  const std::string prefix = absl::StrCat(architecture.name, ".");
  const auto add = [&](absl::string_view key, GgufValue value) {
    metadata.emplace_back(prefix + std::string(key), std::move(value));
  };
  const int64_t heads = config.i("num_attention_heads");
  const int64_t kv_heads = config.i("num_key_value_heads", heads);
  const int64_t hidden = config.i("hidden_size");
  const int64_t width = config.i("head_dim", hidden / std::max<int64_t>(heads, 1));
  const int64_t vocabulary = config.i("vocab_size");
  const double theta = config.f("rope_theta", 10000.0);
  metadata.emplace_back("general.architecture", std::string(architecture.name));
  metadata.emplace_back("general.type", std::string("model"));
  metadata.emplace_back("general.name", files.name);
  if (files.defaults.temperature) {
    metadata.emplace_back("general.sampling.temp", double{*files.defaults.temperature});
  }
  if (files.defaults.top_p) {
    metadata.emplace_back("general.sampling.top_p", double{*files.defaults.top_p});
  }
  if (files.defaults.top_k) {
    metadata.emplace_back("general.sampling.top_k", int64_t{*files.defaults.top_k});
  }
  add("block_count", config.i("num_hidden_layers"));
  add("context_length", config.i("max_position_embeddings"));
  add("embedding_length", hidden);
  add("feed_forward_length", config.i("intermediate_size"));
  add("attention.head_count", heads);
  add("attention.head_count_kv", kv_heads);
  add("attention.layer_norm_rms_epsilon", config.f("rms_norm_eps"));
  add("attention.key_length", width);
  add("attention.value_length", width);
  add("rope.dimension_count", width);
  add("rope.freq_base", theta);
  add("vocab_size", vocabulary);
  if (config.has("rope_scaling")) {
    const Config scaling = config.at("rope_scaling");
    const std::string type = scaling.s("rope_type", "default");
    if (type == "llama3") {
      ExportTensor factors;
      factors.name = "rope_freqs.weight";
      factors.values = llama3_factors(scaling, theta, width);
      factors.shape = {static_cast<int64_t>(factors.values.size())};
      out->tensors.push_back(std::move(factors));
    } else if (type == "linear" || type == "yarn") {
      const double factor = scaling.f("factor");
      add("rope.scaling.type", type);
      add("rope.scaling.factor", factor);
      if (type == "yarn") {
        add("rope.scaling.original_context_length",
            scaling.i("original_max_position_embeddings", config.i("max_position_embeddings")));
        // llama.cpp multiplies by this what it computes from the factor.
        if (scaling.has("attention_factor")) {
          add("rope.scaling.yarn_attn_factor",
              scaling.f("attention_factor") / (1 + 0.1 * std::log(factor)));
        }
        if (scaling.has("beta_fast")) add("rope.scaling.yarn_beta_fast", scaling.f("beta_fast"));
        if (scaling.has("beta_slow")) add("rope.scaling.yarn_beta_slow", scaling.f("beta_slow"));
      }
    } else if (type != "default") {
      return unsupported_error("config.json: rope_scaling of type ", quote(type),
                               " has no counterpart in GGUF");
    }
  }
  PONDER_RETURN_IF_ERROR(config.status());
  PONDER_RETURN_IF_ERROR(add_tokenizer(files, vocabulary, &metadata));

  const bool tied = config.b("tie_word_embeddings", false);
  for (const std::string& source : files.weights->names()) {
    if (tied && source == "lm_head.weight") continue;
    if (absl::EndsWith(source, "rotary_emb.inv_freq") || absl::EndsWith(source, "_scale_inv")) {
      continue;  // computed; read with the weight
    }
    ExportTensor tensor;
    tensor.name = gguf_name(source);
    if (tensor.name == source) {
      return unsupported_error("tensor ", quote(source), " has no place in a GGUF file of ",
                               architecture.name);
    }
    PONDER_ASSIGN_OR_RETURN(const TensorInfo info, files.weights->info(source));
    tensor.shape = info.shape;
    tensor.source = source;
    if (architecture.neighbours) {
      if (absl::StrContains(source, ".q_proj.")) tensor.turned_heads = heads;
      if (absl::StrContains(source, ".k_proj.")) tensor.turned_heads = kv_heads;
      if (tensor.turned_heads > 0 && tensor.shape[0] % (2 * tensor.turned_heads) != 0) {
        return corrupt_error("tensor ", quote(source), " has ", tensor.shape[0], " rows for ",
                             tensor.turned_heads, " heads");
      }
    }
    out->tensors.push_back(std::move(tensor));
  }
  return OkStatus();
}

}  // namespace

StatusOr<GgufExport> export_model(const ModelFiles& files) {
  GgufExport out;
  if (files.gguf.has_value()) {
    for (const auto& [key, value] : files.gguf->entries()) {
      // Said anew for the new file.
      if (absl::StartsWith(key, "split.") || key == "general.file_type" ||
          key == "general.quantization_version" || key == "general.alignment" ||
          absl::StartsWith(key, "quantize.")) {
        continue;
      }
      out.metadata.emplace_back(key, value);
    }
    for (const std::string& source : files.weights->names()) {
      PONDER_ASSIGN_OR_RETURN(const TensorInfo info, files.weights->info(source));
      ExportTensor tensor;
      tensor.name = gguf_name(source);
      tensor.shape = info.shape;
      tensor.source = source;
      out.tensors.push_back(std::move(tensor));
    }
  } else {
    const Architecture* architecture = nullptr;
    for (const Architecture& one : kArchitectures) {
      if (one.class_name == files.architecture) architecture = &one;
    }
    if (architecture == nullptr) {
      return unsupported_error("folders of ", quote(files.architecture),
                               " are not converted here, only Qwen2, Llama and Qwen3; give a GGUF "
                               "file of the model instead");
    }
    PONDER_RETURN_IF_ERROR(convert(files, *architecture, &out));
  }
  const Config config(files.config, "config.json");
  out.shape.layers = config.i("num_hidden_layers", 0);
  const int64_t kv_heads = config.i("num_key_value_heads", 1);
  out.shape.query_heads_per_kv_head =
      config.i("num_attention_heads", 1) / std::max<int64_t>(kv_heads, 1);
  for (const ExportTensor& tensor : out.tensors) {
    out.shape.has_output = out.shape.has_output || tensor.name == "output.weight";
  }
  return out;
}

}  // namespace ponder::quantization
