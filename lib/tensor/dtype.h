// Element types of tensors: how many bytes a run of elements takes, and what they are called.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace ponder {

enum class DType : uint8_t {
  kF32,
  kF16,   // IEEE 754 binary16
  kBF16,  // the upper half of a binary32
  kI32,
};

struct DTypeInfo {
  absl::string_view name;
  int64_t block;  // elements that are stored together; 1 for plain types
  int64_t bytes;  // bytes of one block
};

constexpr DTypeInfo dtype_info(DType dtype) {
  switch (dtype) {
    case DType::kF32: return {"f32", 1, 4};
    case DType::kF16: return {"f16", 1, 2};
    case DType::kBF16: return {"bf16", 1, 2};
    case DType::kI32: return {"i32", 1, 4};
  }
  return {"unknown", 1, 1};
}

constexpr absl::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }

// Bytes of `elements` consecutive elements; `elements` is a multiple of the block.
constexpr int64_t dtype_bytes(DType dtype, int64_t elements) {
  return elements / dtype_info(dtype).block * dtype_info(dtype).bytes;
}

}  // namespace ponder
