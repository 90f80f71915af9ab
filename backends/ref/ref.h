// The reference backend: every op as plainly as its definition reads, float32 throughout, sums in
// double and in one fixed order. What the other backends are tested against; complete, and quick
// enough to run toy models.
#pragma once

#include <memory>

#include "lib/device/registry.h"

namespace ponder {

// One CPU device, always there.
const BackendFactory* ref_factory();

// Ignores Precision: inputs are never rounded. Never fails but for memory.
std::unique_ptr<Backend> make_ref_backend(const BackendContext& context);

}  // namespace ponder
