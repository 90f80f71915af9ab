#include "lib/tensor/dequantize.h"

#include <cstring>

#include "lib/tensor/blocks.h"
#include "lib/tensor/float8.h"
#include "lib/tensor/half.h"
#include "lib/tensor/iq_grids.h"

namespace ponder {
namespace {

// ---- plain types -------------------------------------------------------------------------------

void expand_f32(const void* data, int64_t elements, float* out) {
  std::memcpy(out, data, static_cast<size_t>(elements) * sizeof(float));
}

template <float (*kConvert)(uint16_t)>
void expand_16(const void* data, int64_t elements, float* out) {
  const auto* bytes = static_cast<const char*>(data);
  for (int64_t i = 0; i < elements; ++i) {
    uint16_t v;
    std::memcpy(&v, bytes + i * 2, sizeof(v));
    out[i] = kConvert(v);
  }
}

void expand_f8(const void* data, int64_t elements, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (int64_t i = 0; i < elements; ++i) out[i] = f8_e4m3_to_f32(bytes[i]);
}

// ---- one function per block type ---------------------------------------------------------------
// x is one block, y its 32 or 256 values. The comments in blocks.h have the formulas; these say the
// same in code.

int lo4(uint8_t byte) { return byte & 15; }
int hi4(uint8_t byte) { return byte >> 4; }
int bit(uint8_t byte, int i) { return byte >> i & 1; }

// Element i of the 32 in 16 bytes.
int nibble(const uint8_t qs[16], int i) { return i < 16 ? lo4(qs[i]) : hi4(qs[i - 16]); }

// The same with a fifth bit.
int five_bits(const uint8_t qs[16], const uint8_t qh[4], int i) {
  return nibble(qs, i) + 16 * bit(qh[i / 8], i % 8);
}

// Element i of the 256 in 64 bytes, two bits each (q2_k, q3_k, tq2_0).
int two_bits(const uint8_t qs[64], int i) {
  return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

// Element i of the 256 in 128 bytes, four bits each (q4_k, q5_k).
int k_nibble(const uint8_t qs[128], int i) {
  const uint8_t byte = qs[i / 64 * 32 + i % 32];
  return i / 32 % 2 == 0 ? lo4(byte) : hi4(byte);
}

void expand(const BlockQ4_0& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(nibble(x.qs, i) - 8);
}

void expand(const BlockQ4_1& x, float* y) {
  const float d = f16_to_f32(x.d), m = f16_to_f32(x.m);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(nibble(x.qs, i)) + m;
}

void expand(const BlockQ5_0& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(five_bits(x.qs, x.qh, i) - 16);
}

void expand(const BlockQ5_1& x, float* y) {
  const float d = f16_to_f32(x.d), m = f16_to_f32(x.m);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(five_bits(x.qs, x.qh, i)) + m;
}

void expand(const BlockQ8_0& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(x.qs[i]);
}

void expand(const BlockIQ4_NL& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(kIQ4Values[nibble(x.qs, i)]);
}

void expand(const BlockMXFP4& x, float* y) {
  const float d = e8m0_half_to_f32(x.e);
  for (int i = 0; i < kBlock; ++i) y[i] = d * static_cast<float>(kMXFP4Values[nibble(x.qs, i)]);
}

void expand(const BlockQ2_K& x, float* y) {
  const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(lo4(x.scales[i / 16]));
    const float min = dmin * static_cast<float>(hi4(x.scales[i / 16]));
    y[i] = scale * static_cast<float>(two_bits(x.qs, i)) - min;
  }
}

void expand(const BlockQ3_K& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(q3_k_scale(x.scales, i / 16) - 32);
    y[i] = scale * static_cast<float>(two_bits(x.qs, i) + 4 * bit(x.hmask[i % 32], i / 32) - 4);
  }
}

void expand(const BlockQ4_K& x, float* y) {
  const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const ScaleMin sub = k_scale_min(x.scales, i / 32);
    const float scale = d * static_cast<float>(sub.scale), min = dmin * static_cast<float>(sub.min);
    y[i] = scale * static_cast<float>(k_nibble(x.qs, i)) - min;
  }
}

