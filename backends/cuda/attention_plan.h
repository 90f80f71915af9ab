// How a step's rows become the tiles that the attention kernels take: which vectors share a block,
// whose chunks are dealt to many blocks, and in how many goes, so that what waits for its merge
// fits into the memory set aside for it. Plain arithmetic over a Batch; any thread. No choice made
// here changes a result.
#pragma once

#include <vector>

#include "backends/cuda/launch_attention.h"
#include "lib/device/backend.h"

namespace ponder::cuda {

// What waits for its merge at any time. Attention's chunks are small and merged soon, best within a
// second-level cache; those of latents are 128 heads of 512 numbers for a chunk of a row.
inline constexpr int64_t kAttentionScratch = int64_t{64} << 20;
inline constexpr int64_t kMlaScratch = int64_t{128} << 20;

// Tiles [first_tile, first_tile + tiles) and the rows [first_row, first_row + rows) of
// AttentionPlan that they leave to be merged.
struct SplitRun {
  int64_t first_tile = 0, tiles = 0;
  int64_t first_row = 0, rows = 0;
  int64_t chunks = 0;    // of the longest row
  int64_t step_row = 0;  // latents: the step's row that is the run's first
};

struct AttentionPlan {
  std::vector<Tile> tiles;  // the wide ones first
  int64_t wide_tiles = 0;
  std::vector<SplitRow> rows;
  std::vector<SplitRun> runs;
  int64_t scratch_bytes = 0;  // of the run that needs most
};

// What a plan depends on beside the step: the same for all layers of a kind.
struct PlanShape {
  bool latents = false;
  int64_t heads = 0;
  int64_t kv_heads = 1;
  int64_t width = 0;  // of values, or a latent's rank
  int64_t tile = 0;   // wide_tile or mla_tile
  bool operator==(const PlanShape&) const = default;
};
AttentionPlan plan_step(const Batch& batch, const PlanShape& shape);

// Sequences with more vectors per key/value head than a wide tile holds are cut into wide tiles,
// the longest first; those with fewer into narrow ones.
AttentionPlan plan_attention(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t v_dim,
                             int64_t wide_tile);
// All rows split. As slices follow each other in the step, so do the rows of a run: SplitRow::row
// counts from the run's first.
AttentionPlan plan_mla(const Batch& batch, int64_t heads, int64_t rank, int64_t tile);
// What a run needs: its queries folded into latents, then its chunks.
constexpr int64_t mla_scratch_bytes(int64_t rows, int64_t heads, int64_t chunks, int64_t rank) {
  return rows * heads * rank * 4 + attention_scratch_bytes(rows, heads, chunks, rank);
}

}  // namespace ponder::cuda
