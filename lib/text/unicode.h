// What Unicode says of code points, and the normalisation forms, exactly as the reference
// tokenizer's libraries have it (see unicode_tables_generate.py), whatever this machine's libraries
// know. Pure functions and values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ponder {

inline constexpr char32_t kMaxCodePoint = 0x10FFFF;

// A set of code points as sorted ranges that do not touch: for building; see FastCodePointSet.
class CodePointSet {
 public:
  struct Range {
    char32_t first;
    char32_t last;
  };

  CodePointSet() = default;
  CodePointSet(char32_t first, char32_t last) { add(first, last); }

  void add(char32_t first, char32_t last);
  void add(const CodePointSet& other);
  void invert();
  void intersect(const CodePointSet& other);
  // Adds every character that matches a member without regard to case.
  void add_case_variants();

  bool contains(char32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// The set for \p{name}: a general category ("L", "Lu", "Letter"), "White_Space", "Alphabetic",
// "Any", or one of the scripts in use by tokenizers ("Han"). Case, spaces, '-' and '_' in names do
// not count. Nothing for names unknown here.
std::optional<CodePointSet> unicode_property(absl::string_view name);
// \w of the reference's regular expressions: outside of brackets it takes a few number signs of
// Latin-1, too.
CodePointSet regex_word_set(bool in_brackets);

// Membership in two loads and a shift; about 9 KB where the set is as scattered as letters are.
class FastCodePointSet {
 public:
  FastCodePointSet() = default;
  explicit FastCodePointSet(const CodePointSet& set);

  bool contains(char32_t c) const {
    return blocks_[block_of_[c >> 8]].bits[(c >> 5) & 7] >> (c & 31) & 1;
  }

 private:
  struct Block {
    uint32_t bits[8];
    bool operator==(const Block&) const = default;
  };
  std::vector<uint16_t> block_of_;
  std::vector<Block> blocks_;
};

bool is_white_space(char32_t c);
// Letters, marks, digits, connectors and joiners: what `single_word` tokens may not touch.
bool is_word_character(char32_t c);
// What the pre-tokenizer Punctuation cuts at.
CodePointSet punctuation_set();
void append_lower_case(std::string& out, char32_t c);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` must be valid UTF-8. Linear but for sorting runs of combining marks.
std::string normalize_unicode(absl::string_view text, NormalForm form);

}  // namespace ponder
