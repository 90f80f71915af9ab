// The CUDA backend: NVIDIA GPUs through our own kernels. docs/kernels/cuda.md says what there is.
#pragma once

#include <memory>

#include "lib/device/registry.h"

namespace ponder {

// One device per GPU that the driver lists; none without a driver.
const BackendFactory* cuda_factory();

}  // namespace ponder
