// The steps between a text and the words that BPE sees: normalizers and pre-tokenizers.
//
// Both are lists of steps compiled from a TokenizerSpec, immutable afterwards; any number of
// threads, each with its own results.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/text/tokenizer_regex.h"
#include "lib/text/tokenizer_spec.h"

namespace ponder {

// Every match of `pattern` in `text` by `content`. Fails when the result would be longer than
// `limit` bytes.
StatusOr<std::string> replace_matches(absl::string_view text, const Regex& pattern,
                                      absl::string_view content, size_t limit);

class NormalizerSteps {
 public:
  static StatusOr<NormalizerSteps> create(const std::vector<TokenizerSpec::Normalizer>& spec);

  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8, and so is the result. Fails when it grows beyond all reason.
  StatusOr<std::string> apply(absl::string_view text) const;

 private:
  struct Step {
    TokenizerSpec::Normalizer spec;
    Regex regex;  // of kReplace
  };
  std::vector<Step> steps_;
};

class PreTokenizerSteps {
 public:
  struct Word {
    absl::string_view text;
    bool at_start;  // of the whole input
  };
  // The words of a text; those that a step rewrote are kept in `rewritten`.
  struct Words {
    std::vector<Word> words;
    std::deque<std::string> rewritten;
    std::vector<Word> previous;         // scratch
    std::vector<Regex::Match> matches;  // scratch
  };

  static StatusOr<PreTokenizerSteps> create(const std::vector<TokenizerSpec::PreTokenizer>& spec);

  // The words are still to be spelled in visible characters (tokenizer_bytes.h): the last step says
  // so and leaves it to the model, which can do without.
  bool spells_bytes() const { return spells_bytes_; }

  // Cuts `text`, which is valid UTF-8, is not empty and outlives `out`.
  Status apply(absl::string_view text, bool at_start, Words& out) const;

 private:
  struct Step {
    enum class Kind { kSplit, kPrefixSpace, kSpellBytes, kMetaspace };
    Kind kind;
    Regex regex;
    TokenizerSpec::SplitBehavior behavior = TokenizerSpec::SplitBehavior::kIsolated;
    bool invert = false;
    std::string replacement;
    TokenizerSpec::PreTokenizer::Prepend prepend = TokenizerSpec::PreTokenizer::Prepend::kNever;
  };

  Status add(const TokenizerSpec::PreTokenizer& spec);
  Status add_split(absl::string_view pattern, TokenizerSpec::SplitBehavior behavior,
                   bool invert = false, bool literal = false);

  std::vector<Step> steps_;
  bool spells_bytes_ = false;
};

}  // namespace ponder
