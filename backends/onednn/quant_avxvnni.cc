// Products with block-quantised weights for AVX2 with 256-bit vpdpbusd; compiled with those flags
// (CMakeLists.txt).

#include "backends/onednn/quant.h"
#include "backends/onednn/quant_codebooks.h"

#if defined(__AVXVNNI__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx2.inc"

#include "backends/onednn/quant_simd_avx2.inc"

#include "backends/onednn/tiles.inc"

constexpr int kDotRows = 6;
constexpr int kDotColumns = 2;
constexpr int kDotColumnsOne = 8;

// Sums of four products of bytes in 32 bits, without saturation: any number of steps.
template <int kRun>
struct Dot {
  void start(int32_t first) { sum = _mm256_set1_epi32(first); }
  void open() {}
  void step(__m256i q, __m256i x) { sum = _mm256_dpbusd_avx_epi32(sum, q, x); }
  void close() {}
  __m256i sum;
};

#include "backends/onednn/quant_generic.inc"

void dot_gemm(const QuantGemmArgs& g) { gemm_in_runs<1>(g); }

constexpr QuantKernels kKernels = quant_kernels();

}  // namespace

const QuantKernels* quant_kernels_avxvnni() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avxvnni() { return nullptr; }
}  // namespace ponder::cpu

#endif
