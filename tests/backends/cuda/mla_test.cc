// Latent attention of the CUDA backend on the emulated device, against its definition in double;
// and rows alone, in batches and in uneven steps, bit for bit, for every size of tile that a device
// may have room for.

#include <gmock/gmock.h>

#include "backends/cuda/attention_plan.h"
#include "backends/cuda/pack_mla.h"
#include "tests/backends/cuda/cached_steps.h"
#include "tests/backends/cuda/cuda_target.h"
#include "tests/conformance/mla_support.h"

namespace ponder {
namespace {

using cuda::emulation::faults;
using mla::Cache, mla::expanded, mla::Shape, mla::Timeline, mla::Weights;

// Widths and head counts that divide nothing; more heads than a tile has vectors.
const Shape kShapes[] = {
    {4, 16, 8, 16, 32}, {3, 24, 8, 20, 40}, {1, 5, 3, 7, 9}, {67, 8, 4, 8, 16}};
const DType kCacheTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Queries, folded queries, weights of positions and means are rounded to the operands' type.
double tolerance(const Shape& s, DType cache, DType weights, Precision precision) {
  const double sums =
      3 * (attention_tolerance(s.r + s.p) + attention_tolerance(s.n) + attention_tolerance(s.r));
  if (precision == Precision::kF32) return sums;
  const double rounding =
      std::max(operand_rounding(cache), weights == DType::kF32 ? 0.0 : operand_rounding(weights));
  return sums + 15 * rounding;
}

void compare(const Shape& s, DType dtype, DType weight_type, Precision precision,
             const std::vector<Part>& parts) {
  SCOPED_TRACE(absl::StrCat(s.name(), " cache ", dtype_name(dtype), " weights ",
                            dtype_name(weight_type), " precision ", static_cast<int>(precision)));
  const Machine machine = emulated_cuda();
  const Weights weights(s, weight_type, 7);
  const auto up = machine->pack_mla(weights.whole(weight_type), PackOptions{precision});
  ASSERT_TRUE(up.ok()) << up.status();
  std::vector<Timeline> timelines;
  std::vector<float> wanted;
  for (const Part& part : parts) {
    timelines.emplace_back(s, part.cached + part.rows,
                           static_cast<uint32_t>(100 * timelines.size() + 1));
    const auto one = expanded(weights, timelines.back(), dtype, part.cached, part.rows);
    wanted.insert(wanted.end(), one.begin(), one.end());
  }
  Cache cache(machine, up->get(), s, dtype, 80);
  const auto got = step_of(cache, timelines, parts);
  const double limit = tolerance(s, dtype, weight_type, precision);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], limit) << i;
}

class CudaMla : public ::testing::Test {
 protected:
  ~CudaMla() override { faults = {}; }
  static constexpr int64_t kHopper = int64_t{227} << 10;
};

TEST_F(CudaMla, AgreesWithExpandedKeysAndValues) {
  const std::vector<std::vector<Part>> batches = {
      {{0, 1}}, {{0, 20}}, {{31, 1}, {63, 1}, {64, 2}}, {{511, 1}, {512, 1}, {510, 4}, {0, 3}}};
  for (const Shape& s : kShapes) {
    for (const DType dtype : kCacheTypes) {
      const DType weights = dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
      // The long ones with few heads.
      for (size_t b = 0; b < (s.h > 4 ? 3 : batches.size()); ++b) {
        compare(s, dtype, weights, Precision::kF32, batches[b]);
        if (dtype != DType::kF32) compare(s, dtype, weights, Precision::kAuto, batches[b]);
      }
    }
  }
  compare(kShapes[1], DType::kF16, DType::kF16, Precision::kAuto, {{33, 12}, {0, 2}});
  compare(kShapes[0], DType::kBF16, DType::kBF16, Precision::kAuto, {{1100, 1}});
}

TEST_F(CudaMla, TrueWidthsAgreeWithExpandedKeysAndValues) {
  const Shape s{18, 128, 64, 128, 512};
  compare(s, DType::kF16, DType::kBF16, Precision::kAuto, {{72, 2}});
  compare(s, DType::kBF16, DType::kBF16, Precision::kAuto, {{30, 1}});
  compare(s, DType::kF16, DType::kBF16, Precision::kF32, {{40, 1}});
}

TEST_F(CudaMla, TilesAreAsLargeAsSharedMemoryAllows) {
  // DeepSeek's latents: sm_90, sm_80, sm_86 to sm_120, sm_75, and one that has too little.
  cuda::Cache cache;
  cache.dtype = DType::kBF16;
  cache.k_row = 576;
  for (const auto& [limit, tile] : {std::array<int64_t, 2>{kHopper, 64},
                                    {int64_t{163} << 10, 32},
                                    {int64_t{99} << 10, 16},
                                    {int64_t{64} << 10, 16},
                                    {int64_t{48} << 10, 0}}) {
    EXPECT_EQ(cuda::mla_tile(cache, limit), tile);
  }
}

