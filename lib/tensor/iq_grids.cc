#include "lib/tensor/iq_grids.h"

namespace ponder {

#include "lib/tensor/iq_grids.inc"

}  // namespace ponder
