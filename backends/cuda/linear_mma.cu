// Products with bf16, f16 and f8 weights on the matrix instructions, float32 sums. One order of
// sums for every number of rows (docs/decisions/0060-cuda-determinism.md): K is cut into units (f8:
// its 128-wide scale tiles; else eighths), each summed from zero in ascending steps of 16 by
// mma.m16n8k16 with the weights as its left operand, then scaled and added in ascending order.
//
// Which k meets which is the same on both sides, so it need not be the instruction's own order: a
// lane takes 16 bytes of a row of weights at a time and feeds them to two instructions (kF8: four).
// In kF8 codes become binary16 numbers 2^8 too small by moving their bits, which takes no
// conversion instructions and loses nothing. In kF8Codes both sides are codes, 32 to a step of
// mma.m16n8k32, and a unit's sum is multiplied by both sides' scales (sm_90: linear_wgmma.cu).

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt_linear.cuh"
#include "backends/cuda/tile.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = kTileThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kUnits = 8;        // of bf16 and f16
constexpr int kLineBytes = 128;  // of a row of weights, read at a time

template <Form kForm>
struct Operands {
  static constexpr bool kCodes = kForm == Form::kF8Codes;
  static constexpr bool kF8Weights = kForm == Form::kF8 || kCodes;
  static constexpr int kBytes = kF8Weights ? 1 : 2;  // of a weight
  static constexpr int kInputBytes = kCodes ? 1 : 2;
  static constexpr int kRuns = kInputBytes / kBytes;  // 16 bytes of inputs that meet 16 of weights
  static constexpr int kLine = kLineBytes / kBytes;

  // The weights in 16 bytes that meet a run of 16 bytes of inputs.
  __device__ static void run_of(const uint4& v, int run, uint32_t (&out)[4]) {
    if constexpr (kForm == Form::kF8) {
      const uint32_t low = run == 0 ? v.x : v.z, high = run == 0 ? v.y : v.w;
      out[0] = pair(__byte_perm(low, 0, 0x1404));
      out[1] = pair(__byte_perm(low, 0, 0x3424));
      out[2] = pair(__byte_perm(high, 0, 0x1404));
      out[3] = pair(__byte_perm(high, 0, 0x3424));
    } else {
      out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
  }
  // Two codes in the high bytes of the halves: sign, then exponent and mantissa one lower.
  __device__ static uint32_t pair(uint32_t codes) {
    return (codes & 0x80008000u) | (codes & 0x7f007f00u) >> 1;
  }
  __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (kForm == Form::kBF16) {
      mma_bf16(d, a, b);
    } else if constexpr (kCodes) {
      mma_f8(d, a, b);
    } else {
      mma_f16(d, a, b);
    }
  }
  // Sixteen rows of weights (top: eight, low: the others) times eight of x, a run each.
  __device__ static void multiply(float (&d)[4], const uint32_t (&top)[4], const uint32_t (&low)[4],
                                  const uint4& x) {
    const uint32_t first[4] = {top[0], low[0], top[1], low[1]}, one[2] = {x.x, x.y};
    const uint32_t second[4] = {top[2], low[2], top[3], low[3]}, two[2] = {x.z, x.w};
    mma(d, first, one);
    mma(d, second, two);
  }

