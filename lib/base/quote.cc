#include "lib/base/quote.h"

#include <cstdint>

namespace ponder {
namespace {

// Bytes of the well-formed code point at the start of `text` (Unicode, table 3-7), or 0.
size_t code_point_size(absl::string_view text) {
  const auto at = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  if (first < 0x80) return 1;
  size_t size;
  uint8_t low = 0x80, high = 0xBF;  // of the second byte
  if (first >= 0xC2 && first <= 0xDF) {
    size = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    size = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    size = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < size || at(1) < low || at(1) > high) return 0;
  for (size_t i = 2; i < size; ++i) {
    if (at(i) < 0x80 || at(i) > 0xBF) return 0;
  }
  return size;
}

std::string escaped(absl::string_view text, size_t max, bool quotes) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  size_t pos = 0;
  while (pos < text.size()) {
    const size_t size = code_point_size(text.substr(pos, 4));
    if (pos + (size == 0 ? 1 : size) > max) break;
    const auto byte = static_cast<uint8_t>(text[pos]);
    if (size == 0 || byte < 0x20 || byte == 0x7F) {
      if (byte == '\n') {
        out += "\\n";
      } else if (byte == '\t') {
        out += "\\t";
      } else {
        out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      }
      ++pos;
      continue;
    }
    if (quotes && (byte == '"' || byte == '\\')) out += '\\';
    out.append(text.data() + pos, size);
    pos += size;
  }
  if (pos < text.size()) out += "...";
  return out;
}

}  // namespace

std::string excerpt(absl::string_view text, size_t max) { return escaped(text, max, false); }

std::string quote(absl::string_view text, size_t max) {
  std::string out = "\"";
  out += escaped(text, max, true);
  out += '"';
  return out;
}

}  // namespace ponder
