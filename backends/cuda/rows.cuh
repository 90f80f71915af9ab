// What kernels of several files do to a row: the sum of an RMS norm, the turn of a pair.
#pragma once

#include "backends/cuda/launch.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {

// What each of `in`'s numbers is multiplied by, before its weight. A whole warp, the same in all
// lanes; the order of the sum depends on the width alone.
__device__ inline float norm_factor(const float* in, int64_t width, float eps) {
  float sum = 0;
  for (int64_t e = threadIdx.x % 32; e < width; e += 32) sum = fmaf(in[e], in[e], sum);
  return 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(width) + eps);
}

// Pair i of a head's vector after its turn: elements `one` and `two`.
struct TurnedPair {
  int one, two;
  float first, second;
};
__device__ inline TurnedPair turned_pair(const Turn& turn, const float* vector, const float* table,
                                         int i) {
  const int one = turn.interleaved ? 2 * i : i, two = turn.interleaved ? one + 1 : i + turn.half;
  const float c = table[i], s = table[turn.half + i], a = vector[one], b = vector[two];
  return {one, two, a * c - b * s, b * c + a * s};
}

}  // namespace ponder::cuda
