// The values that stored weights stand for, as binary32, bit for bit those of the format's authors:
// the oracle for every kernel that reads weights, and good enough where speed does not matter.
//
// Pure functions; any thread. Inputs may be misaligned and come from untrusted files: whatever the
// bytes are, something is computed (NaN and infinity when the scales say so).
#pragma once

#include <cstdint>

#include "lib/base/status.h"
#include "lib/tensor/dtype.h"

namespace ponder {

// Reads dtype_bytes(elements) bytes and writes `elements` floats; a multiple of the type's block.
using DequantizeFn = void (*)(const void* data, int64_t elements, float* out);

// nullptr for types that are no weights (i32). For f8_e4m3 the bare values, without block scales.
DequantizeFn find_dequantize(DType dtype);

// The same in one call. unsupported_error: no weight type; invalid_argument_error: `elements` is
// not a multiple of the block.
Status dequantize(DType dtype, const void* data, int64_t elements, float* out);

// A matrix of f8_e4m3 with one f32 scale per 128 x 128 elements ("weight_scale_inv" in DeepSeek's
// checkpoints). Blocks at the right and lower edges are cut off, never stretched. A view.
struct F8Matrix {
  static constexpr int64_t kTile = 128;

  const void* values = nullptr;  // [rows, cols]
  const void* scales = nullptr;  // f32 [ceil(rows / 128), ceil(cols / 128)]
  int64_t rows = 0;
  int64_t cols = 0;
};

// Rows [first, last) of the matrix, values times scales: out is [last - first, cols].
void dequantize_f8_rows(const F8Matrix& matrix, int64_t first, int64_t last, float* out);

}  // namespace ponder
