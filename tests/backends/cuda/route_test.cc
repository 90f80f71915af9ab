// The CUDA backend's router on the emulated device, against the reference backend.

#include <gmock/gmock.h>

#include "tests/backends/cuda/cuda_target.h"

namespace ponder {
namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  Status status;
};

Routed route(const Machine& machine, std::vector<float> logits, int64_t rows,
             std::vector<float> bias, const RouterParams& router) {
  const auto experts = static_cast<int64_t>(logits.size()) / rows;
  Routed routed;
  routed.ids.assign(static_cast<size_t>(rows * router.top_k), -1);
  routed.weights.assign(routed.ids.size(), NAN);
  RouteParams p{};
  p.logits = view(logits, {rows, experts});
  if (!bias.empty()) p.bias = view(bias, {experts});
  p.router = router;
  p.ids = Tensor::make(routed.ids.data(), DType::kI32, {rows, router.top_k});
  p.weights = view(routed.weights, {rows, router.top_k});
  routed.status = machine->route(p);
  return routed;
}

TEST(CudaRoute, ChoosesAndWeighsAsTheReference) {
  const Machine cuda = emulated_cuda(), ref = plain_reference();
  struct Case {
    int64_t experts;
    RouterParams router;
    bool bias;
  };
  const Case cases[] = {
      {256, {8, 8, 4, true, true, true, 2.5f}, true},       // DeepSeek-V3
      {160, {6, 8, 3, false, false, false, 16.0f}, false},  // V2
      {64, {6, 1, 1, false, false, false, 1.0f}, false},    // V2-Lite
      {128, {8, 1, 1, false, false, true, 1.0f}, false},    // Qwen3
      {3, {3, 1, 1, true, false, true, 1.0f}, true},
      {1, {1, 1, 1, false, false, false, 1.0f}, false},
      {12, {5, 12, 7, true, true, false, 1.0f}, true},  // groups of one
  };
  constexpr int64_t kRows = 9;
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.experts, " experts"));
    const auto logits = random_floats(static_cast<size_t>(kRows * c.experts), 3, 4.0f);
    std::vector<float> bias;
    if (c.bias) bias = random_floats(static_cast<size_t>(c.experts), 4, 0.3f);
    const Routed got = route(cuda, logits, kRows, bias, c.router);
    const Routed wanted = route(ref, logits, kRows, bias, c.router);
    ASSERT_TRUE(got.status.ok() && wanted.status.ok());
    EXPECT_EQ(got.ids, wanted.ids);
    for (size_t i = 0; i < got.weights.size(); ++i) {
      EXPECT_NEAR(got.weights[i], wanted.weights[i], 2 * kUlp * std::abs(wanted.weights[i]));
    }
    // A row alone.
    const auto row = static_cast<size_t>(c.experts);
    const Routed alone = route(cuda, {logits.end() - c.experts, logits.end()}, 1, bias, c.router);
    const auto k = static_cast<size_t>(c.router.top_k);
    EXPECT_TRUE(same_bits(alone.weights.data(), &got.weights[got.weights.size() - k], k)) << row;
  }
}

TEST(CudaRoute, AmongEqualsTheLowerNumbersAreChosen) {
  const Machine cuda = emulated_cuda();
  std::vector<float> logits(64, 1.0f);
  logits[40] = 2.0f;
  const Routed flat = route(cuda, logits, 1, {}, {3, 1, 1, true, false, true, 1.0f});
  EXPECT_EQ(flat.ids, (std::vector<int32_t>{0, 1, 40}));
  // Groups of 8: number 5 is the best, 0 the first of the others.
  const Routed grouped = route(cuda, logits, 1, {}, {10, 8, 2, true, true, true, 1.0f});
  EXPECT_EQ(grouped.ids, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 40, 41}));
}

TEST(CudaRoute, ScoresThatAreNotFiniteAreToldWithTheNextDownload) {
  // The backend itself: a machine's would download after every op.
  Machine cuda = emulated_cuda();
  BackendContext context;
  context.allocator = default_allocator();
  context.pool = cuda.pool.get();
  cuda.backend = *cuda_factory()->create(0, context);
  for (const float bad : {static_cast<float>(NAN), static_cast<float>(INFINITY)}) {
    auto logits = random_floats(3 * 32, 1);
    logits[32 + 7] = bad;
    const Routed routed = route(cuda, logits, 3, {}, {4, 4, 2, false, true, true, 1.0f});
    // The step goes on: what was chosen can be computed with.
    EXPECT_TRUE(routed.status.ok());
    for (const int32_t id : routed.ids) EXPECT_TRUE(id >= 0 && id < 32) << id;
    float number = 1, read = 0;
    const Status status = cuda->download(&number, &read, sizeof(number));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("expert 7 for row 1"));
    // Told once.
    EXPECT_TRUE(cuda->download(&number, &read, sizeof(number)).ok());
    EXPECT_TRUE(route(cuda, random_floats(32, 2), 1, {}, {1}).status.ok());
    EXPECT_TRUE(cuda->download(&number, &read, sizeof(number)).ok());
  }
}

}  // namespace
}  // namespace ponder
