#include <gmock/gmock.h>

#include <map>

#include "tests/conformance/attention_support.h"

namespace ponder {
namespace {

using grouped::Cache, grouped::Heads, grouped::Timeline;

// Group sizes 1 to 12, head widths of toy and real models.
const Heads kHeads[] = {{8, 4, 8},  {4, 4, 32},  {6, 3, 48},  {6, 2, 32}, {12, 2, 128}, {7, 1, 64},
                        {8, 8, 80}, {2, 2, 256}, {12, 1, 96}, {3, 1, 7},  {4, 2, 112}};
const DType kKvTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0};

using AttentionConformance = Conformance;

TEST_P(AttentionConformance, AgreesWithTheReferenceOnRaggedBatches) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  // A prompt's first part, one in its middle, decoding at page and chunk borders, and a long one.
  const std::vector<std::vector<Part>> batches = {
      {{0, 1}},
      {{0, 40}},
      {{31, 1}, {32, 1}, {33, 2}},
      {{255, 1}, {256, 1}, {254, 5}, {0, 3}},
      {{300, 70}, {0, 17}, {767, 1}},
      {{1500, 1}},
  };
  // Heads, cache types and batches: all pairs of two, not all triples.
  for (size_t h = 0; h < std::size(kHeads); ++h) {
    for (size_t b = 0; b < batches.size(); ++b) {
      const Heads& heads = kHeads[h];
      const DType dtype = kKvTypes[(h + b) % std::size(kKvTypes)];
      SCOPED_TRACE(absl::StrCat("H ", heads.h, " G ", heads.g, " E ", heads.e, " ",
                                dtype_name(dtype), " batch ", b));
      std::vector<Timeline> timelines;
      for (const Part& part : batches[b]) {
        timelines.emplace_back(heads, part.cached + part.rows,
                               static_cast<uint32_t>(100 * timelines.size() + 1));
      }
      const auto run = [&](const Machine& m) {
        Cache cache(m, heads, dtype, 80);
        return step_of(cache, timelines, batches[b]);
      };
      // The reference takes its time: once for all backends.
      static std::map<std::string, std::vector<float>> known;
      std::vector<float>& wanted =
          known[absl::StrCat(heads.h, " ", heads.g, " ", heads.e, dtype_name(dtype), b)];
      if (wanted.empty()) wanted = run(ref);
      const auto got = run(machine);
      const double tolerance = attention_tolerance(heads.e);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], tolerance) << i;
    }
  }
}

TEST_P(AttentionConformance, RowsDependOnTheirOwnKeysOnlyBitForBit) {
  const Machine one(GetParam(), 1);
  const Machine four(GetParam(), 4);
  for (const Heads& heads : {Heads{6, 2, 32}, Heads{12, 2, 128}, Heads{3, 1, 7}, Heads{8, 4, 80}}) {
    for (DType dtype : kKvTypes) {
      // The widest take long: one cache type each.
      if ((heads.e == 128 && dtype != DType::kBF16) || (heads.e == 80 && dtype != DType::kQ8_0)) {
        continue;
      }
      SCOPED_TRACE(absl::StrCat("H ", heads.h, " E ", heads.e, " ", dtype_name(dtype)));
      constexpr int64_t kTokens = 600;
      const Timeline timeline(heads, kTokens, 1), other(heads, kTokens, 50);
      // The whole prompt in one step.
      std::vector<int32_t> pages;
      Cache whole_cache(four, heads, dtype, 20);
      const auto whole = whole_cache.step({{&timeline, &pages, 0, kTokens}});
      // In uneven chunks, in batches with another sequence, on other numbers of threads; the last
      // rows one at a time.
      for (const Machine* machine : {&one, &four}) {
        for (const bool beside : {false, true}) {
          Cache cache(*machine, heads, dtype, 60);
          expect_the_same_in_parts(cache, timeline, beside ? &other : nullptr, 0,
                                   {1, 2, 30, 31, 97, 200, 1, 1, 100, 133, 1, 1, 1, 1}, whole);
        }
      }
    }
  }
}

TEST_P(AttentionConformance, LongContextDecodesAsTheReferenceDoes) {
  const Machine machine(GetParam(), 4);
  const Machine ref = reference();
  const Heads heads{6, 2, 64};
  constexpr int64_t kTokens = 9000;
  const Timeline timeline(heads, kTokens, 3);
  const auto run = [&](const Machine& m) {
    Cache cache(m, heads, DType::kBF16, 300);
    std::vector<int32_t> pages;
    cache.step({{&timeline, &pages, 0, kTokens - 1}}, false);
    return cache.step({{&timeline, &pages, kTokens - 1, 1}});
  };
  static const std::vector<float> wanted = run(ref);  // once for all backends
  const auto got = run(machine);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], attention_tolerance(64));
}

