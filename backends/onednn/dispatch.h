// Which tables of kernels a machine gets.
#pragma once

#include "absl/functional/function_ref.h"
#include "backends/onednn/isa.h"
#include "backends/onednn/kernels.h"
#include "backends/onednn/quant.h"

namespace ponder::cpu {

// The best table that was compiled and that needs nothing above `cap`, which the machine must run.
// Never null.
const Kernels* kernels_for(Isa cap);

// The same for products of bytes, among the instruction sets that `has` says the machine runs.
// AVX-VNNI goes with kAvx2: there are processors with it and without AVX-512.
const QuantKernels* quant_kernels_for(Isa cap, absl::FunctionRef<bool(ByteIsa)> has = has_byte_isa);

}  // namespace ponder::cpu
