// What Python's str knows about characters: classes and case mappings, for the template language.
//
// Tables are made by jinja_unicode_data.py. Text is valid UTF-8 throughout. Pure functions; any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ponder::jinja {

enum CharClass : uint32_t {
  kAlpha = 1u << 0,
  kDecimal = 1u << 1,
  kDigit = 1u << 2,
  kNumeric = 1u << 3,
  kPrintable = 1u << 4,
  kUpper = 1u << 5,
  kLower = 1u << 6,
  kTitle = 1u << 7,
  kSpace = 1u << 8,
  kIdentStart = 1u << 9,
  kIdent = 1u << 10,
  kAlnum = kAlpha | kDecimal | kDigit | kNumeric,
  kCased = kUpper | kLower | kTitle,
};

// The classes of one code point, or'ed together.
uint32_t char_classes(char32_t code_point);
inline bool is_space(char32_t code_point) { return (char_classes(code_point) & kSpace) != 0; }

// str.lower and the like. A code point may become up to three.
std::string to_lower(absl::string_view text);
std::string to_upper(absl::string_view text);
std::string to_casefold(absl::string_view text);
std::string to_swapcase(absl::string_view text);
// str.title: the first letter of each run of cased letters in title case, the rest lower.
std::string to_title(absl::string_view text);
// str.capitalize: the first character in title case, the rest lower.
std::string to_capitalized(absl::string_view text);

// Without white space at the left and at the right, as str.strip().
absl::string_view strip_left(absl::string_view text);
absl::string_view strip_right(absl::string_view text);

// Code points in `text`.
size_t count_code_points(absl::string_view text);
// The byte offset of code point `index`; the size of the text when there are fewer.
size_t offset_of_code_point(absl::string_view text, size_t index);

}  // namespace ponder::jinja