TEST_F(CudaMla, TilesOfAllSizesGiveTheSameBits) {
  const Machine machine = emulated_cuda();
  const Shape s{10, 24, 8, 20, 72};
  const Weights weights(s, DType::kBF16, 1);
  const auto up = machine->pack_mla(weights.whole(DType::kBF16), PackOptions{});
  ASSERT_TRUE(up.ok());
  const Timeline timeline(s, 80, 3);
  std::vector<std::vector<float>> results;
  for (const int64_t limit : {kHopper, int64_t{40} << 10, int64_t{20} << 10}) {
    faults.shared_memory = limit;
    Cache cache(machine, up->get(), s, DType::kBF16, 4);
    std::vector<int32_t> pages;
    results.push_back(cache.step({{&timeline, &pages, 0, 80}}));
    cuda::Cache shape;
    shape.k_row = 80;
    EXPECT_EQ(cuda::mla_tile(shape, limit), int64_t{64} >> (results.size() - 1));
  }
  for (const auto& result : results) {
    EXPECT_TRUE(same_bits(result.data(), results[0].data(), result.size()));
  }
}

TEST_F(CudaMla, BothFormsOfTheUpProjectionAreTheSame) {
  const Machine machine = emulated_cuda();
  for (const Shape& s : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(absl::StrCat(s.name(), " ", dtype_name(dtype)));
      const Weights weights(s, dtype, 11);
      const auto whole = machine->pack_mla(weights.whole(dtype), PackOptions{});
      const auto split = machine->pack_mla(weights.split(dtype), PackOptions{});
      ASSERT_TRUE(whole.ok() && split.ok()) << whole.status() << split.status();
      const Timeline timeline(s, 5, 3);
      std::vector<std::vector<float>> results;
      for (const PackedWeight* up : {whole->get(), split->get()}) {
        Cache cache(machine, up, s, DType::kF16, 4);
        std::vector<int32_t> pages;
        results.push_back(cache.step({{&timeline, &pages, 0, 5}}));
      }
      EXPECT_TRUE(same_bits(results[0].data(), results[1].data(), results[0].size()));
    }
  }
}

TEST_F(CudaMla, RowsDependOnTheirOwnKeysOnlyBitForBit) {
  const Machine cuda = emulated_cuda();
  constexpr int64_t kBefore = 490, kTokens = 550;
  for (const Shape& s : {kShapes[0], kShapes[2]}) {
    for (const DType dtype : kCacheTypes) {
      SCOPED_TRACE(absl::StrCat(s.name(), " ", dtype_name(dtype)));
      const Weights weights(s, DType::kBF16, 1);
      const auto up = cuda->pack_mla(weights.whole(DType::kBF16), PackOptions{});
      ASSERT_TRUE(up.ok());
      const Timeline timeline(s, kTokens, 1), other(s, kTokens, 50);
      std::vector<int32_t> pages;
      Cache whole_cache(cuda, up->get(), s, dtype, 24);
      whole_cache.step({{&timeline, &pages, 0, kBefore}}, false);
      const auto whole = whole_cache.step({{&timeline, &pages, kBefore, kTokens - kBefore}});
      for (const bool beside : {false, true}) {
        Cache cache(cuda, up->get(), s, dtype, 60);
        expect_the_same_in_parts(cache, timeline, beside ? &other : nullptr, kBefore,
                                 {1, 2, 17, 1, 1, 1, 20, 16, 1}, whole);
      }
    }
  }
}

TEST_F(CudaMla, WhatIsNoNumberReachesTheRowsThatSeeItOnly) {
  const Machine cuda = emulated_cuda();
  constexpr int64_t kBefore = 500, kTokens = 524, kInfinite = 508, kNan = 515;
  const Shape& s = kShapes[1];
  const Weights weights(s, DType::kBF16, 1);
  const auto up = cuda->pack_mla(weights.whole(DType::kBF16), PackOptions{});
  ASSERT_TRUE(up.ok());
  Timeline timeline(s, kTokens, 1);
  timeline.latent[static_cast<size_t>(kInfinite * s.r + 1)] = -INFINITY;
  timeline.latent[static_cast<size_t>(kNan * s.r + 2)] = NAN;
  for (const DType dtype : kCacheTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const auto out = expect_spoilt_from(
        [&](int32_t pages) { return Cache(cuda, up->get(), s, dtype, pages); }, timeline, kBefore,
        kTokens - kBefore, kInfinite, static_cast<size_t>(s.h * s.u));
    for (size_t i = static_cast<size_t>((kNan - kBefore) * s.h * s.u); i < out.size(); ++i) {
      EXPECT_TRUE(std::isnan(out[i])) << i;
    }
  }
}

