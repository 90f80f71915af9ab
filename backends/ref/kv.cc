#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/ref/ops.h"
#include "lib/tensor/blocks.h"

namespace ponder::ref {
namespace {

// binary16 ends at 65504: beyond it a cached value is held there, not made infinite.
uint16_t half_held(float value) { return f32_to_f16(std::clamp(value, -65504.0f, 65504.0f)); }

// Of one type of whole elements.
void store(std::byte* page, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF16) value = std::clamp(value, -65504.0f, 65504.0f);
  store_element(page, dtype, index, value);
}

// `n` elements, up to 32, as one block: the largest magnitude becomes 127.
BlockQ8_0 round_block(const float* x, int64_t n) {
  BlockQ8_0 block{};
  float highest = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      block.d = 0x7e00;  // a NaN is what all of them become
      return block;
    }
    highest = std::max(highest, std::abs(x[i]));
  }
  block.d = half_held(highest / 127.0f);
  const float d = f16_to_f32(block.d);
  if (d == 0) return block;
  for (int64_t i = 0; i < n; ++i) {
    block.qs[i] = static_cast<int8_t>(std::nearbyint(std::clamp(x[i] / d, -127.0f, 127.0f)));
  }
  return block;
}

void store_row(std::byte* rows, DType dtype, int64_t row, const float* x, int64_t dim) {
  if (dtype != DType::kQ8_0) {
    for (int64_t e = 0; e < dim; ++e) store(rows, dtype, row * dim + e, x[e]);
    return;
  }
  std::byte* at = rows + row * cache_row_bytes(dtype, dim);
  for (int64_t e = 0; e < dim; e += kBlock, at += sizeof(BlockQ8_0)) {
    const BlockQ8_0 block = round_block(x + e, std::min<int64_t>(kBlock, dim - e));
    std::memcpy(at, &block, sizeof(block));
  }
}

}  // namespace

int64_t cache_row_bytes(DType dtype, int64_t dim) {
  const int64_t block = dtype_info(dtype).block;
  return dtype_bytes(dtype, (dim + block - 1) / block * block);
}

float load_cached(const std::byte* rows, DType dtype, int64_t row, int64_t dim, int64_t e) {
  if (dtype != DType::kQ8_0) return load_element(rows, dtype, row * dim + e);
  BlockQ8_0 block;
  std::memcpy(&block, rows + row * cache_row_bytes(dtype, dim) + e / kBlock * sizeof(block),
              sizeof(block));
  return f16_to_f32(block.d) * static_cast<float>(block.qs[e % kBlock]);
}

StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) {
  const bool latents = shape.v_dim == 0;
  if (wanted != DType::kF32 && wanted != DType::kF16 && wanted != DType::kBF16 &&
      (wanted != DType::kQ8_0 || latents)) {
    return unsupported_error("a KV cache of ", latents ? "latents in " : "", dtype_name(wanted),
                             " is not supported on this device; use f32, f16",
                             latents ? " or bf16" : ", bf16 or q8_0");
  }
  KvLayout layout;
  layout.dtype = wanted;
  const int64_t bytes =
      shape.heads * layout.page_tokens *
      (cache_row_bytes(wanted, shape.k_dim) + cache_row_bytes(wanted, shape.v_dim));
  layout.page_bytes = (static_cast<uint64_t>(bytes) + 63) / 64 * 64;
  return layout;
}

void kv_write(const KvWriteParams& p) {
  const KvLayout& layout = p.cache.layout;
  const KvShape& shape = p.cache.shape;
  for (const SequenceSlice& slice : p.batch->sequences) {
    for (int32_t r = 0; r < slice.rows; ++r) {
      const int32_t position = slice.first_position + r;
      const int64_t slot = position % layout.page_tokens;
      const int64_t row = slice.first_row + r;
      std::byte* page =
          p.cache.base + slice.pages[position / layout.page_tokens] * layout.page_bytes;
      std::byte* values =
          page + shape.heads * layout.page_tokens * cache_row_bytes(layout.dtype, shape.k_dim);
      for (int64_t g = 0; g < shape.heads; ++g) {
        const float* k = p.k.f32() + row * p.k.stride[0] + g * p.k.stride[1];
        const float* v = p.v.f32() + row * p.v.stride[0] + g * p.v.stride[1];
        const int64_t at = g * layout.page_tokens + slot;
        store_row(page, layout.dtype, at, k, shape.k_dim);
        store_row(values, layout.dtype, at, v, shape.v_dim);
      }
    }
  }
}

void mla_write(const MlaWriteParams& p) {
  const KvLayout& layout = p.cache.layout;
  const int64_t rank = p.latent.dim[1], rotary = p.k_rope.dim[1];
  for (const SequenceSlice& slice : p.batch->sequences) {
    for (int32_t r = 0; r < slice.rows; ++r) {
      const int32_t position = slice.first_position + r;
      const int64_t at = position % layout.page_tokens * (rank + rotary);
      const float* latent = p.latent.f32() + (slice.first_row + r) * p.latent.stride[0];
      const float* k_rope = p.k_rope.f32() + (slice.first_row + r) * p.k_rope.stride[0];
      std::byte* page =
          p.cache.base + slice.pages[position / layout.page_tokens] * layout.page_bytes;
      for (int64_t e = 0; e < rank; ++e) store(page, layout.dtype, at + e, latent[e]);
      for (int64_t e = 0; e < rotary; ++e) store(page, layout.dtype, at + rank + e, k_rope[e]);
    }
  }
}

}  // namespace ponder::ref
