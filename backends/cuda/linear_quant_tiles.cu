// Many rows times block-quantised weights: weights are expanded to signed bytes in shared memory
// once for all places of a block and multiplied by the matrix instructions for int8. The sums are
// those of linear_quant.cu, to the bit: integers are exact in any order, what is added in float32
// is added in the same order.

#include "backends/cuda/linear_quant.cuh"
#include "backends/cuda/tile.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = kTileThreads;
// Integer sums start from the bits of 1.5 * 2^23: read as a float, minus that number, they are the
// sum as a float, exact below 2^22 (32 * 128 * 128 is less), without a conversion, which is slow.
constexpr int32_t kStart = 0x4b400000;
constexpr float kStartValue = 12582912.0f;

// Thirty-two inputs of one output. As ByteBlock it is 12 words, which makes what eight lanes read
// of eight rows fall onto different banks.
struct alignas(16) WeightBlock {
  uint32_t q[8];
  float scale[2];
  float min[2];
};
static_assert(sizeof(WeightBlock) == 48 && sizeof(ByteBlock) == 48);

// A stage is two sub-blocks. kSixteen, kMinima: as scales_sixteen and has_minima of the type, which
// is known at run time only: one kernel for all types that are multiplied alike, as reading and
// expanding a sub-block is little beside what it is multiplied by.
template <bool kSixteen, bool kMinima, int kRows>
__global__ void __launch_bounds__(kThreads, 1) quant_tiles(QuantArgs g) {
  using Shape = ProductTile<kRows>;
  __shared__ WeightBlock left[2][2][kTileOutputs];
  __shared__ ByteBlock right[2][2][kRows];
  const Span span = span_of(g.places, blockIdx.y, kRows);
  if (span.count <= 0) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const Shape tile;
  // What this thread expands: one row of one of a stage's two sub-blocks.
  const int own_row = thread % kTileOutputs, own_sub = thread / kTileOutputs;
  const int64_t own_panel =
      int64_t{blockIdx.x} * (kTileOutputs / kPanelRows) + own_row / kPanelRows;
  const bool own_there = own_panel * kPanelRows < g.w.rows;
  const uint8_t* own = g.w.data + span.expert * static_cast<int64_t>(g.w.bytes) +
                       own_panel * g.records * int64_t{g.panel_bytes};
  uint32_t raw[kMostRawWords];
  const auto of_type = [&](auto&& f) {
    with_block_type(g.w.dtype, [&]<DType T>() {
      if constexpr (scales_sixteen(T) == kSixteen && has_minima(T) == kMinima) {
        f.template operator()<T>();
      }
    });
  };
  const auto load = [&](int stage) {
    if (!own_there) return;
    of_type([&]<DType T>() {
      load_sub<T, false>(own + stage / 4 * int64_t{g.panel_bytes}, lane, stage % 4 * 2 + own_sub,
                         raw);
    });
  };
  const auto expand = [&](int slot) {
    SubBlock w = {};
    if (own_there) of_type([&]<DType T>() { expand_sub<T>(raw, grid_of<T>(), w); });
    WeightBlock& to = left[slot][own_sub][own_row];
    auto* const words = reinterpret_cast<uint4*>(&to);
    words[0] = make_uint4(w.q[0], w.q[1], w.q[2], w.q[3]);
    words[1] = make_uint4(w.q[4], w.q[5], w.q[6], w.q[7]);
    words[2] = make_uint4(__float_as_uint(w.scale[0]), __float_as_uint(w.scale[1]),
                          __float_as_uint(w.min[0]), __float_as_uint(w.min[1]));
  };
  const auto fetch = [&](int stage, int slot) {
    deal_pieces<2 * kRows * 3>([&](int piece) {
      const int row = piece / 6, part = piece % 6;  // six pieces of a row lie together
      const bool there = row < span.count;
      const ByteBlock* from = g.x +
                              x_row(g.places, span.first + (there ? row : 0)) * g.records * 8 +
                              stage * 2 + part / 3;
      copy_async16(reinterpret_cast<uint4*>(&right[slot][part / 3][row]) + part % 3,
                   reinterpret_cast<const uint4*>(from) + part % 3, there);
    });
    copy_async_commit();
  };

  const int stages = g.records * 4;
  typename Shape::Sums sums = {}, all = {};
  load(0);
  fetch(0, 0);
  expand(0);
  for (int slice = 0; slice < kSlices; ++slice) {
    const int end = slice_begin(slice + 1, g.records) * 4;
    for (int stage = slice_begin(slice, g.records) * 4; stage < end; ++stage) {
      const int slot = stage % 2;
      copy_async_wait<0>();
      __syncthreads();  // and all have read what is written over below
      if (stage + 1 < stages) {
        fetch(stage + 1, 1 - slot);
        load(stage + 1);
      }
      PONDER_ROLLED
      for (int sub = 0; sub < 2; ++sub) {
        uint32_t x[Shape::kB][2];
        PONDER_UNROLL
        for (int b = 0; b < Shape::kB; ++b) {
          const auto* q =
              reinterpret_cast<const uint32_t*>(right[slot][sub][tile.row + 8 * b + tile.group].q);
          x[b][0] = q[tile.quad];
          x[b][1] = q[4 + tile.quad];
        }
        PONDER_UNROLL
        for (int a = 0; a < Shape::kA; ++a) {
          const WeightBlock& top = left[slot][sub][tile.output + 16 * a + tile.group];
          const WeightBlock& low = left[slot][sub][tile.output + 16 * a + tile.group + 8];
          PONDER_UNROLL
          for (int h = 0; h < (kSixteen ? 2 : 1); ++h) {
            // Keeps the compiler from reading far ahead, for which registers are short.
            __syncwarp();
            const float scales[2] = {top.scale[h], low.scale[h]};
            const float minima[2] = {top.min[h], low.min[h]};
            uint32_t w[kSixteen ? 2 : 4];
            PONDER_UNROLL
            for (int i = 0; i < (kSixteen ? 1 : 2); ++i) {
              w[2 * i] = top.q[4 * (h + i) + tile.quad];
              w[2 * i + 1] = low.q[4 * (h + i) + tile.quad];
            }
            PONDER_UNROLL
            for (int b = 0; b < Shape::kB; ++b) {
              const ByteBlock* of_x = &right[slot][sub][tile.row + 8 * b + 2 * tile.quad];
              const float x_scales[2] = {of_x[0].scale, of_x[1].scale};
              float x_sums[2];
              int32_t d[4];
              if constexpr (kSixteen) {
                mma_s8(d, w, x[b][h], kStart);
                x_sums[0] = of_x[0].sum[h], x_sums[1] = of_x[1].sum[h];
              } else {
                mma_s8(d, w, x[b], kStart);
                x_sums[0] = of_x[0].both, x_sums[1] = of_x[1].both;
              }
              PONDER_UNROLL
              for (int i = 0; i < 4; ++i) {
                const float sum = __uint_as_float(static_cast<uint32_t>(d[i])) - kStartValue;
                sums[a][b][i] = add_scaled<kMinima>(sum, scales[i / 2], minima[i / 2],
                                                    x_sums[i % 2], x_scales[i % 2], sums[a][b][i]);
              }
            }
          }
        }
      }
      if (stage + 1 < stages) expand(1 - slot);
    }
    Shape::each([&](int a, int b, int i) {
      all[a][b][i] += sums[a][b][i];
      sums[a][b][i] = 0.0f;
    });
  }
  tile.store(all, span.count, g.w.rows,
             [&](int row, int64_t n, float sum) { store_quant(g, span.first + row, n, sum); });
}

template <int kRows>
void launch_rows(Stream s, const QuantArgs& g) {
  const bool sixteen = scales_sixteen(g.w.dtype), minima = has_minima(g.w.dtype);
  const auto kernel =
      sixteen ? (minima ? quant_tiles<true, true, kRows> : quant_tiles<true, false, kRows>)
              : (minima ? quant_tiles<false, true, kRows> : quant_tiles<false, false, kRows>);
  launch(s, tile_grid<kRows>(g.w, g.places), kThreads, kernel, g);
}

}  // namespace

void launch_quant_tiles(Stream s, const QuantArgs& g) {
  const auto run = narrow_tiles(g.places) ? launch_rows<32> : launch_rows<128>;
  run(s, g);
}

}  // namespace ponder::cuda
