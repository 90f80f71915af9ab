// Rows of binary32 to the block types of blocks.h: what `ponder quantize` writes.
//
// Each block is a least-squares fit: the scales (and minima) for which the rounded values come
// nearest to the given ones, where the square of an element's error counts
//     importance[column] * sqrt(mean of the row's squares + x^2).
// So large weights, and columns that see large activations, are kept best. quantize.cc says how the
// fits search; they come at least as close as ggml's reference quantisers.
//
// Pure functions; any thread. A row's bytes depend on that row and the importance alone, so callers
// may cut a matrix by rows among threads.
#pragma once

#include <cstdint>
#include <span>

#include "lib/base/status.h"
#include "lib/tensor/dtype.h"

namespace ponder {

// f32, f16, bf16; q8_0, q4_0, q4_1, q5_0, q5_1; q2_k to q6_k; iq4_nl, iq4_xs. Codebook types, which
// make no sense without importances and take minutes where these take seconds, are only read.
bool can_quantize(DType dtype);

// Writes dtype_bytes(dtype, rows * cols) bytes. `values` is [rows, cols]; `importance` is empty or
// has one weight per column, none negative: the mean square of what the column is multiplied with.
//
// unsupported_error: see can_quantize. invalid_argument_error: rows that are no multiple of the
// block, importances of another number or not finite. corrupt_error: a value that is not finite, or
// larger than the type's binary16 scales can express; names the row and column.
Status quantize(DType dtype, const float* values, int64_t rows, int64_t cols,
                std::span<const float> importance, void* blocks);

}  // namespace ponder
