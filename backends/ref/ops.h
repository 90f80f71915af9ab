// The ops of the reference backend, one per file. `pool` runs rows or heads side by side; each
// row's arithmetic is one thread's and in one order, so its result depends on nothing else.
#pragma once

#include "backends/ref/weights.h"
#include "lib/device/backend.h"

namespace ponder::ref {

// Eight partial sums, each over every eighth term: one fixed order that a compiler can vectorise.
template <typename A>
double dot(const A* a, const float* b, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += double{a[i + j]} * double{b[i + j]};
  }
  for (; i < n; ++i) sums[i % 8] += double{a[i]} * double{b[i]};
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

void embed(const EmbedParams& p);
void rms_norm(const RmsNormParams& p);
Status linear(const LinearParams& p, Allocator* allocator, ThreadPool* pool);
void rope_table(const RopeTableParams& p);
void rope(const RopeParams& p);
void swiglu(const SwigluParams& p);
void add(const AddParams& p);
void gather_rows(const GatherRowsParams& p);
void digest_rows(const DigestRowsParams& p);

// A page holds keys [G, P, E], then values [G, P, E]; in q8_0 each E is cut into blocks of 32, the
// last one filled up with zeros.
int64_t cache_row_bytes(DType dtype, int64_t dim);
// Element `e` of row `row` of what lies at `rows`.
float load_cached(const std::byte* rows, DType dtype, int64_t row, int64_t dim, int64_t e);
StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted);
void kv_write(const KvWriteParams& p);
Status attention(const AttentionParams& p, Allocator* allocator, ThreadPool* pool);

// A page holds rows [P, R + P'] of latent and rotary key. W^UK and W^UV are kept as floats.
struct RefMlaWeight final : PackedWeight {
  int64_t nope_dim = 0, value_dim = 0, rank = 0;
  std::vector<float> values;  // [H, nope_dim + value_dim, rank]
};
StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up, ThreadPool* pool);
void mla_write(const MlaWriteParams& p);
Status mla_attention(const MlaAttentionParams& p, Allocator* allocator, ThreadPool* pool);

// The cache holds nothing: with one, an expert's mapped bytes are looked at whenever it is chosen.
std::unique_ptr<ExpertCache> make_expert_cache(uint64_t budget_bytes);
StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                      const PackOptions& options, ThreadPool* pool);
Status route(const RouteParams& p);
Status experts(const ExpertsParams& p, Allocator* allocator, ThreadPool* pool);

}  // namespace ponder::ref
