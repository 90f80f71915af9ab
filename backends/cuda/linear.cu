// Products with weights of every type in float32, and rows of embedding tables: the path that is
// always right, and the one of Precision::kF32. Each output is one warp's, its sum in one order.

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/product.cuh"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRowTile = 4;  // rows of x that share one reading of the weights

// Lane l sums the terms k = l, l + 32, ... in ascending order, then the lanes are added as a tree:
// nothing that depends on how many rows there are.
template <typename Type>
__global__ void linear(Weights w, Rows x, Places places, const float* bias, Rows out,
                       int64_t tiles) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
  for (int64_t i = warp; i < w.rows * tiles; i += warps) {
    const int64_t n = i / tiles;
    const Span span = span_of(places, i % tiles, kRowTile);
    const Matrix m{w.data + span.expert * static_cast<int64_t>(w.bytes),
                   w.scales != nullptr ? w.scales + span.expert * w.scale_count : nullptr, w.dtype,
                   w.rows, w.cols};
    for (int first = 0; first < span.count; first += kRowTile) {
      const float* rows[kRowTile];
      for (int r = 0; r < kRowTile; ++r) {
        const int64_t place = span.first + (first + r < span.count ? first + r : first);
        rows[r] = x.data + x_row(places, place) * x.row;
      }
      float sums[kRowTile] = {};
      for (int64_t k = lane; k < w.cols; k += 32) {
        const float v = Stored<Type>::at(m, n, k);
        for (int r = 0; r < kRowTile; ++r) sums[r] = fmaf(rows[r][k], v, sums[r]);
      }
      for (int r = 0; r < kRowTile; ++r) {
        const float sum = warp_sum(sums[r]);
        if (lane == 0 && first + r < span.count) {
          out.data[(span.first + first + r) * out.row + n] = bias != nullptr ? sum + bias[n] : sum;
        }
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

void launch_product_floats(Stream s, const Weights& w, Rows x, const Places& places,
                           const float* bias, Rows out) {
  const int64_t tiles = tiles_of(places, kRowTile);
  with_type(w.dtype, [&]<typename Type>() {
    launch(s, blocks_for(w.rows * tiles, kThreads / 32), kThreads, linear<Type>, w, x, places, bias,
           out, tiles);
  });
}

Form form_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return Form::kFloats;
    case DType::kBF16:
      return Form::kBF16;
    case DType::kF16:
      return Form::kF16;
    case DType::kF8_E4M3:
      return Form::kF8;
    default:
      // As the CPU backend rounds for them: to the scales of the stored blocks.
      return dtype_info(dtype).block == kBlock ? Form::kBytes32 : Form::kBytes256;
  }
}

void launch_product(Stream s, const Weights& w, Rows x, const void* formed, const Places& places,
                    const float* bias, Rows out) {
  if (places.rows == 0 || w.rows == 0) return;
  if (w.form == Form::kFloats) return launch_product_floats(s, w, x, places, bias, out);
  const bool wgmma = w.form == Form::kF8Codes && f8_operands(s) == F8Operands::kSharedMemory;
  const auto run = is_bytes(w.form) ? launch_product_bytes
                   : wgmma          ? launch_product_wgmma
                                    : launch_product_mma;
  run(s, w, formed, places, bias, out);
}

}  // namespace ponder::cuda
