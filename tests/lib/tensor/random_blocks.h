// Quantised weights for tests that need some of every block type: random codes, sensible scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "lib/tensor/blocks.h"
#include "lib/tensor/dtype.h"
#include "lib/tensor/half.h"

namespace ponder {

inline constexpr DType kBlockTypes[] = {
    DType::kQ4_0,  DType::kQ4_1,  DType::kQ5_0,    DType::kQ5_1,   DType::kQ8_0,   DType::kQ2_K,
    DType::kQ3_K,  DType::kQ4_K,  DType::kQ5_K,    DType::kQ6_K,   DType::kIQ4_NL, DType::kIQ4_XS,
    DType::kIQ1_S, DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS, DType::kIQ2_S,  DType::kIQ3_XXS,
    DType::kIQ3_S, DType::kTQ1_0, DType::kTQ2_0,   DType::kMXFP4};

// A binary16 scale of a type's block: where it lies, and what messages call it.
struct ScaleField {
  DType dtype;
  size_t offset;
  const char* name;
};

inline constexpr ScaleField kScales[] = {
    {DType::kQ4_0, offsetof(BlockQ4_0, d), "the scale"},
    {DType::kQ4_1, offsetof(BlockQ4_1, d), "the scale"},
    {DType::kQ4_1, offsetof(BlockQ4_1, m), "the minimum"},
    {DType::kQ5_0, offsetof(BlockQ5_0, d), "the scale"},
    {DType::kQ5_1, offsetof(BlockQ5_1, d), "the scale"},
    {DType::kQ5_1, offsetof(BlockQ5_1, m), "the minimum"},
    {DType::kQ8_0, offsetof(BlockQ8_0, d), "the scale"},
    {DType::kQ2_K, offsetof(BlockQ2_K, d), "the scale"},
    {DType::kQ2_K, offsetof(BlockQ2_K, dmin), "the scale of the minima"},
    {DType::kQ3_K, offsetof(BlockQ3_K, d), "the scale"},
    {DType::kQ4_K, offsetof(BlockQ4_K, d), "the scale"},
    {DType::kQ4_K, offsetof(BlockQ4_K, dmin), "the scale of the minima"},
    {DType::kQ5_K, offsetof(BlockQ5_K, d), "the scale"},
    {DType::kQ5_K, offsetof(BlockQ5_K, dmin), "the scale of the minima"},
    {DType::kQ6_K, offsetof(BlockQ6_K, d), "the scale"},
    {DType::kIQ4_NL, offsetof(BlockIQ4_NL, d), "the scale"},
    {DType::kIQ4_XS, offsetof(BlockIQ4_XS, d), "the scale"},
    {DType::kIQ1_S, offsetof(BlockIQ1_S, d), "the scale"},
    {DType::kIQ2_XXS, offsetof(BlockIQ2_XXS, d), "the scale"},
    {DType::kIQ2_XS, offsetof(BlockIQ2_XS, d), "the scale"},
    {DType::kIQ2_S, offsetof(BlockIQ2_S, d), "the scale"},
    {DType::kIQ3_XXS, offsetof(BlockIQ3_XXS, d), "the scale"},
    {DType::kIQ3_S, offsetof(BlockIQ3_S, d), "the scale"},
    {DType::kTQ1_0, offsetof(BlockTQ1_0, d), "the scale"},
    {DType::kTQ2_0, offsetof(BlockTQ2_0, d), "the scale"},
};

// Random blocks whose scales are small numbers: bytes stay as they are elsewhere.
inline std::vector<uint8_t> random_blocks(DType dtype, int64_t elements) {
  const DTypeInfo info = dtype_info(dtype);
  std::vector<uint8_t> bytes(static_cast<size_t>(dtype_bytes(dtype, elements)));
  std::mt19937 random(static_cast<uint32_t>(dtype));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.bytes)) {
    for (const ScaleField& scale : kScales) {
      if (scale.dtype != dtype) continue;
      const uint16_t d = f32_to_f16(0.01f + static_cast<float>(random() % 100) * 0.001f);
      std::memcpy(&bytes[at + scale.offset], &d, sizeof(d));
    }
    if (dtype == DType::kMXFP4) bytes[at] = static_cast<uint8_t>(120 + random() % 8);
    if (dtype == DType::kIQ1_M) {
      uint16_t high;  // the exponent's bits are in the last quarter
      const size_t last = at + offsetof(BlockIQ1_M, scales) + 3 * sizeof(high);
      std::memcpy(&high, &bytes[last], sizeof(high));
      high = static_cast<uint16_t>((high & 0x0fff) | 0x2000);
      std::memcpy(&bytes[last], &high, sizeof(high));
    }
  }
  return bytes;
}

}  // namespace ponder
