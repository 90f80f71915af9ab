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

// One element as a float; dtype is a float type.
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
      break;  // check_weight_shapes refuses all others
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

// Two dimensions, a float type, the same width in all parts, at least one row: else
// unsupported_error or corrupt_error naming the tensor.
Status check_weight_shapes(std::span<const WeightData> parts);

// What a NaN or infinity at `index` of the tensor is reported as.
Status non_finite_error(const WeightData& weight, int64_t index);

// Index of the first NaN or infinity among elements [begin, end), or -1.
int64_t find_non_finite(const WeightData& weight, int64_t begin, int64_t end);

StatusOr<std::unique_ptr<PackedWeight>> pack(std::span<const WeightData> parts, ThreadPool* pool);

}  // namespace ponder::ref
