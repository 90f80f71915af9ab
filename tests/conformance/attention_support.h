// Data for tests of attention, and a cache that holds several timelines.
#pragma once

#include <numeric>

#include "tests/conformance/support.h"

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
class Cache {
 public:
  Cache(const Machine& machine, const Heads& s, DType dtype, int32_t pages)
      : machine_(machine), shape_(s) {
    layer_.shape = KvShape{1, s.g, s.e, s.v()};
    auto layout = machine->kv_layout(layer_.shape, dtype);
    EXPECT_TRUE(layout.ok()) << layout.status();
    layer_.layout = *layout;
    EXPECT_EQ(layer_.layout.page_bytes % 64, 0u);
    // What was never written is NaN, and nobody may notice.
    memory_ = machine.unwritten(static_cast<uint64_t>(pages) * layer_.layout.page_bytes);
    layer_.base = memory_.as<std::byte>();
    free_.resize(static_cast<size_t>(pages));
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(9));
  }

  struct Piece {
    const Timeline* timeline;
    std::vector<int32_t>* pages;
    int64_t first, rows;
  };

  // One step: the pieces' rows in one batch. Returns [rows, H * E of values].
  std::vector<float> step(const std::vector<Piece>& pieces, bool attend = true) {
    std::vector<float> q, k, v;
    std::vector<int32_t> positions;
    std::vector<SequenceSlice> slices;
    const int64_t qe = shape_.h * shape_.e, ke = shape_.g * shape_.e, ve = shape_.g * shape_.v();
    for (const Piece& p : pieces) {
      SequenceSlice slice;
      slice.first_row = static_cast<int32_t>(positions.size());
      slice.rows = static_cast<int32_t>(p.rows);
      slice.first_position = static_cast<int32_t>(p.first);
      while (static_cast<int64_t>(p.pages->size()) * layer_.layout.page_tokens < p.first + p.rows) {
        p.pages->push_back(free_.back());
        free_.pop_back();
      }
      slice.pages = *p.pages;
      slices.push_back(slice);
      for (int64_t r = p.first; r < p.first + p.rows; ++r)
        positions.push_back(static_cast<int32_t>(r));
      const Timeline& t = *p.timeline;
      q.insert(q.end(), t.q.begin() + p.first * qe, t.q.begin() + (p.first + p.rows) * qe);
      k.insert(k.end(), t.k.begin() + p.first * ke, t.k.begin() + (p.first + p.rows) * ke);
      v.insert(v.end(), t.v.begin() + p.first * ve, t.v.begin() + (p.first + p.rows) * ve);
    }
    const auto rows = static_cast<int64_t>(positions.size());
    Batch batch;
    batch.positions = positions;
    batch.sequences = slices;
    EXPECT_TRUE(machine_->begin_step(batch).ok());
    EXPECT_TRUE(machine_
                    ->kv_write({layer_, view(k, {rows, shape_.g, shape_.e}),
                                view(v, {rows, shape_.g, shape_.v()}), &batch})
                    .ok());
    std::vector<float> out(static_cast<size_t>(rows * shape_.h * shape_.v()), NAN);
    if (!attend) return out;
    AttentionParams p{};
    p.q = view(q, {rows, shape_.h, shape_.e});
    p.cache = layer_;
    p.batch = &batch;
    p.scale = 1.0f / std::sqrt(static_cast<float>(shape_.e));
    p.out = view(out, {rows, shape_.h * shape_.v()});
    EXPECT_TRUE(machine_->attention(p).ok());
    return out;
  }

  const KvLayer& layer() const { return layer_; }

 private:
  const Machine& machine_;
  Heads shape_;
  KvLayer layer_;
  Buffer memory_;
  std::vector<int32_t> free_;
};

}  // namespace ponder::grouped
