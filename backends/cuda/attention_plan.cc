#include "backends/cuda/attention_plan.h"

#include <algorithm>

namespace ponder::cuda {
namespace {

// Of `rows` rows of a slice from its row `from` on: tiles of `size` vectors, `group` to a row. The
// page list of the slice begins at `first_page`.
void add_tiles(const SequenceSlice& slice, int32_t from, int32_t rows, int64_t group, int64_t size,
               int64_t first_page, int64_t slot, std::vector<Tile>* tiles) {
  const int64_t vectors = rows * group;
  // The last ones see most: they begin first.
  for (int64_t first = (vectors - 1) / size * size; first >= 0; first -= size) {
    tiles->push_back({slice.first_row + from, slice.first_position + from, rows,
                      static_cast<int32_t>(first_page), static_cast<int32_t>(first),
                      static_cast<int32_t>(slot)});
  }
}

// Rows join the last run as long as it then stays within `most` bytes of bytes(rows, chunks).
template <typename Bytes>
class Runs {
 public:
  Runs(AttentionPlan* plan, int64_t most, Bytes bytes) : plan_(plan), most_(most), bytes_(bytes) {}

  // How many of the slice's rows from `from` on join, one at least: their tiles follow.
  int32_t join(const SequenceSlice& slice, int32_t from, int64_t positions_per_chunk) {
    const auto chunks_with = [&](int32_t row, int64_t chunks) {
      return std::max(chunks, int64_t{slice.first_position + row} / positions_per_chunk + 1);
    };
    if (plan_->runs.empty() ||
        bytes_(plan_->runs.back().rows + 1, chunks_with(from, plan_->runs.back().chunks)) > most_) {
      plan_->runs.push_back({static_cast<int64_t>(plan_->tiles.size()), 0,
                             static_cast<int64_t>(plan_->rows.size()), 0, 0});
    }
    SplitRun& run = plan_->runs.back();
    int32_t end = from;
    while (end < slice.rows &&
           (end == from || bytes_(run.rows + 1, chunks_with(end, run.chunks)) <= most_)) {
      plan_->rows.push_back({slice.first_row + end, slice.first_position + end});
      run.chunks = chunks_with(end, run.chunks);
      ++run.rows;
      ++end;
    }
    plan_->scratch_bytes = std::max(plan_->scratch_bytes, bytes_(run.rows, run.chunks));
    return end - from;
  }

 private:
  AttentionPlan* const plan_;
  const int64_t most_;
  const Bytes bytes_;
};

}  // namespace

AttentionPlan plan_attention(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t v_dim,
                             int64_t wide_tile) {
  AttentionPlan plan;
  const int64_t group = heads / kv_heads;
  const auto is_wide = [&](const SequenceSlice& slice) { return slice.rows * group > wide_tile; };
  int64_t first_page = 0;
  for (const SequenceSlice& slice : batch.sequences) {
    if (is_wide(slice)) {
      add_tiles(slice, 0, slice.rows, group, wide_tile, first_page, 0, &plan.tiles);
    }
    first_page += static_cast<int64_t>(slice.pages.size());
  }
  plan.wide_tiles = static_cast<int64_t>(plan.tiles.size());
  Runs runs(&plan, kAttentionScratch, [&](int64_t rows, int64_t chunks) {
    return attention_scratch_bytes(rows, heads, chunks, v_dim);
  });
  first_page = 0;
  for (const SequenceSlice& slice : batch.sequences) {
    for (int32_t from = 0; from < slice.rows && !is_wide(slice);) {
      const int32_t rows = runs.join(slice, from, kChunk);
      SplitRun& run = plan.runs.back();
      add_tiles(slice, from, rows, group, kNarrowTile, first_page, run.rows - rows, &plan.tiles);
      run.tiles = static_cast<int64_t>(plan.tiles.size()) - run.first_tile;
      from += rows;
    }
    first_page += static_cast<int64_t>(slice.pages.size());
  }
  return plan;
}

AttentionPlan plan_mla(const Batch& batch, int64_t heads, int64_t rank, int64_t tile) {
  AttentionPlan plan;
  Runs runs(&plan, kMlaScratch, [&](int64_t rows, int64_t chunks) {
    return mla_scratch_bytes(rows, heads, chunks, rank);
  });
  int64_t first_page = 0;
  for (const SequenceSlice& slice : batch.sequences) {
    for (int32_t from = 0; from < slice.rows;) {
      const int32_t rows = runs.join(slice, from, kMlaChunk);
      SplitRun& run = plan.runs.back();
      add_tiles(slice, from, rows, heads, tile, first_page, run.rows - rows, &plan.tiles);
      run.tiles = static_cast<int64_t>(plan.tiles.size()) - run.first_tile;
      from += rows;
    }
    first_page += static_cast<int64_t>(slice.pages.size());
  }
  for (SplitRun& run : plan.runs) {
    run.step_row = plan.rows[static_cast<size_t>(run.first_row)].row;
    for (int64_t r = 0; r < run.rows; ++r) {
      plan.rows[static_cast<size_t>(run.first_row + r)].row = static_cast<int32_t>(r);
    }
  }
  return plan;
}

AttentionPlan plan_step(const Batch& batch, const PlanShape& shape) {
  if (shape.latents) return plan_mla(batch, shape.heads, shape.width, shape.tile);
  return plan_attention(batch, shape.heads, shape.kv_heads, shape.width, shape.tile);
}

}  // namespace ponder::cuda
