#include "lib/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "lib/base/hash_map.h"
#include "lib/text/tokenizer_added.h"
#include "lib/text/tokenizer_bpe.h"
#include "lib/text/tokenizer_bytes.h"
#include "lib/text/tokenizer_steps.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

// The largest vocabularies in use have a quarter of a million entries. Tables are indexed by id, so
// this bounds what a small file can make us allocate.
constexpr int64_t kMaxVocabulary = 1 << 22;
// Positions are 32 bits wide.
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr int64_t kMaxStrip = 1 << 20;
constexpr size_t kMaxSteps = 32;
// What decoders may make of one token, and of all in proportion to their spelling.
constexpr size_t kMaxTokenBytes = 1 << 16;
constexpr size_t kDecodedGrowth = 16;

std::string in_quotes(absl::string_view text) {
  std::string shown = replace_invalid_utf8(text.substr(0, 48));
  if (text.size() > 48) shown += "...";
  return absl::StrCat("'", shown, "'");
}

Status check_id(absl::string_view text, int64_t id) {
  if (id >= 0 && id < kMaxVocabulary) return OkStatus();
  return corrupt_error("the id of ", in_quotes(text), " is ", id, "; ids go from 0 to ",
                       kMaxVocabulary - 1);
}

// "<0x0A>" is the byte 10.
int byte_of_fallback_piece(absl::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

constexpr uint8_t kKnown = 1, kAdded = 2, kSpecial = 4;

}  // namespace

struct Tokenizer::Tables {
  // Everything the words of one encode call need.
  struct Scratch {
    PreTokenizerSteps::Words words;
    BpeMerges::Scratch bpe;
    std::vector<int32_t> symbols;
    std::string key, spelled;
    // Where the ids of a word stand in the result already, for texts worth it.
    HashMap<absl::string_view, std::pair<uint32_t, uint32_t>> seen;
    bool remember = false;
    bool plain = false;  // added tokens are ordinary text
  };

  std::vector<TokenizerSpec::Piece> pieces;  // what the views below point into
  std::vector<TokenizerSpec::AddedToken> added;

  HashMap<absl::string_view, int32_t> model;      // the model's own vocabulary
  HashMap<absl::string_view, int32_t> added_ids;  // by text
  std::vector<absl::string_view> spelling;                    // by id, as the next two
  std::vector<uint8_t> flags;
  std::vector<uint32_t> byte_ends;  // id's bytes end here in byte_pool, and start at the one before
  std::string byte_pool;

  BpeMerges merges;
  bool byte_fallback = false;
  bool ignore_merges = false;
  bool fuse_unknown = false;
  std::string unknown_piece;
  int32_t unknown_id = -1;
  std::string word_prefix, word_suffix;  // continuing_subword_prefix, end_of_word_suffix
  std::array<int32_t, 256> fallback_ids;

  // Byte-level: the words need not be spelled out, each byte has its piece.
  bool direct_bytes = false;
  std::array<int32_t, 256> byte_ids;
  HashMap<std::string, int32_t> whole_words;  // for ignore_merges, by bytes

  // Added tokens that the normalizer changes are decoded from their normalised text.
  HashMap<int32_t, std::string> decoded_as;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  NormalizerSteps normalizer;
  PreTokenizerSteps pre_tokenizer;

  // What decoding takes off the front of a text.
  std::string strip_character;
  int64_t strip_count = 0;
  bool strip_first_token = false;  // all of it, in the first token (Metaspace)

  std::vector<int32_t> prefix_ids, suffix_ids;

  Status build(TokenizerSpec spec);
  Status build_vocabulary(TokenizerSpec& spec);
  Status build_merges(const TokenizerSpec& spec);
  Status build_scores(const TokenizerSpec& spec);
  Status build_added(TokenizerSpec& spec);
  Status build_bytes(const TokenizerSpec& spec);

  bool known(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < flags.size() &&
           (flags[static_cast<size_t>(id)] & kKnown) != 0;
  }
  int32_t find_piece(absl::string_view text) const {
    const auto it = model.find(text);
    return it == model.end() ? -1 : it->second;
  }

