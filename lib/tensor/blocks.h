// How the block types of GGUF files lie in memory: one packed struct per type, with the formula of
// the values it stands for. Plain data. The structs have no alignment, so a pointer into a mapped
// file, which may be odd, can be read through them.
//
// Notation: x[i] is element i of the block; d, dmin and the like are binary16 (f16_to_f32 in
// half.h); lo4(b) and hi4(b) are the low and high half of byte b; bit(b, i) is bit i of b. Products
// are float32 and rounded in the order written, which is what makes results equal bit for bit
// everywhere. Little-endian, as the files are.
#pragma once

#include <bit>
#include <cstdint>

#include "lib/tensor/dtype.h"

namespace ponder {

static_assert(std::endian::native == std::endian::little, "the files' byte order is assumed");

inline constexpr int kBlock = 32;        // elements of the simple block types
inline constexpr int kSuperBlock = 256;  // elements of the others

// ---- one scale per 32 elements -----------------------------------------------------------------
// Four bits of elements j and j + 16 share byte qs[j]; call them n[i], the fifth bit h[i] = bit i
// of qh (elements 0 to 31 from the lowest bit of qh[0] on).

// x[i] = d * (n[i] - 8)
struct [[gnu::packed]] BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};

// x[i] = d * n[i] + m
struct [[gnu::packed]] BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};

// x[i] = d * (n[i] + 16 h[i] - 16)
struct [[gnu::packed]] BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};

// x[i] = d * (n[i] + 16 h[i]) + m
struct [[gnu::packed]] BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};

// x[i] = d * qs[i]
struct [[gnu::packed]] BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};

// x[i] = kIQ4Values[n[i]] * d
struct [[gnu::packed]] BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};

// x[i] = kMXFP4Values[n[i]] * 2^(e - 128); the values are twice those of the 4-bit float, the
// power of two half of E8M0's. e = 255, E8M0's NaN, is 2^127 like any other exponent.
struct [[gnu::packed]] BlockMXFP4 {
  uint8_t e;
  uint8_t qs[16];
};

// ---- 256 elements, quantised scales per sub-block of 16 or 32 ----------------------------------

// Sub-block b = i / 16. Two bits q[i] at bit 2 * (i % 128 / 32) of qs[i / 128 * 32 + i % 32].
// x[i] = (d * lo4(scales[b])) * q[i] - dmin * hi4(scales[b])
struct [[gnu::packed]] BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d;
  uint16_t dmin;
};

// Low bits as in q2_k; the third is h[i] = bit(hmask[i % 32], i / 32).
// x[i] = (d * (q3_k_scale(scales, i / 16) - 32)) * (q[i] + 4 h[i] - 4)
struct [[gnu::packed]] BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};

// Sub-block b = i / 32; four bits n[i]: the low (b even) or high (b odd) half of
// qs[i / 64 * 32 + i % 32]. (s, m) = k_scale_min(scales, b).
// x[i] = (d * s) * n[i] - dmin * m
struct [[gnu::packed]] BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};

// As q4_k with h[i] = bit(qh[i % 32], b).
// x[i] = (d * s) * (n[i] + 16 h[i]) - dmin * m
struct [[gnu::packed]] BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};

// With half t = i / 128, quarter k = i % 128 / 32 and j = i % 32: four bits n[i] are the low
// (k < 2) or high half of ql[64 t + 32 (k % 2) + j], two bits h[i] at bit 2 k of qh[32 t + j].
// x[i] = (d * scales[i / 16]) * (n[i] + 16 h[i] - 32)
struct [[gnu::packed]] BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};

// Sub-block b = i / 32, j = i % 32; n[i] is the low (j < 16) or high half of qs[16 b + j % 16]; the
// scale has 4 low bits in half b % 2 of scales_l[b / 2] and 2 high bits at bit 2 b of scales_h.
// x[i] = (d * (scale - 32)) * kIQ4Values[n[i]]
struct [[gnu::packed]] BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};

// ---- 256 elements, groups of 8 or 4 from a codebook (iq_grids.h) -------------------------------
// Group g is elements 8 g to 8 g + 7, sub-block b = g / 4 elements 32 b to 32 b + 31, as everywhere
// below. A sign bit of 1 negates. Where seven sign bits are stored, the eighth makes the number of
// negatives even (iq_signs).

