#include "lib/format/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lib/base/quote.h"

namespace ponder {
namespace {

constexpr int64_t kMaxTokenId = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxEosIds = 1024;

// A value for a message; never the whole of a large one.
std::string found(const Json& v) {
  if (v.is_structured()) return v.is_array() ? "an array" : "an object";
  return excerpt(v.dump());
}

// For strings. Comparing Json with a literal would build another Json in a function that may not
// throw.
const std::string& text_of(const Json& v) { return v.get_ref<const std::string&>(); }

// The value under `key`, or nullptr when absent or null.
const Json* find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

// Reads optional fields of one object and remembers the first that is wrong.
class Fields {
 public:
  Fields(const Json& object, absl::string_view what) : object_(object), what_(what) {}

  void number(const char* key, double low, double high, std::optional<float>* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    const double d = v->is_number() ? v->get<double>() : std::nan("");
    if (!(d >= low && d <= high)) {
      return fail(key, absl::StrCat("must be a number from ", low, " to ", high), *v);
    }
    *out = static_cast<float>(d);
  }

  void boolean(const char* key, std::optional<bool>* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    if (!v->is_boolean()) return fail(key, "must be true or false", *v);
    *out = v->get<bool>();
  }

  // A whole number below 2^31; those below `low` mean "none" and leave *out alone.
  void integer(const char* key, int64_t low, std::optional<int32_t>* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    const std::optional<int64_t> i = whole(*v);
    if (!i.has_value()) return fail(key, "must be a whole number below 2^31", *v);
    if (*i >= low) *out = static_cast<int32_t>(*i);
  }

  // A token id or a list of them.
  void ids(const char* key, std::vector<int32_t>* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    std::vector<int32_t> ids;
    const auto add = [&](const Json& one) {
      const std::optional<int64_t> i = whole(one);
      if (!i.has_value()) return fail(key, "must be a token id or a list of them", one);
      // -1 is an old spelling of "none".
      if (*i >= 0 && std::find(ids.begin(), ids.end(), *i) == ids.end()) {
        ids.push_back(static_cast<int32_t>(*i));
      }
    };
    if (!v->is_array()) {
      add(*v);
    } else if (v->size() > kMaxEosIds) {
      return fail(key, absl::StrCat("must have no more than ", kMaxEosIds, " ids"), *v);
    } else {
      for (const Json& one : *v) add(one);
    }
    if (status_.ok()) *out = std::move(ids);
  }

  void text(const char* key, std::string* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    if (!v->is_string()) return fail(key, "must be a string", *v);
    *out = text_of(*v);
  }

  // A special token: its text, or an AddedToken object with the text under "content".
  void token(const char* key, std::string* out) {
    const Json* v = find(object_, key);
    if (v == nullptr) return;
    const Json* content = v->is_object() ? find(*v, "content") : v;
    if (content == nullptr || !content->is_string()) {
      return fail(key, "must be a string, or an object whose \"content\" is one", *v);
    }
    *out = text_of(*content);
  }

  void fail(absl::string_view key, absl::string_view rule, const Json& v) {
    if (!status_.ok()) return;
    status_ = corrupt_error(what_, ": \"", key, "\" ", rule, ", found ", found(v));
  }
  const Status& status() const { return status_; }

 private:
  static std::optional<int64_t> whole(const Json& v) {
    if (!v.is_number()) return std::nullopt;
    const double d = v.get<double>();
    if (!(std::abs(d) <= static_cast<double>(kMaxTokenId)) || d != std::floor(d)) {
      return std::nullopt;
    }
    return static_cast<int64_t>(d);
  }

