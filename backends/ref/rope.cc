#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {

void rope_table(const RopeTableParams& p) {
  const size_t half = p.inv_freq.size();
  for (size_t t = 0; t < p.positions.size(); ++t) {
    float* cosines = p.out.f32() + static_cast<int64_t>(t) * p.out.stride[0];
    float* sines = cosines + half;
    for (size_t i = 0; i < half; ++i) {
      // The product is rounded to float32 first, as the reference implementations do.
      const double angle = static_cast<float>(p.positions[t]) * p.inv_freq[i];
      cosines[i] = static_cast<float>(std::cos(angle)) * p.magnitude;
      sines[i] = static_cast<float>(std::sin(angle)) * p.magnitude;
    }
  }
}

// Turns the pairs of each head: (a, b) -> (a cos - b sin, b cos + a sin).
void rope(const RopeParams& p) {
  const int64_t half = p.table.dim[1] / 2;
  for (int64_t t = 0; t < p.x.dim[0]; ++t) {
    const float* cosines = p.table.f32() + t * p.table.stride[0];
    const float* sines = cosines + half;
    for (int64_t h = 0; h < p.x.dim[1]; ++h) {
      float* x = p.x.f32() + t * p.x.stride[0] + h * p.x.stride[1];
      for (int64_t i = 0; i < half; ++i) {
        float& first = x[p.interleaved ? 2 * i : i];
        float& second = x[p.interleaved ? 2 * i + 1 : i + half];
        const double a = first;
        const double b = second;
        first = static_cast<float>(a * cosines[i] - b * sines[i]);
        second = static_cast<float>(b * cosines[i] + a * sines[i]);
      }
    }
  }
}

}  // namespace ponder::ref
