// The CPU backend: oneDNN's kernels for large matrix products, our own for everything else, chosen
// by what the processor has. docs/kernels/cpu.md says why each is what it is.
#pragma once

#include <memory>

#include "backends/onednn/isa.h"
#include "lib/device/registry.h"

namespace ponder {

// One CPU device, always there: processors without AVX2 get portable kernels.
const BackendFactory* onednn_factory();

// As the factory makes it, but using no instruction set above `cap`, and without oneDNN when
// `use_onednn` is false: for tests and measurements.
StatusOr<std::unique_ptr<Backend>> make_onednn_backend(const BackendContext& context,
                                                       cpu::Isa cap = cpu::kHighestIsa,
                                                       bool use_onednn = true);

}  // namespace ponder
