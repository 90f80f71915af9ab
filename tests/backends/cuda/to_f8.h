// Rounding to f8_e4m3 by looking at all codes: what kernels that round are compared with.
#pragma once

#include <cmath>
#include <cstdint>

#include "lib/tensor/float8.h"

namespace ponder {

// To the nearest code of f8_e4m3, of two as near the even one; beyond 448 held.
inline float to_f8(float v) {
  uint8_t best = 0;
  const float magnitude = std::abs(v);
  for (int code = 1; code < 0x7f; ++code) {
    const float here = std::abs(f8_e4m3_to_f32(static_cast<uint8_t>(code)) - magnitude);
    const float there = std::abs(f8_e4m3_to_f32(best) - magnitude);
    if (here < there || (here == there && code % 2 == 0)) best = static_cast<uint8_t>(code);
  }
  return std::copysign(f8_e4m3_to_f32(best), v);
}

}  // namespace ponder
