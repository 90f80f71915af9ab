// A sub-block (32 inputs of one row) of block-quantised weights, as kernels multiply it: eight
// words of four signed bytes, inputs ascending, and scales:
//     w[k] = scale[h] * q[k] - min[h]      h: 0, or k / 16 where sixteen inputs share a scale
// with the scales and minima of lib/tensor/blocks.h, products rounded in the order given there. Two
// steps, so that loads can be on their way while others are expanded: load_sub gathers what is in
// memory (quant_layout.h), expand_sub makes the bytes. Lane l of a warp has row l of a panel.
#pragma once

#include "backends/cuda/quant_layout.h"
#include "backends/cuda/simt_linear.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {

struct SubBlock {
  uint32_t q[8];
  float scale[2];
  float min[2];
};

constexpr bool has_minima(DType t) {
  return t == DType::kQ4_1 || t == DType::kQ5_1 || t == DType::kQ2_K || t == DType::kQ4_K ||
         t == DType::kQ5_K;
}
constexpr bool scales_sixteen(DType t) {
  return t == DType::kQ2_K || t == DType::kQ3_K || t == DType::kQ6_K || t == DType::kIQ1_M ||
         t == DType::kIQ2_XS || t == DType::kIQ2_S;
}

// Words of memory that a sub-block's bytes and scales are made of.
constexpr int raw_words(DType t) {
  switch (t) {
    case DType::kTQ1_0:
    case DType::kTQ2_0:
    case DType::kIQ1_S:
    case DType::kIQ2_XXS:
      return 3;
    case DType::kQ2_K:
    case DType::kIQ1_M:
    case DType::kIQ2_XS:
    case DType::kIQ2_S:
    case DType::kIQ3_XXS:
      return 4;
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kIQ4_XS:
      return 6;
    case DType::kQ5_K:
      return 7;
    case DType::kQ6_K:
      return 8;
    case DType::kQ8_0:
      return 9;
    default:
      return 5;
  }
}
inline constexpr int kMostRawWords = 9;

// Codebooks, where a type has one.
constexpr int grid_entries(DType t) {
  switch (t) {
    case DType::kIQ1_S:
    case DType::kIQ1_M:
      return 2048;
    case DType::kIQ2_XXS:
    case DType::kIQ3_XXS:
      return 256;
    case DType::kIQ2_XS:
    case DType::kIQ3_S:
      return 512;
    case DType::kIQ2_S:
      return 1024;
    default:
      return 0;
  }
}
template <DType T>
__device__ inline const uint16_t* grid_of() {
  if constexpr (T == DType::kIQ1_S || T == DType::kIQ1_M) return grids::kIQ1Grid;
  if constexpr (T == DType::kIQ2_XXS) return grids::kIQ2_XXSGrid;
  if constexpr (T == DType::kIQ2_XS) return grids::kIQ2_XSGrid;
  if constexpr (T == DType::kIQ2_S) return grids::kIQ2_SGrid;
  if constexpr (T == DType::kIQ3_XXS) return grids::kIQ3_XXSGrid;
  if constexpr (T == DType::kIQ3_S) return grids::kIQ3_SGrid;
  return nullptr;
}

// ---- reading records ---------------------------------------------------------------------------

// `panel`: a super-block of a panel. kOnce: nobody else will read it soon.
template <DType T, bool kOnce>
struct RecordReader {
  const uint8_t* panel;
  int lane;

  template <int kField, typename Word>
  __device__ Word read(int piece) const {
    constexpr RecordLayout kLayout = record_layout(T);
    static_assert(sizeof(Word) == kLayout.fields[kField].bytes);
    const auto* from =
        reinterpret_cast<const Word*>(panel + piece_offset(kLayout, kField, piece, lane));
    if constexpr (kOnce) return load_once(from);
    return *from;
  }
  // Element i of a 16-byte field.
  template <int kField>
  __device__ uint32_t byte(int i) const {
    return word_of(read<kField, uint4>(0), i / 4) >> (8 * (i % 4)) & 255;
  }
  template <int kField>
  __device__ uint32_t half(int i) const {
    return word_of(read<kField, uint4>(i / 8), i % 8 / 2) >> (16 * (i % 2)) & 0xffff;
  }
  // And of an 8-byte one.
  template <int kField>
  __device__ uint32_t byte_of_two(int piece, int i) const {
    const uint2 v = read<kField, uint2>(piece);
    return (i < 4 ? v.x : v.y) >> (8 * (i % 4)) & 255;
  }

  __device__ static uint32_t word_of(const uint4& v, int i) {
    return i < 2 ? (i == 0 ? v.x : v.y) : (i == 2 ? v.z : v.w);
  }
};

