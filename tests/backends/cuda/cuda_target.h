// The CUDA backend on the emulated device as one of the conformance tests' machines, and the
// roundings that separate it from the reference: what the matrix instructions take is rounded.
#pragma once

#include "backends/cuda/cuda.h"
#include "tests/backends/cuda/emulated_runtime.h"
#include "tests/backends/cuda/to_f8.h"
#include "tests/conformance/support.h"

namespace ponder {

inline Machine emulated_cuda() {
  return Machine(
      {"cuda", true, [](const BackendContext& c) { return cuda_factory()->create(0, c); }}, 1);
}
inline Machine plain_reference() {
  return Machine({"ref", true,
                  [](const BackendContext& c) -> StatusOr<std::unique_ptr<Backend>> {
                    return make_ref_backend(c);
                  }},
                 2);
}

// What the matrix instructions are given for a cache of `dtype`.
inline DType operand_type(DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kBF16) return dtype;
  return DType::kF16;
}
// A weight's rounding, relative: of a mean of values of magnitude 1 it is the largest error.
inline double operand_rounding(DType dtype) {
  if (dtype == DType::kF32) return 0;
  return dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

}  // namespace ponder
