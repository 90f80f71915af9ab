// One stored element as binary32, bit for bit what lib/tensor/dequantize.cc gives; formulas and
// notation are in lib/tensor/blocks.h. For kernels, one thread at a time.
#pragma once

#include "backends/cuda/launch.h"
#include "backends/cuda/simt.cuh"
#include "lib/tensor/blocks.h"
#include "lib/tensor/iq_grids.h"

namespace ponder::cuda {

// The codebooks once more, in the device's memory: these shadow the host's of lib/tensor.
namespace grids {
#ifdef PONDER_CUDA_EMULATED
using ponder::kIQ1Grid, ponder::kIQ2_XXSGrid, ponder::kIQ2_XSGrid, ponder::kIQ2_SGrid;
using ponder::kIQ3_XXSGrid, ponder::kIQ3_SGrid;
#else
#define PONDER_IQ_GRID static __device__ const
#include "lib/tensor/iq_grids.inc"
#undef PONDER_IQ_GRID
#endif
}  // namespace grids

__device__ inline float bf16_value(uint16_t v) { return __uint_as_float(uint32_t{v} << 16); }

__device__ inline float f16_value(uint16_t h) {
#ifdef __CUDA_ARCH__
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
  return v;
#else
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {  // mantissa * 2^-24
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(mantissa) * 0x1p-24f));
  }
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}

__device__ inline float f8_value(uint8_t v) {
  const uint32_t sign = (v & 0x80u) << 24, magnitude = v & 0x7fu;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  if (magnitude < 8) {
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-9f));
  }
  return __uint_as_float(sign | ((magnitude << 20) + (120u << 23)));
}

__device__ inline uint16_t bf16_of(float v) {  // to nearest even; never given a NaN's payload
  uint32_t u = __float_as_uint(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40);
  u += 0x7fffu + (u >> 16 & 1);
  return static_cast<uint16_t>(u >> 16);
}

