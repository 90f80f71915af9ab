// Elements of the cache of keys, values and latents: how they are stored and read. For kernels.
#pragma once

#include "backends/cuda/launch_attention.h"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {

// binary16 ends at 65504: beyond it a value is held there, not made infinite. A NaN stays one.
__device__ inline float held(float v) {
  return v < -65504.0f ? -65504.0f : v > 65504.0f ? 65504.0f : v;
}

// Of one type of whole elements.
template <DType kType>
__device__ float load_element(const uint8_t* page, int64_t index) {
  if constexpr (kType == DType::kF32) {
    return reinterpret_cast<const float*>(page)[index];
  } else if constexpr (kType == DType::kF16) {
    return f16_value(reinterpret_cast<const uint16_t*>(page)[index]);
  } else {
    static_assert(kType == DType::kBF16);
    return bf16_value(reinterpret_cast<const uint16_t*>(page)[index]);
  }
}
template <DType kType>
__device__ void store_element(uint8_t* page, int64_t index, float v) {
  if constexpr (kType == DType::kF32) {
    reinterpret_cast<float*>(page)[index] = v;
  } else if constexpr (kType == DType::kF16) {
    reinterpret_cast<uint16_t*>(page)[index] = f16_of(held(v));
  } else if constexpr (kType == DType::kF8_E4M3) {
    page[index] = f8_of(v);
  } else {
    static_assert(kType == DType::kBF16);
    reinterpret_cast<uint16_t*>(page)[index] = bf16_of(v);
  }
}

// As store_element, for values that are summed by the matrix instructions and for latents: infinity
// becomes NaN, so that there is one thing only that is no number (attention_mma.cu).
template <DType kType>
__device__ void store_value(uint8_t* page, int64_t index, float v) {
  store_element<kType>(page, index, v);
  if constexpr (kType == DType::kBF16) {  // the other 16-bit and 8-bit types hold no infinity
    uint16_t& stored = reinterpret_cast<uint16_t*>(page)[index];
    if ((stored & 0x7f80u) == 0x7f80u) stored |= 0x40u;
  }
}

// Bytes of one head's rows in a page.
__device__ inline int64_t head_bytes(DType dtype, int32_t page_tokens, int32_t row) {
  switch (dtype) {
    case DType::kF32:
      return int64_t{4} * page_tokens * row;
    case DType::kF8_E4M3:
      return int64_t{page_tokens} * row;
    case DType::kQ8_0:
      return int64_t{page_tokens} * (row + row / 16);
    default:
      return int64_t{2} * page_tokens * row;
  }
}

// What the matrix instructions are fed: bf16 for a cache of bf16, else binary16, which holds
// f8_e4m3 exactly and rounds q8_0 ten times finer than its own steps.
template <DType kType>
__device__ uint32_t pack_pair(float low, float high) {
  if constexpr (kType == DType::kBF16) {
    return pack_bf16x2(low, high);
  } else {
    return pack_f16x2(held(low), held(high));
  }
}
// Of what the cache holds as these operands; infinity is not among it (store_value).
template <DType kType>
__device__ bool is_nan_operand(uint16_t v) {
  constexpr uint16_t kExponent = kType == DType::kBF16 ? 0x7f80u : 0x7c00u;
  return (v & kExponent) == kExponent;
}
template <DType kType>
__device__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kType == DType::kBF16) {
    mma_bf16(d, a, b);
  } else {
    mma_f16(d, a, b);
  }
}

// Four codes of f8_e4m3 as four halves: moved to a half's place they are 2^-8 of the value.
__device__ inline uint2 widen_f8(uint32_t codes) {
  const uint32_t low = (codes & 0xffu) | (codes & 0xff00u) << 8;
  const uint32_t high = (codes >> 16 & 0xffu) | (codes >> 16 & 0xff00u) << 8;
  const auto two = [](uint32_t v) {
    uint32_t halves =
        mul_f16x2((v & 0x00800080u) << 8 | (v & 0x007f007fu) << 7, 0x5c005c00u /* 256 */);
    if ((v & 0x7fu) == 0x7fu) halves |= 0x7fffu;  // NaN
    if ((v & 0x7f0000u) == 0x7f0000u) halves |= 0x7fff0000u;
    return halves;
  };
  return make_uint2(two(low), two(high));
}
// Four codes of q8_0 times their scale (twice in `scale`): 0x64 before a byte makes it 1024 more.
__device__ inline uint2 widen_q8(uint32_t codes, uint32_t scale) {
  const uint32_t u = codes ^ 0x80808080u;
  const uint32_t low = (u & 0xffu) | (u & 0xff00u) << 8;
  const uint32_t high = (u >> 16 & 0xffu) | (u >> 16 & 0xff00u) << 8;
  const auto two = [scale](uint32_t v) {
    return mul_f16x2(add_f16x2(v | 0x64006400u, 0xe480e480u /* -1152 */), scale);
  };
  return make_uint2(two(low), two(high));
}

}  // namespace ponder::cuda
