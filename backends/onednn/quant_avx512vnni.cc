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

constexpr QuantKernels kKernels = quant_kernels();

}  // namespace

const QuantKernels* quant_kernels_avx512vnni() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx512vnni() { return nullptr; }
}  // namespace ponder::cpu

#endif