  Status encode_text(absl::string_view text, bool at_start, Scratch& scratch,
                     std::vector<int32_t>& ids) const;
  Status encode_normalized(absl::string_view text, bool at_start, Scratch& scratch,
                           std::vector<int32_t>& ids) const;
  Status encode_word(absl::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  Status split_characters(absl::string_view word, Scratch& scratch) const;
};

Status Tokenizer::Tables::build_vocabulary(TokenizerSpec& spec) {
  pieces = std::move(spec.pieces);
  int64_t size = 0;
  for (const TokenizerSpec::Piece& piece : pieces) {
    PONDER_RETURN_IF_ERROR(check_id(piece.text, piece.id));
    size = std::max<int64_t>(size, piece.id + int64_t{1});
  }
  spelling.resize(static_cast<size_t>(size));
  flags.resize(static_cast<size_t>(size));
  model.reserve(pieces.size());
  for (const TokenizerSpec::Piece& piece : pieces) {
    const size_t id = static_cast<size_t>(piece.id);
    if (!is_valid_utf8(piece.text)) {
      return corrupt_error("the piece with id ", id,
                           " is not valid UTF-8: ", in_quotes(piece.text));
    }
    if (flags[id] != 0) {
      return corrupt_error("id ", id, " is given to ", in_quotes(spelling[id]), " and to ",
                           in_quotes(piece.text));
    }
    flags[id] = kKnown;
    spelling[id] = piece.text;
    // Of equal pieces the first counts; only sources that list pieces by id can have them.
    model.try_emplace(piece.text, piece.id);
  }
  return OkStatus();
}

Status Tokenizer::Tables::build_merges(const TokenizerSpec& spec) {
  merges.reserve(spec.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    absl::string_view tail = right;
    if (tail.size() < word_prefix.size()) {
      return corrupt_error("merge ", rank, ": ", in_quotes(right), " is shorter than the prefix ",
                           in_quotes(word_prefix));
    }
    tail.remove_prefix(word_prefix.size());
    joined.assign(left);
    joined.append(tail.data(), tail.size());
    const int32_t left_id = find_piece(left), right_id = find_piece(right);
    const int32_t result = find_piece(joined);
    if (left_id < 0 || right_id < 0 || result < 0) {
      return corrupt_error("merge ", rank, " of ", in_quotes(left), " and ", in_quotes(right), ": ",
                           in_quotes(left_id < 0    ? left
                                     : right_id < 0 ? right
                                                    : joined),
                           " is not in the vocabulary");
    }
    merges.add(left_id, right_id, static_cast<uint32_t>(rank), result);
  }
  return OkStatus();
}

// SentencePiece without merges: any two neighbours whose text together is a piece merge, the
// highest score first and the leftmost of equal scores. So every way to halve a piece into two
// others is a merge, ranked by the piece's score.
Status Tokenizer::Tables::build_scores(const TokenizerSpec& spec) {
  if (spec.scores.size() != pieces.size()) {
    return corrupt_error("there are ", spec.scores.size(), " scores for ", pieces.size(),
                         " pieces");
  }
  const auto mergeable = [&spec](size_t i) {
    return i >= spec.unmergeable.size() || !spec.unmergeable[i];
  };
  std::vector<float> order;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (spec.scores[i] != spec.scores[i]) {
      return corrupt_error("the score of ", in_quotes(pieces[i].text), " is not a number");
    }
    if (mergeable(i)) order.push_back(spec.scores[i]);
  }
  std::sort(order.begin(), order.end(), std::greater<float>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  constexpr size_t kMaxMergeableBytes = 512;  // beyond any piece, and halving is quadratic
  for (size_t i = 0; i < pieces.size(); ++i) {
    const absl::string_view text = pieces[i].text;
    if (!mergeable(i) || text.empty() || text.size() > kMaxMergeableBytes) continue;
    const auto rank =
        std::lower_bound(order.begin(), order.end(), spec.scores[i], std::greater<float>()) -
        order.begin();
    for (size_t cut = utf8_size(text[0]); cut < text.size(); cut += utf8_size(text[cut])) {
      const int32_t left = find_piece(text.substr(0, cut)), right = find_piece(text.substr(cut));
      if (left < 0 || right < 0) continue;
      merges.add(left, right, static_cast<uint32_t>(rank), pieces[i].id);
    }
  }
  return OkStatus();
}

Status Tokenizer::Tables::build_added(TokenizerSpec& spec) {
  added = std::move(spec.added_tokens);
  added.erase(std::remove_if(added.begin(), added.end(),
                             [](const TokenizerSpec::AddedToken& t) { return t.text.empty(); }),
              added.end());
  size_t size = flags.size();
  int32_t next_id = static_cast<int32_t>(pieces.size());
  for (TokenizerSpec::AddedToken& token : added) {
    if (!is_valid_utf8(token.text)) {
      return corrupt_error("the added token ", in_quotes(token.text), " is not valid UTF-8");
    }
    if (token.id == TokenizerSpec::kNextId) {
      const auto again = added_ids.find(token.text);
      token.id = again != added_ids.end() ? again->second : find_piece(token.text);
      if (token.id < 0) token.id = next_id++;
    }
    PONDER_RETURN_IF_ERROR(check_id(token.text, token.id));
    added_ids[token.text] = token.id;
    size = std::max(size, static_cast<size_t>(token.id) + 1);
  }
  spelling.resize(size);
  flags.resize(size);
  for (const TokenizerSpec::AddedToken& token : added) {
    const size_t id = static_cast<size_t>(token.id);
    if (flags[id] != 0 && spelling[id] != token.text) {
      return corrupt_error("id ", id, " is given to ", in_quotes(spelling[id]),
                           " and to the added token ", in_quotes(token.text));
    }
    // The same token again replaces what the first one said of itself.
    flags[id] = static_cast<uint8_t>(kKnown | kAdded | (token.special ? kSpecial : 0) |
                                     (flags[id] & kSpecial));
    spelling[id] = token.text;
  }
  // Backwards: of tokens given twice the matcher keeps the first it hears of.
  for (auto token = added.rbegin(); token != added.rend(); ++token) {
    const AddedTokenMatcher::Options options = {token->lstrip, token->rstrip, token->single_word};
    if (token->normalized) {
      PONDER_ASSIGN_OR_RETURN(std::string text, normalizer.apply(token->text));
      PONDER_RETURN_IF_ERROR(normalized_matcher.add(text, token->id, options));
      if (text != token->text) decoded_as.try_emplace(token->id, std::move(text));
    } else {
      PONDER_RETURN_IF_ERROR(raw_matcher.add(token->text, token->id, options));
    }
  }
  return OkStatus();
}

// Runs the decoders over every token once. What they do to a text as a whole is kept only where it
// can be done from token to token: stripping its front, and replacing single characters.
Status Tokenizer::Tables::build_bytes(const TokenizerSpec& spec) {
  using Kind = TokenizerSpec::Decoder::Kind;
  std::vector<Regex> patterns(spec.decoders.size());
  bool fused = false;
  bool metaspace_seen = false;
  for (size_t i = 0; i < spec.decoders.size(); ++i) {
    const TokenizerSpec::Decoder& decoder = spec.decoders[i];
    const bool one_character = is_valid_utf8(decoder.content) && !decoder.content.empty() &&
                               decoder.content.size() == utf8_size(decoder.content[0]);
    switch (decoder.kind) {
      case Kind::kByteLevel:
      case Kind::kFuse:
        fused = true;
        break;
      case Kind::kByteFallback:
        if (fused) return unsupported_error("decoder ", i, ": ByteFallback after Fuse");
        break;
      case Kind::kReplace: {
        PONDER_ASSIGN_OR_RETURN(patterns[i],
                                Regex::compile(decoder.pattern.text, !decoder.pattern.regex));
        const absl::string_view text = decoder.pattern.text;
        const bool commutes = !decoder.pattern.regex && strip_count == 0 && !text.empty() &&
                              text.size() == utf8_size(text[0]);
        if (fused && !commutes) {
          return unsupported_error("decoder ", i, ": Replace after Fuse of more than a character");
        }
        break;
      }
      case Kind::kStrip:
        if (!one_character) {
          return corrupt_error("decoder ", i, ": Strip of ", in_quotes(decoder.content),
                               ", which is not one character");
        }
        if (decoder.start < 0 || decoder.start > kMaxStrip || decoder.stop < 0) {
          return corrupt_error("decoder ", i, ": Strip from ", decoder.start, " to ", decoder.stop);
        }
        if (!fused || decoder.stop != 0 || strip_count != 0) {
          return unsupported_error("decoder ", i,
                                   ": Strip other than once, at the start, after Fuse");
        }
        strip_count = decoder.start;
        strip_character = decoder.content;
        break;
      case Kind::kMetaspace:
        if (!one_character) {
          return corrupt_error("decoder ", i, ": Metaspace of ", in_quotes(decoder.content),
                               ", which is not one character");
        }
        if (fused || metaspace_seen) {
          return unsupported_error("decoder ", i, ": Metaspace after Fuse or Metaspace");
        }
        metaspace_seen = true;
        if (decoder.prepend != TokenizerSpec::PreTokenizer::Prepend::kNever) {
          strip_first_token = true;
          strip_character = " ";
        }
        break;
    }
  }
  if (strip_count != 0 && strip_first_token) {
    return unsupported_error("decoders: both Metaspace and Strip");
  }
  if (spec.decoders.empty()) {  // tokens are joined with spaces, as the reference does
    strip_count = 1;
    strip_character = " ";
  }

  byte_ends.reserve(spelling.size());
  size_t spelled = 0;
  std::string bytes;
  for (size_t id = 0; id < spelling.size(); ++id) {
    if (flags[id] == 0) {
      byte_ends.push_back(static_cast<uint32_t>(byte_pool.size()));
      continue;
    }
    const auto normalized = decoded_as.find(static_cast<int32_t>(id));
    bytes = normalized != decoded_as.end() ? normalized->second : std::string(spelling[id]);
    if (spec.decoders.empty()) bytes.insert(0, " ");
    for (size_t i = 0; i < spec.decoders.size(); ++i) {
      const TokenizerSpec::Decoder& decoder = spec.decoders[i];
      switch (decoder.kind) {
        case Kind::kByteLevel: {
          std::string meant;
          // A token with any other character in it is taken as it is.
          if (is_valid_utf8(bytes) && append_spelled_bytes(meant, bytes)) bytes = meant;
          break;
        }
        case Kind::kReplace:
        case Kind::kMetaspace: {
          const bool is_replace = decoder.kind == Kind::kReplace;
          if (!is_valid_utf8(bytes)) break;  // a single byte, from ByteFallback
          if (is_replace) {
            PONDER_ASSIGN_OR_RETURN(
                bytes, replace_matches(bytes, patterns[i], decoder.content, kMaxTokenBytes));
          } else {
            std::string replaced;
            for (size_t at = 0; at < bytes.size();) {
              const size_t size = utf8_size(bytes[at]);
              const absl::string_view c = absl::string_view(bytes).substr(at, size);
              absl::StrAppend(&replaced, c == decoder.content ? " " : c);
              at += size;
            }
            bytes = std::move(replaced);
          }
          break;
        }
        case Kind::kByteFallback:
          if (const int byte = byte_of_fallback_piece(bytes); byte >= 0) {
            bytes.assign(1, static_cast<char>(byte));
          }
          break;
        case Kind::kFuse:
        case Kind::kStrip:
          break;
      }
    }
    byte_pool += bytes;
    spelled += spelling[id].size();
    if (byte_pool.size() > kDecodedGrowth * spelled + kMaxTokenBytes) {
      return unsupported_error("the decoders blow tokens of ", spelled, " bytes up to ",
                               byte_pool.size());
    }
    byte_ends.push_back(static_cast<uint32_t>(byte_pool.size()));
  }
  return OkStatus();
}

Status Tokenizer::Tables::build(TokenizerSpec spec) {
  byte_fallback = spec.byte_fallback;
  ignore_merges = spec.ignore_merges;
  fuse_unknown = spec.fuse_unknown;
  unknown_piece = spec.unknown_piece;
  word_prefix = spec.continuing_subword_prefix;
  word_suffix = spec.end_of_word_suffix;
  if (spec.pieces.empty()) return corrupt_error("the vocabulary is empty");
  const size_t steps =
      std::max({spec.normalizers.size(), spec.pre_tokenizers.size(), spec.decoders.size()});
  if (steps > kMaxSteps) {
    return unsupported_error(steps, " normalizers, pre-tokenizers or decoders in a row, more than ",
                             kMaxSteps);
  }
  PONDER_RETURN_IF_ERROR(build_vocabulary(spec));
  if (spec.scores.empty()) {
    PONDER_RETURN_IF_ERROR(build_merges(spec));
  } else {
    PONDER_RETURN_IF_ERROR(build_scores(spec));
  }
  if (!unknown_piece.empty()) unknown_id = find_piece(unknown_piece);
  for (int byte = 0; byte < 256; ++byte) {
    constexpr absl::string_view kHex = "0123456789ABCDEF";
    const char piece[] = {
        '<', '0', 'x', kHex[static_cast<size_t>(byte >> 4)], kHex[static_cast<size_t>(byte & 15)],
        '>'};
    fallback_ids[static_cast<size_t>(byte)] = find_piece(absl::string_view(piece, sizeof(piece)));
  }
  PONDER_ASSIGN_OR_RETURN(normalizer, NormalizerSteps::create(spec.normalizers));
  PONDER_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizerSteps::create(spec.pre_tokenizers));
  PONDER_RETURN_IF_ERROR(build_added(spec));
  PONDER_RETURN_IF_ERROR(build_bytes(spec));

