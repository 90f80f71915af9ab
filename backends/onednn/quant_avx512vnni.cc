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

// ---- one row ------------------------------------------------------------------------------------

constexpr int kNibbleRun = 1;
constexpr int kFiveBitRun = 1;
constexpr int kSixBitRun = 1;
constexpr int kByteRun = 1;

struct ByteInputs {
  explicit ByteInputs(const QuantGemmArgs& g) : args(g) {}
  void step(Dot<1>& dot, VI q, int64_t step) const { dot.step(q, inputs(args, step)); }
  const QuantGemmArgs& args;
};

struct ListedSum {
  void step(VI numbers, VI x) { dot.step(i_pick(kIQ4Entries, numbers), x); }
  VI total(int32_t start) const { return i_add(i_set(start), dot.sum); }
  Dot<1> dot{i_zero()};
};

#include "backends/onednn/quant_one_row.inc"

constexpr QuantKernels kKernels = with_one_row(quant_kernels());

}  // namespace

const QuantKernels* quant_kernels_avx512vnni() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const QuantKernels* quant_kernels_avx512vnni() { return nullptr; }
}  // namespace ponder::cpu

#endif
