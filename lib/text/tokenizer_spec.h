// What a tokenizer is, as plain data: the pieces, the merges and the steps around them.
//
// Every source of a tokenizer (Hugging Face's tokenizer.json, the metadata of a GGUF file) fills a
// TokenizerSpec; Tokenizer::create checks it and builds the tables. Nothing here is trusted: ids,
// names and patterns are as the file had them. A plain value; one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ponder {

struct TokenizerSpec {
  struct Piece {
    std::string text;  // as the file spells it: "Ġthe", "▁the", "<0x0A>"
    int32_t id = -1;
  };

  // As the id of an added token: that of the piece it is, or else the next one behind the pieces.
  static constexpr int32_t kNextId = -1;

  // A token recognised in the text before anything else happens to it.
  struct AddedToken {
    std::string text;
    int32_t id = kNextId;
    bool special = false;      // left out by decode(skip_special); says nothing about recognition
    bool lstrip = false;       // swallows white space before it
    bool rstrip = false;       // swallows white space after it
    bool single_word = false;  // only where no word character touches it
    bool normalized = false;   // looked for in the normalised text rather than in the text as given
  };

  // A pattern is a plain string to find, or a regular expression (see tokenizer_regex.h).
  struct Pattern {
    std::string text;
    bool regex = false;
  };

  struct Normalizer {
    enum class Kind {
      kPrepend,  // content before a text that is not empty
      kReplace,  // every match of pattern by content
      kNfc,
      kNfd,
      kNfkc,
      kNfkd,
      kStrip,  // white space at the ends
      kLowercase,
      kByteLevel,  // every byte by its visible character
    };
    Kind kind = Kind::kNfc;
    Pattern pattern;
    std::string content;
    bool strip_left = true;
    bool strip_right = true;
  };

  // What becomes of the matches when a text is cut at them.
  enum class SplitBehavior {
    kIsolated,            // pieces of their own
    kRemoved,             // gone
    kMergedWithPrevious,  // end of the piece before
    kMergedWithNext,      // start of the piece after
    kContiguous,          // neighbouring matches in one piece
  };

  struct PreTokenizer {
    enum class Kind {
      kSplit,            // pattern, behavior, invert
      kByteLevel,        // add_prefix_space, use_regex (GPT-2's pattern)
      kDigits,           // individual_digits
      kWhitespace,       // \w+|[^\w\s]+
      kWhitespaceSplit,  // at white space
      kPunctuation,      // behavior
      kMetaspace,        // replacement, prepend, split
      kDelimiter,        // replacement: the character to cut at and drop
    };
    enum class Prepend { kAlways, kFirst, kNever };
    Kind kind = Kind::kSplit;
    Pattern pattern;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;  // the matches are the text to keep, what lies between is the "match"
    bool add_prefix_space = false;
    bool use_regex = true;
    bool individual_digits = false;
    std::string replacement;  // one character in UTF-8
    Prepend prepend = Prepend::kAlways;
    bool split = true;
  };

  struct Decoder {
    enum class Kind {
      kByteLevel,
      kReplace,       // pattern by content
      kByteFallback,  // <0x0A> to the byte
      kFuse,          // from here on the text as a whole
      kStrip,         // up to `start` times `content` off the front
      kMetaspace,     // replacement to a space, none at the start unless prepend is kNever
    };
    Kind kind = Kind::kByteLevel;
    Pattern pattern;
    std::string content;
    int64_t start = 0;
    int64_t stop = 0;
    PreTokenizer::Prepend prepend = PreTokenizer::Prepend::kAlways;
  };

  // The vocabulary of the model proper; added tokens may or may not be in it. Ids may leave holes.
  std::vector<Piece> pieces;
  // Pairs in order of rank; their concatenation is a piece. Or, for SentencePiece vocabularies that
  // come without merges, a score for each piece (the highest merges first).
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<float> scores;
  // Pieces with `scores` that no merge may make (control, byte and unused ones), by piece index.
  std::vector<bool> unmergeable;

  bool byte_fallback = false;  // unknown characters become <0xNN> pieces
  bool ignore_merges = false;  // a pre-token that is a piece is that piece, merges or not
  bool fuse_unknown = false;   // neighbouring unknown characters make one unknown token
  std::string unknown_piece;   // empty: unknown characters vanish
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;

  std::vector<AddedToken> added_tokens;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<Decoder> decoders;
  // The post-processor: token ids around the text, for encode with add_special.
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
};

}  // namespace ponder