  direct_bytes = pre_tokenizer.spells_bytes() && word_prefix.empty() && word_suffix.empty();
  for (int byte = 0; byte < 256; ++byte) {
    std::string piece;
    append_utf8(piece, visible_character(static_cast<uint8_t>(byte)));
    byte_ids[static_cast<size_t>(byte)] = find_piece(piece);
    if (byte_ids[static_cast<size_t>(byte)] < 0) direct_bytes = false;
  }
  if (direct_bytes && ignore_merges) {
    whole_words.reserve(pieces.size());
    std::string bytes;
    for (const TokenizerSpec::Piece& piece : pieces) {
      bytes.clear();
      if (append_spelled_bytes(bytes, piece.text)) whole_words.try_emplace(bytes, piece.id);
    }
  }
  for (const std::vector<int32_t>* ids : {&spec.prefix_ids, &spec.suffix_ids}) {
    for (const int32_t id : *ids) {
      if (!known(id)) {
        return corrupt_error("the post-processor adds token id ", id,
                             ", which is not in the vocabulary");
      }
    }
  }
  prefix_ids = std::move(spec.prefix_ids);
  suffix_ids = std::move(spec.suffix_ids);
  return OkStatus();
}

// The symbols of a word before any merge, into scratch.symbols.
Status Tokenizer::Tables::split_characters(absl::string_view word, Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  bool unknown_pending = false;
  for (size_t at = 0; at < word.size();) {
    const size_t size = utf8_size(word[at]);
    absl::string_view character = word.substr(at, size);
    const bool first = at == 0;
    at += size;
    if ((!first && !word_prefix.empty()) || (at == word.size() && !word_suffix.empty())) {
      scratch.key = first ? std::string() : word_prefix;
      scratch.key.append(character.data(), character.size());
      if (at == word.size()) scratch.key += word_suffix;
      character = scratch.key;
    }
    const int32_t id = find_piece(character);
    if (id >= 0) {
      if (unknown_pending) symbols.push_back(unknown_id);
      unknown_pending = false;
      symbols.push_back(id);
      continue;
    }
    if (byte_fallback) {
      const size_t before = symbols.size();
      for (const char c : character) {
        const int32_t byte_id = fallback_ids[static_cast<uint8_t>(c)];
        if (byte_id < 0) {
          symbols.resize(before);
          break;
        }
        symbols.push_back(byte_id);
      }
      // An unknown token that waits stays behind these: so does the reference have it.
      if (symbols.size() > before) continue;
    }
    if (unknown_piece.empty()) continue;
    if (unknown_id < 0) {
      return corrupt_error("the text has the unknown character ", in_quotes(character),
                           " and the unknown token ", in_quotes(unknown_piece),
                           " is not in the vocabulary");
    }
    if (unknown_pending && !fuse_unknown) symbols.push_back(unknown_id);
    unknown_pending = true;
  }
  if (unknown_pending) symbols.push_back(unknown_id);
  return OkStatus();
}

