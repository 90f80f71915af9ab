// Weights of the reference backend: the checkpoint's own bytes, checked and kept mapped. Also the
// checks that every CPU backend makes when it packs a weight.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "lib/device/backend.h"
#include "lib/tensor/half.h"

namespace ponder::ref {

struct RefWeight final : PackedWeight {
  std::vector<WeightData> parts;  // stacked by rows
};

// One element as a float; dtype is f32, f16 or bf16.
inline float load_element(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32: {
      // A safetensors file aligns tensors to nothing in particular.
      float v;
      __builtin_memcpy(&v, static_cast<const char*>(data) + index * 4, sizeof(v));
      return v;
    }
    case DType::kF16:
    case DType::kBF16: {
      uint16_t v;
      __builtin_memcpy(&v, static_cast<const char*>(data) + index * 2, sizeof(v));
      return dtype == DType::kF16 ? f16_to_f32(v) : bf16_to_f32(v);
    }
    default:
      break;  // widen_rows is for weights of all others, kv_layout refuses them
  }
  return 0.0f;
}

inline void store_element(void* data, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(data)[index] = value;
      break;
    case DType::kF16:
      static_cast<uint16_t*>(data)[index] = f32_to_f16(value);
      break;
    case DType::kBF16:
      static_cast<uint16_t*>(data)[index] = f32_to_bf16(value);
      break;
    default:
      break;  // kv_layout refuses all others
  }
}

// Two dimensions, a type that stands for floats, the same width in all parts, at least one row,
// rows of whole blocks: else unsupported_error or corrupt_error naming the tensor.
Status check_weight_shapes(std::span<const WeightData> parts);

// unsupported_error unless all parts are f32, f16 or bf16: for whoever has nothing for the rest.
Status check_plain_types(std::span<const WeightData> parts);

// Index of the first element among [begin, end) that is or, through its scales, may become NaN or
// infinite; -1: none. Of a block type the range covers whole blocks, and the index is that of the
// bad block's first element: it is the scales that can be bad. Of f8_e4m3 it is an element whose
// code is NaN, or the first one of a 128 x 128 tile with a bad scale.
int64_t find_non_finite(const WeightData& weight, int64_t begin, int64_t end);

// What find_non_finite's finding is reported as: a corrupt_error that names tensor, row and column
// or block, and what is wrong there.
Status non_finite_error(const WeightData& weight, int64_t index);

// Rows [first, last) as floats, whatever the type: out is [last - first, cols].
void widen_rows(const WeightData& weight, int64_t first, int64_t last, float* out);

StatusOr<std::unique_ptr<PackedWeight>> pack(std::span<const WeightData> parts, ThreadPool* pool);

}  // namespace ponder::ref
