// The kernels for AVX-512 F, BW, DQ and VL; compiled with those flags (CMakeLists.txt). Packing is
// bound by memory and taken from the AVX2 table.

#include "backends/onednn/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx512.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/kernels_generic.inc"

Kernels make_kernels() {
  Kernels k = generic_kernels();
  for (int s = 0; s < kStorages; ++s) k.pack_panel[s] = kernels_avx2()->pack_panel[s];
  k.pack_f8 = kernels_avx2()->pack_f8;
  return k;
}

}  // namespace

const Kernels* kernels_avx512() {
  static const Kernels kernels = make_kernels();
  return &kernels;
}

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace ponder::cpu

#endif