Status Tokenizer::Tables::encode_word(absl::string_view word, Scratch& scratch,
                                      std::vector<int32_t>& ids) const {
  constexpr size_t kLongestRemembered = 64;
  constexpr size_t kMostRemembered = 1 << 16;
  const bool remember = scratch.remember && word.size() <= kLongestRemembered;
  if (remember) {
    const auto it = scratch.seen.find(word);
    if (it != scratch.seen.end()) {
      const auto [begin, count] = it->second;
      for (uint32_t i = 0; i < count; ++i) ids.push_back(ids[begin + i]);
      return OkStatus();
    }
  }
  const absl::string_view given = word;
  const size_t before = ids.size();
  int32_t whole = -1;
  if (direct_bytes) {
    if (ignore_merges) {
      const auto it = whole_words.find(word);
      if (it != whole_words.end()) whole = it->second;
    }
  } else {
    if (pre_tokenizer.spells_bytes()) {
      scratch.spelled = to_visible(word);
      word = scratch.spelled;
    }
    if (ignore_merges) whole = find_piece(word);
  }
  // Text from strangers makes no control tokens, whatever the vocabulary lists as pieces.
  if (whole >= 0 && scratch.plain && (flags[static_cast<size_t>(whole)] & kAdded) != 0) whole = -1;
  if (whole >= 0) {
    ids.push_back(whole);
  } else {
    std::vector<int32_t>& symbols = scratch.symbols;
    symbols.clear();
    if (direct_bytes) {
      symbols.reserve(word.size());
      for (const char c : word) symbols.push_back(byte_ids[static_cast<uint8_t>(c)]);
    } else {
      PONDER_RETURN_IF_ERROR(split_characters(word, scratch));
    }
    merges.apply(symbols, scratch.bpe);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }
  if (remember && scratch.seen.size() < kMostRemembered) {
    scratch.seen.try_emplace(given, static_cast<uint32_t>(before),
                             static_cast<uint32_t>(ids.size() - before));
  }
  return OkStatus();
}

