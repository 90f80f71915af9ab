// Which experts a row goes to, and with what weights: one warp per row, in double as the reference
// backend, so that near ties fall alike. A score that is not finite is left for the host to find.

#include "backends/cuda/launch_attention.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {
namespace {

constexpr int kLanes = 32;

// The index of the largest of values[0, n), of equals the lower; what is NaN was chosen before. All
// lanes get it. n is at least 1, and not all are NaN.
__device__ inline int best_of(const double* values, int n, double* best_values, int* best_indices) {
  const int lane = static_cast<int>(threadIdx.x);
  int best = -1;
  for (int i = lane; i < n; i += kLanes) {
    if (values[i] == values[i] && (best < 0 || values[i] > values[best])) best = i;
  }
  best_indices[lane] = best;
  best_values[lane] = best < 0 ? 0.0 : values[best];
  __syncwarp();
  best = -1;
  double most = 0;
  for (int i = 0; i < kLanes; ++i) {
    const int candidate = best_indices[i];
    if (candidate < 0) continue;
    const double v = best_values[i];
    if (best < 0 || v > most || (v == most && candidate < best)) {
      best = candidate;
      most = v;
    }
  }
  __syncwarp();
  return best;
}

__global__ void __launch_bounds__(kLanes)
    route(Rows logits, const float* bias, Router r, int32_t* ids, int64_t ids_row, Rows weights,
          RouteFault* fault) {
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t t = blockIdx.x;
  auto* scores = reinterpret_cast<double*>(dynamic_shared());
  double* biased = scores + r.experts;
  double* groups = biased + r.experts;
  double* best_values = groups + r.groups;
  auto* best_indices = reinterpret_cast<int*>(best_values + kLanes);
  int* chosen = best_indices + kLanes;

  const float* from = logits.data + t * logits.row;
  float highest = -INFINITY;
  for (int e = lane; e < r.experts; e += kLanes) {
    float logit = from[e];
    if (!(fabsf(logit) < INFINITY)) {
      *reinterpret_cast<uint4*>(fault) =
          make_uint4(1, static_cast<uint32_t>(t), static_cast<uint32_t>(e), __float_as_uint(logit));
      logit = 0;
    }
    scores[e] = static_cast<double>(logit);
    highest = fmaxf(highest, logit);
  }
  highest = warp_max(highest);
  for (int e = lane; e < r.experts; e += kLanes) {
    scores[e] =
        r.sigmoid ? 1.0 / (1.0 + exp(-scores[e])) : exp(scores[e] - static_cast<double>(highest));
  }
  __syncwarp();
  double total = 1;
  if (!r.sigmoid) {
    total = 0;
    for (int e = 0; e < r.experts; ++e) total += scores[e];  // in order; every lane for itself
    __syncwarp();
  }
  for (int e = lane; e < r.experts; e += kLanes) {
    if (!r.sigmoid) scores[e] /= total;
    biased[e] = scores[e] + (bias != nullptr ? static_cast<double>(bias[e]) : 0.0);
  }
  __syncwarp();

  if (r.groups > 1) {
    const int size = r.experts / r.groups;
    for (int g = lane; g < r.groups; g += kLanes) {
      double best = -INFINITY, second = -INFINITY;
      for (int i = 0; i < size; ++i) {
        const double v = biased[g * size + i];
        second = fmax(second, fmin(best, v));
        best = fmax(best, v);
      }
      groups[g] = r.group_by_top2 && size > 1 ? best + second : best;
    }
    __syncwarp();
    for (int k = 0; k < r.groups_kept; ++k) {
      const int g = best_of(groups, r.groups, best_values, best_indices);
      if (lane == 0) groups[g] = NAN;
      __syncwarp();
    }
    for (int e = lane; e < r.experts; e += kLanes) {
      if (groups[e / size] == groups[e / size]) biased[e] = -INFINITY;
    }
    __syncwarp();
  }
  for (int k = 0; k < r.top_k; ++k) {
    const int e = best_of(biased, r.experts, best_values, best_indices);
    if (lane == 0) {
      biased[e] = NAN;
      chosen[k] = e;
    }
    __syncwarp();
  }

  // A chosen expert's place is how many chosen ones have lower numbers.
  for (int k = lane; k < r.top_k; k += kLanes) {
    int place = 0;
    for (int i = 0; i < r.top_k; ++i) place += chosen[i] < chosen[k] ? 1 : 0;
    ids[t * ids_row + place] = chosen[k];
  }
  __syncwarp();
  double sum = 0;
  for (int k = 0; k < r.top_k; ++k) sum += scores[ids[t * ids_row + k]];
  const double factor = static_cast<double>(r.scale) / (r.normalize && sum > 0 ? sum : 1.0);
  for (int k = lane; k < r.top_k; k += kLanes) {
    weights.data[t * weights.row + k] = static_cast<float>(scores[ids[t * ids_row + k]] * factor);
  }
}

}  // namespace

void launch_route(Stream s, Rows logits, const float* bias, const Router& router, int32_t* ids,
                  int64_t ids_row, Rows weights, int64_t rows, RouteFault* fault) {
  if (rows == 0) return;
  const int64_t bytes = (int64_t{2} * router.experts + router.groups + kLanes) * 8 +
                        (int64_t{kLanes} + router.top_k) * 4;
  launch_shared(s, dim3(static_cast<unsigned>(rows)), kLanes, bytes, route, logits, bias, router,
                ids, ids_row, weights, fault);
}

}  // namespace ponder::cuda
