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
      onednn_factory(),
      ref_factory(),
#if defined(PONDER_HAVE_CUDA)
      // Last until it has been seen to work on a GPU: it is there for whoever asks for it by name.
      cuda_factory(),
#endif
  };
  return backends;
}

}  // namespace ponder