Status Tokenizer::Tables::encode_normalized(absl::string_view text, bool at_start, Scratch& scratch,
                                            std::vector<int32_t>& ids) const {
  if (text.empty()) return OkStatus();
  // The words seen live as long as the text they are cut from: this call.
  scratch.seen.clear();
  PONDER_RETURN_IF_ERROR(pre_tokenizer.apply(text, at_start, scratch.words));
  scratch.remember = scratch.words.words.size() > 16;
  for (const PreTokenizerSteps::Word& word : scratch.words.words) {
    PONDER_RETURN_IF_ERROR(encode_word(word.text, scratch, ids));
  }
  return OkStatus();
}

// A stretch between added tokens, as the caller gave it.
Status Tokenizer::Tables::encode_text(absl::string_view text, bool at_start, Scratch& scratch,
                                      std::vector<int32_t>& ids) const {
  std::string normalized;
  if (!normalizer.empty()) {
    PONDER_ASSIGN_OR_RETURN(normalized, normalizer.apply(text));
    text = normalized;
  }
  if (text.empty()) return OkStatus();
  if (scratch.plain || normalized_matcher.empty()) {
    return encode_normalized(text, at_start, scratch, ids);
  }
  std::vector<AddedTokenMatcher::Part> parts;
  normalized_matcher.cut(text, parts);
  for (const AddedTokenMatcher::Part& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    PONDER_RETURN_IF_ERROR(encode_normalized(text.substr(part.begin, part.end - part.begin),
                                             at_start && part.begin == 0, scratch, ids));
  }
  return OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::~Tokenizer() = default;

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::create(TokenizerSpec spec, absl::string_view what) {
  auto tables = std::make_unique<Tables>();
  if (Status status = tables->build(std::move(spec)); !status.ok()) {
    return in_context(status, what);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(tables)));
}

