// The 8-bit floats of the Open Compute Project as binary32, one value at a time, bit exact.
#pragma once

#include <bit>
#include <cstdint>

namespace ponder {

// E4M3 ("e4m3fn"): bias 7, largest value 448; no infinity, 0x7f and 0xff are NaN.
inline float f8_e4m3_to_f32(uint8_t v) {
  const uint32_t sign = uint32_t{v & 0x80u} << 24;
  const uint32_t magnitude = v & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude < 8) {  // zero or subnormal: value = magnitude * 2^-9
    const float value = static_cast<float>(magnitude) * 0x1p-9f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// Half of the E8M0 power of two: 2^(e - 128), subnormal for e < 2. (E8M0's own NaN, 255, gives
// 2^127: what readers of MXFP4 blocks agree on.)
inline float e8m0_half_to_f32(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : uint32_t{e - 1u} << 23);
}

}  // namespace ponder
