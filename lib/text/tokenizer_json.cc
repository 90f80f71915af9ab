// tokenizer.json to a TokenizerSpec. Names in errors are the keys of the file.
#include <cmath>
#include <utility>

#include "lib/base/json.h"
#include "lib/text/tokenizer.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

using Spec = TokenizerSpec;

// A JSON value with the path that leads to it.
class Value {
 public:
  Value(const Json* json, std::string path) : json_(json), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  // Absent and null are the same everywhere in these files.
  bool present() const { return json_ != nullptr && !json_->is_null(); }

  Value operator[](absl::string_view key) const {
    const Json* found = nullptr;
    if (present() && json_->is_object()) {
      const auto it = json_->find(std::string(key));
      if (it != json_->end()) found = &*it;
    }
    return Value(found, path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key));
  }
  Value element(size_t i) const { return Value(&(*json_)[i], absl::StrCat(path_, "[", i, "]")); }

  StatusOr<const Json*> object() const { return typed(&Json::is_object, "an object"); }
  StatusOr<const Json*> array() const { return typed(&Json::is_array, "an array"); }
  StatusOr<std::string> string() const {
    PONDER_ASSIGN_OR_RETURN(const Json* json, typed(&Json::is_string, "a string"));
    return json->get_ref<const std::string&>();
  }
  StatusOr<std::string> string(absl::string_view otherwise) const {
    if (!present()) return std::string(otherwise);
    return string();
  }
  StatusOr<bool> boolean(bool otherwise) const {
    if (!present()) return otherwise;
    PONDER_ASSIGN_OR_RETURN(const Json* json, typed(&Json::is_boolean, "true or false"));
    return json->get<bool>();
  }
  StatusOr<int32_t> id() const {
    PONDER_ASSIGN_OR_RETURN(const int64_t value, whole_number());
    if (value < 0 || value > INT32_MAX) {
      return corrupt_error(path_, " is ", value, ", which is no token id");
    }
    return static_cast<int32_t>(value);
  }
  StatusOr<int64_t> whole_number() const {
    PONDER_ASSIGN_OR_RETURN(const Json* json, typed(&Json::is_number_integer, "a whole number"));
    if (json->is_number_unsigned() && json->get<uint64_t>() > INT64_MAX) {
      return corrupt_error(path_, " is ", json->get<uint64_t>(), ", which is too large");
    }
    return json->get<int64_t>();
  }
  StatusOr<std::string> type() const { return (*this)["type"].string(); }

  Status unsupported_type(absl::string_view type) const {
    return unsupported_error(path_, ".type is '", type.substr(0, 64), "', which is not supported");
  }

 private:
  StatusOr<const Json*> typed(bool (Json::*is)() const noexcept, absl::string_view what) const {
    if (!present()) return corrupt_error(path_, " is missing");
    if (!(json_->*is)()) {
      return corrupt_error(path_, " must be ", what, ", not ", json_->type_name());
    }
    return json_;
  }

  const Json* json_;
  std::string path_;
};

// {"String": "..."} or {"Regex": "..."}
StatusOr<Spec::Pattern> read_pattern(const Value& value) {
  Spec::Pattern pattern;
  if (value["Regex"].present()) {
    pattern.regex = true;
    PONDER_ASSIGN_OR_RETURN(pattern.text, value["Regex"].string());
  } else if (value["String"].present()) {
    PONDER_ASSIGN_OR_RETURN(pattern.text, value["String"].string());
  } else {
    return corrupt_error(value.path(), " must have a String or a Regex");
  }
  return pattern;
}

StatusOr<Spec::SplitBehavior> read_behavior(const Value& value, absl::string_view otherwise = "") {
  PONDER_ASSIGN_OR_RETURN(const std::string name,
                          otherwise.empty() ? value.string() : value.string(otherwise));
  if (name == "Isolated") return Spec::SplitBehavior::kIsolated;
  if (name == "Removed") return Spec::SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return Spec::SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Spec::SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return Spec::SplitBehavior::kContiguous;
  return corrupt_error(value.path(), " is '", name.substr(0, 64), "', which is no behavior");
}

StatusOr<Spec::PreTokenizer::Prepend> read_prepend(const Value& metaspace) {
  const Value scheme = metaspace["prepend_scheme"];
  PONDER_ASSIGN_OR_RETURN(const std::string name, scheme.string("always"));
  PONDER_ASSIGN_OR_RETURN(const bool add, metaspace["add_prefix_space"].boolean(true));
  if (!add && name != "never" && scheme.present()) {
    return corrupt_error(metaspace.path(), ".add_prefix_space contradicts ", scheme.path());
  }
  if (name == "never" || !add) return Spec::PreTokenizer::Prepend::kNever;
  if (name == "always") return Spec::PreTokenizer::Prepend::kAlways;
  if (name == "first") return Spec::PreTokenizer::Prepend::kFirst;
  return corrupt_error(scheme.path(), " is '", name.substr(0, 64),
                       "'; it must be always, first or never");
}