StatusOr<std::vector<int32_t>> Tokenizer::encode(absl::string_view text,
                                                 const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return invalid_argument_error("a text of ", text.size(), " bytes is more than the ",
                                  kMaxTextBytes, " that can be tokenized at once; cut it");
  }
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  const Tables& t = *tables_;
  Tables::Scratch scratch;
  scratch.plain = !options.parse_special;
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (options.add_special) ids = t.prefix_ids;
  if (!text.empty()) {
    if (scratch.plain || t.raw_matcher.empty()) {
      PONDER_RETURN_IF_ERROR(t.encode_text(text, true, scratch, ids));
    } else {
      std::vector<AddedTokenMatcher::Part> parts;
      t.raw_matcher.cut(text, parts);
      for (const AddedTokenMatcher::Part& part : parts) {
        if (part.id >= 0) {
          ids.push_back(part.id);
          continue;
        }
        PONDER_RETURN_IF_ERROR(t.encode_text(text.substr(part.begin, part.end - part.begin),
                                             part.begin == 0, scratch, ids));
      }
    }
  }
  if (options.add_special) ids.insert(ids.end(), t.suffix_ids.begin(), t.suffix_ids.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, const DecodeOptions& options) const {
  std::string out;
  DecodeState state;
  for (const int32_t id : ids) {
    if (options.skip_special && is_special(id)) continue;
    absl::StrAppend(&out, token_bytes(id, state));
  }
  return out;
}

