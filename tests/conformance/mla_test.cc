// Multi-head latent attention against its definition: keys and values expanded from the cached
// latents, in double. Backends that absorb the up-projections are thereby compared with the
// expanded form.
#include <map>

#include "tests/conformance/mla_support.h"

namespace ponder {
namespace {

using mla::Cache, mla::expanded, mla::Shape, mla::Timeline, mla::Weights;

// Widths and head counts that divide nothing, and the true widths of DeepSeek-V3 with few heads.
const Shape kShapes[] = {{4, 16, 8, 16, 32},
                         {3, 24, 8, 20, 40},
                         {1, 5, 3, 7, 9},
                         {20, 16, 8, 16, 72},
                         {131, 8, 4, 8, 16}};
const Shape kTrueShape = {18, 128, 64, 128, 512};
const DType kCacheTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Every sum's own error, exp making absolute ones relative; largest values are about 3.
double tolerance(const Shape& s) {
  return 3 * (attention_tolerance(s.r + s.p) + attention_tolerance(s.n) + attention_tolerance(s.r));
}
// Queries, absorbed queries, weights and sums are rounded to bf16 (2^-9 of their value). A score is
// a sum of about 500 such errors with random signs, scaled; the largest of a million samples is
// some five times the standard deviation.
constexpr double kBf16Tolerance = 0.06;

class MlaConformance : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    const Machine machine(GetParam(), 1);
    const Weights w({1, 2, 2, 2, 2}, DType::kF32, 1);
    const auto packed = machine->pack_mla(w.whole(DType::kF32), PackOptions{});
    if (packed.status().code() == absl::StatusCode::kUnimplemented) {
      GTEST_SKIP() << packed.status().message();
    }
  }
};

TEST_P(MlaConformance, AgreesWithExpandedKeysAndValues) {
  const Machine machine(GetParam(), 3);
  // A prompt's first part, decoding at the borders of pages, panels and chunks, ragged batches.
  const std::vector<std::vector<Part>> batches = {
      {{0, 1}},
      {{0, 40}},
      {{31, 1}, {63, 1}, {64, 2}},
      {{255, 1}, {256, 1}, {254, 5}, {0, 3}},
      {{200, 140}, {0, 17}, {515, 1}},
      {{1100, 1}},
  };
  // Shapes, cache types and batches: all pairs of two, not all triples.
  for (size_t shape = 0; shape < std::size(kShapes); ++shape) {
    for (size_t b = 0; b < batches.size(); ++b) {
      const Shape& s = kShapes[shape];
      const DType dtype = kCacheTypes[(shape + b) % std::size(kCacheTypes)];
      const DType weight_type = dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
      const Weights weights(s, weight_type, 7);
      for (Precision precision : {Precision::kF32, Precision::kAuto}) {
        const auto up = machine->pack_mla(weights.whole(weight_type), PackOptions{precision});
        ASSERT_TRUE(up.ok()) << up.status();
        const bool coarse = rounds_activations() && precision == Precision::kAuto;
        SCOPED_TRACE(absl::StrCat(s.name(), " ", dtype_name(dtype), " batch ", b, " precision ",
                                  static_cast<int>(precision)));
        std::vector<Timeline> timelines;
        // The definition takes its time: once for all backends.
        static std::map<std::string, std::vector<float>> known;
        std::vector<float>& all = known[absl::StrCat(s.name(), dtype_name(dtype), b)];
        const bool fresh = all.empty();
        for (const Part& part : batches[b]) {
          timelines.emplace_back(s, part.cached + part.rows,
                                 static_cast<uint32_t>(100 * timelines.size() + 1));
          if (!fresh) continue;
          const auto one = expanded(weights, timelines.back(), dtype, part.cached, part.rows);
          all.insert(all.end(), one.begin(), one.end());
        }
        Cache cache(machine, up->get(), s, dtype, 80);
        const auto got = step_of(cache, timelines, batches[b]);
        const double limit = coarse ? kBf16Tolerance : tolerance(s);
        for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], all[i], limit) << i;
      }
    }
  }
}

