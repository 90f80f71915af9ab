// The codebooks of the IQ weight types as the bytes that quant_generic.inc puts together: what
// lib/tensor/iq_grids.h lists as ranks of levels, looked up. Plain data, so that files compiled for
// one instruction set may include it.
#pragma once

#include <cstdint>

namespace ponder::cpu {

struct Codebooks {
  // Eight elements to an entry, the first one lowest.
  uint64_t iq1[2048];  // 8 * value + 8: 0, 8 or 16
  uint64_t iq2_xxs[256];
  uint64_t iq2_xs[512];
  uint64_t iq2_s[1024];
  // Four elements to an entry.
  uint32_t iq3_xxs[256];
  uint32_t iq3_s[512];
};

// Made by the first call; immutable. Any thread.
const Codebooks& codebooks();

}  // namespace ponder::cpu
