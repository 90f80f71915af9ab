// Byte-level BPE spells each byte as one visible character; this is that alphabet, GPT-2's.
// Constants; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/text/utf8.h"

namespace ponder {

namespace tokenizer_bytes_internal {

constexpr bool is_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// Bytes that are no visible Latin-1 character follow from U+0100 on.
constexpr std::array<uint16_t, 256> make_visible() {
  std::array<uint16_t, 256> table{};
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    table[static_cast<size_t>(byte)] = is_itself(byte) ? static_cast<uint16_t>(byte) : next++;
  }
  return table;
}

inline constexpr std::array<uint16_t, 256> kVisible = make_visible();

constexpr std::array<int16_t, 0x180> make_bytes() {
  std::array<int16_t, 0x180> table{};
  for (auto& entry : table) entry = -1;
  for (int byte = 0; byte < 256; ++byte) {
    table[kVisible[static_cast<size_t>(byte)]] = static_cast<int16_t>(byte);
  }
  return table;
}

inline constexpr std::array<int16_t, 0x180> kBytes = make_bytes();

}  // namespace tokenizer_bytes_internal

inline char32_t visible_character(uint8_t byte) { return tokenizer_bytes_internal::kVisible[byte]; }

// -1 for characters that stand for no byte.
inline int byte_of_visible(char32_t c) {
  return c < 0x180 ? tokenizer_bytes_internal::kBytes[c] : -1;
}

inline std::string to_visible(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) append_utf8(out, visible_character(static_cast<uint8_t>(c)));
  return out;
}

// The bytes that a piece spells. False, and nothing appended, when a character stands for none.
inline bool append_spelled_bytes(std::string& out, absl::string_view piece) {
  const size_t before = out.size();
  const char* p = piece.data();
  const char* const end = p + piece.size();
  while (p < end) {
    const int byte = byte_of_visible(next_code_point(p));
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace ponder
