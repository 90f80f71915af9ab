#include "lib/text/tokenizer_gguf.h"

#include <utility>

#include "lib/text/utf8.h"

namespace ponder {
namespace {

using Spec = TokenizerSpec;

enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

constexpr absl::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kDeepSeekV3[] = {
    R"(\p{N}{1,3})",
    "[一-龥぀-ゟ゠-ヿ]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};
constexpr absl::string_view kDeepSeekCoder[] = {
    "[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[一-龥ࠀ-一가-퟿]+", R"(\p{N})",
};
// Letters here are those with case that Unicode had when the model was made.
constexpr absl::string_view kDeepSeekLlm[] = {
    "[\r\n]",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-"
    "Ჿᴀ-"
    "ᴫᵫ-ᵷᵹ-ᶚ"
    "Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤ"
    "Ⳬ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-"
    "𐳲𑢠-"
    "𑣟𞤀-𞥃]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    R"(\s+$)",
    "[一-龥ࠀ-一가-퟿]+",
    R"(\p{N}+)",
};

void add_split(Spec& spec, absl::string_view pattern) {
  Spec::PreTokenizer step;
  step.pattern = {std::string(pattern), /*regex=*/true};
  spec.pre_tokenizers.push_back(std::move(step));
}

Status set_pre_tokenizer(absl::string_view pre, Spec& spec) {
  bool own_pattern = true;
  if (pre.empty() || pre == "default" || pre == "gpt-2") {
    own_pattern = false;
  } else if (pre == "qwen2" || pre == "deepseek-r1-qwen") {
    spec.normalizers.push_back({});  // NFC
    add_split(spec, kQwen2);
  } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    spec.ignore_merges = true;
    add_split(spec, kLlama3);
  } else if (pre == "deepseek-v3") {
    for (const absl::string_view pattern : kDeepSeekV3) add_split(spec, pattern);
  } else if (pre == "deepseek-coder") {
    for (const absl::string_view pattern : kDeepSeekCoder) add_split(spec, pattern);
  } else if (pre == "deepseek-llm") {
    for (const absl::string_view pattern : kDeepSeekLlm) add_split(spec, pattern);
  } else {
    return unsupported_error("tokenizer.ggml.pre is '", replace_invalid_utf8(pre.substr(0, 64)),
                             "', a pre-tokenizer that is not known here");
  }
  Spec::PreTokenizer bytes;
  bytes.kind = Spec::PreTokenizer::Kind::kByteLevel;
  bytes.use_regex = !own_pattern;
  spec.pre_tokenizers.push_back(bytes);
  Spec::Decoder decoder;
  decoder.kind = Spec::Decoder::Kind::kByteLevel;
  spec.decoders.push_back(decoder);
  return OkStatus();
}

Status read_merges(const std::vector<std::string>& merges, Spec& spec) {
  spec.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    if (space == std::string::npos) {
      return corrupt_error("tokenizer.ggml.merges[", i,
                           "] must be two pieces with a space between");
    }
    spec.merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
  return OkStatus();
}

void set_sentence_piece_steps(bool space_prefix, Spec& spec) {
  constexpr absl::string_view kSpace = "▁";
  spec.byte_fallback = true;
  spec.fuse_unknown = true;
  if (space_prefix) {
    Spec::Normalizer prepend;
    prepend.kind = Spec::Normalizer::Kind::kPrepend;
    prepend.content = std::string(kSpace);
    spec.normalizers.push_back(std::move(prepend));
  }
  Spec::Normalizer replace;
  replace.kind = Spec::Normalizer::Kind::kReplace;
  replace.pattern.text = " ";
  replace.content = std::string(kSpace);
  spec.normalizers.push_back(std::move(replace));

  Spec::Decoder step;
  step.kind = Spec::Decoder::Kind::kReplace;
  step.pattern.text = std::string(kSpace);
  step.content = " ";
  spec.decoders.push_back(step);
  step.kind = Spec::Decoder::Kind::kByteFallback;
  spec.decoders.push_back(step);
  step.kind = Spec::Decoder::Kind::kFuse;
  spec.decoders.push_back(step);
  if (space_prefix) {
    step.kind = Spec::Decoder::Kind::kStrip;
    step.start = 1;
    spec.decoders.push_back(step);
  }
}

// Checks an id that the file gives a part to play.
StatusOr<int32_t> special_id(absl::string_view key, const std::optional<int64_t>& id,
                             size_t tokens) {
  if (!id.has_value()) return not_found_error("tokenizer.ggml.", key, " is missing");
  if (*id < 0 || static_cast<uint64_t>(*id) >= tokens) {
    return corrupt_error("tokenizer.ggml.", key, " is ", *id, " in a vocabulary of ", tokens);
  }
  return static_cast<int32_t>(*id);
}

}  // namespace

StatusOr<TokenizerSpec> tokenizer_spec_from_gguf(GgufTokenizer metadata) {
  const bool sentence_piece = metadata.model == "llama";
  if (!sentence_piece && metadata.model != "gpt2") {
    return unsupported_error("tokenizer.ggml.model is '",
                             replace_invalid_utf8(metadata.model.substr(0, 64)),
                             "'; gpt2 and llama are supported");
  }
  const size_t size = metadata.tokens.size();
  if (size > INT32_MAX) return corrupt_error("tokenizer.ggml.tokens has ", size, " entries");
  if (!metadata.token_type.empty() && metadata.token_type.size() != size) {
    return corrupt_error("tokenizer.ggml.token_type has ", metadata.token_type.size(),
                         " entries for ", size, " tokens");
  }
  if (sentence_piece && metadata.scores.size() != size) {
    return corrupt_error("tokenizer.ggml.scores has ", metadata.scores.size(), " entries for ",
                         size, " tokens");
  }

  Spec spec;
  if (sentence_piece && metadata.unknown_token_id.has_value()) {
    PONDER_ASSIGN_OR_RETURN(const int32_t id,
                            special_id("unknown_token_id", metadata.unknown_token_id, size));
    spec.unknown_piece = metadata.tokens[static_cast<size_t>(id)];
  }
  for (size_t i = 0; i < size; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const int32_t type = metadata.token_type.empty() ? kNormal : metadata.token_type[i];
    std::string& text = metadata.tokens[i];
    if (type == kControl || type == kUserDefined || type == kUnknown) {
      if (text.empty()) continue;
      Spec::AddedToken token;
      token.text = text;
      token.id = id;
      token.special = type != kUserDefined;
      spec.added_tokens.push_back(std::move(token));
      if (!sentence_piece) continue;  // SentencePiece has them among its pieces
    }
    if (sentence_piece) {
      spec.scores.push_back(metadata.scores[i]);
      spec.unmergeable.push_back(type != kNormal && type != kUserDefined);
    }
    spec.pieces.push_back({std::move(text), id});
  }

  if (sentence_piece) {
    set_sentence_piece_steps(metadata.add_space_prefix.value_or(true), spec);
  } else {
    PONDER_RETURN_IF_ERROR(read_merges(metadata.merges, spec));
    PONDER_RETURN_IF_ERROR(set_pre_tokenizer(metadata.pre, spec));
  }

  const bool llama3 = !sentence_piece && spec.ignore_merges;
  if (metadata.add_bos_token.value_or(sentence_piece || llama3)) {
    PONDER_ASSIGN_OR_RETURN(const int32_t id,
                            special_id("bos_token_id", metadata.bos_token_id, size));
    spec.prefix_ids.push_back(id);
  }
  if (metadata.add_eos_token.value_or(false)) {
    PONDER_ASSIGN_OR_RETURN(const int32_t id,
                            special_id("eos_token_id", metadata.eos_token_id, size));
    spec.suffix_ids.push_back(id);
  }
  return spec;
}

std::string gguf_pre_tokenizer(const std::vector<std::string>& patterns, bool nfc) {
  for (const absl::string_view pre :
       {"qwen2", "llama-bpe", "deepseek-v3", "deepseek-llm", "deepseek-coder", "gpt-2"}) {
    Spec spec;
    if (!set_pre_tokenizer(pre, spec).ok()) continue;
    std::vector<std::string> own;
    for (const Spec::PreTokenizer& step : spec.pre_tokenizers) {
      if (step.kind == Spec::PreTokenizer::Kind::kSplit) own.push_back(step.pattern.text);
    }
    // llama.cpp does not normalise at all, so a name stands for both.
    if (own == patterns && (!nfc || !spec.normalizers.empty())) return std::string(pre);
  }
  return {};
}

}  // namespace ponder
