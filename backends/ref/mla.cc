// Multi-head latent attention with the up-projections folded into query and result, all in double.
#include <algorithm>
#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {
namespace {

Status check_matrix(const WeightData& weight, int64_t rows, int64_t cols) {
  if (weight.shape == std::vector<int64_t>{rows, cols}) return OkStatus();
  return corrupt_error("tensor ", weight.describe(), ": a matrix of [", rows, ", ", cols,
                       "] is needed here");
}

// The latents and rotary keys of one sequence's first `count` positions as floats.
void widen_cache(const KvLayer& cache, const SequenceSlice& slice, int64_t count, float* out) {
  const int64_t width = cache.shape.k_dim;
  for (int64_t s = 0; s < count; ++s) {
    const std::byte* page =
        cache.base + slice.pages[s / cache.layout.page_tokens] * cache.layout.page_bytes;
    const int64_t slot = s % cache.layout.page_tokens;
    for (int64_t e = 0; e < width; ++e) {
      out[s * width + e] = load_element(page, cache.layout.dtype, slot * width + e);
    }
  }
}

// One row and head over the first `count` of `keys` [count, R + P]. `room` holds 2 R + count.
void attend(const MlaAttentionParams& p, const float* keys, int64_t count, int64_t row,
            int64_t head, double* room) {
  const auto& up = *static_cast<const RefMlaWeight*>(p.up);
  const int64_t rank = up.rank, rotary = p.q_rope.dim[2], width = rank + rotary;
  const float* q_nope = p.q_nope.f32() + row * p.q_nope.stride[0] + head * p.q_nope.stride[1];
  const float* q_rope = p.q_rope.f32() + row * p.q_rope.stride[0] + head * p.q_rope.stride[1];
  const float* w_key = up.values.data() + head * (up.nope_dim + up.value_dim) * rank;
  const float* w_value = w_key + up.nope_dim * rank;

  // q . (W^UK c) = (q W^UK) . c
  double* q = room;
  std::fill(q, q + rank, 0.0);
  for (int64_t n = 0; n < up.nope_dim; ++n) {
    for (int64_t r = 0; r < rank; ++r) q[r] += double{q_nope[n]} * w_key[n * rank + r];
  }
  double* scores = room + 2 * rank;
  double highest = -INFINITY;
  for (int64_t s = 0; s < count; ++s) {
    const float* key = keys + s * width;
    scores[s] = p.scale * (dot(q, key, rank) + dot(q_rope, key + rank, rotary));
    highest = std::max(highest, scores[s]);
  }
  double total = 0;
  double* mean = room + rank;  // of the latents
  std::fill(mean, mean + rank, 0.0);
  for (int64_t s = 0; s < count; ++s) {
    const double weight = std::exp(scores[s] - highest);
    total += weight;
    for (int64_t r = 0; r < rank; ++r) mean[r] += weight * keys[s * width + r];
  }
  // sum of W^UV c = W^UV (sum of c)
  float* out = p.out.f32() + row * p.out.stride[0] + head * up.value_dim;
  for (int64_t u = 0; u < up.value_dim; ++u) {
    out[u] = static_cast<float>(dot(mean, w_value + u * rank, rank) / total);
  }
}

}  // namespace

StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up, ThreadPool* pool) {
  const int64_t nope = up.nope_dim, value = up.value_dim, rank = up.rank;
  if (up.heads < 1 || nope < 1 || value < 1 || rank < 1) {
    return internal_error("latent attention of ", up.heads, " heads, widths ", nope, " and ", value,
                          ", rank ", rank);
  }
  auto packed = std::make_unique<RefMlaWeight>();
  packed->rows = up.heads * (nope + value);
  packed->cols = rank;
  packed->nope_dim = nope;
  packed->value_dim = value;
  packed->rank = rank;
  packed->values.resize(static_cast<size_t>(packed->rows * rank));
  packed->bytes = packed->values.size() * sizeof(float);
  float* values = packed->values.data();
  if (!up.kv.name.empty()) {
    PONDER_RETURN_IF_ERROR(check_matrix(up.kv, packed->rows, rank));
    PONDER_RETURN_IF_ERROR(pack({&up.kv, 1}, pool).status());  // checks the elements
    widen_rows(up.kv, 0, packed->rows, values);
    return packed;
  }
  PONDER_RETURN_IF_ERROR(check_matrix(up.k_transposed, up.heads * rank, nope));
  PONDER_RETURN_IF_ERROR(check_matrix(up.v, up.heads * value, rank));
  PONDER_RETURN_IF_ERROR(pack({&up.k_transposed, 1}, pool).status());
  PONDER_RETURN_IF_ERROR(pack({&up.v, 1}, pool).status());
  std::vector<float> row(static_cast<size_t>(nope));
  for (int64_t head = 0; head < up.heads; ++head) {
    float* to = values + head * (nope + value) * rank;
    for (int64_t r = 0; r < rank; ++r) {
      widen_rows(up.k_transposed, head * rank + r, head * rank + r + 1, row.data());
      for (int64_t n = 0; n < nope; ++n) to[n * rank + r] = row[static_cast<size_t>(n)];
    }
    widen_rows(up.v, head * value, (head + 1) * value, to + nope * rank);
  }
  return packed;
}

Status mla_attention(const MlaAttentionParams& p, Allocator* allocator, ThreadPool* pool) {
  const auto& up = *static_cast<const RefMlaWeight*>(p.up);
  const int64_t heads = p.q_nope.dim[1];
  int64_t longest = 0;
  for (const SequenceSlice& slice : p.batch->sequences) {
    longest = std::max<int64_t>(longest, int64_t{slice.first_position} + slice.rows);
  }
  const int64_t room = 2 * up.rank + longest;
  const uint32_t lanes = pool->concurrency() * 4;
  PONDER_ASSIGN_OR_RETURN(
      Buffer scratch, Buffer::create(allocator, sizeof(double) * lanes * static_cast<size_t>(room),
                                     "attention scores"));
  PONDER_ASSIGN_OR_RETURN(
      Buffer widened,
      Buffer::create(allocator, sizeof(float) * static_cast<size_t>(longest * p.cache.shape.k_dim),
                     "cached latents as floats"));
  for (const SequenceSlice& slice : p.batch->sequences) {
    if (slice.rows == 0) continue;
    const float* keys = widened.as<float>();
    widen_cache(p.cache, slice, int64_t{slice.first_position} + slice.rows, widened.as<float>());
    const int64_t work = slice.rows * heads;
    const auto chunks = static_cast<uint32_t>(std::min<int64_t>(work, lanes));
    pool->parallel_for(chunks, [&](uint32_t chunk) {
      const int64_t end = work * (chunk + 1) / chunks;
      for (int64_t i = work * chunk / chunks; i < end; ++i) {
        const int64_t row = i / heads;
        attend(p, keys, slice.first_position + row + 1, slice.first_row + row, i % heads,
               scratch.as<double>() + chunk * room);
      }
    });
  }
  return OkStatus();
}

}  // namespace ponder::ref
