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

// A product whose rows are in their form.
struct ProductArgs {
  Weights w;
  Places places;
  const uint8_t* x;       // [x_rows, pitch]
  const float* x_scales;  // [x_rows, row_scales]
  int64_t pitch;          // elements
  const float* bias;
  Rows out;
};
inline ProductArgs product_args(const Weights& w, const void* formed, const Places& places,
                                const float* bias, Rows out) {
  const int64_t pitch = form_pitch(w.form, w.cols);
  const auto* const x = static_cast<const uint8_t*>(formed);
  const auto* const x_scales =
      reinterpret_cast<const float*>(x + scales_offset(w.form, places.x_rows, pitch));
  return {w, places, x, x_scales, pitch, bias, out};
}
// The scale of f8 weights for output n and inputs [128 unit, 128 unit + 128).
__device__ inline float f8_scale(const ProductArgs& g, int64_t expert, int64_t n, int64_t unit) {
  if (g.w.scales == nullptr) return 1.0f;
  return g.w.scales[expert * g.w.scale_count + n / 128 * (g.pitch / 128) + unit];
}

inline int64_t tiles_of(const Places& p, int rows) {
  return p.tiles != nullptr ? p.tile_count : (p.rows + rows - 1) / rows;
}

}  // namespace ponder::cuda