void expand(const BlockQ5_K& x, float* y) {
  const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const ScaleMin sub = k_scale_min(x.scales, i / 32);
    const float scale = d * static_cast<float>(sub.scale), min = dmin * static_cast<float>(sub.min);
    const int q = k_nibble(x.qs, i) + 16 * bit(x.qh[i % 32], i / 32);
    y[i] = scale * static_cast<float>(q) - min;
  }
}

void expand(const BlockQ6_K& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, j = i % 32, b = i / 16;
    const uint8_t low = x.ql[64 * half + 32 * (quarter % 2) + j];
    const int high = x.qh[32 * half + j] >> (2 * quarter) & 3;
    const int q = (quarter < 2 ? lo4(low) : hi4(low)) + 16 * high - 32;
    y[i] = d * static_cast<float>(x.scales[b]) * static_cast<float>(q);
  }
}

void expand(const BlockIQ4_XS& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int b = 0; b < 8; ++b) {
    const uint8_t low = x.scales_l[b / 2];
    const int scale = (b % 2 == 0 ? lo4(low) : hi4(low)) + 16 * (x.scales_h >> (2 * b) & 3) - 32;
    const float dl = d * static_cast<float>(scale);
    for (int i = 0; i < 32; ++i) {
      y[32 * b + i] = dl * static_cast<float>(kIQ4Values[nibble(x.qs + 16 * b, i)]);
    }
  }
}

// Eight values of a codebook of two bits per element, with signs.
void expand_group(uint16_t entry, uint32_t signs, float scale, float* y) {
  for (int j = 0; j < 8; ++j) {
    const float value = scale * static_cast<float>(kIQ2Levels[entry >> (2 * j) & 3]);
    y[j] = (signs >> j & 1) != 0 ? -value : value;
  }
}

// The scale of the two-bit codebooks' types, s in [0, 15].
float iq2_scale(float d, uint32_t s) { return d * (0.5f + static_cast<float>(s)) * 0.25f; }

void expand(const BlockIQ2_XXS& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int b = 0; b < 8; ++b) {
    const uint32_t entries = x.qs[4 * b] | uint32_t{x.qs[4 * b + 1]} << 16;
    const uint32_t signs = x.qs[4 * b + 2] | uint32_t{x.qs[4 * b + 3]} << 16;
    const float scale = iq2_scale(d, signs >> 28);
    for (int k = 0; k < 4; ++k) {
      expand_group(kIQ2_XXSGrid[entries >> (8 * k) & 255], iq_signs(signs >> (7 * k) & 127), scale,
                   y + 32 * b + 8 * k);
    }
  }
}

void expand(const BlockIQ2_XS& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int g = 0; g < 32; ++g) {
    const uint8_t scales = x.scales[g / 4];
    const auto s = static_cast<uint32_t>(g % 4 < 2 ? lo4(scales) : hi4(scales));
    expand_group(kIQ2_XSGrid[x.qs[g] & 511], iq_signs(x.qs[g] >> 9), iq2_scale(d, s), y + 8 * g);
  }
}

void expand(const BlockIQ2_S& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int g = 0; g < 32; ++g) {
    const uint8_t scales = x.scales[g / 4];
    const auto s = static_cast<uint32_t>(g % 4 < 2 ? lo4(scales) : hi4(scales));
    const int index = x.qs[g] | (x.qh[g / 4] >> (2 * (g % 4)) & 3) << 8;
    expand_group(kIQ2_SGrid[index], x.signs[g], iq2_scale(d, s), y + 8 * g);
  }
}

// Eight values from two entries of a codebook of three bits per element, with signs.
void expand_pair(uint16_t first, uint16_t second, const uint8_t levels[8], uint32_t signs,
                 float scale, float* y) {
  for (int j = 0; j < 8; ++j) {
    const int rank = (j < 4 ? first : second) >> (3 * (j % 4)) & 7;
    const float value = scale * static_cast<float>(levels[rank]);
    y[j] = (signs >> j & 1) != 0 ? -value : value;
  }
}

