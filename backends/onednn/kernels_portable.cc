// The kernels for any processor, in the compiler's own vector type.

#include "backends/onednn/kernels.h"

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_portable.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/kernels_generic.inc"

constexpr Kernels kKernels = generic_kernels();

}  // namespace

const Kernels* kernels_portable() { return &kKernels; }

}  // namespace ponder::cpu
