// Text to token ids and back: byte-level BPE and SentencePiece-style BPE with byte fallback.
//
// A Tokenizer gives exactly the ids of Hugging Face's `tokenizers` 0.23 for the same
// tokenizer.json. It is immutable once made: any number of threads may use one at a time, and each
// call has its own scratch. The model owns it and sessions keep the model alive.
//
//   PONDER_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::from_json(bytes));
//   PONDER_ASSIGN_OR_RETURN(auto ids, tokenizer->encode("Hello", {}));
//   std::string text = tokenizer->decode(ids);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/log.h"
#include "lib/base/status.h"
#include "lib/text/tokenizer_spec.h"

namespace ponder {

struct EncodeOptions {
  // Added tokens ("<think>", "<｜User｜>"), special or not, are recognised in the text. Without it
  // their text is ordinary text, which is what text from strangers wants.
  bool parse_special = false;
  // The post-processor's tokens (begin of sentence and the like) go around the result.
  bool add_special = false;
};

struct DecodeOptions {
  // Tokens flagged special leave no text.
  bool skip_special = false;
};

// Where a text stands that is decoded token by token; a fresh one is the start of a text.
struct DecodeState {
  bool at_start = true;  // nothing has come out yet that the start would lose
  int64_t stripped = 0;  // characters lost at the start so far
};

class Tokenizer {
 public:
  // From the bytes of a tokenizer.json. `what` names the file in errors; `log` hears of oddities
  // that the reference accepts, too (an added token whose declared id is not the one it gets).
  static StatusOr<std::unique_ptr<Tokenizer>> from_json(absl::string_view json,
                                                        const LogSink& log = {},
                                                        absl::string_view what = "tokenizer.json");
  // Checks everything in the spec: ids, merges, patterns, sizes.
  static StatusOr<std::unique_ptr<Tokenizer>> create(TokenizerSpec spec,
                                                     absl::string_view what = "tokenizer");

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Bytes that are not UTF-8 are read as U+FFFD, one for each maximal ill-formed part, as the
  // reference's callers do. Fails when a pattern of the file backtracks beyond its budget (the
  // error names the pattern) or when an unknown character meets no unknown token.
  StatusOr<std::vector<int32_t>> encode(absl::string_view text,
                                        const EncodeOptions& options = {}) const;

  // The bytes of the text: all of them, so a code point cut in half by the ids stays cut in half
  // (replace_invalid_utf8 of utf8.h makes text of it, which is the reference's text but for byte
  // fallback: there the reference gives up all bytes of a run that has a broken character in it).
  // Unknown ids leave nothing.
  std::string decode(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // The bytes that a token contributes in the middle of a text; empty for unknown ids. Points into
  // the tokenizer.
  absl::string_view token_bytes(int32_t id) const;
  // The same at any place of a text: the start of one loses what encoding put there (the "▁" of
  // SentencePiece). Calls with the ids of a text in order give the parts of decode().
  absl::string_view token_bytes(int32_t id, DecodeState& state) const;

  // One more than the largest id. A model may have more rows than that.
  int32_t vocabulary_size() const;
  // The id of a piece or added token by its spelling in the vocabulary ("Ġthe", "<think>").
  std::optional<int32_t> find(absl::string_view piece) const;
  // The spelling of an id in the vocabulary; empty for unknown ids.
  absl::string_view piece(int32_t id) const;
  // An added token's id by its text; nothing for ordinary pieces.
  std::optional<int32_t> find_added(absl::string_view text) const;
  bool is_added(int32_t id) const;
  bool is_special(int32_t id) const;
  // In the order of the file, with the ids they really have.
  const std::vector<TokenizerSpec::AddedToken>& added_tokens() const;

 private:
  struct Tables;
  explicit Tokenizer(std::unique_ptr<const Tables> tables);
  std::unique_ptr<const Tables> tables_;
};

}  // namespace ponder