template <DType T, bool kOnce>
__device__ inline void load_sub(const uint8_t* panel, int lane, int j, uint32_t* w) {
  const RecordReader<T, kOnce> r{panel, lane};
  const auto four = [&](int at, const uint4& v) {
    w[at] = v.x, w[at + 1] = v.y, w[at + 2] = v.z, w[at + 3] = v.w;
  };
  const auto two = [&](int at, const uint2& v) { w[at] = v.x, w[at + 1] = v.y; };
  if constexpr (T == DType::kQ4_0 || T == DType::kIQ4_NL) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template half<1>(j);
  } else if constexpr (T == DType::kQ4_1) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template half<1>(j) | r.template half<1>(8 + j) << 16;
  } else if constexpr (T == DType::kQ5_0) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template read<2, uint32_t>(j);
    w[5] = r.template half<1>(j);
  } else if constexpr (T == DType::kQ5_1) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template read<2, uint32_t>(j);
    w[5] = r.template half<1>(j) | r.template half<1>(8 + j) << 16;
  } else if constexpr (T == DType::kQ8_0) {
    four(0, r.template read<0, uint4>(2 * j));
    four(4, r.template read<0, uint4>(2 * j + 1));
    w[8] = r.template half<1>(j);
  } else if constexpr (T == DType::kQ2_K) {
    two(0, r.template read<1, uint2>(j));
    w[2] = r.template half<0>(j);
    w[3] = r.template read<2, uint32_t>(0);
  } else if constexpr (T == DType::kQ3_K) {
    two(0, r.template read<1, uint2>(j));
    w[2] = r.template read<2, uint32_t>(j);
    w[3] = r.template half<0>(j);
    w[4] = r.template read<3, uint16_t>(0);
  } else if constexpr (T == DType::kQ4_K) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template byte<1>(j) | r.template byte<1>(8 + j) << 8;
    w[5] = r.template read<2, uint32_t>(0);
  } else if constexpr (T == DType::kQ5_K) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template read<2, uint32_t>(j);
    w[5] = r.template byte<1>(j) | r.template byte<1>(8 + j) << 8;
    w[6] = r.template read<3, uint32_t>(0);
  } else if constexpr (T == DType::kQ6_K) {
    four(0, r.template read<0, uint4>(j));
    two(4, r.template read<2, uint2>(j));
    w[6] = r.template half<1>(j);
    w[7] = r.template read<3, uint16_t>(0);
  } else if constexpr (T == DType::kIQ4_XS) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template byte_of_two<1>(0, j);
    w[5] = r.template read<2, uint16_t>(0);
  } else if constexpr (T == DType::kMXFP4) {
    four(0, r.template read<0, uint4>(j));
    w[4] = r.template byte_of_two<1>(0, j);
  } else if constexpr (T == DType::kIQ1_S) {
    w[0] = r.template read<0, uint32_t>(j);
    w[1] = r.template read<1, uint16_t>(j);
    w[2] = r.template read<2, uint16_t>(0);
  } else if constexpr (T == DType::kIQ1_M) {
    w[0] = r.template read<1, uint32_t>(j);
    w[1] = r.template read<2, uint16_t>(j);
    two(2, r.template read<0, uint2>(0));
    // This sub-block's two scales in the place of the lowest six bits, under the quarters of d.
    const uint32_t own = (j / 2 < 2 ? w[2] : w[3]) >> (16 * (j / 2 % 2) + 6 * (j % 2)) & 63;
    w[2] = (w[2] & 0xf000f000u) | own;
    w[3] &= 0xf000f000u;
  } else if constexpr (T == DType::kIQ2_XXS) {
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template read<1, uint16_t>(0);
  } else if constexpr (T == DType::kIQ2_XS) {
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template byte_of_two<0>(8, j);
    w[3] = r.template read<1, uint16_t>(0);
  } else if constexpr (T == DType::kIQ2_S) {
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template byte_of_two<0>(8, j) | uint32_t{r.template read<1, uint8_t>(j)} << 8;
    w[3] = r.template read<2, uint16_t>(0);
  } else if constexpr (T == DType::kIQ3_XXS) {
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template read<1, uint32_t>(j);
    w[3] = r.template read<2, uint16_t>(0);
  } else if constexpr (T == DType::kIQ3_S) {
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template read<1, uint32_t>(j);
    w[3] = r.template byte_of_two<0>(8, j) | (r.template read<1, uint32_t>(8) >> (4 * j) & 15) << 8;
    w[4] = r.template read<2, uint16_t>(0);
  } else {
    static_assert(T == DType::kTQ2_0);
    two(0, r.template read<0, uint2>(j));
    w[2] = r.template read<1, uint16_t>(0);
  }
}

