#include "backends/ref/ops.h"

namespace ponder::ref {

void add(const AddParams& p) {
  for (int64_t t = 0; t < p.out.dim[0]; ++t) {
    const float* a = p.a.f32() + t * p.a.stride[0];
    const float* b = p.b.f32() + t * p.b.stride[0];
    float* out = p.out.f32() + t * p.out.stride[0];
    for (int64_t d = 0; d < p.out.dim[1]; ++d) out[d] = a[d] + b[d];
  }
}

}  // namespace ponder::ref
