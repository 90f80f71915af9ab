#include "backends/ref/ops.h"

namespace ponder::ref {
namespace {

// binary16 ends at 65504: beyond it a cached value is held there, not made infinite.
void store(std::byte* page, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF16) {
    if (value < -65504.0f) value = -65504.0f;
    if (value > 65504.0f) value = 65504.0f;
  }
  store_element(page, dtype, index, value);
}

}  // namespace

StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) {
  if (wanted != DType::kF32 && wanted != DType::kF16 && wanted != DType::kBF16) {
    return unsupported_error("a KV cache of ", dtype_name(wanted),
                             " is not supported on this device; use f32, f16 or bf16");
  }
  KvLayout layout;
  layout.dtype = wanted;
  const int64_t elements = shape.heads * layout.page_tokens * (shape.k_dim + shape.v_dim);
  layout.page_bytes = (static_cast<uint64_t>(dtype_bytes(wanted, elements)) + 63) / 64 * 64;
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
      const int64_t values = shape.heads * layout.page_tokens * shape.k_dim;
      for (int64_t g = 0; g < shape.heads; ++g) {
        const float* k = p.k.f32() + row * p.k.stride[0] + g * p.k.stride[1];
        const float* v = p.v.f32() + row * p.v.stride[0] + g * p.v.stride[1];
        const int64_t at = g * layout.page_tokens + slot;
        for (int64_t e = 0; e < shape.k_dim; ++e) {
          store(page, layout.dtype, at * shape.k_dim + e, k[e]);
        }
        for (int64_t e = 0; e < shape.v_dim; ++e) {
          store(page, layout.dtype, values + at * shape.v_dim + e, v[e]);
        }
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
