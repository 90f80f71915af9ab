#include "backends/ref/ops.h"

namespace ponder::ref {

void embed(const EmbedParams& p) {
  const WeightData& table = static_cast<const RefWeight*>(p.table)->parts[0];
  for (size_t t = 0; t < p.tokens.size(); ++t) {
    float* out = p.out.f32() + static_cast<int64_t>(t) * p.out.stride[0];
    widen_rows(table, p.tokens[t], p.tokens[t] + 1, out);
  }
}

}  // namespace ponder::ref
