#include "lib/sample/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/lib/sample/noise.h"

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

int32_t sample_at(Sampler* sampler, const std::vector<float>& row, uint64_t position) {
  const auto token = sampler->sample({.logits = row, .history = {}, .position = position});
  EXPECT_TRUE(token.ok()) << token.status();
  return token.ok() ? token->id : -1;
}

std::map<int32_t, double> distribution_of(const SamplingParams& params,
                                          const std::vector<float>& row,
                                          const std::vector<int32_t>& history = {}) {
  Sampler sampler(params);
  const auto candidates = sampler.distribution({.logits = row, .history = history});
  EXPECT_TRUE(candidates.ok()) << candidates.status();
  std::map<int32_t, double> out;
  if (candidates.ok()) {
    for (const Candidate& c : *candidates) out[c.id] = c.probability;
  }
  return out;
}

TEST(Sampler, TemperatureZeroTakesTheFirstOfTheLargest) {
  SamplingParams params;
  params.temperature = 0;
  Sampler sampler(params);
  std::vector<float> row(1000, -1.0f);
  row[300] = row[299] = row[700] = 2.5f;
  EXPECT_EQ(sample_at(&sampler, row, 0), 299);
  row[0] = 2.5f;
  EXPECT_EQ(sample_at(&sampler, row, 5), 0);
  EXPECT_EQ(sample_at(&sampler, std::vector<float>(1, -3.0f), 0), 0);
}

TEST(Sampler, ChoosesAsOftenAsTheDistributionSays) {
  struct Case {
    const char* name;
    SamplingParams params;
  };
  std::vector<Case> cases(6);
  cases[0] = {"plain", {}};
  cases[1] = {"temperature", {.temperature = 0.6f}};
  cases[2] = {"top_p", {.temperature = 0.8f, .top_p = 0.9f}};
  cases[3] = {"top_k", {.top_k = 20}};
  cases[4] = {"min_p", {.temperature = 1.5f, .min_p = 0.1f}};
  cases[5] = {"all", {.temperature = 1.2f, .top_k = 60, .top_p = 0.95f, .min_p = 0.02f}};
  const std::vector<float> row = noise(300, 1.5f);
  for (Case& c : cases) {
    SCOPED_TRACE(c.name);
    c.params.seed = 99;
    const auto expected = distribution_of(c.params, row);
    Sampler sampler(c.params);
    constexpr int kDraws = 40000;
    std::map<int32_t, int> counts;
    for (uint64_t i = 0; i < kDraws; ++i) ++counts[sample_at(&sampler, row, i)];
    double chi2 = 0.0, rest_expected = 0.0, rest_counted = 0.0;
    int degrees = -1;
    for (const auto& [id, p] : expected) {
      const double n = p * kDraws;
      if (n < 5) {
        rest_expected += n;
        rest_counted += counts[id];
        continue;
      }
      chi2 += (counts[id] - n) * (counts[id] - n) / n;
      ++degrees;
    }
    if (rest_expected >= 5) {
      chi2 += (rest_counted - rest_expected) * (rest_counted - rest_expected) / rest_expected;
      ++degrees;
    }
    EXPECT_LT(chi2, degrees + 4 * std::sqrt(2.0 * degrees) + 4);
    for (const auto& [id, n] : counts) {
      EXPECT_TRUE(n == 0 || expected.contains(id)) << "token " << id << " is cut off";
    }
  }
}

TEST(Sampler, TheSameSeedAndPositionGiveTheSameToken) {
  const std::vector<float> row = noise(3000, 2.0f), other = noise(3000, 2.0f, 2);
  for (const float top_p : {1.0f, 0.95f}) {
    SamplingParams params{.temperature = 0.9f, .top_p = top_p, .seed = 42};
    Sampler alone(params), busy(params);
    params.seed = 43;
    Sampler another(params);
    int differs = 0, moves = 0;
    for (uint64_t i = 0; i < 200; ++i) {
      const int32_t token = sample_at(&alone, row, i);
      sample_at(&busy, other, i * 7);  // whatever it did in between
      EXPECT_EQ(sample_at(&busy, row, i), token);
      if (sample_at(&another, row, i) != token) ++differs;
      if (sample_at(&alone, row, i + 1) != token) ++moves;
    }
    EXPECT_GT(differs, 100);
    EXPECT_GT(moves, 100);
  }
}