void expand(const BlockIQ3_XXS& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int b = 0; b < 8; ++b) {
    uint32_t signs;
    std::memcpy(&signs, x.scales + 4 * b, sizeof(signs));
    const float scale = d * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
    for (int k = 0; k < 4; ++k) {
      const uint8_t* entry = x.qs + 8 * b + 2 * k;
      expand_pair(kIQ3_XXSGrid[entry[0]], kIQ3_XXSGrid[entry[1]], kIQ3_XXSLevels,
                  iq_signs(signs >> (7 * k) & 127), scale, y + 32 * b + 8 * k);
    }
  }
}

void expand(const BlockIQ3_S& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int g = 0; g < 32; ++g) {
    const int b = g / 4;
    const uint8_t scales = x.scales[b / 2];
    const float scale = d * static_cast<float>(1 + 2 * (b % 2 == 0 ? lo4(scales) : hi4(scales)));
    const int first = x.qs[2 * g] | bit(x.qh[b], 2 * (g % 4)) << 8;
    const int second = x.qs[2 * g + 1] | bit(x.qh[b], 2 * (g % 4) + 1) << 8;
    expand_pair(kIQ3_SGrid[first], kIQ3_SGrid[second], kIQ3_SLevels, x.signs[g], scale, y + 8 * g);
  }
}

// Eight values of the ternary codebook, shifted.
void expand_ternary(uint16_t entry, bool negative, float scale, float* y) {
  const float delta = negative ? -kIQ1Delta : kIQ1Delta;
  for (int j = 0; j < 8; ++j) {
    y[j] = scale * (static_cast<float>(kIQ1Levels[entry >> (2 * j) & 3]) + delta);
  }
}

void expand(const BlockIQ1_S& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int g = 0; g < 32; ++g) {
    const int high = x.qh[g / 4];
    const float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
    const int index = x.qs[g] | (high >> (3 * (g % 4)) & 7) << 8;
    expand_ternary(kIQ1Grid[index], (high & 0x8000) != 0, scale, y + 8 * g);
  }
}

void expand(const BlockIQ1_M& x, float* y) {
  int d_bits = 0;
  for (int i = 0; i < 4; ++i) d_bits |= x.scales[i] >> 12 << (4 * i);
  const float d = f16_to_f32(static_cast<uint16_t>(d_bits));
  for (int g = 0; g < 32; ++g) {
    const int s = x.scales[g / 8] >> (3 * (g / 2 % 4)) & 7;
    const float scale = d * static_cast<float>(2 * s + 1);
    const int high = g % 2 == 0 ? lo4(x.qh[g / 2]) : hi4(x.qh[g / 2]);
    expand_ternary(kIQ1Grid[x.qs[g] | (high & 7) << 8], (high & 8) != 0, scale, y + 8 * g);
  }
}

// Digit n of the five in a byte: -1, 0 or 1.
int ternary_digit(uint8_t byte, int n) {
  constexpr int kPower[5] = {1, 3, 9, 27, 81};
  return ((byte * kPower[n] & 255) * 3 >> 8) - 1;
}

void expand(const BlockTQ1_0& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int digit = i < 160   ? ternary_digit(x.qs[i % 32], i / 32)
                      : i < 240 ? ternary_digit(x.qs[32 + i % 16], (i - 160) / 16)
                                : ternary_digit(x.qh[i % 4], (i - 240) / 4);
    y[i] = static_cast<float>(digit) * d;
  }
}

void expand(const BlockTQ2_0& x, float* y) {
  const float d = f16_to_f32(x.d);
  for (int i = 0; i < kSuperBlock; ++i) y[i] = static_cast<float>(two_bits(x.qs, i) - 1) * d;
}

template <typename Block, int kElements>
void expand_blocks(const void* data, int64_t elements, float* out) {
  const auto* bytes = static_cast<const char*>(data);
  for (int64_t i = 0; i < elements; i += kElements, bytes += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes, sizeof(block));
    expand(block, out + i);
  }
}

}  // namespace

