// What both kernels for block-quantised weights share: the order of sums (linear_quant.cu).
#pragma once

#include "backends/cuda/product.cuh"
#include "backends/cuda/quants.cuh"

namespace ponder::cuda {

inline constexpr int kSlices = 16;  // of K

struct QuantArgs {
  Weights w;
  Places places;
  const ByteBlock* x;  // [x_rows, 8 * records]
  int records;         // of a row
  int panel_bytes;     // of a super-block of 32 rows
  const float* bias;
  Rows out;
};

// In super-blocks.
__device__ inline int slice_begin(int slice, int records) { return slice * records / kSlices; }

template <bool kMinima>
__device__ inline float add_scaled(float sum, float scale, float min, float x_sum, float x_scale,
                                   float before) {
  float t = sum * scale;
  if constexpr (kMinima) t = fmaf(-min, x_sum, t);
  return fmaf(t, x_scale, before);
}

__device__ inline void store_quant(const QuantArgs& g, int64_t place, int64_t n, float sum) {
  g.out.data[place * g.out.row + n] = g.bias != nullptr ? sum + g.bias[n] : sum;
}

// linear_quant_tiles.cu, for many places; few are launch_product_bytes' own.
void launch_quant_tiles(Stream s, const QuantArgs& g);

}  // namespace ponder::cuda
