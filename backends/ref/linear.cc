#include <algorithm>

#include "backends/ref/ops.h"

namespace ponder::ref {
// out = x w^T + bias
Status linear(const LinearParams& p, Allocator* allocator, ThreadPool* pool) {
  const auto* weight = static_cast<const RefWeight*>(p.w);
  const int64_t rows = p.x.dim[0];
  const int64_t cols = weight->cols;
  const auto chunks =
      static_cast<uint32_t>(std::min<int64_t>(weight->rows, pool->concurrency() * 4));
  // One weight row at a time as floats.
  PONDER_ASSIGN_OR_RETURN(
      Buffer scratch, Buffer::create(allocator, sizeof(float) * chunks * static_cast<size_t>(cols),
                                     "one weight row per thread"));
  pool->parallel_for(chunks, [&](uint32_t chunk) {
    float* w = scratch.as<float>() + chunk * cols;
    const int64_t end = weight->rows * (chunk + 1) / chunks;
    for (int64_t n = weight->rows * chunk / chunks; n < end; ++n) {
      int64_t row = n;
      const WeightData* part = weight->parts.data();
      for (; row >= part->shape[0]; ++part) row -= part->shape[0];
      widen_rows(*part, row, row + 1, w);
      const double bias = p.bias.rank > 0 ? p.bias.f32()[n] : 0.0;
      for (int64_t t = 0; t < rows; ++t) {
        p.out.f32()[t * p.out.stride[0] + n] =
            static_cast<float>(dot(p.x.f32() + t * p.x.stride[0], w, cols) + bias);
      }
    }
  });
  return OkStatus();
}

}  // namespace ponder::ref
