// Attention of the CUDA backend on the emulated device, against the reference backend over the same
// cached numbers; and rows alone, in batches and in uneven steps, bit for bit.

#include <gmock/gmock.h>

#include "backends/cuda/attention_plan.h"
#include "tests/backends/cuda/cached_steps.h"
#include "tests/backends/cuda/cuda_target.h"
#include "tests/conformance/attention_support.h"

namespace ponder {
namespace {

using grouped::Cache, grouped::Heads;

std::string name_of(const Heads& s, DType dtype) {
  return absl::StrCat("H ", s.h, " G ", s.g, " E ", s.e, ", ", s.v(), " ", dtype_name(dtype));
}

// Queries are numbers that the matrix instructions take as they are, and so are keys and values of
// f8_e4m3, which the reference does not know: it gets the values.
grouped::Timeline timeline_of(const Heads& s, int64_t tokens, uint32_t seed, DType dtype) {
  grouped::Timeline t(s, tokens, seed);
  t.q = rounded(std::move(t.q), operand_type(dtype));
  if (dtype == DType::kF8_E4M3) {
    for (std::vector<float>* values : {&t.k, &t.v}) {
      for (float& x : *values) x = to_f8(x);
    }
  }
  return t;
}

void compare(const Heads& heads, DType dtype, const std::vector<Part>& parts) {
  SCOPED_TRACE(name_of(heads, dtype));
  std::vector<grouped::Timeline> timelines;
  for (const Part& part : parts) {
    timelines.push_back(timeline_of(heads, part.cached + part.rows,
                                    static_cast<uint32_t>(100 * timelines.size() + 1), dtype));
  }
  const auto run = [&](const Machine& m, DType cache_type) {
    Cache cache(m, heads, cache_type, 80);
    return step_of(cache, timelines, parts);
  };
  const auto got = run(emulated_cuda(), dtype);
  const auto wanted = run(plain_reference(), dtype == DType::kF8_E4M3 ? DType::kF32 : dtype);
  // In q8_0 keys and values are rounded once more, to f16.
  const double roundings = dtype == DType::kQ8_0 ? 4 : 1;
  const double tolerance = attention_tolerance(heads.e) + roundings * operand_rounding(dtype);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], tolerance) << i;
}

const DType kCacheTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8_E4M3, DType::kQ8_0};

TEST(CudaAttention, AgreesWithTheReferenceForAllHeads) {
  // Head sizes that are and are not multiples of 16, groups of 1 to 12, keys wider than values.
  const Heads shapes[] = {{8, 4, 8},        {6, 2, 32},   {6, 3, 48},  {7, 1, 64},
                          {2, 2, 80},       {3, 1, 96},   {2, 1, 112}, {12, 2, 128},
                          {4, 2, 192, 128}, {3, 1, 7, 9}, {2, 1, 256}, {2, 1, 64, 192}};
  for (const Heads& heads : shapes) {
    for (const DType dtype : kCacheTypes) {
      compare(heads, dtype, {{31, 1}, {0, 3}, {95, 2}});
    }
  }
}

TEST(CudaAttention, AgreesWithTheReferenceOnRaggedBatches) {
  const std::vector<std::vector<Part>> batches = {
      {{0, 1}},
      {{0, 70}},                               // wide tiles
      {{31, 1}, {32, 1}, {33, 2}},             // borders of pages
      {{63, 1}, {64, 1}, {62, 5}},             // of what is weighed at once
      {{255, 1}, {256, 1}, {254, 5}, {0, 3}},  // of chunks
      {{250, 40}, {0, 17}, {767, 1}},          // wide and narrow ones in a step
      {{1500, 1}},
  };
  for (const Heads& heads : {Heads{6, 2, 32}, Heads{4, 1, 80, 48}}) {
    for (const DType dtype : kCacheTypes) {
      for (const auto& parts : batches) compare(heads, dtype, parts);
    }
  }
}

TEST(CudaAttention, WideHeadsInWideTiles) {
  compare({2, 1, 256}, DType::kF16, {{20, 40}});
  compare({8, 1, 128}, DType::kBF16, {{240, 20}});
  compare({8, 1, 128}, DType::kF8_E4M3, {{240, 20}});
}

TEST(CudaAttention, RowsDependOnTheirOwnKeysOnlyBitForBit) {
  const Machine cuda = emulated_cuda();
  for (const Heads& heads : {Heads{6, 2, 32}, Heads{3, 1, 7}, Heads{1, 1, 144, 16}}) {
    for (const DType dtype : kCacheTypes) {
      SCOPED_TRACE(name_of(heads, dtype));
      constexpr int64_t kBefore = 230, kTokens = 330;
      const auto timeline = timeline_of(heads, kTokens, 1, dtype);
      const auto other = timeline_of(heads, kTokens, 50, dtype);
      // All rows in one step.
      std::vector<int32_t> pages;
      Cache whole_cache(cuda, heads, dtype, 20);
      whole_cache.step({{&timeline, &pages, 0, kBefore}}, false);
      const auto whole = whole_cache.step({{&timeline, &pages, kBefore, kTokens - kBefore}});
      // In uneven chunks, in a batch with another sequence; some rows one at a time.
      for (const bool beside : {false, true}) {
        Cache cache(cuda, heads, dtype, 60);
        expect_the_same_in_parts(cache, timeline, beside ? &other : nullptr, kBefore,
                                 {1, 2, 22, 1, 1, 43, 28, 1, 1}, whole);
      }
    }
  }
}