// ---- making bytes ------------------------------------------------------------------------------

__device__ inline void nibble_bytes(const uint32_t* w, uint32_t (&q)[8]) {
  PONDER_UNROLL
  for (int i = 0; i < 4; ++i) {
    q[i] = w[i] & 0x0f0f0f0fu;
    q[4 + i] = w[i] >> 4 & 0x0f0f0f0fu;
  }
}
__device__ inline void crumb_bytes(const uint32_t* w, int shift, uint32_t (&q)[8]) {
  PONDER_UNROLL
  for (int i = 0; i < 8; ++i) q[i] |= (w[i / 4] >> (2 * (i % 4)) & 0x03030303u) << shift;
}
// The lowest bit of each byte, from four bits.
__device__ inline uint32_t spread_bits(uint32_t four) {
  return (four & 15) * 0x00204081u & 0x01010101u;
}
__device__ inline void bit_bytes(uint32_t bits, int shift, uint32_t (&q)[8]) {
  PONDER_UNROLL
  for (int i = 0; i < 8; ++i) q[i] |= spread_bits(bits >> (4 * i)) << shift;
}
// Less `offset`, each byte by itself; they are below 128.
__device__ inline void lower_bytes(int offset, uint32_t (&q)[8]) {
  const uint32_t all = static_cast<uint32_t>(offset) * 0x01010101u;
  PONDER_UNROLL
  for (int i = 0; i < 8; ++i) q[i] = ((q[i] | 0x80808080u) - all) ^ 0x80808080u;
}
// Four of sixteen bytes, by four halves of bytes.
__device__ inline uint32_t choose_four(const uint32_t (&table)[4], uint32_t codes) {
  const uint32_t low = __byte_perm(table[0], table[1], codes & 0x7777u);
  const uint32_t high = __byte_perm(table[2], table[3], codes & 0x7777u);
  return __byte_perm(low, high, 0x3210u | (codes & 0x8888u) >> 1);
}
__device__ inline void table_bytes(const uint32_t (&table)[4], const uint32_t* w,
                                   uint32_t (&q)[8]) {
  PONDER_UNROLL
  for (int i = 0; i < 8; ++i) q[i] = choose_four(table, w[i / 2] >> (16 * (i % 2)) & 0xffffu);
}
// Four levels of a list of four, by ranks of two bits.
__device__ inline uint32_t two_bit_levels(uint32_t levels, uint32_t ranks) {
  uint32_t chosen = (ranks | ranks << 4) & 0x0f0fu;
  chosen = (chosen | chosen << 2) & 0x3333u;
  return __byte_perm(levels, 0, chosen);
}
// Four levels of a list of eight, by ranks of three bits.
__device__ inline uint32_t three_bit_levels(uint32_t low, uint32_t high, uint32_t ranks) {
  return __byte_perm(
      low, high, (ranks & 7) | (ranks & 0x38) << 1 | (ranks & 0x1c0) << 2 | (ranks & 0xe00) << 3);
}
// Bytes from 1 to 127, negative where a bit of `signs` is set.
__device__ inline uint32_t sign_bytes(uint32_t bytes, uint32_t signs) {
  const uint32_t ones = spread_bits(signs);
  return (bytes ^ ones * 255) + ones;
}
__device__ inline void iq2_bytes(uint32_t entry, uint32_t signs, uint32_t* q) {
  constexpr uint32_t kLevels = 0x002b1908u;
  q[0] = sign_bytes(two_bit_levels(kLevels, entry & 255), signs);
  q[1] = sign_bytes(two_bit_levels(kLevels, entry >> 8 & 255), signs >> 4);
}
// 8 * (entry +- 1/8).
__device__ inline void iq1_bytes(uint32_t entry, bool negative, uint32_t* q) {
  const uint32_t levels = negative ? 0xff07fff7u : 0x010901f9u;
  q[0] = two_bit_levels(levels, entry & 255);
  q[1] = two_bit_levels(levels, entry >> 8 & 255);
}

__device__ inline float low_half(uint32_t w) { return f16_value(static_cast<uint16_t>(w)); }
__device__ inline float high_half(uint32_t w) { return f16_value(static_cast<uint16_t>(w >> 16)); }
__device__ inline float of_byte(uint32_t w, int i) {
  return static_cast<float>(w >> (8 * i) & 255);
}
__device__ inline float of_signed_byte(uint32_t w, int i) {
  return static_cast<float>(static_cast<int8_t>(w >> (8 * i) & 255));
}

