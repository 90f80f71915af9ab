// Products with weights of every type in float32, and rows of embedding tables: the path that is
// always right, and the one of Precision::kF32. Each output is one warp's, its sum in one order.

#include "backends/cuda/launch.h"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRowTile = 4;  // rows of x that share one reading of the weights

// Lane l sums the terms k = l, l + 32, ... in ascending order, then the lanes are added as a tree:
// nothing that depends on how many rows there are.
template <typename Type>
__global__ void linear(Matrix w, Rows x, const float* bias, Rows out, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
  const int64_t tiles = (rows + kRowTile - 1) / kRowTile;
  for (int64_t i = warp; i < w.rows * tiles; i += warps) {
    const int64_t n = i / tiles, first = i % tiles * kRowTile;
    float sums[kRowTile] = {};
    for (int64_t k = lane; k < w.cols; k += 32) {
      const float v = Stored<Type>::at(w, n, k);
      for (int r = 0; r < kRowTile; ++r) {
        if (first + r < rows) sums[r] = fmaf(x.data[(first + r) * x.row + k], v, sums[r]);
      }
    }
    for (int r = 0; r < kRowTile; ++r) {
      const float sum = warp_sum(sums[r]);
      if (lane == 0 && first + r < rows) {
        out.data[(first + r) * out.row + n] = bias != nullptr ? sum + bias[n] : sum;
      }
    }
  }
}

template <typename Type>
__global__ void widen_rows(Matrix m, const int32_t* indices, Rows out, int64_t rows) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * m.cols; i += step) {
    const int64_t t = i / m.cols, k = i % m.cols;
    out.data[t * out.row + k] = Stored<Type>::at(m, indices[t], k);
  }
}

// f.operator()<Type>() for the type's tag or block; nothing for what is no weight.
template <typename F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f.template operator()<F32>();
    case DType::kF16:
      return f.template operator()<F16>();
    case DType::kBF16:
      return f.template operator()<BF16>();
    case DType::kF8_E4M3:
      return f.template operator()<F8>();
    case DType::kQ4_0:
      return f.template operator()<BlockQ4_0>();
    case DType::kQ4_1:
      return f.template operator()<BlockQ4_1>();
    case DType::kQ5_0:
      return f.template operator()<BlockQ5_0>();
    case DType::kQ5_1:
      return f.template operator()<BlockQ5_1>();
    case DType::kQ8_0:
      return f.template operator()<BlockQ8_0>();
    case DType::kQ2_K:
      return f.template operator()<BlockQ2_K>();
    case DType::kQ3_K:
      return f.template operator()<BlockQ3_K>();
    case DType::kQ4_K:
      return f.template operator()<BlockQ4_K>();
    case DType::kQ5_K:
      return f.template operator()<BlockQ5_K>();
    case DType::kQ6_K:
      return f.template operator()<BlockQ6_K>();
    case DType::kIQ4_NL:
      return f.template operator()<BlockIQ4_NL>();
    case DType::kIQ4_XS:
      return f.template operator()<BlockIQ4_XS>();
    case DType::kIQ1_S:
      return f.template operator()<BlockIQ1_S>();
    case DType::kIQ1_M:
      return f.template operator()<BlockIQ1_M>();
    case DType::kIQ2_XXS:
      return f.template operator()<BlockIQ2_XXS>();
    case DType::kIQ2_XS:
      return f.template operator()<BlockIQ2_XS>();
    case DType::kIQ2_S:
      return f.template operator()<BlockIQ2_S>();
    case DType::kIQ3_XXS:
      return f.template operator()<BlockIQ3_XXS>();
    case DType::kIQ3_S:
      return f.template operator()<BlockIQ3_S>();
    case DType::kTQ1_0:
      return f.template operator()<BlockTQ1_0>();
    case DType::kTQ2_0:
      return f.template operator()<BlockTQ2_0>();
    case DType::kMXFP4:
      return f.template operator()<BlockMXFP4>();
    case DType::kI32:
      return;
  }
}

}  // namespace

void launch_widen_rows(Stream s, const Matrix& matrix, const int32_t* indices, Rows out,
                       int64_t rows) {
  if (rows * matrix.cols == 0) return;
  with_type(matrix.dtype, [&]<typename Type>() {
    launch(s, blocks_for(rows * matrix.cols, kThreads), kThreads, widen_rows<Type>, matrix, indices,
           out, rows);
  });
}

void launch_linear(Stream s, const Matrix& w, Rows x, const float* bias, Rows out, int64_t rows) {
  if (rows * w.rows == 0) return;
  const int64_t work = w.rows * ((rows + kRowTile - 1) / kRowTile);
  with_type(w.dtype, [&]<typename Type>() {
    launch(s, blocks_for(work, kThreads / 32), kThreads, linear<Type>, w, x, bias, out, rows);
  });
}

}  // namespace ponder::cuda
