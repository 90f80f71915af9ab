// The kernels for AVX2, FMA and F16C; compiled with those flags (CMakeLists.txt).

#include "backends/onednn/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx2.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/kernels_generic.inc"

#include "backends/onednn/pack_avx2.inc"

constexpr Kernels make_kernels() {
  Kernels k = generic_kernels();
  k.pack_panel[kStoreF32] = pack_panel<kStoreF32>;
  k.pack_panel[kStoreF16] = pack_panel<kStoreF16>;
  k.pack_panel[kStoreBF16] = pack_panel<kStoreBF16>;
  k.pack_f8 = pack_panel<kCodes>;
  return k;
}

constexpr Kernels kKernels = make_kernels();

}  // namespace

const Kernels* kernels_avx2() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace ponder::cpu

#endif
