#include "lib/tensor/iq_grids.h"

namespace ponder {

#define PONDER_IQ_GRID const
#include "lib/tensor/iq_grids.inc"
#undef PONDER_IQ_GRID

}  // namespace ponder
