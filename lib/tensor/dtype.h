// Element types of tensors: how many bytes a run of elements takes, and what they are called.
// Values and constants only; any thread.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace ponder {

// The block types are those of GGUF files: some consecutive elements of a row share scales and are
// packed into one block. blocks.h has the layouts, dequantize.h the values they stand for, and
// docs/formats/quantised-blocks.md the table.
enum class DType : uint8_t {
  kF32,
  kF16,   // IEEE 754 binary16
  kBF16,  // the upper half of a binary32
  kI32,
  // OCP 8-bit float: 4 exponent and 3 mantissa bits, NaN but no infinity. The scales of DeepSeek's
  // checkpoints, one per 128 x 128 elements, are a tensor of their own.
  kF8_E4M3,
  // Round to nearest: scale (and minimum) per 32 elements.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  // 256 elements in sub-blocks whose scales are themselves quantised.
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  // 4 bits that index a fixed list of unevenly spaced values.
  kIQ4_NL,
  kIQ4_XS,
  // Groups of 4 or 8 elements index a fixed list of vectors (a codebook).
  kIQ1_S,
  kIQ1_M,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  // -1, 0 or 1 times one scale.
  kTQ1_0,
  kTQ2_0,
  // OCP microscaling: 4-bit floats (2 exponent, 1 mantissa bit), one power of two per 32.
  kMXFP4,
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
    case DType::kF8_E4M3: return {"f8_e4m3", 1, 1};
    case DType::kQ4_0: return {"q4_0", 32, 18};
    case DType::kQ4_1: return {"q4_1", 32, 20};
    case DType::kQ5_0: return {"q5_0", 32, 22};
    case DType::kQ5_1: return {"q5_1", 32, 24};
    case DType::kQ8_0: return {"q8_0", 32, 34};
    case DType::kQ2_K: return {"q2_k", 256, 84};
    case DType::kQ3_K: return {"q3_k", 256, 110};
    case DType::kQ4_K: return {"q4_k", 256, 144};
    case DType::kQ5_K: return {"q5_k", 256, 176};
    case DType::kQ6_K: return {"q6_k", 256, 210};
    case DType::kIQ4_NL: return {"iq4_nl", 32, 18};
    case DType::kIQ4_XS: return {"iq4_xs", 256, 136};
    case DType::kIQ1_S: return {"iq1_s", 256, 50};
    case DType::kIQ1_M: return {"iq1_m", 256, 56};
    case DType::kIQ2_XXS: return {"iq2_xxs", 256, 66};
    case DType::kIQ2_XS: return {"iq2_xs", 256, 74};
    case DType::kIQ2_S: return {"iq2_s", 256, 82};
    case DType::kIQ3_XXS: return {"iq3_xxs", 256, 98};
    case DType::kIQ3_S: return {"iq3_s", 256, 110};
    case DType::kTQ1_0: return {"tq1_0", 256, 54};
    case DType::kTQ2_0: return {"tq2_0", 256, 66};
    case DType::kMXFP4: return {"mxfp4", 32, 17};
  }
  return {"unknown", 1, 1};
}

constexpr absl::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }

// Elements that share scales, packed into blocks of bytes.
constexpr bool dtype_is_blocked(DType dtype) { return dtype_info(dtype).block > 1; }

// Bytes of `elements` consecutive elements; `elements` is a multiple of the block.
constexpr int64_t dtype_bytes(DType dtype, int64_t elements) {
  return elements / dtype_info(dtype).block * dtype_info(dtype).bytes;
}

}  // namespace ponder