TEST(CudaAttention, WhatIsNoNumberReachesTheRowsThatSeeItOnly) {
  const Machine cuda = emulated_cuda();
  constexpr int64_t kBefore = 240, kTokens = 276, kInfinite = 250, kNan = 262;
  for (const Heads& heads : {Heads{6, 2, 32}, Heads{3, 1, 7}, Heads{2, 1, 144, 16}}) {
    for (const DType dtype : kCacheTypes) {
      SCOPED_TRACE(name_of(heads, dtype));
      auto timeline = timeline_of(heads, kTokens, 1, dtype);
      const int64_t row = heads.g * heads.v(), out_row = heads.h * heads.v();
      timeline.v[static_cast<size_t>(kInfinite * row + 1)] = INFINITY;
      timeline.v[static_cast<size_t>(kNan * row + 2)] = NAN;
      for (const int64_t rows : {kTokens - kBefore, int64_t{4}}) {  // tiles of all sizes
        const auto out =
            expect_spoilt_from([&](int32_t pages) { return Cache(cuda, heads, dtype, pages); },
                               timeline, kBefore, rows, kInfinite, static_cast<size_t>(out_row));
        for (int64_t at = kNan; at < kTokens; ++at) {
          EXPECT_TRUE(std::isnan(out[static_cast<size_t>((at - kBefore) * out_row + 2)])) << at;
        }
      }
    }
  }
}

TEST(CudaAttention, LongContextDecodesAsTheReferenceDoes) {
  const Heads heads{6, 2, 64};
  constexpr int64_t kTokens = 9000;
  const auto timeline = timeline_of(heads, kTokens, 3, DType::kBF16);
  const auto run = [&](const Machine& m) {
    Cache cache(m, heads, DType::kBF16, 300);
    std::vector<int32_t> pages;
    cache.step({{&timeline, &pages, 0, kTokens - 1}}, false);
    return cache.step({{&timeline, &pages, kTokens - 1, 1}});
  };
  const auto wanted = run(plain_reference()), got = run(emulated_cuda());
  const double tolerance = attention_tolerance(64) + operand_rounding(DType::kBF16);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], tolerance);
}

TEST(CudaAttention, ManySequencesInSeveralRuns) {
  // More chunks than wait for their merge at once.
  const Heads heads{64, 2, 16};
  std::vector<int32_t> pages(1000);
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<SequenceSlice> slices;
  for (int32_t i = 0; i < 1200; ++i) slices.push_back({i, 1, 31999, pages});
  Batch batch;
  batch.sequences = slices;
  const auto plan = cuda::plan_attention(batch, heads.h, heads.g, heads.v(), 64);
  ASSERT_GT(plan.runs.size(), 5u);
  EXPECT_LE(plan.scratch_bytes, cuda::kAttentionScratch);
  int64_t tile = plan.wide_tiles, row = 0;
  for (const cuda::SplitRun& run : plan.runs) {
    EXPECT_EQ(run.first_tile, tile);
    EXPECT_EQ(run.first_row, row);
    EXPECT_EQ(run.chunks, 125);
    // 32 heads share a key/value head: two tiles each.
    EXPECT_EQ(run.tiles, 2 * run.rows);
    for (int64_t i = 0; i < run.tiles; ++i) {
      const cuda::Tile& t = plan.tiles[static_cast<size_t>(tile + i)];
      EXPECT_EQ(t.slot, i / 2);
      EXPECT_EQ(t.row, plan.rows[static_cast<size_t>(row + i / 2)].row);
    }
    tile += run.tiles;
    row += run.rows;
  }
  EXPECT_EQ(tile, static_cast<int64_t>(plan.tiles.size()));
  EXPECT_EQ(row, 1200);
}

TEST(CudaAttention, CopiedPageHoldsTheSameKeysAndValues) {
  const Machine machine = emulated_cuda();
  const Heads heads{4, 2, 40};
  for (const DType dtype : kCacheTypes) {
    const auto timeline = timeline_of(heads, 64, 3, dtype);
    Cache cache(machine, heads, dtype, 10);
    std::vector<int32_t> pages;
    cache.step({{&timeline, &pages, 0, 40}}, false);
    std::vector<int32_t> forked = pages;
    int32_t free_page = 0;
    while (free_page == pages[0] || free_page == pages[1]) ++free_page;
    ASSERT_TRUE(machine->copy_page(cache.layer(), pages[1], free_page).ok());
    forked[1] = free_page;
    const auto original = cache.step({{&timeline, &pages, 40, 1}});
    const auto fork = cache.step({{&timeline, &forked, 40, 1}});
    EXPECT_TRUE(same_bits(original.data(), fork.data(), fork.size()));
  }
}