// Sub-block b is two words: byte k of the first (qs[4 b], qs[4 b + 1]) is group k's entry in
// kIQ2_XXSGrid; of the second (qs[4 b + 2], qs[4 b + 3]), bits 7 k to 7 k + 6 are its signs and the
// top four the scale s.
// x[i] = +- ((d * (0.5 + s)) * 0.25) * entry[i % 8]
struct [[gnu::packed]] BlockIQ2_XXS {
  uint16_t d;
  uint16_t qs[32];
};

// qs[g]: 9 bits of index into kIQ2_XSGrid, 7 bits of signs; s = lo4 or hi4 of scales[b] for the
// first or second 16 elements of the sub-block.
// x[i] = +- ((d * (0.5 + s)) * 0.25) * entry[i % 8]
struct [[gnu::packed]] BlockIQ2_XS {
  uint16_t d;
  uint16_t qs[32];
  uint8_t scales[8];
};

// Index into kIQ2_SGrid: qs[g] and two more bits at bit 2 (g % 4) of qh[b]; all eight signs in
// signs[g]; scales and formula as in iq2_xs.
struct [[gnu::packed]] BlockIQ2_S {
  uint16_t d;
  uint8_t qs[32];
  uint8_t signs[32];
  uint8_t qh[8];
  uint8_t scales[8];
};

// qs[f] is the entry in kIQ3_XXSGrid of the four elements 4 f to 4 f + 3. The word at scales[4 b]
// has 7 sign bits for each of the four groups and the scale s above, as in iq2_xxs.
// x[i] = +- ((d * (0.5 + s)) * 0.5) * entry[i % 4]
struct [[gnu::packed]] BlockIQ3_XXS {
  uint16_t d;
  uint8_t qs[64];
  uint8_t scales[32];
};

// Index into kIQ3_SGrid of the four elements 4 f to 4 f + 3: qs[f] and bit f % 8 of qh[b] above;
// signs[g]; s = lo4 (b even) or hi4 of scales[b / 2].
// x[i] = +- (d * (1 + 2 s)) * entry[i % 4]
struct [[gnu::packed]] BlockIQ3_S {
  uint16_t d;
  uint8_t qs[64];
  uint8_t qh[8];
  uint8_t signs[32];
  uint8_t scales[4];
};

// Index into kIQ1Grid: qs[g] and three more bits at bit 3 (g % 4) of qh[b]; s = bits 12 to 14 of
// qh[b], delta = 1/8, negative where bit 15 is set.
// x[i] = (d * (2 s + 1)) * (entry[i % 8] + delta)
struct [[gnu::packed]] BlockIQ1_S {
  uint16_t d;
  uint8_t qs[32];
  uint16_t qh[8];
};

// Half g % 2 of qh[g / 2]: three more bits of the index, then the sign of delta. scales[b / 2] has
// four 3-bit scales for its 64 elements, 16 each, and in its top four bits a quarter of d, the
// lowest quarter first. Formula as in iq1_s.
struct [[gnu::packed]] BlockIQ1_M {
  uint8_t qs[32];
  uint8_t qh[16];
  uint16_t scales[4];
};

// ---- 256 elements, -1, 0 or 1 ------------------------------------------------------------------

// Five digits of base 3 to a byte, as a fraction: digit n of byte b is the whole part of
// 3 * frac(b / 256 * 3^n). Bytes 0 to 31 hold elements 32 n + byte, bytes 32 to 47 elements
// 160 + 16 n + byte - 32, and qh, with four digits, elements 240 + 4 n + byte.
// x[i] = (digit - 1) * d
struct [[gnu::packed]] BlockTQ1_0 {
  uint8_t qs[48];
  uint8_t qh[4];
  uint16_t d;
};

// Two bits q[i] as in q2_k. x[i] = (q[i] - 1) * d
struct [[gnu::packed]] BlockTQ2_0 {
  uint8_t qs[64];
  uint16_t d;
};

// ---- the fixed lists ---------------------------------------------------------------------------