absl::string_view Tokenizer::token_bytes(int32_t id) const {
  const Tables& t = *tables_;
  if (!t.known(id)) return absl::string_view();
  const size_t i = static_cast<size_t>(id);
  const uint32_t begin = i == 0 ? 0 : t.byte_ends[i - 1];
  return absl::string_view(t.byte_pool).substr(begin, t.byte_ends[i] - begin);
}

absl::string_view Tokenizer::token_bytes(int32_t id, DecodeState& state) const {
  const Tables& t = *tables_;
  absl::string_view bytes = token_bytes(id);
  if (!state.at_start || !t.known(id)) return bytes;
  const auto starts = [&] {
    return bytes.substr(0, t.strip_character.size()) == t.strip_character;
  };
  if (t.strip_first_token) {
    while (starts()) bytes.remove_prefix(t.strip_character.size());
    state.at_start = false;
    return bytes;
  }
  while (state.stripped < t.strip_count && starts()) {
    bytes.remove_prefix(t.strip_character.size());
    ++state.stripped;
  }
  if (!bytes.empty() || state.stripped >= t.strip_count) state.at_start = false;
  return bytes;
}

int32_t Tokenizer::vocabulary_size() const { return static_cast<int32_t>(tables_->flags.size()); }

std::optional<int32_t> Tokenizer::find(absl::string_view piece) const {
  if (const std::optional<int32_t> id = find_added(piece)) return id;
  const int32_t id = tables_->find_piece(piece);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

absl::string_view Tokenizer::piece(int32_t id) const {
  return tables_->known(id) ? tables_->spelling[static_cast<size_t>(id)] : absl::string_view();
}

std::optional<int32_t> Tokenizer::find_added(absl::string_view text) const {
  const auto it = tables_->added_ids.find(text);
  return it == tables_->added_ids.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

bool Tokenizer::is_added(int32_t id) const {
  return tables_->known(id) && (tables_->flags[static_cast<size_t>(id)] & kAdded) != 0;
}

bool Tokenizer::is_special(int32_t id) const {
  return tables_->known(id) && (tables_->flags[static_cast<size_t>(id)] & kSpecial) != 0;
}

const std::vector<TokenizerSpec::AddedToken>& Tokenizer::added_tokens() const {
  return tables_->added;
}

}  // namespace ponder