// Selection without sorting must keep what sorting would keep.
TEST(Sampler, TruncationAgreesWithSortingTheWholeRow) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const size_t n = 1 + random() % 5000;
    std::vector<float> row = noise(n, 0.1f + static_cast<float>(round % 7), random());
    if (round % 5 == 0) {  // many equals
      for (float& x : row) x = std::round(x);
    }
    SamplingParams params{.temperature = 0.3f + 0.1f * static_cast<float>(round % 15),
                          .top_p = 0.05f * static_cast<float>(1 + round % 19)};
    std::vector<int32_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    std::vector<double> p(n);
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) {
      const double x = static_cast<double>(row[order[i]]) - static_cast<double>(row[order[0]]);
      sum += p[i] = std::exp(x / static_cast<double>(params.temperature));
    }
    const double target = static_cast<double>(params.top_p) * sum;
    size_t kept = 0;
    double mass = 0.0;
    while (kept < n && mass < target) mass += p[kept++];

    Sampler sampler(params);
    const auto result = sampler.distribution({.logits = row, .history = {}});
    ASSERT_TRUE(result.ok());
    ASSERT_NEAR(static_cast<double>(result->size()), static_cast<double>(kept), 1.0) << round;
    for (size_t i = 0; i < std::min(kept, result->size()); ++i) {
      ASSERT_NEAR(row[(*result)[i].id], row[order[i]], 1e-5)
          << "round " << round << ", place " << i;
      ASSERT_NEAR((*result)[i].probability, p[i] / mass, 1e-3 * p[i] / mass + 1e-6);
    }
  }
}

TEST(Sampler, TopKBeyondTheHeapAgreesWithSorting) {
  std::vector<float> row = noise(9000, 3.0f);
  for (const uint32_t k : {1u, 50u, 1024u, 1025u, 4000u, 8999u, 9000u, 20000u}) {
    const auto kept = distribution_of({.top_k = k}, row);
    std::vector<float> sorted = row;
    std::ranges::sort(sorted, std::greater{});
    ASSERT_EQ(kept.size(), std::min<size_t>(k, row.size()));
    for (const auto& [id, p] : kept) ASSERT_GE(row[id], sorted[kept.size() - 1]);
  }
}

TEST(Sampler, TopKKeepsTies) {
  EXPECT_EQ(distribution_of({.top_k = 2}, {1, 3, 2, 2, 2, 0}).size(), 4u);
}

TEST(Sampler, BiasesAndBansComeFirst) {
  SamplingParams params;
  params.temperature = 0;
  params.bias_tokens = {1, 2};
  params.biases = {-kInf, 5.0f};
  Sampler sampler(params);
  EXPECT_EQ(sample_at(&sampler, {1, 9, 3, 7}, 0), 2);
  params.temperature = 1;
  const auto p = distribution_of(params, {1, 9, 3, 7});
  EXPECT_FALSE(p.contains(1));
  EXPECT_NEAR(p.at(2) / p.at(3), std::exp(1.0), 1e-6);
}

TEST(Sampler, ForbiddenTokensAreNeverChosen) {
  SamplingParams params;
  const std::vector<float> row = {9, 1, 1, 8};
  const std::vector<int32_t> forbidden = {0, 3, -7, 4, INT32_MAX};
  for (const float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    Sampler sampler(params);
    for (uint64_t i = 0; i < 50; ++i) {
      const auto token =
          sampler.sample({.logits = row, .history = {}, .forbidden = forbidden, .position = i});
      ASSERT_TRUE(token.ok());
      EXPECT_TRUE(token->id == 1 || token->id == 2);
    }
  }
}

