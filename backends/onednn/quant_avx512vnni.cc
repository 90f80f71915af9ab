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

// One row times a packed block of four bits, multiplied as it is unpacked: where a core's share of
// the memory is small and its arithmetic slow, going through the first-level cache takes longer
// than reading. Groups of kWords words, whose low halves come before their high ones: these are the
// next sub-block's (kSubs == 2) or the same one's. map(v, sub-block, w, c) makes q of a vector of
// the halves.
template <typename T, int kWords, int kSubs, typename Map>
inline void one_row_of_nibbles(const std::byte* packed, const QuantGemmArgs& g, const Map& map) {
  const VI low = i_set8(15);
  const int64_t groups = g.k / (8 * kWords);
  const std::byte* next = g.next;
  const std::byte* const end = next + (next != nullptr ? g.next_bytes : 0);
  const int64_t lines = ((end - next) / 64 + groups * kWords - 1) / (groups * kWords);
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
  for (int64_t i = 0; i < groups; ++i) {
    const int32_t* const start = g.x.start + i * kSubs;
    Dot<1> sum[2][kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      sum[0][c].start(start[0]);
      sum[1][c].start(kSubs == 2 ? start[1] : 0);
    }
#pragma GCC unroll 8
    for (int w = 0; w < kWords; ++w) {
      for (int64_t n = 0; n < lines && next < end; ++n, next += 64) v_prefetch(next);
      const int8_t* const x = g.x.q + i * 8 * kWords + 4 * w;
      const VI x0 = i_set(load_four(x)), x1 = i_set(load_four(x + 4 * kWords));
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const VI v = word(packed, i * kWords + w, c);
        sum[0][c].step(map(i_and(v, low), i * kSubs, w, c), x0);
        sum[1][c].step(map(i_and(i_shr(v, 4), low), i * kSubs + 1, w, c), x1);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      if constexpr (kSubs == 1) sum[0][c].sum = i_add(sum[0][c].sum, sum[1][c].sum);
#pragma GCC unroll 2
      for (int s = 0; s < kSubs; ++s) {
        const int64_t j = i * kSubs + s;
        const SubScale<T> scale(g.w, j * kPanel + c * W);
        part[c] = scale.add(sum[s][c].sum, g.x.sum + j, g.x.scale + (T::kWide ? 0 : j), part[c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) add_block<T>(g, 0, c * W, g.x.scale, part[c]);
}

inline VI iq4_entry(VI v, int64_t, int, int) { return i_pick(kIQ4Entries, v); }

void one_row_q4_k(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  k_scales(packed + words(32), packed + words(35), room);
  g.w = with_scaled_minima(room, 15);
  one_row_of_nibbles<TileOf<32, true, true>, 8, 2>(packed, g,
                                                   [](VI v, int64_t, int, int) { return v; });
}
void one_row_q5_k(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  k_scales(packed + words(40), packed + words(43), room);
  g.w = with_scaled_minima(room, 31);
  const VI fifth = i_set8(16);
  one_row_of_nibbles<TileOf<32, true, true>, 8, 2>(packed, g, [&](VI v, int64_t j, int w, int c) {
    const VI high = i_shr(word(packed + words(32), w, c), static_cast<int>(j));
    return i_or(v, i_and(i_shl(high, 4), fifth));  // bit j of a byte is sub-block j's
  });
}
void one_row_iq4_nl(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  scales_from_halves(packed + words(g.k / 8), g.k / 32, room);
  g.w = without_minima(room, 241);
  one_row_of_nibbles<TileOf<32, false, false>, 4, 1>(packed, g, iq4_entry);
}
void one_row_iq4_xs(const std::byte* packed, const QuantGemmArgs& args, ExpandRoom* room) {
  QuantGemmArgs g = args;
  iq4_xs_scales(packed, room);
  g.w = without_minima(room, 241);
  one_row_of_nibbles<TileOf<32, true, false>, 4, 1>(packed, g, iq4_entry);
}

constexpr QuantKernels with_one_row(QuantKernels k) {
  k.one_row[kQuantQ4_K] = one_row_q4_k;
  k.one_row[kQuantQ5_K] = one_row_q5_k;
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
