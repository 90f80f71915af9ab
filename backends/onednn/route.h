// Which experts each row goes to. The arithmetic is that of the reference backend, in double and in
// its order, so that the choices are the same ones.
#pragma once

#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// corrupt_error when a score is not finite; names the first such row.
Status route(const RouteParams& p, const Workers& workers);

}  // namespace ponder::cpu
