#include "lib/sample/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "lib/tensor/rows.h"
#include "tests/lib/sample/noise.h"

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double slow_logprob(const std::vector<float>& row, size_t id) {
  const double max = *std::ranges::max_element(row);
  double sum = 0.0;
  for (const float x : row) sum += std::exp(static_cast<double>(x) - max);
  return static_cast<double>(row[id]) - max - std::log(sum);
}

TEST(Logprobs, AgreeWithTheFormulaForAnyLengthAndSpread) {
  for (const size_t n : {1, 2, 15, 16, 17, 255, 256, 257, 1000, 5000}) {
    for (const float spread : {0.0f, 0.5f, 3.0f, 30.0f, 1000.0f}) {
      const std::vector<float> row = noise(n, spread);
      for (const size_t id : {size_t{0}, n / 2, n - 1}) {
        const auto result = log_softmax_at(row, static_cast<int32_t>(id));
        ASSERT_TRUE(result.ok());
        const double expected = slow_logprob(row, id);
        EXPECT_NEAR(result->logprob, expected, 1e-6 + 1e-7 * std::fabs(expected))
            << n << " tokens, spread " << spread;
      }
    }
  }
}

TEST(Logprobs, ALongFlatRowLosesNothing) {
  const std::vector<float> row(262144, 3.5f);
  const auto result = log_softmax_at(row, 200000, 3);
  ASSERT_TRUE(result.ok());
  EXPECT_NEAR(result->logprob, -std::log(262144.0), 1e-6);
  EXPECT_EQ(result->top[0].id, 0);
  EXPECT_EQ(result->top[1].id, 1);
  EXPECT_EQ(result->top[2].id, 2);
}

TEST(Logprobs, TopIsSortedWithEqualsByLowestId) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> row(1 + random() % 700);
    for (float& x : row) x = static_cast<float>(random() % 9);
    std::vector<int32_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    for (const uint32_t n : {0u, 1u, 5u, 20u, 2000u}) {
      const auto result = log_softmax_at(row, 0, n);
      ASSERT_TRUE(result.ok());
      ASSERT_EQ(result->top.size(), std::min<size_t>(n, row.size()));
      for (size_t i = 0; i < result->top.size(); ++i) {
        EXPECT_EQ(result->top[i].id, order[i]);
        EXPECT_NEAR(result->top[i].logprob, slow_logprob(row, static_cast<size_t>(order[i])), 1e-5);
      }
    }
  }
}

TEST(Logprobs, ImpossibleTokensHaveMinusInfinity) {
  const auto result = log_softmax_at(std::vector<float>{1.0f, -kInf, 1.0f}, 1, 3);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->logprob, -kInf);
  EXPECT_EQ(result->top[2].id, 1);
  EXPECT_EQ(result->top[2].logprob, -kInf);
  EXPECT_NEAR(result->top[0].logprob, std::log(0.5), 1e-6);
}

TEST(Logprobs, DamagedRowsAreRefusedWithWords) {
  const auto refusal = [](std::vector<float> row) {
    const auto result = log_softmax_at(row, 0);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss);
    return std::string(result.status().message());
  };
  for (const size_t at : {0, 7, 299}) {
    std::vector<float> row(300, 1.0f);
    row[at] = kNan;
    EXPECT_NE(
        refusal(row).find("NaN logits (the first at token " + std::to_string(at) + " of 300)"),
        std::string::npos);
    row[at] = kInf;
    EXPECT_NE(refusal(row).find("infinite logits"), std::string::npos);
  }
  EXPECT_NE(refusal(std::vector<float>(20, -kInf)).find("all 20 logits"), std::string::npos);
  EXPECT_NE(refusal(std::vector<float>(20, kNan)).find("weights are damaged"), std::string::npos);
  std::vector<float> mixed(40, -kInf);
  mixed[30] = kNan;
  EXPECT_NE(refusal(mixed).find("token 30"), std::string::npos);
}

TEST(Logprobs, TokensOutsideTheRowAreInvalid) {
  const std::vector<float> row(5, 0.0f);
  for (const int32_t id : {-1, 5, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(log_softmax_at(row, id).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(log_softmax_at({}, 0).ok());
}

TEST(Rows, ExponentialsAreGoodToAFewUnitsOfAFloat) {
  std::vector<float> x;
  for (float a = 0.0f; a > -86.9f; a -= 0.01003f) x.push_back(a);
  std::vector<float> w(x.size());
  exp_row(x, 0.0f, 1.0f, w.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    EXPECT_NEAR(w[i] / exact, 1.0, 3e-7) << x[i];
  }
  EXPECT_EQ(w[0], 1.0f);
  const std::vector<float> far = {-87.5f, -1000.0f, -3e38f, -kInf};
  exp_row(far, 0.0f, 1.0f, w.data());
  for (size_t i = 0; i < far.size(); ++i) EXPECT_EQ(w[i], 0.0f);
}

}  // namespace
}  // namespace ponder