__device__ inline uint16_t f16_of(float v) {  // to nearest even; beyond the largest: infinity
#ifdef __CUDA_ARCH__
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
#else
  const uint32_t u = __float_as_uint(v), a = u & 0x7fffffffu;
  const uint32_t sign = u >> 16 & 0x8000u;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (a < 0x38800000u) {
    return static_cast<uint16_t>(sign | (__float_as_uint(__uint_as_float(a) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | (a + 0xfffu + (a >> 13 & 1) - 0x38000000u) >> 13);
#endif
}

__device__ inline uint8_t f8_of(float v) {  // to nearest even; beyond 448 it is held there
  const uint32_t u = __float_as_uint(v), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
  if (a > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (a >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (a < 0x3c800000u) {  // below 2^-6: the float adder rounds to multiples of 2^-9
    const uint32_t code = __float_as_uint(__uint_as_float(a) + 0x1p14f) - 0x46800000u;
    return static_cast<uint8_t>(sign | code);
  }
  return static_cast<uint8_t>(sign | (((a + 0x7ffffu + (a >> 20 & 1)) >> 20) - 960u));
}

// ---- block types: element i of one block -------------------------------------------------------

__device__ inline int half_byte(const uint8_t* qs, int i) {  // of 32 in 16 bytes
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
__device__ inline int bit_of(int byte, int i) { return byte >> i & 1; }
__device__ inline int two_bits_of(const uint8_t* qs, int i) {  // of 256 in 64 bytes
  return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
__device__ inline int k_nibble_of(const uint8_t* qs, int i) {  // of 256 in 128 bytes
  const int byte = qs[i / 64 * 32 + i % 32];
  return i / 32 % 2 == 0 ? byte & 15 : byte >> 4;
}
__device__ inline int iq4_level(int n) {
  // kIQ4Values in four words: an array in registers cannot be indexed.
  const uint32_t words[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
  return static_cast<int8_t>(
      (n < 8 ? (n < 4 ? words[0] : words[1]) : (n < 12 ? words[2] : words[3])) >> (n % 4 * 8));
}
__device__ inline int mxfp4_level(int n) {
  const int magnitude = static_cast<int>(0xc8643210u >> (n % 8 * 4) & 15);
  return n < 8 ? magnitude : -magnitude;
}
__device__ inline float signed_value(float v, uint32_t signs, int j) {
  return (signs >> j & 1) != 0 ? -v : v;
}
__device__ inline uint32_t eight_signs(uint32_t seven) {
  uint32_t parity = seven ^ seven >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return seven | (parity & 1) << 7;
}
__device__ inline float iq2_value(float d, int s, uint32_t entry, uint32_t signs, int j) {
  const int level = static_cast<int>(0x002b1908u >> ((entry >> (2 * j) & 3) * 8) & 255);
  const float scale = d * (0.5f + static_cast<float>(s)) * 0.25f;
  return signed_value(scale * static_cast<float>(level), signs, j);
}
__device__ inline float iq1_value(float scale, uint32_t entry, bool negative, int j) {
  const int rank = static_cast<int>(entry >> (2 * j) & 3);  // -1, 0, 1; 3 is not in use and is 0
  return scale *
         (static_cast<float>(rank == 3 ? 0 : rank - 1) + (negative ? -kIQ1Delta : kIQ1Delta));
}

__device__ inline float value(const BlockQ4_0& x, int i) {
  return f16_value(x.d) * static_cast<float>(half_byte(x.qs, i) - 8);
}
__device__ inline float value(const BlockQ4_1& x, int i) {
  return f16_value(x.d) * static_cast<float>(half_byte(x.qs, i)) + f16_value(x.m);
}
__device__ inline float value(const BlockQ5_0& x, int i) {
  const int q = half_byte(x.qs, i) + 16 * bit_of(x.qh[i / 8], i % 8);
  return f16_value(x.d) * static_cast<float>(q - 16);
}
__device__ inline float value(const BlockQ5_1& x, int i) {
  const int q = half_byte(x.qs, i) + 16 * bit_of(x.qh[i / 8], i % 8);
  return f16_value(x.d) * static_cast<float>(q) + f16_value(x.m);
}
__device__ inline float value(const BlockQ8_0& x, int i) {
  return f16_value(x.d) * static_cast<float>(x.qs[i]);
}
__device__ inline float value(const BlockIQ4_NL& x, int i) {
  return f16_value(x.d) * static_cast<float>(iq4_level(half_byte(x.qs, i)));
}
__device__ inline float value(const BlockMXFP4& x, int i) {
  const float d = __uint_as_float(x.e < 2 ? 0x00200000u << x.e : (x.e - 1u) << 23);
  return d * static_cast<float>(mxfp4_level(half_byte(x.qs, i)));
}
__device__ inline float value(const BlockQ2_K& x, int i) {
  const int s = x.scales[i / 16];
  const float scale = f16_value(x.d) * static_cast<float>(s & 15);
  const float min = f16_value(x.dmin) * static_cast<float>(s >> 4);
  return scale * static_cast<float>(two_bits_of(x.qs, i)) - min;
}
__device__ inline float value(const BlockQ3_K& x, int i) {
  const int b = i / 16;
  const int s = (b < 8 ? x.scales[b] & 15 : x.scales[b - 8] >> 4) |
                (x.scales[8 + b % 4] >> (2 * (b / 4)) & 3) << 4;
  const float scale = f16_value(x.d) * static_cast<float>(s - 32);
  return scale * static_cast<float>(two_bits_of(x.qs, i) + 4 * bit_of(x.hmask[i % 32], i / 32) - 4);
}
__device__ inline float k_value(float d, float dmin, const uint8_t* scales, int b, int q) {
  const int s = b < 4 ? scales[b] & 63 : (scales[b + 4] & 15) | scales[b - 4] >> 6 << 4;
  const int m = b < 4 ? scales[b + 4] & 63 : scales[b + 4] >> 4 | scales[b] >> 6 << 4;
  return d * static_cast<float>(s) * static_cast<float>(q) - dmin * static_cast<float>(m);
}
__device__ inline float value(const BlockQ4_K& x, int i) {
  return k_value(f16_value(x.d), f16_value(x.dmin), x.scales, i / 32, k_nibble_of(x.qs, i));
}
__device__ inline float value(const BlockQ5_K& x, int i) {
  const int q = k_nibble_of(x.qs, i) + 16 * bit_of(x.qh[i % 32], i / 32);
  return k_value(f16_value(x.d), f16_value(x.dmin), x.scales, i / 32, q);
}
__device__ inline float value(const BlockQ6_K& x, int i) {
  const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
  const int low = x.ql[64 * half + 32 * (quarter % 2) + j];
  const int high = x.qh[32 * half + j] >> (2 * quarter) & 3;
  const int q = (quarter < 2 ? low & 15 : low >> 4) + 16 * high - 32;
  return f16_value(x.d) * static_cast<float>(x.scales[i / 16]) * static_cast<float>(q);
}
__device__ inline float value(const BlockIQ4_XS& x, int i) {
  const int b = i / 32, low = x.scales_l[b / 2];
  const int scale = (b % 2 == 0 ? low & 15 : low >> 4) + 16 * (x.scales_h >> (2 * b) & 3) - 32;
  return f16_value(x.d) * static_cast<float>(scale) *
         static_cast<float>(iq4_level(half_byte(x.qs + 16 * b, i % 32)));
}
__device__ inline float value(const BlockIQ2_XXS& x, int i) {
  const int b = i / 32, k = i % 32 / 8;
  const uint32_t entries = x.qs[4 * b] | uint32_t{x.qs[4 * b + 1]} << 16;
  const uint32_t signs = x.qs[4 * b + 2] | uint32_t{x.qs[4 * b + 3]} << 16;
  return iq2_value(f16_value(x.d), static_cast<int>(signs >> 28),
                   grids::kIQ2_XXSGrid[entries >> (8 * k) & 255],
                   eight_signs(signs >> (7 * k) & 127), i % 8);
}
__device__ inline int sixteenth(const uint8_t* scales, int i) {  // one scale per 16, low half first
  return i % 32 < 16 ? scales[i / 32] & 15 : scales[i / 32] >> 4;
}
__device__ inline float value(const BlockIQ2_XS& x, int i) {
  const uint32_t q = x.qs[i / 8];
  return iq2_value(f16_value(x.d), sixteenth(x.scales, i), grids::kIQ2_XSGrid[q & 511],
                   eight_signs(q >> 9), i % 8);
}
__device__ inline float value(const BlockIQ2_S& x, int i) {
  const int g = i / 8, index = x.qs[g] | (x.qh[g / 4] >> (2 * (g % 4)) & 3) << 8;
  return iq2_value(f16_value(x.d), sixteenth(x.scales, i), grids::kIQ2_SGrid[index], x.signs[g],
                   i % 8);
}
__device__ inline float value(const BlockIQ3_XXS& x, int i) {
  const int b = i / 32, k = i % 32 / 8;
  const uint8_t* w = x.scales + 4 * b;
  const uint32_t signs = w[0] | uint32_t{w[1]} << 8 | uint32_t{w[2]} << 16 | uint32_t{w[3]} << 24;
  const float scale = f16_value(x.d) * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
  const int rank = grids::kIQ3_XXSGrid[x.qs[i / 4]] >> (3 * (i % 4)) & 7;
  const int level = rank == 7 ? 62 : 8 * rank + 4;
  return signed_value(scale * static_cast<float>(level), eight_signs(signs >> (7 * k) & 127),
                      i % 8);
}
__device__ inline float value(const BlockIQ3_S& x, int i) {
  const int b = i / 32, f = i / 4, both = x.scales[b / 2];
  const float scale =
      f16_value(x.d) * static_cast<float>(1 + 2 * (b % 2 == 0 ? both & 15 : both >> 4));
  const int rank = grids::kIQ3_SGrid[x.qs[f] | bit_of(x.qh[b], f % 8) << 8] >> (3 * (i % 4)) & 7;
  return signed_value(scale * static_cast<float>(2 * rank + 1), x.signs[i / 8], i % 8);
}
__device__ inline float value(const BlockIQ1_S& x, int i) {
  const int g = i / 8, high = x.qh[g / 4];
  const float scale = f16_value(x.d) * static_cast<float>(2 * (high >> 12 & 7) + 1);
  const int index = x.qs[g] | (high >> (3 * (g % 4)) & 7) << 8;
  return iq1_value(scale, grids::kIQ1Grid[index], (high & 0x8000) != 0, i % 8);
}
__device__ inline float value(const BlockIQ1_M& x, int i) {
  int d = 0;
  for (int p = 0; p < 4; ++p) d |= x.scales[p] >> 12 << (4 * p);
  const int g = i / 8, s = x.scales[g / 8] >> (3 * (g / 2 % 4)) & 7;
  const int high = g % 2 == 0 ? x.qh[g / 2] & 15 : x.qh[g / 2] >> 4;
  return iq1_value(f16_value(static_cast<uint16_t>(d)) * static_cast<float>(2 * s + 1),
                   grids::kIQ1Grid[x.qs[g] | (high & 7) << 8], (high & 8) != 0, i % 8);
}
__device__ inline int ternary_of(int byte, int n) {
  const int power = static_cast<int>(0x1b090301u >> (n % 4 * 8) & 255);  // 3^n, n < 4
  return ((byte * (n < 4 ? power : 81) & 255) * 3 >> 8) - 1;
}
__device__ inline float value(const BlockTQ1_0& x, int i) {
  const int digit = i < 160   ? ternary_of(x.qs[i % 32], i / 32)
                    : i < 240 ? ternary_of(x.qs[32 + i % 16], (i - 160) / 16)
                              : ternary_of(x.qh[i % 4], (i - 240) / 4);
  return static_cast<float>(digit) * f16_value(x.d);
}
__device__ inline float value(const BlockTQ2_0& x, int i) {
  return static_cast<float>(two_bits_of(x.qs, i) - 1) * f16_value(x.d);
}

// ---- any type: element k of a row --------------------------------------------------------------

struct F32 {};
struct F16 {};
struct BF16 {};
struct F8 {};

template <typename Block>
struct Stored {
  // The simple types' blocks are at most 34 bytes long, the super-blocks' at least 50.
  static constexpr int kElements = sizeof(Block) <= 34 ? kBlock : kSuperBlock;
  __device__ static float at(const Matrix& m, int64_t n, int64_t k) {
    const auto* blocks = static_cast<const Block*>(m.data);
    return value(blocks[n * (m.cols / kElements) + k / kElements], static_cast<int>(k % kElements));
  }
};
template <>
struct Stored<F32> {
  __device__ static float at(const Matrix& m, int64_t n, int64_t k) {
    return static_cast<const float*>(m.data)[n * m.cols + k];
  }
};
template <>
struct Stored<F16> {
  __device__ static float at(const Matrix& m, int64_t n, int64_t k) {
    return f16_value(static_cast<const uint16_t*>(m.data)[n * m.cols + k]);
  }
};
template <>
struct Stored<BF16> {
  __device__ static float at(const Matrix& m, int64_t n, int64_t k) {
    return bf16_value(static_cast<const uint16_t*>(m.data)[n * m.cols + k]);
  }
};
template <>
struct Stored<F8> {
  __device__ static float at(const Matrix& m, int64_t n, int64_t k) {
    const float v = f8_value(static_cast<const uint8_t*>(m.data)[n * m.cols + k]);
    return m.scales == nullptr ? v : v * m.scales[n / 128 * ((m.cols + 127) / 128) + k / 128];
  }
};

}  // namespace ponder::cuda