  __device__ static int64_t units(int64_t pitch) { return kF8Weights ? pitch / 128 : kUnits; }
  // In lines.
  __device__ static int64_t unit_begin(int64_t unit, int64_t pitch) {
    return kF8Weights ? unit : unit * (pitch / kLine) / kUnits;
  }
  // What a unit's sum is multiplied by, for output n.
  __device__ static float unit_scale(const ProductArgs& g, int64_t expert, int64_t n,
                                     int64_t unit) {
    if constexpr (!kF8Weights) return 1.0f;
    return f8_scale(g, expert, n, unit) * (kCodes ? 1.0f : 256.0f);
  }
  // And, in kF8Codes, by these of the place's row, one for each unit.
  __device__ static const float* input_scales(const ProductArgs& g, int64_t place) {
    return kCodes ? g.x_scales + x_row(g.places, place) * (g.pitch / 128) : nullptr;
  }
  __device__ static float input_scale(const float* scales, int64_t unit) {
    return kCodes ? scales[unit] : 1.0f;
  }
  __device__ static void store(const ProductArgs& g, int64_t place, int64_t n, float sum) {
    if constexpr (kForm == Form::kF16 || kForm == Form::kF8) {
      sum *= g.x_scales[x_row(g.places, place)];
    }
    if (g.bias != nullptr) sum += g.bias[n];
    g.out.data[place * g.out.row + n] = sum;
  }
};

// ---- few rows: weights are read once, straight into registers ----------------------------------

// A block: 16 outputs for up to 8 * kTiles places. Warp i takes units i, i + 8, ...; a line of its
// sixteen rows is on its way while the one before is multiplied.
template <Form kForm, int kTiles>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 2 : 1) few_rows(ProductArgs g) {
  using O = Operands<kForm>;
  constexpr int kColumns = 8 * kTiles, kOutputs = 16;
  constexpr int kOwn = (kOutputs * kColumns + kThreads - 1) / kThreads;
  __shared__ float partial[2][kWarps][kOutputs][kColumns + 1];
  if (O::kCodes && !kF8FromRegisters) return;
  const Span span = span_of(g.places, blockIdx.y, kColumns);
  if (span.count <= 0) return;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int group = lane / 4, quad = lane % 4;
  const int64_t first_output = int64_t{blockIdx.x} * kOutputs;
  const int64_t row_bytes = g.pitch * O::kBytes;
  const uint8_t* top = g.w.data + span.expert * static_cast<int64_t>(g.w.bytes) +
                       (first_output + group) * row_bytes + 16 * quad;
  const uint8_t* x[kTiles];
  PONDER_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    const int r = 8 * tile + group;
    x[tile] = r < span.count
                  ? g.x + x_row(g.places, span.first + r) * g.pitch * O::kInputBytes + 16 * quad
                  : nullptr;
  }
  const float* x_scales[kOwn];
  PONDER_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int r = (static_cast<int>(threadIdx.x) + i * kThreads) / kOutputs;
    x_scales[i] = O::input_scales(g, span.first + (r < span.count ? r : 0));
  }
  const auto load_line = [&](int64_t line, uint4(&to)[4]) {
    const uint8_t* from = top + line * kLineBytes;
    to[0] = load_once(reinterpret_cast<const uint4*>(from));
    to[1] = load_once(reinterpret_cast<const uint4*>(from + 8 * row_bytes));
    to[2] = load_once(reinterpret_cast<const uint4*>(from + 64));
    to[3] = load_once(reinterpret_cast<const uint4*>(from + 8 * row_bytes + 64));
  };
  const int64_t units = O::units(g.pitch);
  float own[kOwn] = {};
  uint4 now[4], next[4];
  const auto begin_of = [&](int64_t unit) {
    return unit < units ? O::unit_begin(unit, g.pitch) : int64_t{0};
  };
  if (begin_of(warp) < O::unit_begin(units, g.pitch)) load_line(begin_of(warp), now);
  for (int64_t round = 0; round * kWarps < units; ++round) {
    const int64_t unit = round * kWarps + warp;
    float sums[kTiles][4] = {};
    if (unit < units) {
      const int64_t end = O::unit_begin(unit + 1, g.pitch);
      for (int64_t line = O::unit_begin(unit, g.pitch); line < end; ++line) {
        if (line + 1 < end) {
          load_line(line + 1, next);
        } else if (unit + kWarps < units) {
          load_line(begin_of(unit + kWarps), next);
        }
        PONDER_UNROLL
        for (int step = 0; step < 2; ++step) {
          PONDER_UNROLL
          for (int run = 0; run < O::kRuns; ++run) {
            uint32_t high[4], low[4];
            O::run_of(now[2 * step], run, high);
            O::run_of(now[2 * step + 1], run, low);
            const int64_t at = ((line * 2 + step) * O::kRuns + run) * 64;
            PONDER_UNROLL
            for (int tile = 0; tile < kTiles; ++tile) {
              uint4 v = make_uint4(0, 0, 0, 0);
              if (x[tile] != nullptr) v = *reinterpret_cast<const uint4*>(x[tile] + at);
              O::multiply(sums[tile], high, low, v);
            }
          }
        }
        PONDER_UNROLL
        for (int i = 0; i < 4; ++i) now[i] = next[i];
      }
    }
    auto& to = partial[round % 2][warp];
    PONDER_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      const int column = 8 * tile + 2 * quad;
      to[group][column] = sums[tile][0];
      to[group][column + 1] = sums[tile][1];
      to[group + 8][column] = sums[tile][2];
      to[group + 8][column + 1] = sums[tile][3];
    }
    __syncthreads();
    PONDER_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      if (at >= kOutputs * kColumns) continue;
      for (int u = 0; u < kWarps && round * kWarps + u < units; ++u) {
        const float scale = O::unit_scale(g, span.expert, first_output, round * kWarps + u) *
                            O::input_scale(x_scales[i], round * kWarps + u);
        own[i] = fmaf(partial[round % 2][u][at % kOutputs][at / kOutputs], scale, own[i]);
      }
    }
  }
  PONDER_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int64_t n = first_output + at % kOutputs;
    if (at < kOutputs * kColumns && at / kOutputs < span.count && n < g.w.rows) {
      O::store(g, span.first + at / kOutputs, n, own[i]);
    }
  }
}

