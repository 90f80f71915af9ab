#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {

// out = gate / (1 + exp(-gate)) * up
void swiglu(const SwigluParams& p) {
  const int64_t width = p.out.dim[1];
  for (int64_t t = 0; t < p.out.dim[0]; ++t) {
    const float* gate = p.gate_up.f32() + t * p.gate_up.stride[0];
    const float* up = gate + width;
    float* out = p.out.f32() + t * p.out.stride[0];
    for (int64_t f = 0; f < width; ++f) {
      const double g = gate[f];
      out[f] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[f]);
    }
  }
}

}  // namespace ponder::ref
