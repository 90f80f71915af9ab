#include <algorithm>

#include "backends/ref/ops.h"

namespace ponder::ref {

void gather_rows(const GatherRowsParams& p) {
  for (size_t r = 0; r < p.rows.size(); ++r) {
    const float* from = p.x.f32() + p.rows[r] * p.x.stride[0];
    std::copy(from, from + p.x.dim[1], p.out.f32() + static_cast<int64_t>(r) * p.out.stride[0]);
  }
}

}  // namespace ponder::ref
