#include <algorithm>
#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {
namespace {

struct Row {
  int64_t row;                     // of the flat batch
  int64_t position;                // sees keys 0 .. position
  std::span<const int32_t> pages;  // of its sequence
};

// out = softmax(scale q k^T) v for one row and one head. `p` has room for the scores, then the
// sums.
void attend(const AttentionParams& params, const Row& row, int64_t head, double* scores) {
  const KvLayout& layout = params.cache.layout;
  const KvShape& shape = params.cache.shape;
  const int64_t group = head / (params.q.dim[1] / shape.heads);
  const float* q = params.q.f32() + row.row * params.q.stride[0] + head * params.q.stride[1];
  const auto page_of = [&](int64_t position) {
    return params.cache.base + row.pages[position / layout.page_tokens] * layout.page_bytes;
  };
  const auto slot_of = [&](int64_t position) {
    return group * layout.page_tokens + position % layout.page_tokens;
  };

  double highest = -INFINITY;
  for (int64_t s = 0; s <= row.position; ++s) {
    const std::byte* page = page_of(s);
    double score = 0;
    for (int64_t e = 0; e < shape.k_dim; ++e) {
      score += double{q[e]} * load_cached(page, layout.dtype, slot_of(s), shape.k_dim, e);
    }
    scores[s] = score * params.scale;
    highest = std::max(highest, scores[s]);
  }
  double total = 0;
  for (int64_t s = 0; s <= row.position; ++s) {
    scores[s] = std::exp(scores[s] - highest);
    total += scores[s];
  }

  double* sums = scores + row.position + 1;
  std::fill(sums, sums + shape.v_dim, 0.0);
  const int64_t keys_bytes =
      shape.heads * layout.page_tokens * cache_row_bytes(layout.dtype, shape.k_dim);
  for (int64_t s = 0; s <= row.position; ++s) {
    const std::byte* values = page_of(s) + keys_bytes;
    for (int64_t e = 0; e < shape.v_dim; ++e) {
      sums[e] += scores[s] * load_cached(values, layout.dtype, slot_of(s), shape.v_dim, e);
    }
  }
  float* out = params.out.f32() + row.row * params.out.stride[0] + head * shape.v_dim;
  for (int64_t e = 0; e < shape.v_dim; ++e) out[e] = static_cast<float>(sums[e] / total);
}

}  // namespace

Status attention(const AttentionParams& p, Allocator* allocator, ThreadPool* pool) {
  std::vector<Row> rows;
  int64_t longest = 0;
  for (const SequenceSlice& slice : p.batch->sequences) {
    for (int32_t r = 0; r < slice.rows; ++r) {
      rows.push_back({slice.first_row + r, slice.first_position + r, slice.pages});
      longest = std::max<int64_t>(longest, slice.first_position + r + 1);
    }
  }
  if (rows.empty()) return OkStatus();
  const int64_t heads = p.q.dim[1];
  const auto work = static_cast<int64_t>(rows.size()) * heads;
  const auto chunks = static_cast<uint32_t>(std::min<int64_t>(work, pool->concurrency() * 4));
  const int64_t room = longest + p.cache.shape.v_dim;
  PONDER_ASSIGN_OR_RETURN(
      Buffer scratch, Buffer::create(allocator, sizeof(double) * chunks * static_cast<size_t>(room),
                                     "attention scores"));
  pool->parallel_for(chunks, [&](uint32_t chunk) {
    const int64_t end = work * (chunk + 1) / chunks;
    for (int64_t i = work * chunk / chunks; i < end; ++i) {
      attend(p, rows[static_cast<size_t>(i / heads)], i % heads,
             scratch.as<double>() + chunk * room);
    }
  });
  return OkStatus();
}

}  // namespace ponder::ref
