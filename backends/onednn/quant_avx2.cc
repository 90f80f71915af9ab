// Products with block-quantised weights for AVX2, FMA and F16C; compiled with those flags
// (CMakeLists.txt).
//
// vpmaddubsw adds two products of bytes to 16 bits and saturates, so how many of its results may be
// added before they are widened depends on the largest q: 2 * 127 * q each.

#include "backends/onednn/quant.h"
#include "backends/onednn/quant_codebooks.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx2.inc"

#include "backends/onednn/quant_simd_avx2.inc"

#include "backends/onednn/tiles.inc"

constexpr int kDotRows = 4;
constexpr int kDotColumns = 2;
constexpr int kDotColumnsOne = 4;

template <int kRun>
struct Dot {
  void start(int32_t first) { sum = _mm256_set1_epi32(first); }
  void open() { part = _mm256_setzero_si256(); }
  // Pinned: GCC would add steps in pairs first, and run out of registers.
  void step(__m256i q, __m256i x) {
    part = i_pin(_mm256_add_epi16(part, _mm256_maddubs_epi16(q, x)));
  }
  void close() {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
  }
  __m256i sum;
  __m256i part;
};
// For any q. vpmaddubsw's pairs would have to be widened one by one, at the two ports that multiply:
// 16 bits from the start take fewer of their turns.
template <>
struct Dot<0> {
  void start(int32_t first) { sum = _mm256_set1_epi32(first); }
  void open() {}
  void step(__m256i q, __m256i x, __m256i others) {
    const __m256i even = _mm256_and_si256(q, _mm256_set1_epi16(255));
    const __m256i odd = _mm256_srli_epi16(q, 8);
    sum = i_pin(_mm256_add_epi32(sum, _mm256_madd_epi16(even, x)));
    sum = i_pin(_mm256_add_epi32(sum, _mm256_madd_epi16(odd, others)));
  }
  void close() {}
  __m256i sum;
};

#include "backends/onednn/quant_generic.inc"

// Some rows at a time, their inputs widened for Dot<0>.
void gemm_widened(const QuantGemmArgs& g) {
  constexpr int64_t kRows = 32;
  alignas(32) int16_t wide[kRows * kQuantBlock];
  for (int64_t row = 0; row < g.m; row += kRows) {
    QuantGemmArgs some = from_row(g, row);
    some.m = at_most(some.m, kRows);
    for (int64_t r = 0; r < some.m; ++r) {
      const int8_t* x = g.x.q + (row + r) * g.x.ldq;
      for (int64_t i = 0; i < g.k; i += 32) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        auto* const to = reinterpret_cast<__m256i*>(wide + r * kQuantBlock + i);
        _mm256_store_si256(to, _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_store_si256(to + 1, _mm256_srai_epi16(v, 8));
      }
    }
    some.x.q = reinterpret_cast<int8_t*>(wide);
    some.x.ldq = kQuantBlock;
    gemm_in_runs<0>(some);
  }
}

void dot_gemm(const QuantGemmArgs& g) {
  const int pair = 2 * 127 * g.w.highest;
  if (8 * pair <= INT16_MAX && g.sub == 32) return gemm_in_runs<8>(g);
  if (4 * pair <= INT16_MAX) return gemm_in_runs<4>(g);
  if (2 * pair <= INT16_MAX) return gemm_in_runs<2>(g);
  if (pair <= INT16_MAX) return gemm_in_runs<1>(g);
  gemm_widened(g);
}

#include "backends/onednn/quant_one_row.inc"

constexpr QuantKernels with_one_row(QuantKernels k) {
  k.one_row[kQuantIQ4_NL] = one_row_iq4_nl;
  k.one_row[kQuantIQ4_XS] = one_row_iq4_xs;
  return k;
}
constexpr QuantKernels kKernels = with_one_row(quant_kernels());

}  // namespace

const QuantKernels* quant_kernels_avx2() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx2() { return nullptr; }
}  // namespace ponder::cpu

#endif
