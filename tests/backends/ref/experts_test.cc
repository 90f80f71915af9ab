// Routing and mixtures of experts in the reference backend, against numbers worked out by hand and
// against the definition.
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "backends/ref/ref.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/device/backend.h"

namespace ponder {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RefExpertsTest : public ::testing::Test {
 protected:
  std::unique_ptr<ThreadPool> pool_ = make_thread_pool(2).value();
  std::unique_ptr<Backend> backend_ = make_ref_backend({default_allocator(), pool_.get(), {}});

  struct Routing {
    Status status;
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  // One row.
  Routing route(std::vector<float> logits, std::vector<float> bias, const RouterParams& router) {
    const auto experts = static_cast<int64_t>(logits.size());
    Routing r;
    r.ids.assign(static_cast<size_t>(router.top_k), -1);
    r.weights.assign(static_cast<size_t>(router.top_k), NAN);
    RouteParams p{};
    p.logits = Tensor::make(logits.data(), DType::kF32, {1, experts});
    if (!bias.empty()) p.bias = Tensor::make(bias.data(), DType::kF32, {experts});
    p.router = router;
    p.ids = Tensor::make(r.ids.data(), DType::kI32, {1, router.top_k});
    p.weights = Tensor::make(r.weights.data(), DType::kF32, {1, router.top_k});
    r.status = backend_->route(p);
    return r;
  }
};

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

TEST_F(RefExpertsTest, SoftmaxWeightsAreOverAllExpertsUnlessNormalised) {
  RouterParams router;
  router.top_k = 2;
  const std::vector<float> logits = {0, std::log(4.0f), std::log(2.0f), 0};  // 1 4 2 1 of 8
  Routing r = route(logits, {}, router);
  ASSERT_TRUE(r.status.ok()) << r.status;
  EXPECT_THAT(r.ids, ElementsAre(1, 2));
  EXPECT_NEAR(r.weights[0], 0.5f, 1e-6);
  EXPECT_NEAR(r.weights[1], 0.25f, 1e-6);
  router.normalize = true;
  router.scale = 3;
  r = route(logits, {}, router);
  EXPECT_NEAR(r.weights[0], 2.0f, 1e-6);
  EXPECT_NEAR(r.weights[1], 1.0f, 1e-6);
}

TEST_F(RefExpertsTest, BiasMovesTheChoiceButNotTheWeight) {
  RouterParams router;
  router.sigmoid = true;
  const Routing r = route({2, 1, 0}, {0, 0, 10}, router);
  EXPECT_THAT(r.ids, ElementsAre(2));
  EXPECT_NEAR(r.weights[0], 0.5f, 1e-6);
}

TEST_F(RefExpertsTest, EqualScoresGoToTheLowerNumber) {
  RouterParams router;
  router.top_k = 3;
  EXPECT_THAT(route({1, 5, 5, 5, 5, 1}, {}, router).ids, ElementsAre(1, 2, 3));
  router.groups = 3;
  router.groups_kept = 1;
  router.top_k = 1;
  EXPECT_THAT(route({1, 5, 5, 1, 5, 5}, {}, router).ids, ElementsAre(1));
}

TEST_F(RefExpertsTest, GroupsAreJudgedByTheirBestOrTheirBestTwo) {
  RouterParams router;
  router.sigmoid = true;
  router.groups = 2;
  router.groups_kept = 1;
  router.top_k = 2;
  const std::vector<float> logits = {2.0f, -3.0f, -3.0f, 1.5f, 1.4f, -3.0f};
  EXPECT_THAT(route(logits, {}, router).ids, ElementsAre(0, 1));  // a tie inside the best group
  router.group_by_top2 = true;
  const Routing r = route(logits, {}, router);
  EXPECT_THAT(r.ids, ElementsAre(3, 4));
  EXPECT_NEAR(r.weights[0], sigmoid(1.5f), 1e-6);
  // Experts outside the kept groups are out however negative the biased scores inside are.
  EXPECT_THAT(route(logits, {-9, -9, -9, -8, -8, -8}, router).ids, ElementsAre(3, 4));
}

TEST_F(RefExpertsTest, ScoresThatAreNotFiniteAreCorrupt) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
    const Routing r = route({0, 1, bad, 2}, {}, RouterParams{});
    EXPECT_EQ(r.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(r.status.message()), HasSubstr("expert 2"));
  }
}

// Experts in memory; counts how often each was asked for.
class Source final : public ExpertSource {
 public:
  static constexpr int64_t kExperts = 5, kHidden = 7, kWidth = 6;