  const Json& object_;
  absl::string_view what_;
  Status status_;
};

// transformers 5 gathers what concerns rotary positions under "rope_parameters".
Status unnest_rope_parameters(Json* config, absl::string_view what) {
  const auto it = config->find("rope_parameters");
  if (it == config->end()) return OkStatus();
  Json rope = std::move(*it);
  config->erase(it);
  if (rope.is_null()) return OkStatus();
  if (!rope.is_object()) {
    return corrupt_error(what, ": \"rope_parameters\" must be an object, found ", found(rope));
  }
  for (const auto& [key, value] : rope.items()) {
    if (value.is_object()) {
      return unsupported_error(what, ": \"rope_parameters\" differ by kind of layer (", quote(key),
                               "); such models are not supported");
    }
  }
  for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
    const auto moved = rope.find(key);
    if (moved == rope.end()) continue;
    if (!moved->is_null()) (*config)[key] = std::move(*moved);
    rope.erase(moved);
  }
  (*config)["rope_scaling"] = std::move(rope);
  return OkStatus();
}

// "rope_scaling" is absent, or names its type under "rope_type".
Status normalize_rope_scaling(Json* config, absl::string_view what) {
  const auto it = config->find("rope_scaling");
  if (it == config->end()) return OkStatus();
  Json& scaling = *it;
  if (!scaling.is_null() && !scaling.is_object()) {
    return corrupt_error(what, ": \"rope_scaling\" must be an object or null, found ",
                         found(scaling));
  }
  if (scaling.is_null() || scaling.empty()) {
    config->erase(it);
    return OkStatus();
  }
  // "type" is the old spelling; where both are there, the new one counts.
  const Json* type = find(scaling, "rope_type");
  if (type == nullptr) type = find(scaling, "type");
  if (type == nullptr || !type->is_string()) {
    return corrupt_error(what, ": \"rope_type\" of \"rope_scaling\" must be a string, ",
                         type == nullptr ? "but is missing" : absl::StrCat("found ", found(*type)));
  }
  std::string name = text_of(*type);
  if (name == "default") {
    config->erase(it);
    return OkStatus();
  }
  scaling.erase("type");
  scaling["rope_type"] = std::move(name);
  return OkStatus();
}

}  // namespace

StatusOr<Json> read_model_config(absl::string_view text, absl::string_view what) {
  PONDER_ASSIGN_OR_RETURN(Json config, parse_json_object(text, what));

  const Json* architectures = find(config, "architectures");
  const bool usable = architectures != nullptr && architectures->is_array() &&
                      !architectures->empty() &&
                      std::all_of(architectures->begin(), architectures->end(),
                                  [](const Json& v) { return v.is_string(); });
  if (!usable) {
    return corrupt_error(what,
                         ": \"architectures\" must be a list of names such as"
                         " [\"Qwen2ForCausalLM\"], ",
                         architectures == nullptr ? "but is missing"
                                                  : absl::StrCat("found ", found(*architectures)));
  }

  PONDER_RETURN_IF_ERROR(unnest_rope_parameters(&config, what));
  PONDER_RETURN_IF_ERROR(normalize_rope_scaling(&config, what));

  if (const auto it = config.find("dtype"); it != config.end()) {
    if (find(config, "torch_dtype") == nullptr) config["torch_dtype"] = std::move(*it);
    config.erase("dtype");
  }
  if (const auto it = config.find("torch_dtype"); it != config.end() && !it->is_string()) {
    if (!it->is_null()) {
      return corrupt_error(what, ": \"torch_dtype\" must be a string, found ", found(*it));
    }
    config.erase(it);
  }
  return config;
}