TEST_P(MlaConformance, TrueWidthsAgreeWithExpandedKeysAndValues) {
  const Machine machine(GetParam(), 4);
  const Weights weights(kTrueShape, DType::kBF16, 3);
  const Timeline timeline(kTrueShape, 300, 5);
  static const auto wanted = expanded(weights, timeline, DType::kF16, 230, 70);
  const auto up = machine->pack_mla(weights.whole(DType::kBF16), PackOptions{Precision::kF32});
  ASSERT_TRUE(up.ok()) << up.status();
  Cache cache(machine, up->get(), kTrueShape, DType::kF16, 20);
  std::vector<int32_t> pages;
  cache.step({{&timeline, &pages, 0, 230}}, false);
  const auto got = cache.step({{&timeline, &pages, 230, 70}});
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], wanted[i], tolerance(kTrueShape)) << i;
  }
}

TEST_P(MlaConformance, BothFormsOfTheUpProjectionAreTheSame) {
  const Machine machine(GetParam(), 2);
  for (const Shape& s : kShapes) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(absl::StrCat(s.name(), " ", dtype_name(dtype)));
      const Weights weights(s, dtype, 11);
      const auto whole = machine->pack_mla(weights.whole(dtype), PackOptions{});
      const auto split = machine->pack_mla(weights.split(dtype), PackOptions{});
      ASSERT_TRUE(whole.ok() && split.ok()) << whole.status() << split.status();
      const Timeline timeline(s, 50, 3);
      std::vector<std::vector<float>> results;
      for (const PackedWeight* up : {whole->get(), split->get()}) {
        Cache cache(machine, up, s, DType::kF32, 4);
        std::vector<int32_t> pages;
        results.push_back(cache.step({{&timeline, &pages, 0, 50}}));
      }
      EXPECT_TRUE(same_bits(results[0].data(), results[1].data(), results[0].size()));
    }
  }
}

TEST_P(MlaConformance, RowsDependOnTheirOwnKeysOnlyBitForBit) {
  const Machine one(GetParam(), 1);
  const Machine four(GetParam(), 4);
  for (const Shape& s : {kShapes[0], kShapes[1], kShapes[3]}) {
    for (DType dtype : kCacheTypes) {
      if (s.h == 20 && dtype != DType::kBF16) continue;  // takes long: one cache type
      SCOPED_TRACE(absl::StrCat(s.name(), " ", dtype_name(dtype)));
      constexpr int64_t kTokens = 700;
      const Weights weights(s, DType::kBF16, 1);
      const auto up_four = four->pack_mla(weights.whole(DType::kBF16), PackOptions{});
      const auto up_one = one->pack_mla(weights.whole(DType::kBF16), PackOptions{});
      ASSERT_TRUE(up_four.ok() && up_one.ok());
      const Timeline timeline(s, kTokens, 1), other(s, kTokens, 50);
      std::vector<int32_t> pages;
      Cache whole_cache(four, up_four->get(), s, dtype, 24);
      const auto whole = whole_cache.step({{&timeline, &pages, 0, kTokens}});
      for (const Machine* machine : {&one, &four}) {
        for (const bool beside : {false, true}) {
          Cache cache(*machine, (machine == &one ? up_one : up_four)->get(), s, dtype, 60);
          expect_the_same_in_parts(
              cache, timeline, beside ? &other : nullptr, 0,
              {1, 2, 29, 31, 32, 66, 200, 1, 1, 33, 166, 5, 7, 121, 1, 1, 1, 1, 1}, whole);
        }
      }
    }
  }
}

