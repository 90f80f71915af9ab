// Data for tests of attention, and a cache that holds several timelines.
#pragma once

#include "tests/conformance/paged_cache.h"

namespace ponder::grouped {

struct Heads {
  int64_t h, g, e;
  int64_t values = 0;  // their width; 0: as the keys', e
  int64_t v() const { return values > 0 ? values : e; }
};
// One sequence's whole life: queries, keys and values of every position.
struct Timeline {
  int64_t tokens;
  std::vector<float> q, k, v;

  Timeline(const Heads& s, int64_t n, uint32_t seed)
      : tokens(n),
        q(random_floats(static_cast<size_t>(n * s.h * s.e), seed, 2.0f)),
        k(random_floats(static_cast<size_t>(n * s.g * s.e), seed + 1, 2.0f)),
        v(random_floats(static_cast<size_t>(n * s.g * s.v()), seed + 2)) {}
};

// A cache of one layer on one machine, holding several timelines.
class Cache : public PagedCache<Timeline> {
 public:
  Cache(const Machine& machine, const Heads& s, DType dtype, int32_t pages)
      : PagedCache(machine, KvShape{1, s.g, s.e, s.v()}, dtype, pages), shape_(s) {}

  // One step: the pieces' rows in one batch. Returns [rows, H * E of values].
  std::vector<float> step(const std::vector<Piece>& pieces, bool attend = true) {
    const Heads& s = shape_;
    std::vector<float> q = gather(pieces, &Timeline::q, s.h * s.e);
    std::vector<float> k = gather(pieces, &Timeline::k, s.g * s.e);
    std::vector<float> v = gather(pieces, &Timeline::v, s.g * s.v());
    const Batch& batch = begin(pieces);
    const auto rows = static_cast<int64_t>(batch.positions.size());
    EXPECT_TRUE(
        machine_->kv_write({layer_, view(k, {rows, s.g, s.e}), view(v, {rows, s.g, s.v()}), &batch})
            .ok());
    std::vector<float> out(static_cast<size_t>(rows * s.h * s.v()), NAN);
    if (!attend) return out;
    AttentionParams p{};
    p.q = view(q, {rows, s.h, s.e});
    p.cache = layer_;
    p.batch = &batch;
    p.scale = 1.0f / std::sqrt(static_cast<float>(s.e));
    p.out = view(out, {rows, s.h * s.v()});
    EXPECT_TRUE(machine_->attention(p).ok());
    return out;
  }

 private:
  const Heads shape_;
};

}  // namespace ponder::grouped
