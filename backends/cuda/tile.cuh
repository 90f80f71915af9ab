// The shape that the kernels for many rows share: a block computes 128 outputs for kRows places, a
// warp 16 * kA of them for 8 * kB, as mma.m16n8 distributes its result.
#pragma once

#include "backends/cuda/product.cuh"

namespace ponder::cuda {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileOutputs = 128;

template <int kRows>
struct ProductTile {
  static constexpr int kB = 4;
  static constexpr int kRowWarps = kRows / (8 * kB);
  static constexpr int kA = kTileOutputs / 16 * kRowWarps / (kTileThreads / 32);
  using Sums = float[kA][kB][4];

  int group, quad;  // of the lane: its rows and its columns
  int output, row;  // of the warp: its first ones in the block

  __device__ ProductTile() {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    group = lane / 4;
    quad = lane % 4;
    output = warp / kRowWarps * (16 * kA);
    row = warp % kRowWarps * (8 * kB);
  }

  // f(a, b, i) for all of a thread's sums.
  template <typename F>
  __device__ static void each(const F& f) {
    PONDER_UNROLL
    for (int a = 0; a < kA; ++a) {
      PONDER_UNROLL
      for (int b = 0; b < kB; ++b) {
        PONDER_UNROLL
        for (int i = 0; i < 4; ++i) f(a, b, i);
      }
    }
  }
  // f(row of the block, output of the matrix, sum) for those that are there.
  template <typename F>
  __device__ void store(const Sums& sums, int count, int64_t outputs, const F& f) const {
    each([&](int a, int b, int i) {
      const int at = row + 8 * b + 2 * quad + i % 2;
      const int64_t n = int64_t{blockIdx.x} * kTileOutputs + output + 16 * a + group + 8 * (i / 2);
      if (at < count && n < outputs) f(at, n, sums[a][b][i]);
    });
  }
};

// f(i) for i in [0, kCount), dealt to the threads of a block.
template <int kCount, int kThreads = kTileThreads, typename F>
__device__ inline void deal_pieces(const F& f) {
  PONDER_UNROLL
  for (int i = 0; i < (kCount + kThreads - 1) / kThreads; ++i) {
    const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
    if (kCount % kThreads != 0 && piece >= kCount) continue;
    f(piece);
  }
}

// The blocks of a product in tiles of kRows places.
template <int kRows>
dim3 tile_grid(const Weights& w, const Places& places) {
  return dim3(static_cast<unsigned>((w.rows + kTileOutputs - 1) / kTileOutputs),
              static_cast<unsigned>(tiles_of(places, kRows)));
}

// Whether tiles of 32 places are taken instead of 128: too few of those for all of a device.
inline bool narrow_tiles(const Places& p) {
  return p.tiles != nullptr ? p.tile_rows <= 32 : p.rows <= 256;
}

}  // namespace ponder::cuda
