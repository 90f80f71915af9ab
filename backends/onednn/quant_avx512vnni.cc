// Products with block-quantised weights for AVX-512 with VNNI; compiled with those flags
// (CMakeLists.txt).

#include "backends/onednn/quant.h"
#include "backends/onednn/quant_codebooks.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx512.inc"

#include "backends/onednn/quant_simd_avx512.inc"

#include "backends/onednn/tiles.inc"

constexpr int kDotRows = 3;
constexpr int kDotColumns = 4;
constexpr int kDotColumnsOne = 4;

// Sums of four products of bytes in 32 bits, without saturation: any number of steps.
template <int kRun>
struct Dot {
  void start(int32_t first) { sum = _mm512_set1_epi32(first); }
  void open() {}
  void step(__m512i q, __m512i x) { sum = _mm512_dpbusd_epi32(sum, q, x); }
  void close() {}
  __m512i sum;
};

#include "backends/onednn/quant_generic.inc"

void dot_gemm(const QuantGemmArgs& g) { gemm_in_runs<1>(g); }

// ---- one row --------------------------------------------------------------------------------
// A packed block is multiplied as it is unpacked: where a core's share of the memory is small and
// its arithmetic slow, going through the first-level cache takes longer than reading. Memory is
// read from front to back, for the sake of the hardware's prefetchers: what stands behind the
// weights, their scales, is looked at when the integer sums of all sub-blocks are there. (On Zen 4
// the other order, with all of the next block asked for meanwhile, took twice as long.) Requests
// carry the prefetchers over the borders of pages.

// The integer sums of a block's sub-blocks, in the room that expanding would fill.
struct Sums {
  explicit Sums(ExpandRoom* room) : at(room->q) {}
  void put(int64_t sub, int c, VI v) { i_store(at + (sub * kPanel + c * W) * 4, v); }
  VI get(int64_t sub, int c) const { return i_load(at + (sub * kPanel + c * W) * 4); }
  uint8_t* at;
};

// Word w of all columns of the first section, which the others follow.
struct Stream {
  VI load(int64_t w, int c) const {
    const std::byte* const from = at + (w * kPanel + c * W) * 4;
    constexpr int kAhead = 1024;  // bytes
    // In this order: a plain prefetch GCC moves away from the read, which took half of q6_k's
    // speed.
    __asm__ volatile("prefetcht1 %0" : : "m"(from[kAhead]) : "memory");
    return i_load(from);
  }
  const std::byte* at;
};

inline VI inputs(const QuantGemmArgs& g, int64_t step) {
  return i_set(load_four(g.x.q + 4 * step));
}

// Words of two halves of four bits each: the low ones come kWords steps before the high ones, in
// the same sub-block (kSubs == 1) or in the one before. map(v, sub-block, step, c) makes q of a
// vector of them.
template <int kWords, int kSubs, typename Map>
inline void sum_nibbles(Stream packed, const QuantGemmArgs& g, Sums sums, const Map& map) {
  constexpr int kHigh = kSubs == 1 ? kWords : 0;  // step of the first high half
  const VI low = i_set8(15);
  for (int64_t i = 0; i < g.k / (8 * kWords); ++i) {
    const int64_t sub = i * kSubs;
    Dot<1> sum[2][kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      sum[0][c].start(g.x.start[sub]);
      sum[1][c].start(kSubs == 2 ? g.x.start[sub + 1] : 0);
    }
#pragma GCC unroll 8
    for (int w = 0; w < kWords; ++w) {
      const int64_t step = 2 * kWords * i + w;
      const VI x0 = inputs(g, step), x1 = inputs(g, step + kWords);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const VI v = packed.load(i * kWords + w, c);
        sum[0][c].step(map(i_and(v, low), sub, w, c), x0);
        sum[1][c].step(map(i_and(i_shr(v, 4), low), sub + kSubs - 1, w + kHigh, c), x1);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      if constexpr (kSubs == 1) {
        sums.put(sub, c, i_add(sum[0][c].sum, sum[1][c].sum));
      } else {
        sums.put(sub, c, sum[0][c].sum);
        sums.put(sub + 1, c, sum[1][c].sum);
      }
    }
  }
}