TEST_F(CudaMla, QuantisedWeightsBecomeHalves) {
  const Machine machine = emulated_cuda();
  const Shape s{2, 32, 8, 32, 64};
  const auto quantised = [&](float scale) {
    // q8_0: every code 1.
    MlaUpWeights up = Weights(s, DType::kF32, 1).whole(DType::kF32);
    auto bytes = std::make_shared<std::vector<uint8_t>>();
    const uint16_t d = f32_to_f16(scale);
    for (int64_t i = 0; i < s.h * (s.n + s.u) * s.r / 32; ++i) {
      bytes->push_back(static_cast<uint8_t>(d));
      bytes->push_back(static_cast<uint8_t>(d >> 8));
      bytes->insert(bytes->end(), 32, uint8_t{127});
    }
    up.kv.dtype = DType::kQ8_0;
    up.kv.data = bytes->data();
    up.kv.owner = bytes;
    return up;
  };
  const auto small = machine->pack_mla(quantised(0.01f), PackOptions{});
  ASSERT_TRUE(small.ok()) << small.status();
  const auto& packed = static_cast<const cuda::CudaMlaWeight&>(**small);
  EXPECT_EQ(packed.keys.dtype, DType::kF16);
  EXPECT_EQ(static_cast<const uint16_t*>(packed.keys.data)[5],
            f32_to_f16(f16_to_f32(f32_to_f16(0.01f)) * 127));
  const auto large = machine->pack_mla(quantised(1000.0f), PackOptions{});
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(static_cast<const cuda::CudaMlaWeight&>(**large).keys.dtype, DType::kBF16);
  const auto precise = machine->pack_mla(quantised(0.01f), PackOptions{Precision::kF32});
  ASSERT_TRUE(precise.ok());
  EXPECT_EQ(static_cast<const cuda::CudaMlaWeight&>(**precise).keys.dtype, DType::kF32);
}

TEST_F(CudaMla, RunsStayWithinTheirMemory) {
  // 128 heads at 32,768 positions, 20 rows of a prompt and one row of another sequence.
  std::vector<int32_t> pages(1024);
  const SequenceSlice slices[] = {{0, 20, 32700, pages}, {20, 1, 5, pages}};
  Batch batch;
  batch.sequences = slices;
  const auto plan = cuda::plan_mla(batch, 128, 512, 64);
  EXPECT_LE(plan.scratch_bytes, cuda::kMlaScratch);
  ASSERT_GT(plan.runs.size(), 2u);
  int64_t step_row = 0;
  for (const cuda::SplitRun& run : plan.runs) {
    EXPECT_EQ(run.step_row, step_row);
    EXPECT_EQ(run.tiles, 2 * run.rows);
    for (int64_t r = 0; r < run.rows; ++r) {
      EXPECT_EQ(plan.rows[static_cast<size_t>(run.first_row + r)].row, r);
    }
    step_row += run.rows;
  }
  EXPECT_EQ(step_row, 21);
}

TEST_F(CudaMla, CacheHoldsOneLatentRowPerToken) {
  const Machine machine = emulated_cuda();
  for (const DType dtype : kCacheTypes) {
    const auto layout = machine->kv_layout(KvShape{61, 1, 512 + 64, 0}, dtype);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->page_bytes,
              static_cast<uint64_t>(layout->page_tokens * dtype_bytes(dtype, 576)));
  }
}

TEST_F(CudaMla, DamagedAndUnsuitableWeightsAreRefused) {
  const Machine machine = emulated_cuda();
  Weights weights(kShapes[1], DType::kF32, 1);
  weights.kv[77] = NAN;
  for (const auto& up : {weights.whole(DType::kF32), weights.split(DType::kF32)}) {
    EXPECT_EQ(machine->pack_mla(up, PackOptions{}).status().code(), absl::StatusCode::kDataLoss);
  }
  MlaUpWeights wrong = Weights(kShapes[1], DType::kF32, 1).whole(DType::kF32);
  std::swap(wrong.kv.shape[0], wrong.kv.shape[1]);
  EXPECT_FALSE(machine->pack_mla(wrong, PackOptions{}).ok());
  const Status wide =
      machine->pack_mla(Weights({1, 2, 2, 2, 520}, DType::kF32, 1).whole(DType::kF32), {}).status();
  EXPECT_EQ(wide.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(wide.message()), ::testing::HasSubstr("520"));
}

}  // namespace
}  // namespace ponder
