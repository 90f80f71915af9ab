// Which backends this library contains, in order of preference.

#if defined(PONDER_HAVE_CUDA)
#include "backends/cuda/cuda.h"
#endif
#include "backends/onednn/onednn.h"
#include "backends/ref/ref.h"
#include "lib/device/registry.h"

namespace ponder {

std::span<const BackendFactory* const> builtin_backends() {
  static const BackendFactory* const backends[] = {
#if defined(PONDER_HAVE_CUDA)
      cuda_factory(),
#endif
      onednn_factory(),
      ref_factory(),
  };
  return backends;
}

}  // namespace ponder
