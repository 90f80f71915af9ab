// Mixtures of experts around their products: choices sorted by expert, results added up. The order
// within an expert is the rows' own and a row's results do not depend on it.

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt_linear.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;

struct Choices {
  const int32_t* ids;
  int64_t id_row;
  int64_t rows, top_k, experts;
};

// Lane's choice among those from `first` on; -1 behind the last.
__device__ inline int32_t choice_at(const Choices& c, int64_t i) {
  return i < c.rows * c.top_k ? c.ids[i / c.top_k * c.id_row + i % c.top_k] : -1;
}

// One warp per expert reads all choices: even 8,192 rows of eight are a few of the second-level
// cache's bytes per expert, and nothing has to be counted atomically.
__global__ void count_choices(Choices c, int32_t* counts) {
  const int64_t expert = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (expert >= c.experts) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int count = 0;
  for (int64_t first = 0; first < c.rows * c.top_k; first += 32) {
    count += __popc(__ballot_sync(~0u, choice_at(c, first + lane) == expert));
  }
  if (lane == 0) counts[expert] = count;
}

__global__ void place_choices(Choices c, const int32_t* counts, int tile_rows, int64_t tile_count,
                              int32_t* from, int32_t* place_of, RowTile* tiles) {
  const int64_t expert = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (expert >= c.experts) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int32_t place = 0, tile = 0;
  const auto tiles_of = [&](int32_t count) { return (count + tile_rows - 1) / tile_rows; };
  for (int64_t e = lane; e < expert; e += 32) {
    place += counts[e];
    tile += tiles_of(counts[e]);
  }
  for (int step = 16; step > 0; step /= 2) {
    place += __shfl_xor_sync(~0u, place, step);
    tile += __shfl_xor_sync(~0u, tile, step);
  }
  const int32_t count = counts[expert], own = tiles_of(count);
  for (int32_t i = lane; i < own; i += 32) {
    const int32_t first = i * tile_rows, left = count - first;
    tiles[tile + i] = {static_cast<int32_t>(expert), place + first,
                       left < tile_rows ? left : tile_rows};
  }
  if (expert == c.experts - 1) {
    for (int64_t i = tile + own + lane; i < tile_count; i += 32) tiles[i] = {0, 0, 0};
  }
  for (int64_t first = 0; first < c.rows * c.top_k; first += 32) {
    const bool mine = choice_at(c, first + lane) == expert;
    const uint32_t all = __ballot_sync(~0u, mine);
    if (mine) {
      const int32_t at = place + __popc(all & ((1u << lane) - 1));
      from[at] = static_cast<int32_t>((first + lane) / c.top_k);
      place_of[first + lane] = at;
    }
    place += __popc(all);
  }
}

__global__ void sum_choices(Rows values, const int32_t* place_of, Rows weights, Rows out,
                            int64_t rows, int64_t top_k, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * width; i += step) {
    const int64_t t = i / width, e = i % width;
    float sum = 0;
    for (int64_t c = 0; c < top_k; ++c) {
      sum = fmaf(weights.data[t * weights.row + c],
                 values.data[place_of[t * top_k + c] * values.row + e], sum);
    }
    out.data[t * out.row + e] = sum;
  }
}

}  // namespace

int expert_tile_rows(int64_t places, int64_t experts, int64_t most) {
  if (most <= 1) return 1;
  if (most <= 4) return 4;
  if (most <= 8) return 8;
  return places / experts <= 48 ? 32 : 128;
}

void launch_sort_choices(Stream s, const int32_t* ids, int64_t id_row, int64_t rows, int64_t top_k,
                         int64_t experts, int tile_rows, int64_t tile_count, int32_t* counts,
                         int32_t* from, int32_t* place_of, RowTile* tiles) {
  const Choices c{ids, id_row, rows, top_k, experts};
  const unsigned blocks = blocks_for(experts, kThreads / 32);
  launch(s, blocks, kThreads, count_choices, c, counts);
  launch(s, blocks, kThreads, place_choices, c, static_cast<const int32_t*>(counts), tile_rows,
         tile_count, from, place_of, tiles);
}

void launch_sum_choices(Stream s, Rows values, const int32_t* place_of, Rows weights, Rows out,
                        int64_t rows, int64_t top_k, int64_t width) {
  launch(s, blocks_for(rows * width, kThreads), kThreads, sum_choices, values, place_of, weights,
         out, rows, top_k, width);
}

}  // namespace ponder::cuda