// ---- many rows: tiles of both sides in shared memory -------------------------------------------

// Lines of 64 bytes of each row lie densely, so that the 16 bytes that eight lanes read are all of
// the banks.
template <Form kForm, int kRows>
__global__ void __launch_bounds__(kThreads) many_rows(ProductArgs g) {
  using O = Operands<kForm>;
  using Shape = ProductTile<kRows>;
  constexpr int kStages = kForm == Form::kF8 ? 2 : 3;
  __shared__ uint4 left[kStages][kTileOutputs][4];
  __shared__ uint4 right[kStages][O::kRuns][kRows][4];
  if (O::kCodes && !kF8FromRegisters) return;
  const Span span = span_of(g.places, blockIdx.y, kRows);
  if (span.count <= 0) return;
  const Shape tile;
  const int64_t first_output = int64_t{blockIdx.x} * kTileOutputs;
  const int64_t row_bytes = g.pitch * O::kBytes;
  const uint8_t* w = g.w.data + span.expert * static_cast<int64_t>(g.w.bytes);
  const int64_t stored = (g.w.rows + 15) / 16 * 16 - first_output;  // rows of w that are there

  // A stage is 64 bytes of each row of w.
  const auto fetch = [&](int64_t stage) {
    const int slot = static_cast<int>(stage % kStages);
    deal_pieces<kTileOutputs * 4>([&](int piece) {
      const int row = piece / 4;
      const bool there = row < stored;
      copy_async16(&left[slot][row][piece % 4],
                   w + (there ? first_output + row : 0) * row_bytes + stage * 64 + piece % 4 * 16,
                   there);
    });
    deal_pieces<O::kRuns * kRows * 4>([&](int piece) {
      const int run = piece / (kRows * 4), row = piece / 4 % kRows;
      const bool there = row < span.count;
      copy_async16(&right[slot][run][row][piece % 4],
                   g.x +
                       x_row(g.places, span.first + (there ? row : 0)) * g.pitch * O::kInputBytes +
                       (stage * O::kRuns + run) * 64 + piece % 4 * 16,
                   there);
    });
  };
  const int64_t stages = row_bytes / 64;
  for (int64_t s = 0; s < kStages - 1; ++s) {
    if (s < stages) fetch(s);
    copy_async_commit();
  }
  const int64_t units = O::units(g.pitch);
  // A warp has 32 rows of x: lane l knows the scales of row l.
  const int own_row = tile.row + static_cast<int>(threadIdx.x % 32);
  const float* x_scales = O::input_scales(g, span.first + (own_row < span.count ? own_row : 0));
  typename Shape::Sums sums = {}, own = {};
  int64_t stage = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    const float own_scale = O::input_scale(x_scales, unit);
    const int64_t end = O::unit_begin(unit + 1, g.pitch) * 2;  // a line is two stages
    for (; stage < end; ++stage) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // and all have read what the next fetch writes over
      if (stage + kStages - 1 < stages) fetch(stage + kStages - 1);
      copy_async_commit();
      const int slot = static_cast<int>(stage % kStages);
      PONDER_UNROLL
      for (int run = 0; run < O::kRuns; ++run) {
        uint4 x[Shape::kB];
        PONDER_UNROLL
        for (int b = 0; b < Shape::kB; ++b) {
          x[b] = right[slot][run][tile.row + 8 * b + tile.group][tile.quad];
        }
        PONDER_UNROLL
        for (int a = 0; a < Shape::kA; ++a) {
          const int row = tile.output + 16 * a + tile.group;
          uint32_t high[4], low[4];
          O::run_of(left[slot][row][tile.quad], run, high);
          O::run_of(left[slot][row + 8][tile.quad], run, low);
          PONDER_UNROLL
          for (int b = 0; b < Shape::kB; ++b) O::multiply(sums[a][b], high, low, x[b]);
        }
      }
    }
    float scales[Shape::kB][2];
    const float scale = O::unit_scale(g, span.expert, first_output, unit) * own_scale;
    PONDER_UNROLL
    for (int i = 0; i < 2 * Shape::kB; ++i) {
      const int lane = 8 * (i / 2) + 2 * tile.quad + i % 2;
      scales[i / 2][i % 2] = O::kCodes ? __shfl_sync(~0u, scale, lane) : scale;
    }
    Shape::each([&](int a, int b, int i) {
      own[a][b][i] = fmaf(sums[a][b][i], scales[b][i % 2], own[a][b][i]);
      sums[a][b][i] = 0.0f;
    });
  }
  tile.store(own, span.count, g.w.rows,
             [&](int row, int64_t n, float sum) { O::store(g, span.first + row, n, sum); });
}