// What is left to do when there are the scales, g.w.
template <typename T>
inline void add_sums(const QuantGemmArgs& g, Sums sums) {
  V part[kVectors];
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) part[c] = v_zero();
  if constexpr (T::kWide && T::kMin) {
    for (int64_t j = 0; j < g.k / T::kSub; ++j) {
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        part[c] = add_minimum(v_load(g.w.min + j * kPanel + c * W), g.x.sum + j, part[c]);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) part[c] = v_mul(minus_min_scale(g.w, c * W), part[c]);
  }
  for (int64_t j = 0; j < g.k / T::kSub; ++j) {
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      const SubScale<T> scale(g.w, j * kPanel + c * W);
      part[c] = scale.add(sums.get(j, c), g.x.sum + j, g.x.scale + (T::kWide ? 0 : j), part[c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) add_block<T>(g, 0, c * W, g.x.scale, part[c]);
}

void one_row_q4_0(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  sum_nibbles<4, 1>({packed}, g, Sums(room), Same{});
  scales_from_halves(packed + words(g.k / 8), g.k / 32, room);
  g.w = without_minima(room, 15);
  add_sums<TileOf<32, false, false>>(g, Sums(room));
}
void one_row_q8_0(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  const Stream stream{packed};
  Sums sums(room);
  for (int64_t j = 0; j < g.k / 32; ++j) {
    Dot<1> sum[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) sum[c].start(g.x.start[j]);
#pragma GCC unroll 8
    for (int w = 0; w < 8; ++w) {
      const VI x = inputs(g, 8 * j + w);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[c].step(stream.load(8 * j + w, c), x);
    }
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) sums.put(j, c, sum[c].sum);
  }
  scales_from_halves(packed + words(g.k / 4), g.k / 32, room);
  g.w = without_minima(room, 255);
  add_sums<TileOf<32, false, false>>(g, sums);
}
void one_row_q4_k(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  sum_nibbles<8, 2>({packed}, g, Sums(room), Same{});
  k_scales(packed + words(32), packed + words(35), room);
  g.w = with_scaled_minima(room, 15);
  add_sums<TileOf<32, true, true>>(g, Sums(room));
}
void one_row_q5_k(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  const Stream stream{packed};
  Sums sums(room);
  for (int i = 0; i < 4; ++i) {
    Dot<1> sum[2][kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      sum[0][c].start(g.x.start[2 * i]);
      sum[1][c].start(g.x.start[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int b = 0; b < 2; ++b) {
      VI bits[kVectors];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) bits[c] = stream.load(10 * i + 5 * b, c);
#pragma GCC unroll 4
      for (int m = 0; m < 4; ++m) {
        const int step = 16 * i + 4 * b + m;
        const VI x0 = inputs(g, step), x1 = inputs(g, step + 8);
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) {
          const VI v = stream.load(10 * i + 5 * b + 1 + m, c);
          sum[0][c].step(q5_k_low(v, bits[c], m), x0);
          sum[1][c].step(q5_k_high(v, bits[c], m), x1);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      sums.put(2 * i, c, sum[0][c].sum);
      sums.put(2 * i + 1, c, sum[1][c].sum);
    }
  }
  k_scales(packed + words(40), packed + words(43), room);
  g.w = with_scaled_minima(room, 31);
  add_sums<TileOf<32, true, true>>(g, sums);
}
void one_row_q6_k(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  const Stream stream{packed};
  const VI low = i_set8(15), two = i_set8(48);
  Sums sums(room);
  for (int t = 0; t < 4; ++t) {  // four steps of each of four sub-blocks, as in expand_q6_k
    const int64_t first = t / 2 * 8 + t % 2;
    Dot<1> sum[4][kVectors];
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[s][c].start(g.x.start[first + 2 * s]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t step = 4 * first + i, w = 4 * t + i;
      const VI x[4] = {inputs(g, step), inputs(g, step + 8), inputs(g, step + 16),
                       inputs(g, step + 24)};
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const VI a = stream.load(3 * w, c), b = stream.load(3 * w + 1, c);
        const VI h = stream.load(3 * w + 2, c);
        sum[0][c].step(i_or(i_and(a, low), i_and(i_shl(h, 4), two)), x[0]);
        sum[1][c].step(i_or(i_and(b, low), i_and(i_shl(h, 2), two)), x[1]);
        sum[2][c].step(i_or(i_and(i_shr(a, 4), low), i_and(h, two)), x[2]);
        sum[3][c].step(i_or(i_and(i_shr(b, 4), low), i_and(i_shr(h, 2), two)), x[3]);
      }
    }
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sums.put(first + 2 * s, c, sum[s][c].sum);
    }
  }
  q6_k_scales(packed + words(48), room);
  g.w = without_minima(room, 63);
  add_sums<TileOf<16, true, false>>(g, sums);
}
void one_row_iq4_nl(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  sum_nibbles<4, 1>({packed}, g, Sums(room), Listed{kIQ4Entries});
  scales_from_halves(packed + words(g.k / 8), g.k / 32, room);
  g.w = without_minima(room, 241);
  add_sums<TileOf<32, false, false>>(g, Sums(room));
}
void one_row_iq4_xs(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  sum_nibbles<4, 1>({packed}, g, Sums(room), Listed{kIQ4Entries});
  iq4_xs_scales(packed, room);
  g.w = without_minima(room, 241);
  add_sums<TileOf<32, true, false>>(g, Sums(room));
}

constexpr QuantKernels with_one_row(QuantKernels k) {
  k.one_row[kQuantQ4_0] = one_row_q4_0;
  k.one_row[kQuantQ8_0] = one_row_q8_0;
  k.one_row[kQuantQ4_K] = one_row_q4_k;
  k.one_row[kQuantQ5_K] = one_row_q5_k;
  k.one_row[kQuantQ6_K] = one_row_q6_k;
  k.one_row[kQuantIQ4_NL] = one_row_iq4_nl;
  k.one_row[kQuantIQ4_XS] = one_row_iq4_xs;
  return k;
}
constexpr QuantKernels kKernels = with_one_row(quant_kernels());

}  // namespace

const QuantKernels* quant_kernels_avx512vnni() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx512vnni() { return nullptr; }
}  // namespace ponder::cpu

#endif