DequantizeFn find_dequantize(DType dtype) {
  switch (dtype) {
    case DType::kF32: return expand_f32;
    case DType::kF16: return expand_16<f16_to_f32>;
    case DType::kBF16: return expand_16<bf16_to_f32>;
    case DType::kI32: return nullptr;
    case DType::kF8_E4M3: return expand_f8;
    case DType::kQ4_0: return expand_blocks<BlockQ4_0, kBlock>;
    case DType::kQ4_1: return expand_blocks<BlockQ4_1, kBlock>;
    case DType::kQ5_0: return expand_blocks<BlockQ5_0, kBlock>;
    case DType::kQ5_1: return expand_blocks<BlockQ5_1, kBlock>;
    case DType::kQ8_0: return expand_blocks<BlockQ8_0, kBlock>;
    case DType::kQ2_K: return expand_blocks<BlockQ2_K, kSuperBlock>;
    case DType::kQ3_K: return expand_blocks<BlockQ3_K, kSuperBlock>;
    case DType::kQ4_K: return expand_blocks<BlockQ4_K, kSuperBlock>;
    case DType::kQ5_K: return expand_blocks<BlockQ5_K, kSuperBlock>;
    case DType::kQ6_K: return expand_blocks<BlockQ6_K, kSuperBlock>;
    case DType::kIQ4_NL: return expand_blocks<BlockIQ4_NL, kBlock>;
    case DType::kIQ4_XS: return expand_blocks<BlockIQ4_XS, kSuperBlock>;
    case DType::kIQ1_S: return expand_blocks<BlockIQ1_S, kSuperBlock>;
    case DType::kIQ1_M: return expand_blocks<BlockIQ1_M, kSuperBlock>;
    case DType::kIQ2_XXS: return expand_blocks<BlockIQ2_XXS, kSuperBlock>;
    case DType::kIQ2_XS: return expand_blocks<BlockIQ2_XS, kSuperBlock>;
    case DType::kIQ2_S: return expand_blocks<BlockIQ2_S, kSuperBlock>;
    case DType::kIQ3_XXS: return expand_blocks<BlockIQ3_XXS, kSuperBlock>;
    case DType::kIQ3_S: return expand_blocks<BlockIQ3_S, kSuperBlock>;
    case DType::kTQ1_0: return expand_blocks<BlockTQ1_0, kSuperBlock>;
    case DType::kTQ2_0: return expand_blocks<BlockTQ2_0, kSuperBlock>;
    case DType::kMXFP4: return expand_blocks<BlockMXFP4, kBlock>;
  }
  return nullptr;
}

Status dequantize(DType dtype, const void* data, int64_t elements, float* out) {
  const DequantizeFn expand_all = find_dequantize(dtype);
  if (expand_all == nullptr) {
    return unsupported_error("elements of type ", dtype_name(dtype), " are not weights");
  }
  const int64_t block = dtype_info(dtype).block;
  if (elements < 0 || elements % block != 0) {
    return invalid_argument_error(elements, " elements of type ", dtype_name(dtype),
                                  " were to be read, which come in blocks of ", block);
  }
  expand_all(data, elements, out);
  return OkStatus();
}

void dequantize_f8_rows(const F8Matrix& matrix, int64_t first, int64_t last, float* out) {
  constexpr int64_t kTile = F8Matrix::kTile;
  const int64_t tiles = (matrix.cols + kTile - 1) / kTile;  // in a row of the scales
  const auto* values = static_cast<const uint8_t*>(matrix.values);
  const auto* scales = static_cast<const char*>(matrix.scales);
  for (int64_t row = first; row < last; ++row) {
    for (int64_t col = 0; col < matrix.cols; ++col) {
      float scale;
      std::memcpy(&scale, scales + (row / kTile * tiles + col / kTile) * 4, sizeof(scale));
      *out++ = f8_e4m3_to_f32(values[row * matrix.cols + col]) * scale;
    }
  }
}

}  // namespace ponder