// One row alone: what comes out is what was cached.
std::vector<float> cached(DType dtype, const std::vector<float>& values) {
  const auto width = static_cast<int64_t>(values.size());
  const Machine machine = emulated_cuda();
  grouped::Timeline timeline({1, 1, width}, 1, 3);
  timeline.v = values;
  Cache cache(machine, {1, 1, width}, dtype, 2);
  std::vector<int32_t> pages;
  return cache.step({{&timeline, &pages, 0, 1}});
}

TEST(CudaAttention, HalfPrecisionCacheHoldsHugeValuesFinite) {
  std::vector<float> v(8, 0.25f);
  v[0] = 1e6f, v[1] = -1e6f;
  const auto out = cached(DType::kF16, v);
  EXPECT_EQ(out[0], 65504.0f);
  EXPECT_EQ(out[1], -65504.0f);
  EXPECT_EQ(out[2], 0.25f);
}

TEST(CudaAttention, CacheOfF8RoundsToNearestAndHoldsAt448) {
  std::vector<float> v = random_floats(128, 5, 3.0f);
  const auto small = random_floats(64, 6, 0.03f);
  v.insert(v.end(), small.begin(), small.end());
  for (const float x : {1e9f, -1e9f, 448.0f, 463.0f, 500.0f, 0.0f, 0x1p-10f, 0x1.8p-9f, 17.0f,
                        18.0f, 19.0f, 0x1p-6f, 0x1.fp-7f, 1e-20f}) {
    v.push_back(x);
  }
  const auto out = cached(DType::kF8_E4M3, v);
  for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(out[i], to_f8(v[i])) << v[i];
  std::vector<float> bad(48, 1.5f);
  bad[3] = NAN;
  const auto spoilt = cached(DType::kF8_E4M3, bad);
  for (size_t i = 0; i < bad.size(); ++i) EXPECT_EQ(std::isnan(spoilt[i]), i == 3) << i;
}

TEST(CudaAttention, CacheOfEightBitsTakesAScalePer32AndRoundsToNearest) {
  const Machine machine = emulated_cuda();
  // Heads of 96: three blocks each of keys and values. Heads of 80 are filled up to 96.
  for (const int64_t width : {96, 80}) {
    const auto layout = machine->kv_layout(KvShape{1, 2, width, width}, DType::kQ8_0);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->page_bytes, static_cast<uint64_t>(layout->page_tokens) * 2 * 2 * 3 * 34);
  }
  // Scale 1: ties go to even, 127 is the end.
  std::vector<float> v(80, 0.0f), wanted(80, 0.0f);
  v[0] = -127.0f, v[1] = 0.5f, v[2] = 1.5f, v[3] = 126.49f, v[31] = 1.0f;
  v[32] = 1e9f, v[33] = -1e9f;      // beyond binary16: held at its largest multiple of a scale
  v[64] = 1e-12f, v[79] = -1e-12f;  // below: zero
  wanted[0] = -127.0f, wanted[2] = 2.0f, wanted[3] = 126.0f, wanted[31] = 1.0f;
  wanted[32] = f16_to_f32(f32_to_f16(127 * 515.5f)), wanted[33] = -wanted[32];
  EXPECT_EQ(cached(DType::kQ8_0, v), wanted);
  EXPECT_GT(wanted[32], 65000.0f);
  // What is not finite spoils its own block and no other.
  v[40] = INFINITY;
  v[70] = NAN;
  const auto spoilt = cached(DType::kQ8_0, v);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(spoilt[i], wanted[i]);
  for (size_t i = 32; i < spoilt.size(); ++i) EXPECT_TRUE(std::isnan(spoilt[i])) << i;
}

TEST(CudaAttention, CachesThatAreNotSupportedAreRefused) {
  const Machine machine = emulated_cuda();
  const auto refused = [&](const KvShape& shape, DType dtype) {
    const Status status = machine->kv_layout(shape, dtype).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    return std::string(status.message());
  };
  EXPECT_THAT(refused({1, 2, 64, 64}, DType::kI32), ::testing::HasSubstr("bf16, f8_e4m3 or q8_0"));
  EXPECT_THAT(refused({1, 2, 288, 288}, DType::kF16), ::testing::HasSubstr("288"));
  EXPECT_THAT(refused({1, 1, 576, 0}, DType::kQ8_0), ::testing::HasSubstr("f16 or bf16"));
  EXPECT_THAT(refused({1, 1, 1040, 0}, DType::kF16), ::testing::HasSubstr("1040"));
}

}  // namespace
}  // namespace ponder
