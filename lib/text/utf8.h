// UTF-8: reading code points, checking, repairing. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ponder {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct Utf8Read {
  char32_t code_point = 0;
  // Bytes taken. For ill-formed text: the maximal ill-formed part (1 to 3 bytes, Unicode's table
  // 3-8), code_point being U+FFFD and valid false.
  uint8_t size = 0;
  bool valid = false;
  // Ill-formed only because the text ends here: more bytes could make it valid.
  bool truncated = false;
};

// The code point at the start of `text`, which must not be empty.
Utf8Read read_utf8(absl::string_view text);

// As read_utf8 for text known to be valid: reads at `p`, moves it behind the code point.
inline char32_t next_code_point(const char*& p) {
  const auto* s = reinterpret_cast<const unsigned char*>(p);
  if (s[0] < 0x80) {
    p += 1;
    return s[0];
  }
  if (s[0] < 0xE0) {
    p += 2;
    return char32_t(s[0] & 0x1F) << 6 | char32_t(s[1] & 0x3F);
  }
  if (s[0] < 0xF0) {
    p += 3;
    return char32_t(s[0] & 0x0F) << 12 | char32_t(s[1] & 0x3F) << 6 | char32_t(s[2] & 0x3F);
  }
  p += 4;
  return char32_t(s[0] & 0x07) << 18 | char32_t(s[1] & 0x3F) << 12 | char32_t(s[2] & 0x3F) << 6 |
         char32_t(s[3] & 0x3F);
}

// Bytes of the code point that starts with `first`, in valid text.
inline size_t utf8_size(char first) {
  const auto c = static_cast<unsigned char>(first);
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

// The start of the code point that ends before `p`, in valid text that begins before `p`.
inline const char* previous_code_point(const char* p) {
  do --p;
  while ((static_cast<unsigned char>(*p) & 0xC0) == 0x80);
  return p;
}

void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(absl::string_view text);

// Each maximal ill-formed part by U+FFFD; the result is valid.
std::string replace_invalid_utf8(absl::string_view text);

}  // namespace ponder
