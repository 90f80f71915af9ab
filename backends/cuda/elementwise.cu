// Norms, rotations, products and sums of rows: memory-bound, one pass each.

#include "backends/cuda/launch.h"
#include "backends/cuda/rows.cuh"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 256;

// One warp per vector, at any width.
__global__ void rms_norm(Rows x, const float* weight, float eps, Rows out, int64_t rows,
                         int64_t heads, int64_t width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; i < rows * heads;
       i += warps) {
    const float* in = x.data + i / heads * x.row + i % heads * x.head;
    float* to = out.data + i / heads * out.row + i % heads * out.head;
    const float factor = norm_factor(in, width, eps);
    for (int64_t e = lane; e < width; e += 32) to[e] = in[e] * factor * weight[e];
  }
}

__global__ void rope_table(const float* inv_freq, const int32_t* positions, float magnitude,
                           Rows out, int64_t rows, int64_t half) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * half; i += step) {
    const int64_t t = i / half, e = i % half;
    // The product is rounded to float32; its cosine is taken in double, right for any position.
    const double angle = static_cast<double>(static_cast<float>(positions[t]) * inv_freq[e]);
    out.data[t * out.row + e] = static_cast<float>(cos(angle)) * magnitude;
    out.data[t * out.row + half + e] = static_cast<float>(sin(angle)) * magnitude;
  }
}

__global__ void rope(Turn turn, int64_t rows) {
  const int64_t step = int64_t{gridDim.x} * kThreads, half = turn.half, heads = turn.heads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * heads * half;
       i += step) {
    const int64_t t = i / half / heads;
    float* vector = turn.x.data + t * turn.x.row + i / half % heads * turn.x.head;
    const TurnedPair p =
        turned_pair(turn, vector, turn.table.data + t * turn.table.row, static_cast<int>(i % half));
    vector[p.one] = p.first;
    vector[p.two] = p.second;
  }
}

__global__ void swiglu(Rows gate_up, Rows out, int64_t rows, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * width; i += step) {
    const float* in = gate_up.data + i / width * gate_up.row + i % width;
    out.data[i / width * out.row + i % width] = in[0] / (1.0f + expf(-in[0])) * in[width];
  }
}

__global__ void add(Rows a, Rows b, Rows out, int64_t rows, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * width; i += step) {
    const int64_t t = i / width, e = i % width;
    out.data[t * out.row + e] = a.data[t * a.row + e] + b.data[t * b.row + e];
  }
}

__global__ void gather_rows(Rows x, const int32_t* indices, Rows out, int64_t rows, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * width; i += step) {
    const int64_t t = i / width, e = i % width;
    out.data[t * out.row + e] = x.data[indices[t] * x.row + e];
  }
}

}  // namespace

void launch_rms_norm(Stream s, Rows x, const float* weight, float eps, Rows out, int64_t rows,
                     int64_t heads, int64_t width) {
  if (rows * heads == 0) return;
  launch(s, blocks_for(rows * heads, kThreads / 32), kThreads, rms_norm, x, weight, eps, out, rows,
         heads, width);
}
void launch_rope_table(Stream s, const float* inv_freq, const int32_t* positions, float magnitude,
                       Rows out, int64_t rows, int64_t half) {
  if (rows * half == 0) return;
  launch(s, blocks_for(rows * half, kThreads), kThreads, rope_table, inv_freq, positions, magnitude,
         out, rows, half);
}
void launch_rope(Stream s, const Turn& turn, int64_t rows) {
  const int64_t work = rows * turn.heads * turn.half;
  if (work == 0) return;
  launch(s, blocks_for(work, kThreads), kThreads, rope, turn, rows);
}
void launch_swiglu(Stream s, Rows gate_up, Rows out, int64_t rows, int64_t width) {
  if (rows * width == 0) return;
  launch(s, blocks_for(rows * width, kThreads), kThreads, swiglu, gate_up, out, rows, width);
}
void launch_add(Stream s, Rows a, Rows b, Rows out, int64_t rows, int64_t width) {
  if (rows * width == 0) return;
  launch(s, blocks_for(rows * width, kThreads), kThreads, add, a, b, out, rows, width);
}
void launch_gather_rows(Stream s, Rows x, const int32_t* indices, Rows out, int64_t rows,
                        int64_t width) {
  if (rows * width == 0) return;
  launch(s, blocks_for(rows * width, kThreads), kThreads, gather_rows, x, indices, out, rows,
         width);
}

}  // namespace ponder::cuda
