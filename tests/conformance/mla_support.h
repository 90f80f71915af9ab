// Data for tests of multi-head latent attention, its definition in double, and a cache that holds
// several timelines.
#pragma once

#include "tests/conformance/paged_cache.h"

namespace ponder::mla {

struct Shape {
  int64_t h, n, p, u, r;  // heads, nope, rope, value, rank
  std::string name() const { return absl::StrCat(h, "x", n, "+", p, ",", u, " of ", r); }
};
struct Weights {
  Shape s;
  std::vector<float> kv;  // [H * (N + U), R]

  Weights(const Shape& shape, DType dtype, uint32_t seed)
      : s(shape),
        kv(rounded(random_floats(static_cast<size_t>(s.h * (s.n + s.u) * s.r), seed,
                                 std::sqrt(3.0f / static_cast<float>(s.r))),
                   dtype)) {}

  MlaUpWeights whole(DType dtype) const {
    MlaUpWeights up = empty();
    up.kv = make_weight("kv_b", dtype, {s.h * (s.n + s.u), s.r}, kv);
    return up;
  }
  MlaUpWeights split(DType dtype) const {
    std::vector<float> k(static_cast<size_t>(s.h * s.r * s.n)), v;
    for (int64_t h = 0; h < s.h; ++h) {
      const float* head = kv.data() + h * (s.n + s.u) * s.r;
      for (int64_t n = 0; n < s.n; ++n) {
        for (int64_t r = 0; r < s.r; ++r) {
          k[static_cast<size_t>((h * s.r + r) * s.n + n)] = head[n * s.r + r];
        }
      }
      v.insert(v.end(), head + s.n * s.r, head + (s.n + s.u) * s.r);
    }
    MlaUpWeights up = empty();
    up.k_transposed = make_weight("k_b", dtype, {s.h * s.r, s.n}, k);
    up.v = make_weight("v_b", dtype, {s.h * s.u, s.r}, v);
    return up;
  }

 private:
  MlaUpWeights empty() const {
    MlaUpWeights up;
    up.heads = s.h;
    up.nope_dim = s.n;
    up.value_dim = s.u;
    up.rank = s.r;
    return up;
  }
};

// One sequence's whole life.
struct Timeline {
  int64_t tokens;
  std::vector<float> q_nope, q_rope, latent, rope;

  Timeline(const Shape& s, int64_t count, uint32_t seed)
      : tokens(count),
        q_nope(random_floats(static_cast<size_t>(count * s.h * s.n), seed, 2.0f)),
        q_rope(random_floats(static_cast<size_t>(count * s.h * s.p), seed + 1, 2.0f)),
        latent(random_floats(static_cast<size_t>(count * s.r), seed + 2, 1.7f)),
        rope(random_floats(static_cast<size_t>(count * s.p), seed + 3, 1.7f)) {}
};

inline float scale_of(const Shape& s) { return 1.0f / std::sqrt(static_cast<float>(s.n + s.p)); }

// The definition, for rows [first, first + rows) of one timeline whose cache holds `dtype`.
inline std::vector<float> expanded(const Weights& w, const Timeline& t, DType dtype, int64_t first,
                                   int64_t rows) {
  const Shape& s = w.s;
  const std::vector<float> latent = rounded(t.latent, dtype), rope = rounded(t.rope, dtype);
  const int64_t keys = first + rows, width = s.n + s.u;
  std::vector<float> out(static_cast<size_t>(rows * s.h * s.u));
  std::vector<double> up(static_cast<size_t>(keys * width));
  for (int64_t h = 0; h < s.h; ++h) {
    for (int64_t k = 0; k < keys; ++k) {
      for (int64_t i = 0; i < width; ++i) {
        const float* row = w.kv.data() + (h * width + i) * s.r;
        double sum = 0;
        for (int64_t r = 0; r < s.r; ++r) {
          sum += double{row[r]} * double{latent[static_cast<size_t>(k * s.r + r)]};
        }
        up[static_cast<size_t>(k * width + i)] = sum;
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = first + row;
      std::vector<double> scores;
      double highest = -INFINITY;
      for (int64_t k = 0; k <= position; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < s.n; ++i) {
          sum += double{t.q_nope[static_cast<size_t>((position * s.h + h) * s.n + i)]} *
                 up[static_cast<size_t>(k * width + i)];
        }
        for (int64_t i = 0; i < s.p; ++i) {
          sum += double{t.q_rope[static_cast<size_t>((position * s.h + h) * s.p + i)]} *
                 double{rope[static_cast<size_t>(k * s.p + i)]};
        }
        scores.push_back(sum * double{scale_of(s)});
        highest = std::max(highest, scores.back());
      }
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - highest);
      for (int64_t i = 0; i < s.u; ++i) {
        double sum = 0;
        for (int64_t k = 0; k <= position; ++k) {
          sum += scores[static_cast<size_t>(k)] * up[static_cast<size_t>(k * width + s.n + i)];
        }
        out[static_cast<size_t>((row * s.h + h) * s.u + i)] = static_cast<float>(sum / total);
      }
    }
  }
  return out;
}

// A cache of one layer on one machine, holding several timelines.
class Cache : public PagedCache<Timeline> {
 public:
  Cache(const Machine& machine, const PackedWeight* up, const Shape& s, DType dtype, int32_t pages)
      : PagedCache(machine, KvShape{1, 1, s.r + s.p, 0}, dtype, pages), up_(up), shape_(s) {}

  // One step: the pieces' rows in one batch. Returns [rows, H * U].
  std::vector<float> step(const std::vector<Piece>& pieces, bool attend = true) {
    const Shape& s = shape_;
    std::vector<float> q_nope = gather(pieces, &Timeline::q_nope, s.h * s.n);
    std::vector<float> q_rope = gather(pieces, &Timeline::q_rope, s.h * s.p);
    std::vector<float> latent = gather(pieces, &Timeline::latent, s.r);
    std::vector<float> rope = gather(pieces, &Timeline::rope, s.p);
    const Batch& batch = begin(pieces);
    const auto rows = static_cast<int64_t>(batch.positions.size());
    EXPECT_TRUE(
        machine_->mla_write({layer_, view(latent, {rows, s.r}), view(rope, {rows, s.p}), &batch})
            .ok());
    std::vector<float> out(static_cast<size_t>(rows * s.h * s.u), NAN);
    if (!attend) return out;
    MlaAttentionParams p{};
    p.q_nope = view(q_nope, {rows, s.h, s.n});
    p.q_rope = view(q_rope, {rows, s.h, s.p});
    p.cache = layer_;
    p.up = up_;
    p.batch = &batch;
    p.scale = scale_of(s);
    p.out = view(out, {rows, s.h * s.u});
    EXPECT_TRUE(machine_->mla_attention(p).ok());
    return out;
  }

 private:
  const PackedWeight* const up_;
  const Shape shape_;
};

}  // namespace ponder::mla