  explicit Source(std::map<int64_t, int>* reads) : reads_(reads) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (auto& values : values_) {
      values = std::make_shared<std::vector<float>>(3 * kHidden * kWidth);
      for (float& v : *values) v = uniform(random);
    }
  }
  int64_t experts() const override { return kExperts; }
  int64_t hidden() const override { return kHidden; }
  int64_t width() const override { return kWidth; }
  StatusOr<ExpertWeights> find(int64_t e) const override {
    ++(*reads_)[e];
    if (e == broken) return io_error("expert ", e, " could not be read");
    const auto matrix = [&](int which, int64_t rows, int64_t cols) {
      WeightData w;
      w.name = absl::StrCat("expert ", e, " matrix ", which);
      w.shape = {rows, cols};
      w.data = values(e) + which * kHidden * kWidth;
      w.owner = values_[static_cast<size_t>(e)];
      return w;
    };
    return ExpertWeights{matrix(0, kWidth, kHidden), matrix(1, kWidth, kHidden),
                         matrix(2, kHidden, kWidth)};
  }
  void drop(const ExpertWeights&) const override {}
  float* values(int64_t e) const { return values_[static_cast<size_t>(e)]->data(); }

  // The definition, for one row and one expert.
  double result(int64_t e, const float* x, int64_t d) const {
    const float *gate = values(e), *up = gate + kHidden * kWidth, *down = up + kHidden * kWidth;
    double sum = 0;
    for (int64_t f = 0; f < kWidth; ++f) {
      double g = 0, u = 0;
      for (int64_t i = 0; i < kHidden; ++i) {
        g += double{gate[f * kHidden + i]} * x[i];
        u += double{up[f * kHidden + i]} * x[i];
      }
      sum += down[d * kWidth + f] * (g / (1 + std::exp(-g)) * u);
    }
    return sum;
  }
  int64_t broken = -1;

 private:
  std::shared_ptr<std::vector<float>> values_[kExperts];
  std::map<int64_t, int>* reads_;
};

TEST_F(RefExpertsTest, RowsGetTheWeightedSumOfTheirExpertsWithAndWithoutACache) {
  std::vector<float> x(3 * Source::kHidden);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 1.7f;
  std::vector<int32_t> ids = {0, 3, 3, 4, 0, 3};
  std::vector<float> weights = {0.5f, 1.5f, 0.25f, 2.0f, -1.0f, 1.0f};
  for (const bool cached : {false, true}) {
    std::map<int64_t, int> reads;
    auto source = std::make_unique<Source>(&reads);
    const Source numbers(&reads);
    std::unique_ptr<ExpertCache> cache;
    if (cached) cache = backend_->make_expert_cache(1000).value();
    auto packed = backend_->pack_experts(std::move(source), {Precision::kAuto, cache.get()});
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(reads.size(), cached ? 0u : static_cast<size_t>(Source::kExperts));
    reads.clear();
    std::vector<float> out(x.size(), NAN);
    ExpertsParams p{};
    p.x = Tensor::make(x.data(), DType::kF32, {3, Source::kHidden});
    p.ids = Tensor::make(ids.data(), DType::kI32, {3, 2});
    p.weights = Tensor::make(weights.data(), DType::kF32, {3, 2});
    p.experts = packed->get();
    p.out = Tensor::make(out.data(), DType::kF32, {3, Source::kHidden});
    ASSERT_TRUE(backend_->experts(p).ok());
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t d = 0; d < Source::kHidden; ++d) {
        double want = 0;
        for (int64_t k = 0; k < 2; ++k) {
          want += weights[static_cast<size_t>(t * 2 + k)] *
                  numbers.result(ids[static_cast<size_t>(t * 2 + k)],
                                 x.data() + t * Source::kHidden, d);
        }
        EXPECT_NEAR(out[static_cast<size_t>(t * Source::kHidden + d)], want, 1e-5) << t << " " << d;
      }
    }
    if (cached) {  // only the chosen, each once
      EXPECT_EQ(reads, (std::map<int64_t, int>{{0, 1}, {3, 1}, {4, 1}}));
      EXPECT_EQ(cache->stats().misses, 3u);
      EXPECT_EQ(cache->stats().bytes_read, 3u * 3 * Source::kHidden * Source::kWidth * 4);
      EXPECT_EQ(cache->stats().held_bytes, 0u);
    }
  }
}

TEST_F(RefExpertsTest, ExpertsThatCannotBeReadOrAreDamagedFailTheStepOnly) {
  std::map<int64_t, int> reads;
  auto source = std::make_unique<Source>(&reads);
  Source* raw = source.get();
  auto cache = backend_->make_expert_cache(1000).value();
  auto packed = backend_->pack_experts(std::move(source), {Precision::kAuto, cache.get()}).value();
  std::vector<float> x(Source::kHidden, 1.0f), out(x), weights = {1};
  std::vector<int32_t> ids = {2};
  ExpertsParams p{};
  p.x = Tensor::make(x.data(), DType::kF32, {1, Source::kHidden});
  p.ids = Tensor::make(ids.data(), DType::kI32, {1, 1});
  p.weights = Tensor::make(weights.data(), DType::kF32, {1, 1});
  p.experts = packed.get();
  p.out = Tensor::make(out.data(), DType::kF32, {1, Source::kHidden});
  raw->broken = 2;
  EXPECT_EQ(backend_->experts(p).code(), absl::StatusCode::kUnavailable);
  raw->broken = -1;
  EXPECT_TRUE(backend_->experts(p).ok());
  raw->values(2)[4] = NAN;
  EXPECT_EQ(backend_->experts(p).code(), absl::StatusCode::kDataLoss);
  ids[0] = 1;
  EXPECT_TRUE(backend_->experts(p).ok());

  auto damaged = std::make_unique<Source>(&reads);
  damaged->values(4)[0] = INFINITY;
  EXPECT_EQ(backend_->pack_experts(std::move(damaged), {}).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace ponder
