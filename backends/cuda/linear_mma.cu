// bf16 weights times bf16 activations on the matrix instructions, float32 sums. One order of sums
// for every number of rows (docs/decisions/0060-cuda-determinism.md): K in four quarters, each
// ascending in steps of 16 by mma.m16n8k16 with the weights as its left operand, then the four
// quarters added in ascending order.

#include "backends/cuda/launch.h"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;  // four warps, a quarter of K each
constexpr int kOutputs = 16;

__global__ void round_rows(Rows x, uint16_t* out, int64_t rows, int64_t cols, int64_t pitch) {
  const int64_t step = int64_t{gridDim.x} * 256;
  for (int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x; i < rows * pitch; i += step) {
    const int64_t t = i / pitch, k = i % pitch;
    out[i] = k < cols ? bf16_of(x.data[t * x.row + k]) : uint16_t{0};
  }
}

// A block: 16 outputs for 8 * kTiles rows. A lane loads eight neighbours of K at a time and feeds
// them to two instructions: which k meets which is the same on both sides, so it need not be the
// instruction's own order.
template <int kTiles>
__global__ void __launch_bounds__(kThreads)
    linear_mma(const uint16_t* w, const uint16_t* x, const float* bias, Rows out, int64_t rows,
               int64_t pitch, int64_t outputs) {
  __shared__ float partial[4][kOutputs][8 * kTiles + 1];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int group = lane / 4, pair = lane % 4;
  const int64_t first_output = int64_t{blockIdx.x} * kOutputs;
  const int64_t first_row = int64_t{blockIdx.y} * (8 * kTiles);
  const int64_t quarter = pitch / 4;
  const uint16_t* top = w + (first_output + group) * pitch + 8 * pair;
  const uint16_t* low = top + 8 * pitch;
  float sums[kTiles][4] = {};
  for (int64_t k = warp * quarter; k < (warp + 1) * quarter; k += 32) {
    const uint4 a = *reinterpret_cast<const uint4*>(top + k);
    const uint4 b = *reinterpret_cast<const uint4*>(low + k);
    const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
    PONDER_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t row = first_row + 8 * tile + group;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (row < rows) v = *reinterpret_cast<const uint4*>(x + row * pitch + k + 8 * pair);
      const uint32_t one[2] = {v.x, v.y}, two[2] = {v.z, v.w};
      mma_bf16(sums[tile], first, one);
      mma_bf16(sums[tile], second, two);
    }
  }
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = 8 * tile + 2 * pair;
    partial[warp][group][column] = sums[tile][0];
    partial[warp][group][column + 1] = sums[tile][1];
    partial[warp][group + 8][column] = sums[tile][2];
    partial[warp][group + 8][column + 1] = sums[tile][3];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kOutputs * 8 * kTiles; i += kThreads) {
    const int o = i % kOutputs, r = i / kOutputs;
    const int64_t n = first_output + o, row = first_row + r;
    if (n >= outputs || row >= rows) continue;
    float sum = partial[0][o][r] + partial[1][o][r] + partial[2][o][r] + partial[3][o][r];
    if (bias != nullptr) sum += bias[n];
    out.data[row * out.row + n] = sum;
  }
}

template <int kTiles>
void launch_tiles(Stream s, const uint16_t* w, const uint16_t* x, const float* bias, Rows out,
                  int64_t rows, int64_t pitch, int64_t outputs) {
  // A grid's second dimension ends at 65,535: more rows go in several launches.
  constexpr int64_t kMost = int64_t{65535} * 8 * kTiles;
  for (int64_t first = 0; first < rows; first += kMost) {
    const int64_t now = rows - first < kMost ? rows - first : kMost;
    const dim3 grid(static_cast<unsigned>(mma_rows(outputs) / kOutputs),
                    static_cast<unsigned>((now + 8 * kTiles - 1) / (8 * kTiles)));
    Rows part = out;
    part.data += first * out.row;
    launch(s, grid, kThreads, linear_mma<kTiles>, w, x + first * pitch, bias, part, now, pitch,
           outputs);
  }
}

}  // namespace

void launch_round_rows(Stream s, Rows x, uint16_t* out, int64_t rows, int64_t cols) {
  if (rows == 0) return;
  const int64_t pitch = mma_pitch(cols);
  launch(s, blocks_for(rows * pitch, 256), 256, round_rows, x, out, rows, cols, pitch);
}

void launch_linear_mma(Stream s, const uint16_t* w, const uint16_t* x, const float* bias, Rows out,
                       int64_t rows, int64_t cols, int64_t outputs) {
  if (rows * outputs == 0) return;
  const auto run = rows <= 8 ? launch_tiles<1> : rows <= 32 ? launch_tiles<4> : launch_tiles<8>;
  run(s, w, x, bias, out, rows, mma_pitch(cols), outputs);
}

}  // namespace ponder::cuda
