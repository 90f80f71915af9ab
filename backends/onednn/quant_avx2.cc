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
  void close() { sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, _mm256_set1_epi16(1))); }
  __m256i sum;
  __m256i part;
};
// For any q. vpmaddubsw's pairs would have to be widened one by one, at the two ports that
// multiply: 16 bits from the start take fewer of their turns.
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

// k inputs as Dot<0> takes them.
inline void widen(const int8_t* x, int64_t k, int16_t* wide) {
  for (int64_t i = 0; i < k; i += 32) {
    const VI v = i_load(x + i);
    i_store(wide + i, _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
    i_store(wide + i + 16, _mm256_srai_epi16(v, 8));
  }
}

// Some rows at a time.
void gemm_widened(const QuantGemmArgs& g) {
  constexpr int64_t kRows = 32;
  alignas(32) int16_t wide[kRows * kQuantBlock];
  for (int64_t row = 0; row < g.m; row += kRows) {
    QuantGemmArgs some = from_row(g, row);
    some.m = at_most(some.m, kRows);
    for (int64_t r = 0; r < some.m; ++r) {
      widen(g.x.q + (row + r) * g.x.ldq, g.k, wide + r * kQuantBlock);
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

// ---- one row ------------------------------------------------------------------------------------

constexpr int kNibbleRun = 8;
constexpr int kFiveBitRun = 4;
constexpr int kSixBitRun = 2;
constexpr int kByteRun = 0;

struct ByteInputs {
  explicit ByteInputs(const QuantGemmArgs& g) { widen(g.x.q, g.k, wide); }
  void step(Dot<0>& dot, VI q, int64_t step) const {
    const auto* const at = reinterpret_cast<const int8_t*>(wide + step / 8 * 32 + step % 8 * 2);
    dot.step(q, i_set(load_four(at)), i_set(load_four(at + 32)));
  }
  alignas(32) int16_t wide[kQuantBlock];
};

// kIQ4Values of lib/tensor/blocks.h, in two's complement.
constexpr uint8_t kIQ4Signed[16] = {129, 152, 173, 191, 207, 221, 234, 246,
                                    1,   13,  25,  38,  53,  69,  89,  113};

// Of q - offset, whose signs move to the inputs, hence without QuantRows::start: no weight is -128,
// so two products fit into 16 bits.
struct ListedSum {
  void step(VI numbers, VI x) {
    const VI w = _mm256_sign_epi8(i_pick(kIQ4Signed, numbers), x);
    const VI pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), w);
    sum = i_pin(i_add(sum, i_dot_pairs(pairs, _mm256_set1_epi16(1))));
  }
  VI total(int32_t) const { return sum; }
  VI sum = i_zero();
};

#include "backends/onednn/quant_one_row.inc"

constexpr QuantKernels kKernels = with_one_row(quant_kernels());

}  // namespace

const QuantKernels* quant_kernels_avx2() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx2() { return nullptr; }
}  // namespace ponder::cpu

#endif