template <Form kForm>
void run_form(Stream s, const ProductArgs& g) {
  const auto grid = [&](int rows) {
    return dim3(static_cast<unsigned>((g.w.rows + 15) / 16),
                static_cast<unsigned>(tiles_of(g.places, rows)));
  };
  const int64_t rows = g.places.tiles != nullptr ? g.places.tile_rows : g.places.rows;
  if (rows <= 8) {
    launch(s, grid(8), kThreads, few_rows<kForm, 1>, g);
  } else if (rows <= 32 && g.places.tiles == nullptr) {
    launch(s, grid(32), kThreads, few_rows<kForm, 4>, g);
  } else if (narrow_tiles(g.places)) {
    launch(s, tile_grid<32>(g.w, g.places), kThreads, many_rows<kForm, 32>, g);
  } else {
    launch(s, tile_grid<128>(g.w, g.places), kThreads, many_rows<kForm, 128>, g);
  }
}

}  // namespace

void launch_product_mma(Stream s, const Weights& w, const void* formed, const Places& places,
                        const float* bias, Rows out) {
  const ProductArgs g = product_args(w, formed, places, bias, out);
  if (w.form == Form::kBF16) return run_form<Form::kBF16>(s, g);
  if (w.form == Form::kF16) return run_form<Form::kF16>(s, g);
  if (w.form == Form::kF8) return run_form<Form::kF8>(s, g);
  run_form<Form::kF8Codes>(s, g);
}

}  // namespace ponder::cuda
