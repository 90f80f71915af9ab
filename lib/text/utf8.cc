#include "lib/text/utf8.h"

#include <cstring>

namespace ponder {
namespace {

uint8_t byte_at(absl::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Length of the ASCII run at the start, eight bytes at a time.
size_t ascii_run(absl::string_view text) {
  size_t i = 0;
  while (i + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    i += 8;
  }
  while (i < text.size() && byte_at(text, i) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Read read_utf8(absl::string_view text) {
  const uint8_t first = byte_at(text, 0);
  if (first < 0x80) return {first, 1, true, false};
  // What the first byte says of the length and of the second byte's range (Unicode table 3-7).
  uint8_t size = 0, low = 0x80, high = 0xBF;
  char32_t code_point = 0;
  if (first >= 0xC2 && first <= 0xDF) {
    size = 2, code_point = first & 0x1F;
  } else if (first >= 0xE0 && first <= 0xEF) {
    size = 3, code_point = first & 0x0F;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    size = 4, code_point = first & 0x07;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {kReplacementCharacter, 1, false, false};
  }
  for (uint8_t i = 1; i < size; ++i) {
    if (i == text.size()) return {kReplacementCharacter, i, false, true};
    const uint8_t c = byte_at(text, i);
    if (c < low || c > high) return {kReplacementCharacter, i, false, false};
    code_point = code_point << 6 | (c & 0x3F);
    low = 0x80, high = 0xBF;
  }
  return {code_point, size, true, false};
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0 | c >> 6));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | c >> 12));
    out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | c >> 18));
    out.push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

bool is_valid_utf8(absl::string_view text) {
  for (;;) {
    text.remove_prefix(ascii_run(text));
    if (text.empty()) return true;
    const Utf8Read read = read_utf8(text);
    if (!read.valid) return false;
    text.remove_prefix(read.size);
  }
}

std::string replace_invalid_utf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Read read = read_utf8(text);
    if (read.valid) {
      out.append(text.data(), read.size);
    } else {
      append_utf8(out, kReplacementCharacter);
    }
    text.remove_prefix(read.size);
  }
  return out;
}

}  // namespace ponder
