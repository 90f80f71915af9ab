// Products with block-quantised weights for any processor, in the compiler's own vector types.
//
// Where the baseline has no fused multiply-add, float32 sums round twice where the other files'
// round once: results differ from theirs in the last bits.

#include "backends/onednn/quant.h"
#include "backends/onednn/quant_codebooks.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_portable.inc"

#include "backends/onednn/quant_simd_portable.inc"

#include "backends/onednn/tiles.inc"

constexpr int kDotRows = 4;
constexpr int kDotColumns = 2;
constexpr int kDotColumnsOne = 4;

// Even and odd bytes apart, as pairs of 16-bit numbers.
template <int kRun>
struct Dot {
  void start(int32_t first) { sum = i_set(first); }
  void open() {}
  void step(VI q, VI x) {
    const VS q_even = (VS)(q & 0x00ff00ff), q_odd = (VS)((VU)q >> 8 & 0x00ff00ffu);
    const VS x_even = (VS)((VU)x << 8 & 0xff00ff00u) >> 8, x_odd = (VS)x >> 8;
    sum = i_add(sum, i_add(pairs(q_even, x_even), pairs(q_odd, x_odd)));
  }
  void close() {}
  VI sum;

 private:
  // Sums of two products.
  static VI pairs(VS a, VS b) {
#if defined(__SSE2__)
    return (VI)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    const VI a_low = (VI)((VU)a << 16) >> 16, b_low = (VI)((VU)b << 16) >> 16;
    return a_low * b_low + ((VI)a >> 16) * ((VI)b >> 16);
#endif
  }
};

#include "backends/onednn/quant_generic.inc"

void dot_gemm(const QuantGemmArgs& g) { gemm_in_runs<1>(g); }

constexpr QuantKernels kKernels = quant_kernels();

}  // namespace

const QuantKernels* quant_kernels_portable() { return &kKernels; }

}  // namespace ponder::cpu
