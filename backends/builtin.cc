// Which backends this library contains, in order of preference.

#include "backends/onednn/onednn.h"
#include "backends/ref/ref.h"
#include "lib/device/registry.h"

namespace ponder {

std::span<const BackendFactory* const> builtin_backends() {
  static const BackendFactory* const backends[] = {onednn_factory(), ref_factory()};
  return backends;
}

}  // namespace ponder
