// The regular expressions of tokenizer files, matched as the reference matches them.
//
// tokenizer.json patterns are written for Oniguruma with Unicode 16 tables. General engines differ
// from it where ids are decided (\s, nested brackets, case folding, and whatever Unicode their
// build knows), so this is one of our own: a backtracking matcher over code points with a budget
// instead of a stack, for the part of the language that tokenizers use. What it does not know
// (back references, \X, \K, absent operators) is an error when the pattern is compiled.
//
// Immutable once compiled; any number of threads may match at a time, each with its own scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/text/unicode.h"

namespace ponder {

class Regex {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
  };

  // `pattern` is an expression, or with `literal` a plain string to find.
  static StatusOr<Regex> compile(absl::string_view pattern, bool literal = false);

  // Matches any one member.
  static StatusOr<Regex> one_of(const CodePointSet& set);

  // All matches from left to right, none overlapping; an empty one never touches the end of the
  // match before it. `text` must be valid UTF-8. Fails when the budget (in proportion to the text)
  // is used up, which takes a pattern that backtracks without end.
  Status find_all(absl::string_view text, std::vector<Match>& matches) const;

  const std::string& pattern() const { return pattern_; }

 private:
  friend class RegexCompiler;
  friend class RegexMatcher;

  enum class Op : uint8_t {
    kChar,        // code point a
    kSet,         // one of set a
    kRepeat,      // set a, from min to max times, mode
    kBranch,      // where set a cannot start here: to b; else try on, and b after that
    kSplit,       // try on, and b after that
    kJump,        // to b
    kLook,        // the part up to b, ahead; negated where mode is kNegated
    kLookBehind,  // the same, behind: min to max code points long
    kAtomic,      // the part up to b, never reconsidered
    kAssert,      // a position: a is an Anchor
    kMark,        // note the position in slot a
    kProgress,    // no progress since slot a was noted: to b
    kAccept,      // of the whole, or of the part of a kLook, kLookBehind or kAtomic
  };
  enum class Mode : uint8_t { kGreedy, kLazy, kPossessive, kNegated };
  enum class Anchor : uint32_t {
    kTextStart,
    kTextEnd,
    kTextEndOrNewline,  // \Z: the end, or a newline that is the end
    kLineStart,
    kLineEnd,
    kWordBoundary,
    kNoWordBoundary,
  };
  struct Instruction {
    Op op;
    Mode mode = Mode::kGreedy;
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t min = 0;
    uint32_t max = 0;
  };

  std::string pattern_;
  std::vector<Instruction> program_;
  std::vector<FastCodePointSet> sets_;
  uint32_t slots_ = 0;
  // The set of code points that a match can start with, where every match takes at least one.
  int32_t first_set_ = -1;
  int32_t word_set_ = -1;  // for word boundaries
};

}  // namespace ponder