// `w`: what load_sub gathered. `grid`: the type's codebook. Fills scale[1] and min[1] only where
// sixteen inputs share a scale, minima only where there are some.
template <DType T>
__device__ inline void expand_sub(const uint32_t* w, const uint16_t* grid, SubBlock& out) {
  uint32_t(&q)[8] = out.q;
  const auto clear = [&] {
    for (int i = 0; i < 8; ++i) q[i] = 0;
  };
  if constexpr (T == DType::kQ4_0) {
    nibble_bytes(w, q);
    lower_bytes(8, q);
    out.scale[0] = low_half(w[4]);
  } else if constexpr (T == DType::kQ4_1) {
    nibble_bytes(w, q);
    out.scale[0] = low_half(w[4]);
    out.min[0] = -high_half(w[4]);
  } else if constexpr (T == DType::kQ5_0 || T == DType::kQ5_1) {
    nibble_bytes(w, q);
    bit_bytes(w[4], 4, q);
    out.scale[0] = low_half(w[5]);
    if constexpr (T == DType::kQ5_0) lower_bytes(16, q);
    if constexpr (T == DType::kQ5_1) out.min[0] = -high_half(w[5]);
  } else if constexpr (T == DType::kQ8_0) {
    for (int i = 0; i < 8; ++i) q[i] = w[i];
    out.scale[0] = low_half(w[8]);
  } else if constexpr (T == DType::kQ2_K) {
    clear();
    crumb_bytes(w, 0, q);
    for (int h = 0; h < 2; ++h) {
      const uint32_t both = w[2] >> (8 * h) & 255;
      out.scale[h] = low_half(w[3]) * static_cast<float>(both & 15);
      out.min[h] = high_half(w[3]) * static_cast<float>(both >> 4);
    }
  } else if constexpr (T == DType::kQ3_K) {
    clear();
    crumb_bytes(w, 0, q);
    bit_bytes(w[2], 2, q);
    lower_bytes(4, q);
    for (int h = 0; h < 2; ++h) out.scale[h] = low_half(w[4]) * of_signed_byte(w[3], h);
  } else if constexpr (T == DType::kQ4_K) {
    nibble_bytes(w, q);
    out.scale[0] = low_half(w[5]) * of_byte(w[4], 0);
    out.min[0] = high_half(w[5]) * of_byte(w[4], 1);
  } else if constexpr (T == DType::kQ5_K) {
    nibble_bytes(w, q);
    bit_bytes(w[4], 4, q);
    out.scale[0] = low_half(w[6]) * of_byte(w[5], 0);
    out.min[0] = high_half(w[6]) * of_byte(w[5], 1);
  } else if constexpr (T == DType::kQ6_K) {
    nibble_bytes(w, q);
    crumb_bytes(w + 4, 4, q);
    lower_bytes(32, q);
    for (int h = 0; h < 2; ++h) out.scale[h] = low_half(w[7]) * of_signed_byte(w[6], h);
  } else if constexpr (T == DType::kIQ4_NL || T == DType::kIQ4_XS) {
    const uint32_t table[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};  // kIQ4Values
    table_bytes(table, w, q);
    out.scale[0] = T == DType::kIQ4_NL ? low_half(w[4]) : low_half(w[5]) * of_signed_byte(w[4], 0);
  } else if constexpr (T == DType::kMXFP4) {
    const uint32_t table[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};  // kMXFP4Values
    table_bytes(table, w, q);
    out.scale[0] = __uint_as_float(w[4] < 2 ? 0x00200000u << w[4] : (w[4] - 1u) << 23);
  } else if constexpr (T == DType::kIQ1_S) {
    PONDER_UNROLL
    for (int g = 0; g < 4; ++g) {
      const uint32_t index = (w[0] >> (8 * g) & 255) | (w[1] >> (3 * g) & 7) << 8;
      iq1_bytes(grid[index], (w[1] & 0x8000) != 0, q + 2 * g);
    }
    out.scale[0] = low_half(w[2]) * static_cast<float>(2 * (w[1] >> 12 & 7) + 1) * 0.125f;
  } else if constexpr (T == DType::kIQ1_M) {
    PONDER_UNROLL
    for (int g = 0; g < 4; ++g) {
      const uint32_t high = w[1] >> (4 * g) & 15;
      iq1_bytes(grid[(w[0] >> (8 * g) & 255) | (high & 7) << 8], (high & 8) != 0, q + 2 * g);
    }
    const uint32_t d =
        (w[2] >> 12 & 15) | (w[2] >> 28) << 4 | (w[3] >> 12 & 15) << 8 | (w[3] >> 28) << 12;
    for (int h = 0; h < 2; ++h) {
      out.scale[h] = low_half(d) * static_cast<float>(2 * (w[2] >> (3 * h) & 7) + 1) * 0.125f;
    }
  } else if constexpr (T == DType::kIQ2_XXS) {
    PONDER_UNROLL
    for (int g = 0; g < 4; ++g) {
      iq2_bytes(grid[w[0] >> (8 * g) & 255], eight_signs(w[1] >> (7 * g) & 127), q + 2 * g);
    }
    out.scale[0] = low_half(w[2]) * (0.5f + static_cast<float>(w[1] >> 28)) * 0.25f;
  } else if constexpr (T == DType::kIQ2_XS || T == DType::kIQ2_S) {
    PONDER_UNROLL
    for (int g = 0; g < 4; ++g) {
      if constexpr (T == DType::kIQ2_XS) {
        const uint32_t entry = w[g / 2] >> (16 * (g % 2)) & 0xffff;
        iq2_bytes(grid[entry & 511], eight_signs(entry >> 9), q + 2 * g);
      } else {
        const uint32_t index = (w[0] >> (8 * g) & 255) | (w[2] >> (8 + 2 * g) & 3) << 8;
        iq2_bytes(grid[index], w[1] >> (8 * g) & 255, q + 2 * g);
      }
    }
    for (int h = 0; h < 2; ++h) {
      out.scale[h] = low_half(w[3]) * (0.5f + static_cast<float>(w[2] >> (4 * h) & 15)) * 0.25f;
    }
  } else if constexpr (T == DType::kIQ3_XXS) {
    PONDER_UNROLL
    for (int f = 0; f < 8; ++f) {
      const uint32_t entry = grid[w[f / 4] >> (8 * (f % 4)) & 255];
      const uint32_t signs = eight_signs(w[2] >> (7 * (f / 2)) & 127);
      q[f] = sign_bytes(three_bit_levels(0x1c140c04u, 0x3e342c24u, entry), signs >> (4 * (f % 2)));
    }
    out.scale[0] = low_half(w[3]) * (0.5f + static_cast<float>(w[2] >> 28)) * 0.5f;
  } else if constexpr (T == DType::kIQ3_S) {
    PONDER_UNROLL
    for (int f = 0; f < 8; ++f) {
      const uint32_t entry = grid[(w[f / 4] >> (8 * (f % 4)) & 255) | (w[3] >> f & 1) << 8];
      q[f] = sign_bytes(three_bit_levels(0x07050301u, 0x0f0d0b09u, entry), w[2] >> (4 * f));
    }
    out.scale[0] = low_half(w[4]) * static_cast<float>(1 + 2 * (w[3] >> 8 & 15));
  } else {
    static_assert(T == DType::kTQ2_0);
    clear();
    crumb_bytes(w, 0, q);
    lower_bytes(1, q);
    out.scale[0] = low_half(w[2]);
  }
}

