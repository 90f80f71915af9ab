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
// For any q: |q - 128| and x with its sign give at most 2 * 128 * 127.
template <>
struct Dot<0> {
  void start(int32_t first) { sum = _mm256_set1_epi32(first); }
  void open() {}
  void step(__m256i q, __m256i x) {
    const __m256i w = _mm256_xor_si256(q, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    sum = i_pin(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
  void close() {}
  __m256i sum;
};

#include "backends/onednn/quant_generic.inc"

void dot_gemm(const QuantGemmArgs& g) {
  const int pair = 2 * 127 * g.w.highest;
  if (8 * pair <= INT16_MAX && g.sub == 32) return gemm_in_runs<8>(g);
  if (4 * pair <= INT16_MAX) return gemm_in_runs<4>(g);
  if (2 * pair <= INT16_MAX) return gemm_in_runs<2>(g);
  if (pair <= INT16_MAX) return gemm_in_runs<1>(g);
  gemm_in_runs<0>(g);
}

constexpr QuantKernels kKernels = quant_kernels();

}  // namespace

const QuantKernels* quant_kernels_avx2() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx2() { return nullptr; }
}  // namespace ponder::cpu

#endif
