// SHA-256 (FIPS 180-4), for fingerprints of models. One thread at a time per object.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ponder {

class Sha256 {
 public:
  void update(const void* data, size_t size);
  void update(absl::string_view text) { update(text.data(), text.size()); }
  // The digest as 64 hex digits. The object is spent afterwards.
  std::string finish();

 private:
  void block(const uint8_t* data);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_;  // the first size_ % 64 bytes of it
  uint64_t size_ = 0;
};

}  // namespace ponder