// Calls f.operator()<T>() for a block type; tq1_0 is stored as tq2_0. On the host and in kernels: f
// is of one side, which the compiler need not be told twice.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <typename F>
__device__ __host__ inline void with_block_type(DType dtype, F&& f) {
  switch (dtype) {
#define PONDER_CASE(T)                 \
  case DType::T:                       \
    f.template operator()<DType::T>(); \
    break;
    PONDER_CASE(kQ4_0)
    PONDER_CASE(kQ4_1)
    PONDER_CASE(kQ5_0)
    PONDER_CASE(kQ5_1)
    PONDER_CASE(kQ8_0)
    PONDER_CASE(kQ2_K)
    PONDER_CASE(kQ3_K)
    PONDER_CASE(kQ4_K)
    PONDER_CASE(kQ5_K)
    PONDER_CASE(kQ6_K)
    PONDER_CASE(kIQ4_NL)
    PONDER_CASE(kIQ4_XS)
    PONDER_CASE(kIQ1_S)
    PONDER_CASE(kIQ1_M)
    PONDER_CASE(kIQ2_XXS)
    PONDER_CASE(kIQ2_XS)
    PONDER_CASE(kIQ2_S)
    PONDER_CASE(kIQ3_XXS)
    PONDER_CASE(kIQ3_S)
    PONDER_CASE(kMXFP4)
#undef PONDER_CASE
    case DType::kTQ1_0:
    case DType::kTQ2_0:
      f.template operator()<DType::kTQ2_0>();
      break;
    default:
      break;
  }
}

}  // namespace ponder::cuda