TEST_P(MlaConformance, ManySequencesDecodeAsTheyWouldAlone) {
  const Machine machine(GetParam(), 4);
  const Shape& s = kShapes[0];
  const Weights weights(s, DType::kF32, 1);
  const auto up = machine->pack_mla(weights.whole(DType::kF32), PackOptions{});
  ASSERT_TRUE(up.ok());
  constexpr size_t kSequences = 150;  // more than are gathered at once
  std::vector<Timeline> timelines;
  for (size_t i = 0; i < kSequences; ++i) {
    timelines.emplace_back(s, static_cast<int64_t>(1 + i * 7 % 300), static_cast<uint32_t>(i));
  }
  Cache cache(machine, up->get(), s, DType::kF32, 1600);
  std::vector<std::vector<int32_t>> pages(kSequences);
  std::vector<Cache::Piece> cached, step;
  for (size_t i = 0; i < kSequences; ++i) {
    const int64_t before = timelines[i].tokens - 1;
    if (before > 0) cached.push_back({&timelines[i], &pages[i], 0, before});
    step.push_back({&timelines[i], &pages[i], before, 1});
  }
  cache.step(cached, false);
  const auto together = cache.step(step);
  const auto width = static_cast<size_t>(s.h * s.u);
  for (size_t i = 0; i < kSequences; ++i) {
    const auto alone = cache.step({step[i]});
    ASSERT_TRUE(same_bits(alone.data(), together.data() + i * width, width)) << i;
  }
}

TEST_P(MlaConformance, LongContextDecodesAsItsDefinition) {
  const Machine machine(GetParam(), 4);
  const Shape s{6, 16, 8, 16, 64};
  constexpr int64_t kTokens = 6000;
  const Weights weights(s, DType::kF32, 1);
  const Timeline timeline(s, kTokens, 3);
  static const auto wanted = expanded(weights, timeline, DType::kBF16, kTokens - 1, 1);
  const auto up = machine->pack_mla(weights.whole(DType::kF32), PackOptions{Precision::kF32});
  ASSERT_TRUE(up.ok());
  Cache cache(machine, up->get(), s, DType::kBF16, 200);
  std::vector<int32_t> pages;
  cache.step({{&timeline, &pages, 0, kTokens - 1}}, false);
  const auto got = cache.step({{&timeline, &pages, kTokens - 1, 1}});
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], tolerance(s)) << i;
}

TEST_P(MlaConformance, CacheHoldsOneLatentRowPerToken) {
  const Machine machine(GetParam(), 1);
  for (DType dtype : kCacheTypes) {
    const auto layout = machine->kv_layout(KvShape{61, 1, 512 + 64, 0}, dtype);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->page_bytes,
              static_cast<uint64_t>(layout->page_tokens * dtype_bytes(dtype, 576)));
  }
  EXPECT_EQ(machine->kv_layout(KvShape{61, 1, 576, 0}, DType::kI32).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST_P(MlaConformance, DamagedWeightsAreRefused) {
  const Machine machine(GetParam(), 2);
  const Shape& s = kShapes[1];
  for (const float bad : {static_cast<float>(NAN), static_cast<float>(INFINITY)}) {
    for (const bool in_keys : {false, true}) {
      Weights weights(s, DType::kF32, 1);
      weights.kv[static_cast<size_t>(((s.n + s.u) + (in_keys ? 2 : s.n + 3)) * s.r + 5)] = bad;
      for (const auto& up : {weights.whole(DType::kF32), weights.split(DType::kF32)}) {
        const auto packed = machine->pack_mla(up, PackOptions{});
        EXPECT_EQ(packed.status().code(), absl::StatusCode::kDataLoss) << packed.status();
      }
    }
  }
  MlaUpWeights wrong = Weights(s, DType::kF32, 1).whole(DType::kF32);
  wrong.kv.shape = {s.r, s.h * (s.n + s.u)};
  EXPECT_FALSE(machine->pack_mla(wrong, PackOptions{}).ok());
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaConformance, ::testing::ValuesIn(targets()), target_name);

}  // namespace
}  // namespace ponder