TEST_P(AttentionConformance, CopiedPageHoldsTheSameKeysAndValues) {
  const Machine machine(GetParam(), 2);
  const Heads heads{4, 2, 32};
  const Timeline timeline(heads, 64, 3);
  Cache cache(machine, heads, DType::kF16, 10);
  std::vector<int32_t> pages;
  cache.step({{&timeline, &pages, 0, 40}}, false);
  // Page 1 of the sequence moves to a page of its own, as a fork does before it writes.
  std::vector<int32_t> forked = pages;
  int32_t free_page = 0;
  while (free_page == pages[0] || free_page == pages[1]) ++free_page;
  ASSERT_TRUE(machine->copy_page(cache.layer(), pages[1], free_page).ok());
  forked[1] = free_page;
  const auto original = cache.step({{&timeline, &pages, 40, 1}});
  const auto fork = cache.step({{&timeline, &forked, 40, 1}});
  EXPECT_TRUE(same_bits(original.data(), fork.data(), fork.size()));
}

TEST_P(AttentionConformance, HalfPrecisionCacheHoldsHugeValuesFinite) {
  const Machine machine(GetParam(), 1);
  const Heads heads{1, 1, 8};
  Timeline timeline(heads, 2, 3);
  timeline.v[0] = 1e6f;
  timeline.v[1] = -1e6f;
  Cache cache(machine, heads, DType::kF16, 2);
  std::vector<int32_t> pages;
  const auto out = cache.step({{&timeline, &pages, 0, 1}});
  EXPECT_EQ(out[0], 65504.0f);
  EXPECT_EQ(out[1], -65504.0f);
}

TEST_P(AttentionConformance, CacheOfEightBitsTakesAScalePer32AndRoundsToNearest) {
  const Machine machine(GetParam(), 1);
  // Heads of 96: three blocks each of keys and values. Heads of 80 are filled up to 96.
  for (const int64_t width : {96, 80}) {
    const auto layout = machine->kv_layout(KvShape{1, 2, width, width}, DType::kQ8_0);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->page_bytes, static_cast<uint64_t>(layout->page_tokens) * 2 * 2 * 3 * 34);
  }
  const Heads heads{1, 1, 80};
  Timeline timeline(heads, 1, 3);
  std::vector<float>& v = timeline.v;
  std::fill(v.begin(), v.end(), 0.0f);
  // One row alone: what comes out is what was cached. Scale 1: ties go to even, 127 is the end.
  v[0] = -127.0f, v[1] = 0.5f, v[2] = 1.5f, v[3] = 126.49f, v[31] = 1.0f;
  v[32] = 1e9f, v[33] = -1e9f;      // beyond binary16's scale: held
  v[64] = 1e-12f, v[79] = -1e-12f;  // below it: zero
  Cache cache(machine, heads, DType::kQ8_0, 2);
  std::vector<int32_t> pages;
  const auto out = cache.step({{&timeline, &pages, 0, 1}});
  std::vector<float> wanted(80, 0.0f);
  wanted[0] = -127.0f, wanted[2] = 2.0f, wanted[3] = 126.0f, wanted[31] = 1.0f;
  wanted[32] = 127 * 65504.0f, wanted[33] = -127 * 65504.0f;
  EXPECT_EQ(out, wanted);

  // What is not finite spoils its own block and no other.
  Timeline bad = timeline;
  bad.v[40] = INFINITY;
  bad.v[70] = NAN;
  pages.clear();
  Cache bad_cache(machine, heads, DType::kQ8_0, 2);
  const auto spoilt = bad_cache.step({{&bad, &pages, 0, 1}});
  EXPECT_EQ(std::vector<float>(spoilt.begin(), spoilt.begin() + 32),
            std::vector<float>(wanted.begin(), wanted.begin() + 32));
  for (size_t i = 32; i < spoilt.size(); ++i) EXPECT_TRUE(std::isnan(spoilt[i])) << i;
}

TEST_P(AttentionConformance, LatentsAreNotCachedInEightBits) {
  const Machine machine(GetParam(), 1);
  const auto layout = machine->kv_layout(KvShape{1, 1, 576, 0}, DType::kQ8_0);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(layout.status().message(), ::testing::HasSubstr("use f32, f16 or bf16"));
}

TEST_P(AttentionConformance, UnknownCacheTypesAreRefused) {
  const Machine machine(GetParam(), 1);
  const auto layout = machine->kv_layout(KvShape{1, 2, 32, 32}, DType::kI32);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(machine->default_kv_dtype(Precision::kF32), DType::kF32);
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionConformance, ::testing::ValuesIn(targets()),
                         target_name);

}  // namespace
}  // namespace ponder
