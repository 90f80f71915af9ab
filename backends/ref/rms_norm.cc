#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {

// out = x / sqrt(mean(x^2) + eps) * weight
void rms_norm(const RmsNormParams& p) {
  const int64_t heads = p.x.rank == 3 ? p.x.dim[1] : 1;
  const int64_t width = p.x.dim[p.x.rank - 1];
  const float* weight = p.weight.f32();
  for (int64_t t = 0; t < p.x.dim[0]; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const float* x = p.x.f32() + t * p.x.stride[0] + (p.x.rank == 3 ? h * p.x.stride[1] : 0);
      float* out = p.out.f32() + t * p.out.stride[0] + (p.out.rank == 3 ? h * p.out.stride[1] : 0);
      double sum = 0;
      for (int64_t d = 0; d < width; ++d) sum += double{x[d]} * x[d];
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(width) + double{p.eps});
      for (int64_t d = 0; d < width; ++d) out[d] = static_cast<float>(x[d] * scale * weight[d]);
    }
  }
}

}  // namespace ponder::ref