TEST(Sampler, SaysSoWhenNothingIsLeftToChooseFrom) {
  Sampler sampler{SamplingParams{}};
  const std::vector<int32_t> all = {0, 1};
  const auto token =
      sampler.sample({.logits = std::vector<float>{1, 2}, .history = {}, .forbidden = all});
  EXPECT_EQ(token.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(token.status().message().find("all 2 tokens"), absl::string_view::npos);
}

TEST(Sampler, RefusesDamagedLogitsEvenWhereABanWouldHideThem) {
  SamplingParams params;
  params.temperature = 0;
  params.bias_tokens = {1};
  params.biases = {-kInf};
  Sampler sampler(params);
  std::vector<float> row = {1, std::numeric_limits<float>::quiet_NaN(), 2};
  for (const auto& status : {sampler.sample({.logits = row, .history = {}}).status(),
                             sampler.distribution({.logits = row, .history = {}}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("NaN"), absl::string_view::npos);
  }
}

TEST(Sampler, PenaltiesCountTheWindowThroughGrowthAndRollback) {
  std::mt19937 random(11);
  const std::vector<float> row = noise(12, 2.0f);
  for (const uint32_t window : {0u, 1u, 5u}) {
    SamplingParams params{.repeat_penalty = 1.3f,
                          .presence_penalty = 0.2f,
                          .frequency_penalty = 0.35f,
                          .penalty_window = window};
    Sampler sampler(params);
    std::vector<int32_t> history;
    for (int i = 0; i < 300; ++i) {
      if (random() % 3 == 0) history.resize(random() % (history.size() + 1));
      for (uint32_t n = random() % 4; n > 0; --n) {
        history.push_back(static_cast<int32_t>(random() % 14) - 1);  // -1, 12: not in the row
      }
      const auto result = sampler.distribution({.logits = row, .history = history});
      ASSERT_TRUE(result.ok());

      std::vector<double> x(row.begin(), row.end());
      const size_t begin = window > 0 && history.size() > window ? history.size() - window : 0;
      for (int32_t id = 0; id < 12; ++id) {
        const auto count =
            std::count(history.begin() + static_cast<ptrdiff_t>(begin), history.end(), id);
        if (count == 0) continue;
        x[id] = x[id] < 0 ? x[id] * 1.3 : x[id] / 1.3;
        x[id] -= 0.35 * static_cast<double>(count) + 0.2;
      }
      double sum = 0.0;
      for (const double v : x) sum += std::exp(v);
      for (const Candidate& c : *result) {
        ASSERT_NEAR(c.probability, std::exp(x[c.id]) / sum, 1e-6) << "step " << i;
      }
    }
  }
}

TEST(Sampler, LogprobsAreTheModelsOwn) {
  SamplingParams params{
      .temperature = 0.5f, .top_k = 1, .repeat_penalty = 2.0f, .logprobs = true, .top_logprobs = 2};
  params.bias_tokens = {0};
  params.biases = {-kInf};
  Sampler sampler(params);
  const std::vector<float> row = {5, 4, 3, 1};
  const std::vector<int32_t> history = {1};
  const SampleInput input{.logits = row, .history = history};
  const auto token = sampler.sample(input);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->id, 2);
  const double sum = std::log(std::exp(5) + std::exp(4) + std::exp(3) + std::exp(1));
  EXPECT_NEAR(token->logprob, 3 - sum, 1e-6);
  ASSERT_EQ(token->top.size(), 2u);
  EXPECT_EQ(token->top[0].id, 0);
  EXPECT_NEAR(token->top[0].logprob, 5 - sum, 1e-6);

  const auto forced = sampler.forced(input, 3);
  ASSERT_TRUE(forced.ok());
  EXPECT_EQ(forced->id, 3);
  EXPECT_NEAR(forced->logprob, 1 - sum, 1e-6);
  EXPECT_FALSE(sampler.forced(input, 4).ok());
}

TEST(Sampler, LogprobsCostNothingWhenNotAskedFor) {
  Sampler sampler{SamplingParams{.temperature = 0}};
  const auto token = sampler.sample({.logits = std::vector<float>{1, 2}, .history = {}});
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->logprob, 0.0f);
  EXPECT_TRUE(token->top.empty());
}

TEST(Sampler, ExtremeRowsAndParametersStayInRange) {
  const std::vector<std::vector<float>> rows = {
      {0},
      {-3e38f, 3e38f, -3e38f},
      {-kInf, -kInf, 1, -kInf},
      std::vector<float>(2000, 3e38f),
      std::vector<float>(2000, -3e38f),
      noise(2000, 1e6f),
      noise(2000, 1e-30f),
  };
  for (const float temperature : {0.0f, 1e-6f, 2e-5f, 0.01f, 1.0f, 100.0f}) {
    for (const float top_p : {0.0f, 1e-6f, 0.5f, 0.9999999f, 1.0f}) {
      for (const float min_p : {0.0f, 0.5f, 1.0f}) {
        for (const uint32_t top_k : {0u, 1u, 7u, UINT32_MAX}) {
          for (const bool last : {false, true}) {
            SamplingParams params{.temperature = temperature,
                                  .top_k = top_k,
                                  .top_p = top_p,
                                  .min_p = min_p,
                                  .temperature_last = last};
            ASSERT_TRUE(params.validate(1).ok());
            Sampler sampler(params);
            for (const auto& row : rows) {
              const int32_t id = sample_at(&sampler, row, 17);
              ASSERT_GE(id, 0);
              ASSERT_LT(static_cast<size_t>(id), row.size());
              ASSERT_GT(row[id], -kInf);
              const auto p = sampler.distribution({.logits = row, .history = {}});
              ASSERT_TRUE(p.ok());
              ASSERT_FALSE(p->empty());
              double sum = 0.0;
              for (const Candidate& c : *p) {
                ASSERT_GT(c.probability, 0.0);
                sum += c.probability;
              }
              ASSERT_NEAR(sum, 1.0, 1e-9);
            }
          }
        }
      }
    }
  }
}

TEST(Sampler, PresenceAndFrequencyLeaveThePromptOut) {
  SamplingParams params;
  params.presence_penalty = 1.0f;
  params.frequency_penalty = 0.5f;
  Sampler sampler(params, /*prompt_tokens=*/2);
  const std::vector<float> logits(4, 0.0f);
  // Token 0 stands in the prompt only, 1 in both, 2 was generated twice, 3 never seen.
  const std::vector<int32_t> history = {0, 1, 1, 2, 2};
  const auto candidates = sampler.distribution({logits, history}).value();
  std::vector<double> weight(4);
  for (const Candidate& c : candidates) weight[static_cast<size_t>(c.id)] = c.probability;
  EXPECT_NEAR(weight[0], weight[3], 1e-12);
  EXPECT_NEAR(weight[1] / weight[3], std::exp(-1.5), 1e-7);
  EXPECT_NEAR(weight[2] / weight[3], std::exp(-2.0), 1e-7);
}

}  // namespace
}  // namespace ponder
