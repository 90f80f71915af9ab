// Products of f8 weights with f8 inputs (Form::kF8Codes) on sm_90, whose tensor cores take FP8 from
// shared memory alone: by wgmma.m64nNk32 for every number of rows. The order of sums is
// linear_mma.cu's: the 128 inputs of a scale are summed from zero in ascending steps of 32, the sum
// is multiplied by both sides' scales and added in ascending order. That is the "promotion" of the
// DeepSeek-V3 report, section 3.3.2: the tensor core keeps fewer bits than float32 has.

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt_linear.cuh"
#include "backends/cuda/tile.cuh"

namespace ponder::cuda {
namespace {

constexpr int kGroupThreads = 128;  // a warpgroup
constexpr int kGroupOutputs = 64;   // that it computes
constexpr int kUnit = 128;          // codes of a row in a stage

// A block: kGroups warpgroups with kGroupOutputs outputs each, for kRows places.
template <int kRows, int kGroups>
struct Shape {
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kOutputs = kGroups * kGroupOutputs;
  // Few rows are bound by memory: what is on its way is what four blocks' stages hold.
  static constexpr int kStages = kGroups == 1 ? 6 : 4;

  struct Stage {
    char left[kOutputs][kUnit], right[kRows][kUnit];  // swizzled
  };
  struct Shared {
    Stage stages[kStages];
    float scales[2][kRows];
  };
  // first_swizzled may pass over the difference.
  static constexpr int64_t kSharedBytes = sizeof(Shared) + 1024;
};

// f(row, byte in the row, place in memory) for the runs of 16 bytes of a matrix, dealt to the
// block's threads.
template <int kThreads, int kCount, typename F>
__device__ inline void deal_runs(char (&matrix)[kCount][kUnit], const F& f) {
  constexpr int kRuns = kUnit / 16;
  deal_pieces<kCount * kRuns, kThreads>([&](int piece) {
    const int row = piece / kRuns, run = piece % kRuns;
    f(row, 16 * run, &matrix[row][16 * (run ^ row % 8)]);
  });
}

template <int kRows, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads) code_products(ProductArgs g) {
  using S = Shape<kRows, kGroups>;
  if constexpr (!kF8FromShared) return;
  const Span span = span_of(g.places, blockIdx.y, kRows);
  if (span.count <= 0) return;
  auto& shared = *reinterpret_cast<typename S::Shared*>(first_swizzled(dynamic_shared()));
  const int thread = static_cast<int>(threadIdx.x), group = thread / kGroupThreads;
  const int64_t first_output = int64_t{blockIdx.x} * S::kOutputs;
  const int64_t units = g.pitch / kUnit;
  const uint8_t* w = g.w.data + span.expert * static_cast<int64_t>(g.w.bytes);
  const int64_t stored = (g.w.rows + 15) / 16 * 16 - first_output;  // rows of w that are there

  const auto fetch = [&](int64_t unit) {
    auto& stage = shared.stages[unit % S::kStages];
    deal_runs<S::kThreads>(stage.left, [&](int row, int byte, char* to) {
      const bool there = row < stored;
      copy_async16(to, w + (there ? first_output + row : 0) * g.pitch + unit * kUnit + byte, there);
    });
    deal_runs<S::kThreads>(stage.right, [&](int row, int byte, char* to) {
      const bool there = row < span.count;
      const int64_t from = x_row(g.places, span.first + (there ? row : 0));
      copy_async16(to, g.x + from * g.pitch + unit * kUnit + byte, there);
    });
  };
  for (int unit = 0; unit < S::kStages - 1; ++unit) {
    if (unit < units) fetch(unit);
    copy_async_commit();
  }
  // Thread t knows the scales of row t, one unit ahead.
  const int own_row = thread < span.count ? thread : 0;
  const float* x_scales = g.x_scales + x_row(g.places, span.first + own_row) * units;
  const auto scale_of = [&](int64_t unit) {
    return unit < units ? f8_scale(g, span.expert, first_output, unit) * x_scales[unit] : 0.0f;
  };
  float scale = scale_of(0);
  float sums[kRows / 2], own[kRows / 2] = {};
  const int quad = thread % 4;
  for (int64_t unit = 0; unit < units; ++unit) {
    copy_async_wait<S::kStages - 2>();
    publish_shared();
    auto& scales = shared.scales[unit % 2];
    if (thread < kRows) scales[thread] = scale;
    __syncthreads();  // and all have read what the next fetch writes over
    if (unit + S::kStages - 1 < units) fetch(unit + S::kStages - 1);
    copy_async_commit();
    scale = scale_of(unit + 1);
    auto& stage = shared.stages[unit % S::kStages];
    wgmma_begin<kRows>(sums);
    PONDER_UNROLL
    for (int k = 0; k < kUnit; k += 32) {
      wgmma_f8<kRows>(sums, &stage.left[group * kGroupOutputs][k], &stage.right[0][k], k > 0);
    }
    wgmma_end<kRows>(sums);
    PONDER_UNROLL
    for (int i = 0; i < kRows / 2; ++i) {
      own[i] = fmaf(sums[i], scales[i / 4 * 8 + 2 * quad + i % 2], own[i]);
    }
  }
  const int64_t output =
      first_output + group * kGroupOutputs + thread % kGroupThreads / 32 * 16 + thread % 32 / 4;
  PONDER_UNROLL
  for (int i = 0; i < kRows / 2; ++i) {
    const int row = i / 4 * 8 + 2 * quad + i % 2;
    const int64_t n = output + i / 2 % 2 * 8, place = span.first + row;
    if (row >= span.count || n >= g.w.rows) continue;
    g.out.data[place * g.out.row + n] = g.bias != nullptr ? own[i] + g.bias[n] : own[i];
  }
}

template <int kRows, int kGroups>
void run(Stream s, const ProductArgs& g) {
  using S = Shape<kRows, kGroups>;
  const dim3 grid(static_cast<unsigned>((g.w.rows + S::kOutputs - 1) / S::kOutputs),
                  static_cast<unsigned>(tiles_of(g.places, kRows)));
  launch_shared(s, grid, S::kThreads, S::kSharedBytes, code_products<kRows, kGroups>, g);
}

}  // namespace

void launch_product_wgmma(Stream s, const Weights& w, const void* formed, const Places& places,
                          const float* bias, Rows out) {
  const ProductArgs g = product_args(w, formed, places, bias, out);
  const int64_t rows = places.tiles != nullptr ? places.tile_rows : places.rows;
  if (rows <= 8) {
    run<8, 1>(s, g);
  } else if (narrow_tiles(places)) {
    run<32, 1>(s, g);
  } else {
    run<128, 2>(s, g);
  }
}

}  // namespace ponder::cuda