inline constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

inline constexpr int8_t kMXFP4Values[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                            0, -1, -2, -3, -4, -6, -8, -12};

// ---- bit fields that more than one place reads -------------------------------------------------

struct ScaleMin {
  uint8_t scale;
  uint8_t min;
};

// Eight 6-bit scales and minima in 12 bytes (q4_k, q5_k), b in [0, 8): the first four of each are
// the low bits of bytes 0 to 3 and 4 to 7; the others have their low halves in bytes 8 to 11 and
// their high two bits above the first four.
constexpr ScaleMin k_scale_min(const uint8_t scales[12], int b) {
  if (b < 4) {
    return {static_cast<uint8_t>(scales[b] & 63), static_cast<uint8_t>(scales[b + 4] & 63)};
  }
  return {static_cast<uint8_t>((scales[b + 4] & 15) | (scales[b - 4] >> 6 << 4)),
          static_cast<uint8_t>((scales[b + 4] >> 4) | (scales[b] >> 6 << 4))};
}

// Sixteen 6-bit scales in 12 bytes (q3_k), b in [0, 16): low halves in bytes 0 to 7 (low nibbles,
// then high ones), the high two bits in bytes 8 to 11, four scales to a byte.
constexpr int q3_k_scale(const uint8_t scales[12], int b) {
  const int low = b < 8 ? scales[b] & 15 : scales[b - 8] >> 4;
  return low | ((scales[8 + b % 4] >> (2 * (b / 4)) & 3) << 4);
}

// Eight sign bits from the seven that are stored: an even number of ones.
constexpr uint32_t iq_signs(uint32_t seven) {
  return seven | (static_cast<uint32_t>(std::popcount(seven) & 1) << 7);
}

// ---- sizes -------------------------------------------------------------------------------------

namespace blocks_internal {
template <typename Block>
constexpr bool fits(DType dtype) {
  return sizeof(Block) == dtype_info(dtype).bytes && alignof(Block) == 1;
}
}  // namespace blocks_internal

static_assert(blocks_internal::fits<BlockQ4_0>(DType::kQ4_0));
static_assert(blocks_internal::fits<BlockQ4_1>(DType::kQ4_1));
static_assert(blocks_internal::fits<BlockQ5_0>(DType::kQ5_0));
static_assert(blocks_internal::fits<BlockQ5_1>(DType::kQ5_1));
static_assert(blocks_internal::fits<BlockQ8_0>(DType::kQ8_0));
static_assert(blocks_internal::fits<BlockQ2_K>(DType::kQ2_K));
static_assert(blocks_internal::fits<BlockQ3_K>(DType::kQ3_K));
static_assert(blocks_internal::fits<BlockQ4_K>(DType::kQ4_K));
static_assert(blocks_internal::fits<BlockQ5_K>(DType::kQ5_K));
static_assert(blocks_internal::fits<BlockQ6_K>(DType::kQ6_K));
static_assert(blocks_internal::fits<BlockIQ4_NL>(DType::kIQ4_NL));
static_assert(blocks_internal::fits<BlockIQ4_XS>(DType::kIQ4_XS));
static_assert(blocks_internal::fits<BlockIQ1_S>(DType::kIQ1_S));
static_assert(blocks_internal::fits<BlockIQ1_M>(DType::kIQ1_M));
static_assert(blocks_internal::fits<BlockIQ2_XXS>(DType::kIQ2_XXS));
static_assert(blocks_internal::fits<BlockIQ2_XS>(DType::kIQ2_XS));
static_assert(blocks_internal::fits<BlockIQ2_S>(DType::kIQ2_S));
static_assert(blocks_internal::fits<BlockIQ3_XXS>(DType::kIQ3_XXS));
static_assert(blocks_internal::fits<BlockIQ3_S>(DType::kIQ3_S));
static_assert(blocks_internal::fits<BlockTQ1_0>(DType::kTQ1_0));
static_assert(blocks_internal::fits<BlockTQ2_0>(DType::kTQ2_0));
static_assert(blocks_internal::fits<BlockMXFP4>(DType::kMXFP4));

}  // namespace ponder