Status read_normalizer(const Value& value, std::vector<Spec::Normalizer>& out) {
  using Kind = Spec::Normalizer::Kind;
  PONDER_ASSIGN_OR_RETURN(const std::string type, value.type());
  if (type == "Sequence") {
    PONDER_ASSIGN_OR_RETURN(const Json* list, value["normalizers"].array());
    for (size_t i = 0; i < list->size(); ++i) {
      PONDER_RETURN_IF_ERROR(read_normalizer(value["normalizers"].element(i), out));
    }
    return OkStatus();
  }
  Spec::Normalizer step;
  if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    PONDER_ASSIGN_OR_RETURN(step.content, value["prepend"].string());
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    PONDER_ASSIGN_OR_RETURN(step.pattern, read_pattern(value["pattern"]));
    PONDER_ASSIGN_OR_RETURN(step.content, value["content"].string());
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    PONDER_ASSIGN_OR_RETURN(step.strip_left, value["strip_left"].boolean(true));
    PONDER_ASSIGN_OR_RETURN(step.strip_right, value["strip_right"].boolean(true));
  } else if (type == "NFC") {
    step.kind = Kind::kNfc;
  } else if (type == "NFD") {
    step.kind = Kind::kNfd;
  } else if (type == "NFKC") {
    step.kind = Kind::kNfkc;
  } else if (type == "NFKD") {
    step.kind = Kind::kNfkd;
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else {
    return value.unsupported_type(type);
  }
  out.push_back(std::move(step));
  return OkStatus();
}

Status read_pre_tokenizer(const Value& value, std::vector<Spec::PreTokenizer>& out) {
  using Kind = Spec::PreTokenizer::Kind;
  PONDER_ASSIGN_OR_RETURN(const std::string type, value.type());
  if (type == "Sequence") {
    PONDER_ASSIGN_OR_RETURN(const Json* list, value["pretokenizers"].array());
    for (size_t i = 0; i < list->size(); ++i) {
      PONDER_RETURN_IF_ERROR(read_pre_tokenizer(value["pretokenizers"].element(i), out));
    }
    return OkStatus();
  }
  Spec::PreTokenizer step;
  if (type == "Split") {
    step.kind = Kind::kSplit;
    PONDER_ASSIGN_OR_RETURN(step.pattern, read_pattern(value["pattern"]));
    PONDER_ASSIGN_OR_RETURN(step.behavior, read_behavior(value["behavior"]));
    PONDER_ASSIGN_OR_RETURN(step.invert, value["invert"].boolean(false));
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
    PONDER_ASSIGN_OR_RETURN(step.add_prefix_space, value["add_prefix_space"].boolean(true));
    PONDER_ASSIGN_OR_RETURN(step.use_regex, value["use_regex"].boolean(true));
  } else if (type == "Digits") {
    step.kind = Kind::kDigits;
    PONDER_ASSIGN_OR_RETURN(step.individual_digits, value["individual_digits"].boolean(false));
  } else if (type == "Whitespace") {
    step.kind = Kind::kWhitespace;
  } else if (type == "WhitespaceSplit") {
    step.kind = Kind::kWhitespaceSplit;
  } else if (type == "Punctuation") {
    step.kind = Kind::kPunctuation;
    PONDER_ASSIGN_OR_RETURN(step.behavior, read_behavior(value["behavior"], "Isolated"));
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    PONDER_ASSIGN_OR_RETURN(step.replacement, value["replacement"].string());
    PONDER_ASSIGN_OR_RETURN(step.prepend, read_prepend(value));
    PONDER_ASSIGN_OR_RETURN(step.split, value["split"].boolean(true));
  } else if (type == "Delimiter" || type == "CharDelimiterSplit") {
    step.kind = Kind::kDelimiter;
    PONDER_ASSIGN_OR_RETURN(step.replacement, value["delimiter"].string());
  } else {
    return value.unsupported_type(type);
  }
  out.push_back(std::move(step));
  return OkStatus();
}