StatusOr<GenerationDefaults> read_generation_defaults(absl::string_view text,
                                                      absl::string_view what) {
  PONDER_ASSIGN_OR_RETURN(const Json json, parse_json_object(text, what));
  GenerationDefaults defaults;
  Fields fields(json, what);
  fields.boolean("do_sample", &defaults.do_sample);
  fields.number("temperature", 0, 1000, &defaults.temperature);
  fields.number("top_p", 0, 1, &defaults.top_p);
  fields.number("min_p", 0, 1, &defaults.min_p);
  fields.number("repetition_penalty", 1e-3, 1000, &defaults.repetition_penalty);
  fields.integer("top_k", 0, &defaults.top_k);  // -1 is another spelling of "no limit"
  fields.integer("max_new_tokens", 1, &defaults.max_new_tokens);
  fields.integer("bos_token_id", 0, &defaults.bos_id);
  fields.integer("pad_token_id", 0, &defaults.pad_id);
  fields.ids("eos_token_id", &defaults.eos_ids);
  PONDER_RETURN_IF_ERROR(fields.status());
  return defaults;
}

Status complete_generation_defaults(const Json& config, GenerationDefaults* defaults) {
  Fields fields(config, "config.json");
  if (defaults->eos_ids.empty()) fields.ids("eos_token_id", &defaults->eos_ids);
  if (!defaults->pad_id.has_value()) fields.integer("pad_token_id", 0, &defaults->pad_id);
  // Some configurations list several; the first is the one that texts begin with.
  if (!defaults->bos_id.has_value()) {
    std::vector<int32_t> bos;
    fields.ids("bos_token_id", &bos);
    if (!bos.empty()) defaults->bos_id = bos.front();
  }
  return fields.status();
}

StatusOr<TokenizerSettings> read_tokenizer_settings(absl::string_view text,
                                                    absl::string_view what) {
  PONDER_ASSIGN_OR_RETURN(const Json json, parse_json_object(text, what));
  TokenizerSettings settings;
  Fields fields(json, what);
  fields.token("bos_token", &settings.bos_token);
  fields.token("eos_token", &settings.eos_token);
  fields.token("pad_token", &settings.pad_token);
  fields.token("unk_token", &settings.unk_token);
  fields.boolean("add_bos_token", &settings.add_bos);
  fields.boolean("add_eos_token", &settings.add_eos);
  fields.text("tokenizer_class", &settings.tokenizer_class);

  // "No limit" is written as 1e30 or so, with all its digits.
  constexpr double kNoLimit = 1e15;
  if (const Json* v = find(json, "model_max_length"); v != nullptr) {
    const double d = v->is_number() ? v->get<double>() : -1;
    if (!(d >= 0)) {
      fields.fail("model_max_length", "must be a number of tokens", *v);
    } else if (d < kNoLimit) {
      settings.max_length = static_cast<uint64_t>(d);
    }
  }

  const Json* chat = find(json, "chat_template");
  if (chat != nullptr && chat->is_array()) {
    for (const Json& one : *chat) {
      const Json* name = one.is_object() ? find(one, "name") : nullptr;
      const Json* body = one.is_object() ? find(one, "template") : nullptr;
      if (name == nullptr || body == nullptr || !name->is_string() || !body->is_string()) {
        fields.fail("chat_template",
                    "must be a string, or a list of objects with a \"name\" and a"
                    " \"template\"",
                    one);
        break;
      }
      if (text_of(*name) == "default") {
        settings.chat_template = text_of(*body);
      } else {
        settings.named_templates.emplace_back(text_of(*name), text_of(*body));
      }
    }
  } else {
    fields.text("chat_template", &settings.chat_template);
  }
  PONDER_RETURN_IF_ERROR(fields.status());
  return settings;
}

Status complete_special_tokens(absl::string_view text, TokenizerSettings* settings,
                               absl::string_view what) {
  PONDER_ASSIGN_OR_RETURN(const Json json, parse_json_object(text, what));
  Fields fields(json, what);
  if (settings->bos_token.empty()) fields.token("bos_token", &settings->bos_token);
  if (settings->eos_token.empty()) fields.token("eos_token", &settings->eos_token);
  if (settings->pad_token.empty()) fields.token("pad_token", &settings->pad_token);
  if (settings->unk_token.empty()) fields.token("unk_token", &settings->unk_token);
  return fields.status();
}

}  // namespace ponder
