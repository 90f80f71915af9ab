#include "backends/ref/ops.h"

namespace ponder::ref {

void embed(const EmbedParams& p) {
  const WeightData& table = static_cast<const RefWeight*>(p.table)->parts[0];
  const int64_t width = p.table->cols;
  for (size_t t = 0; t < p.tokens.size(); ++t) {
    float* out = p.out.f32() + static_cast<int64_t>(t) * p.out.stride[0];
    const int64_t row = p.tokens[t] * width;
    for (int64_t d = 0; d < width; ++d) out[d] = load_element(table.data, table.dtype, row + d);
  }
}

}  // namespace ponder::ref