Status read_decoder(const Value& value, std::vector<Spec::Decoder>& out) {
  using Kind = Spec::Decoder::Kind;
  PONDER_ASSIGN_OR_RETURN(const std::string type, value.type());
  if (type == "Sequence") {
    PONDER_ASSIGN_OR_RETURN(const Json* list, value["decoders"].array());
    for (size_t i = 0; i < list->size(); ++i) {
      PONDER_RETURN_IF_ERROR(read_decoder(value["decoders"].element(i), out));
    }
    return OkStatus();
  }
  Spec::Decoder step;
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    PONDER_ASSIGN_OR_RETURN(step.pattern, read_pattern(value["pattern"]));
    PONDER_ASSIGN_OR_RETURN(step.content, value["content"].string());
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    PONDER_ASSIGN_OR_RETURN(step.content, value["content"].string());
    PONDER_ASSIGN_OR_RETURN(step.start, value["start"].whole_number());
    PONDER_ASSIGN_OR_RETURN(step.stop, value["stop"].whole_number());
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    PONDER_ASSIGN_OR_RETURN(step.content, value["replacement"].string());
    PONDER_ASSIGN_OR_RETURN(step.prepend, read_prepend(value));
  } else {
    return value.unsupported_type(type);
  }
  out.push_back(std::move(step));
  return OkStatus();
}

Status read_template(const Value& value, Spec& spec) {
  const Value single = value["single"];
  PONDER_ASSIGN_OR_RETURN(const Json* list, single.array());
  bool after_text = false;
  for (size_t i = 0; i < list->size(); ++i) {
    const Value item = single.element(i);
    if (item["Sequence"].present()) {
      PONDER_ASSIGN_OR_RETURN(const std::string id, item["Sequence"]["id"].string());
      if (id != "A" || after_text) {
        return unsupported_error(item.path(), ": a template with the text other than once");
      }
      after_text = true;
      continue;
    }
    PONDER_ASSIGN_OR_RETURN(const std::string name, item["SpecialToken"]["id"].string());
    const Value ids = value["special_tokens"][name]["ids"];
    PONDER_ASSIGN_OR_RETURN(const Json* id_list, ids.array());
    for (size_t j = 0; j < id_list->size(); ++j) {
      PONDER_ASSIGN_OR_RETURN(const int32_t id, ids.element(j).id());
      (after_text ? spec.suffix_ids : spec.prefix_ids).push_back(id);
    }
  }
  if (!after_text) return unsupported_error(single.path(), ": a template without the text");
  return OkStatus();
}

// ["</s>", 2]
StatusOr<int32_t> read_token_pair(const Value& value) {
  PONDER_ASSIGN_OR_RETURN(const Json* pair, value.array());
  if (pair->size() != 2) return corrupt_error(value.path(), " must be a token and its id");
  return value.element(1).id();
}

Status read_post_processor(const Value& value, Spec& spec) {
  PONDER_ASSIGN_OR_RETURN(const std::string type, value.type());
  if (type == "Sequence") {
    PONDER_ASSIGN_OR_RETURN(const Json* list, value["processors"].array());
    for (size_t i = 0; i < list->size(); ++i) {
      PONDER_RETURN_IF_ERROR(read_post_processor(value["processors"].element(i), spec));
    }
    return OkStatus();
  }
  if (type == "ByteLevel") return OkStatus();  // about offsets only
  if (!spec.prefix_ids.empty() || !spec.suffix_ids.empty()) {
    return unsupported_error(value.path(), ": a second post-processor that adds tokens");
  }
  if (type == "TemplateProcessing") return read_template(value, spec);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    PONDER_ASSIGN_OR_RETURN(const int32_t first, read_token_pair(value["cls"]));
    PONDER_ASSIGN_OR_RETURN(const int32_t last, read_token_pair(value["sep"]));
    spec.prefix_ids.push_back(first);
    spec.suffix_ids.push_back(last);
    return OkStatus();
  }
  return value.unsupported_type(type);
}

Status read_added_tokens(const Value& value, Spec& spec, std::vector<int32_t>& declared) {
  if (!value.present()) return OkStatus();
  PONDER_ASSIGN_OR_RETURN(const Json* list, value.array());
  for (size_t i = 0; i < list->size(); ++i) {
    const Value item = value.element(i);
    Spec::AddedToken token;
    PONDER_ASSIGN_OR_RETURN(token.text, item["content"].string());
    PONDER_ASSIGN_OR_RETURN(const int32_t id, item["id"].id());
    PONDER_ASSIGN_OR_RETURN(token.special, item["special"].boolean(false));
    PONDER_ASSIGN_OR_RETURN(token.lstrip, item["lstrip"].boolean(false));
    PONDER_ASSIGN_OR_RETURN(token.rstrip, item["rstrip"].boolean(false));
    PONDER_ASSIGN_OR_RETURN(token.single_word, item["single_word"].boolean(false));
    PONDER_ASSIGN_OR_RETURN(token.normalized, item["normalized"].boolean(!token.special));
    if (token.text.empty()) continue;  // as the reference has it
    spec.added_tokens.push_back(std::move(token));
    declared.push_back(id);
  }
  return OkStatus();
}

