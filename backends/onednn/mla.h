// Multi-head latent attention of the CPU backend: its cache, its weights, and attention over it.
//
// The cache holds one row per token and layer, the latent and the rotary key. W^UK is folded into
// the query and W^UV into the result ("absorbed"): all heads of a token are then vectors against
// one matrix of cached latents. Every row is computed this way; docs/kernels/mla.md says why.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "backends/onednn/kernels.h"
#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// How a page of one layer is laid out: kernels.h, "latent attention".
struct LatentPage {
  LatentPage(const KvShape& shape, DType dtype);

  Storage storage;
  int64_t width;        // R + P rounded up
  int64_t token_bytes;  // of one row

  std::byte* token(const KvLayer& cache, int32_t page, int64_t slot) const {
    return cache.base + page * static_cast<int64_t>(cache.layout.page_bytes) + slot * token_bytes;
  }
};

StatusOr<KvLayout> latent_layout(const KvShape& shape, DType wanted);

// W^UK and W^UV, head by head, each as the panels of the product that it is used in. Immutable.
struct MlaWeight final : PackedWeight {
  int64_t heads = 0;  // H
  int64_t nope = 0;   // N
  int64_t value = 0;  // U
  int64_t rank = 0;   // R
  Storage storage = kStoreF32;
  bool bf16_inputs = false;  // activations are rounded to bf16
  bool fast = false;         // Precision::kAuto: products of bf16 over a cache of bf16
  Buffer data;

  // Queries to latents, [R, N]: panels of 64 of the R outputs, N rounded up to an even depth.
  int64_t key_depth() const { return (nope + 1) / 2 * 2; }
  int64_t key_panel_bytes() const { return key_depth() * kPanel * storage_bytes(storage); }
  const std::byte* key_panel(int64_t head, int64_t panel) const {
    return head_data(head) + panel * key_panel_bytes();
  }
  // Latents to results, [U, R].
  int64_t value_depth() const { return (rank + 1) / 2 * 2; }
  int64_t value_panel_bytes() const { return value_depth() * kPanel * storage_bytes(storage); }
  const std::byte* value_panel(int64_t head, int64_t panel) const {
    return head_data(head) + key_panels() * key_panel_bytes() + panel * value_panel_bytes();
  }
  int64_t key_panels() const { return (rank + kPanel - 1) / kPanel; }
  int64_t value_panels() const { return (value + kPanel - 1) / kPanel; }
  int64_t head_bytes() const {
    return key_panels() * key_panel_bytes() + value_panels() * value_panel_bytes();
  }

 private:
  const std::byte* head_data(int64_t head) const {
    return data.as<std::byte>() + head * head_bytes();
  }
};

class Mla {
 public:
  Mla(const Kernels* kernels, Allocator* allocator, ThreadPool* pool);

  // May run beside everything else.
  StatusOr<std::unique_ptr<PackedWeight>> pack(const MlaUpWeights& up,
                                               const PackOptions& options) const;
  void write(const MlaWriteParams& p) const;
  Status run(const MlaAttentionParams& p);

 private:
  class Step;

  // What is computed together: some consecutive rows of one sequence and some consecutive heads.
  // Each (row, head) is a vector of the unit; a head's rows follow each other.
  struct Unit {
    const SequenceSlice* slice;
    int32_t first;  // row within the slice
    int32_t rows;
    int32_t head;
    int32_t heads;
    int32_t chunks;  // of keys that any of its rows sees
    int64_t vector;  // its first vector among those of a gathered step
  };

  const Kernels* const kernels_;
  Allocator* const allocator_;
  const Workers workers_;
  Scratch lanes_;     // per lane: queries, a panel, scores, results
  Scratch gathered_;  // queries and results of sequences with few rows
  Scratch partials_;  // results of chunks that different lanes compute
  // Kept for their memory.
  std::vector<Unit> units_;
  std::vector<std::pair<int32_t, int32_t>> tasks_;              // (unit, chunk)
  std::vector<std::pair<const SequenceSlice*, int32_t>> rows_;  // gathered rows: slice, row in it
};

}  // namespace ponder::cpu
