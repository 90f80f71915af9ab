// What all product kernels share: which places of a product a block works on.
#pragma once

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {

struct Span {
  int64_t expert;
  int64_t first;
  int count;  // 0: nothing to do, for the whole block
};

// Of tile `tile`; kernels for one matrix take `rows` places to a tile.
__device__ inline Span span_of(const Places& p, int64_t tile, int rows) {
  if (p.tiles != nullptr) {
    const RowTile t = p.tiles[tile];
    return {t.expert, t.first, t.rows};
  }
  const int64_t first = tile * rows, left = p.rows - first;
  return {0, first, static_cast<int>(left < rows ? left : rows)};
}

__device__ inline int64_t x_row(const Places& p, int64_t place) {
  return p.from != nullptr ? p.from[place] : place;
}

inline int64_t tiles_of(const Places& p, int rows) {
  return p.tiles != nullptr ? p.tile_count : (p.rows + rows - 1) / rows;
}

}  // namespace ponder::cuda