Status read_merges(const Value& value, Spec& spec) {
  PONDER_ASSIGN_OR_RETURN(const Json* list, value.array());
  spec.merges.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& merge = (*list)[i];
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      // merges.txt's first line, where a converter took it for a merge.
      if (i == 0 && text.rfind("#version", 0) == 0) continue;
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return corrupt_error(value.path(), "[", i, "] must be two pieces with a space between");
      }
      spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      spec.merges.emplace_back(merge[0].get_ref<const std::string&>(),
                               merge[1].get_ref<const std::string&>());
    } else {
      return corrupt_error(value.path(), "[", i, "] must be two pieces");
    }
  }
  return OkStatus();
}

Status read_model(const Value& model, Spec& spec) {
  PONDER_RETURN_IF_ERROR(model.object().status());
  // Old files do not name the type; what follows tells.
  PONDER_ASSIGN_OR_RETURN(const std::string type, model["type"].string("BPE"));
  if (type != "BPE") return model.unsupported_type(type);
  if (const Value dropout = model["dropout"]; dropout.present()) {
    return unsupported_error(dropout.path(), ": training with random merges; set it to null");
  }
  PONDER_ASSIGN_OR_RETURN(spec.unknown_piece, model["unk_token"].string(""));
  PONDER_ASSIGN_OR_RETURN(spec.fuse_unknown, model["fuse_unk"].boolean(false));
  PONDER_ASSIGN_OR_RETURN(spec.byte_fallback, model["byte_fallback"].boolean(false));
  PONDER_ASSIGN_OR_RETURN(spec.ignore_merges, model["ignore_merges"].boolean(false));
  PONDER_ASSIGN_OR_RETURN(spec.continuing_subword_prefix,
                          model["continuing_subword_prefix"].string(""));
  PONDER_ASSIGN_OR_RETURN(spec.end_of_word_suffix, model["end_of_word_suffix"].string(""));
  PONDER_ASSIGN_OR_RETURN(const Json* vocabulary, model["vocab"].object());
  spec.pieces.reserve(vocabulary->size());
  for (const auto& [text, id] : vocabulary->items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return corrupt_error("model.vocab: the id of '", replace_invalid_utf8(text.substr(0, 64)),
                           "' is ", id.is_number() ? id.dump() : id.type_name(),
                           ", which is no token id");
    }
    spec.pieces.push_back({text, id.get<int32_t>()});
  }
  return read_merges(model["merges"], spec);
}

StatusOr<Spec> read_spec(const Json& json, std::vector<int32_t>& declared) {
  const Value root(&json, "");
  Spec spec;
  PONDER_ASSIGN_OR_RETURN(const std::string version, root["version"].string("1.0"));
  if (version != "1.0") {
    return unsupported_error("version is '", version.substr(0, 64), "'; only 1.0 is known");
  }
  PONDER_RETURN_IF_ERROR(read_model(root["model"], spec));
  PONDER_RETURN_IF_ERROR(read_added_tokens(root["added_tokens"], spec, declared));
  if (const Value v = root["normalizer"]; v.present()) {
    PONDER_RETURN_IF_ERROR(read_normalizer(v, spec.normalizers));
  }
  if (const Value v = root["pre_tokenizer"]; v.present()) {
    PONDER_RETURN_IF_ERROR(read_pre_tokenizer(v, spec.pre_tokenizers));
  }
  if (const Value v = root["decoder"]; v.present()) {
    PONDER_RETURN_IF_ERROR(read_decoder(v, spec.decoders));
  }
  if (const Value v = root["post_processor"]; v.present()) {
    PONDER_RETURN_IF_ERROR(read_post_processor(v, spec));
  }
  return spec;
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::from_json(absl::string_view json,
                                                          const LogSink& log,
                                                          absl::string_view what) {
  std::vector<int32_t> declared;
  StatusOr<Spec> spec = internal_error("not read");
  {
    PONDER_ASSIGN_OR_RETURN(const Json parsed, parse_json_object(json, what));
    spec = read_spec(parsed, declared);
  }
  if (!spec.ok()) return in_context(spec.status(), what);
  PONDER_ASSIGN_OR_RETURN(auto tokenizer, create(*std::move(spec), what));
  const auto& added = tokenizer->added_tokens();
  for (size_t i = 0; i < added.size(); ++i) {
    if (added[i].id == declared[i]) continue;
    log.log(LogLevel::kWarning, what, ": added token '", added[i].text, "' has id ", added[i].id,
            " although the file says ", declared[i], ": ids follow the vocabulary in order");
  }
  return tokenizer;
}

}  // namespace ponder
