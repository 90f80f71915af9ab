// The key/value cache of the CPU backend and attention over it.
#pragma once

#include <utility>
#include <vector>

#include "backends/onednn/kernels.h"
#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// How a page of one layer is laid out: the keys of all heads, then the values of all heads, each
// head as kernels.h describes.
struct PageShape {
  PageShape(const KvShape& shape, DType dtype);

  Storage storage;
  int64_t heads;         // G
  int64_t k_dim, v_dim;  // padded: E', F'
  int64_t k_bytes;       // of one head's keys in a page
  int64_t v_bytes;
  int64_t bytes() const { return (heads * (k_bytes + v_bytes) + 63) / 64 * 64; }

  std::byte* keys(const KvLayer& cache, int32_t page, int64_t head) const {
    return cache.base + page * static_cast<int64_t>(cache.layout.page_bytes) + head * k_bytes;
  }
  std::byte* values(const KvLayer& cache, int32_t page, int64_t head) const {
    return keys(cache, page, heads) + head * v_bytes;
  }
};

StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted);

// What is computed together: some consecutive rows of one sequence and the query heads that share
// one key/value head. Each (row, head) is a vector of the unit.
struct AttentionUnit {
  const SequenceSlice* slice;
  int32_t first;  // row within the slice
  int32_t rows;
  int32_t head;     // key/value head
  int32_t chunks;   // of keys that any of its rows sees
  int64_t partial;  // its first partial result, when chunks go to different lanes
};

class Attention {
 public:
  Attention(const Kernels* kernels, Allocator* allocator, ThreadPool* pool);

  void write(const KvWriteParams& p) const;
  Status run(const AttentionParams& p);

 private:
  const Kernels* const kernels_;
  const Workers workers_;
  Scratch lanes_;     // per lane: queries, scores, one chunk's results
  Scratch partials_;  // results of chunks that different lanes compute
  // Kept for their memory.
  std::vector<AttentionUnit> units_;
  std::vector<std::pair<int32_t, int32_t>> tasks_;  // (unit, chunk)
};

}  // namespace ponder::cpu
