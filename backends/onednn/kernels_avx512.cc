// The kernels for AVX-512 F, BW, DQ and VL; compiled with those flags (CMakeLists.txt).

#include "backends/onednn/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx512.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/kernels_generic.inc"

constexpr Kernels kKernels = generic_kernels();

}  // namespace

const Kernels* own_kernels_avx512() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const Kernels* own_kernels_avx512() { return nullptr; }
}  // namespace ponder::cpu

#endif
