// Few rows times block-quantised weights: activations as int8, integer products four at a time
// (dp4a), weights read once. linear_quant_tiles.cu is the same for many rows, with the same bits:
//
//   t = sum of a sub-block's x q, an exact integer, * scale        sixteen or thirty-two inputs
//   t = fma(-min, sum of x, t)                                     where the type has minima
//   c = fma(t, scale of x, c)                                      ascending within a slice of K
//   result = 0 + c of slice 0 + c of slice 1 + ... + bias
//
// with sixteen slices of whole super-blocks, wherever they are computed.

#include "backends/cuda/linear_quant.cuh"

namespace ponder::cuda {
namespace {

// Warps of a block, each with one slice of K or two. Several rows take too many registers for
// sixteen.
constexpr int warps_for(int rows) { return rows > 1 ? kSlices / 2 : kSlices; }

__device__ inline void load_words(const void* from, uint32_t (&to)[4]) {
  const uint4 v = *static_cast<const uint4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// A block: a panel of 32 outputs, one to a lane, for up to kRows places.
template <DType T, int kRows>
__global__ void __launch_bounds__(32 * warps_for(kRows), 1) quant_few(QuantArgs g) {
  constexpr int kWarps = warps_for(kRows), kThreads = 32 * kWarps;
  // Sub-blocks that are loaded before the first of them is multiplied; registers are the limit.
  constexpr int kAhead = kRows == 1 ? 8 : 4;
  __shared__ float partial[kSlices][kRows][kPanelRows];
  __shared__ uint16_t book[grid_entries(T) > 0 ? grid_entries(T) : 1];
  const Span span = span_of(g.places, blockIdx.y, kRows);
  if (span.count <= 0) return;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if constexpr (grid_entries(T) > 0) {
    const uint16_t* from = grid_of<T>();
    for (int i = static_cast<int>(threadIdx.x); i < grid_entries(T); i += kThreads) {
      book[i] = from[i];
    }
    __syncthreads();
  }
  constexpr int64_t kPanel = int64_t{kPanelRows} * record_layout(T).bytes();
  const uint8_t* panel = g.w.data + span.expert * static_cast<int64_t>(g.w.bytes) +
                         int64_t{blockIdx.x} * g.records * kPanel;
  int x[kRows];  // first block of the row
  PONDER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    // Places that are not there are computed like the first, and not stored.
    x[r] = static_cast<int>(x_row(g.places, span.first + (r < span.count ? r : 0))) * 8 * g.records;
  }
  for (int slice = warp; slice < kSlices; slice += kWarps) {
    float sums[kRows] = {};
    const int end = slice_begin(slice + 1, g.records);
    for (int i = slice_begin(slice, g.records) * (8 / kAhead); i < end * (8 / kAhead); ++i) {
      const int b = i / (8 / kAhead), first = i % (8 / kAhead) * kAhead;
      uint32_t raw[kAhead][raw_words(T)];
      PONDER_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        load_sub<T, true>(panel + b * kPanel, lane, first + j, raw[j]);
      }
      PONDER_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        // Or the compiler loads x for all of them at once and runs out of registers.
        if constexpr (kRows > 1) __syncwarp();
        SubBlock w = {};
        expand_sub<T>(raw[j], book, w);
        PONDER_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const ByteBlock& from = g.x[x[r] + b * 8 + first + j];
          uint32_t low[4], high[4], rest[4];
          load_words(from.q, low);
          load_words(from.q + 16, high);
          load_words(&from.scale, rest);  // scale, two sums, sum of both
          int one = 0, two = 0;
          PONDER_UNROLL
          for (int w4 = 0; w4 < 4; ++w4) {
            one = __dp4a(static_cast<int>(w.q[w4]), static_cast<int>(low[w4]), one);
            two = __dp4a(static_cast<int>(w.q[4 + w4]), static_cast<int>(high[w4]), two);
          }
          const float scale = __uint_as_float(rest[0]);
          if constexpr (scales_sixteen(T)) {
            sums[r] = add_scaled<has_minima(T)>(static_cast<float>(one), w.scale[0], w.min[0],
                                                __uint_as_float(rest[1]), scale, sums[r]);
            sums[r] = add_scaled<has_minima(T)>(static_cast<float>(two), w.scale[1], w.min[1],
                                                __uint_as_float(rest[2]), scale, sums[r]);
          } else {
            sums[r] = add_scaled<has_minima(T)>(static_cast<float>(one + two), w.scale[0], w.min[0],
                                                __uint_as_float(rest[3]), scale, sums[r]);
          }
        }
      }
    }
    PONDER_UNROLL
    for (int r = 0; r < kRows; ++r) partial[slice][r][lane] = sums[r];
  }
  __syncthreads();
  const int64_t n = int64_t{blockIdx.x} * kPanelRows + lane;
  if (warp >= kRows || warp >= span.count || n >= g.w.rows) return;
  float sum = 0;
  for (int slice = 0; slice < kSlices; ++slice) sum += partial[slice][warp][lane];
  store_quant(g, span.first + warp, n, sum);
}

template <int kRows>
void launch_rows(Stream s, const QuantArgs& g) {
  const dim3 grid(static_cast<unsigned>((g.w.rows + kPanelRows - 1) / kPanelRows),
                  static_cast<unsigned>(tiles_of(g.places, kRows)));
  with_block_type(g.w.dtype, [&]<DType T>() {
    launch(s, grid, 32 * warps_for(kRows), quant_few<T, kRows>, g);
  });
}

}  // namespace

void launch_product_bytes(Stream s, const Weights& w, const void* formed, const Places& places,
                          const float* bias, Rows out) {
  const QuantArgs g{w,
                    places,
                    static_cast<const ByteBlock*>(formed),
                    static_cast<int>(record_count(w.cols)),
                    kPanelRows * record_layout(w.dtype).bytes(),
                    bias,
                    out};
  const int64_t rows = places.tiles != nullptr ? places.tile_rows : places.rows;
  // Up to 32 rows of one matrix the weights are still read from memory once, the rest from the
  // second-level cache; tiles of many rows would leave most of a device idle.
  if (rows > (places.tiles != nullptr ? 8 : 32)) return launch_quant_tiles(s, g);
  const auto run = rows == 1 ? launch_rows<1> : rows <= 4 ? launch_rows<4> : launch_rows<8>;
  run(s, g);
}

}  // namespace ponder::cuda
