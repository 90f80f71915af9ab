// Reduced rows: whatever is read from one is, bit for bit, what the whole row gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "lib/sample/logit_row.h"
#include "lib/sample/logprobs.h"
#include "lib/sample/reasoning_gate.h"
#include "lib/sample/sampler.h"
#include "lib/tensor/rows.h"

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A row, and what a device keeps of it.
struct Reduced {
  Reduced(const std::vector<float>& whole, size_t largest, const RowNeeds& needs) {
    std::vector<int32_t> order(whole.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return whole[a] > whole[b]; });
    order.resize(std::min(largest, whole.size()));
    const float rest = whole[order.back()];
    ids = order;
    for (const int32_t id : needs.also) {
      if (id >= 0 && static_cast<size_t>(id) < whole.size()) ids.push_back(id);
    }
    std::ranges::sort(ids);
    ids.erase(std::ranges::unique(ids).begin(), ids.end());
    for (const int32_t id : ids) logits.push_back(whole[id]);
    std::vector<float> block_max;
    const float max = *scan_row(whole, &block_max);
    std::array<RowSum, kRowSums> sums;
    for (size_t i = 0; i < kRowSums; ++i) {
      const float scale = needs.scales[i];
      sums[i] = {scale, scale == 0 ? 0.0 : exp_sum(whole, block_max, max, scale)};
    }
    row = LogitRow(ids, logits, whole.size(), rest, sums);
  }
  std::vector<int32_t> ids;
  std::vector<float> logits;
  LogitRow row;
};

bool same(const SampledToken& a, const SampledToken& b) {
  if (a.id != b.id || std::memcmp(&a.logprob, &b.logprob, sizeof(float)) != 0) return false;
  return std::ranges::equal(a.top, b.top, [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.id == y.id && std::memcmp(&x.logprob, &y.logprob, sizeof(float)) == 0;
  });
}

// A model's row: a few tokens stand out of many.
std::vector<float> row_of(size_t n, float peak, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::exponential_distribution<float> exponential(1.0f);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  for (int i = 0; i < 30; ++i) row[random() % n] += peak * exponential(random);
  return row;
}

struct Kind {
  const char* name;
  SamplingParams params;
  double decided;  // of the requests, at least, where rows are as a model's
};

std::vector<Kind> kinds() {
  return {
      {"greedy", {.temperature = 0}, 0.99},
      {"greedy, logprobs", {.temperature = 0, .logprobs = true, .top_logprobs = 5}, 0.99},
      {"top_k", {.temperature = 0.6f, .top_k = 20}, 0.99},
      {"Qwen3's", {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f}, 0.99},
      {"R1's", {.temperature = 0.6f, .top_p = 0.95f}, 0.9},
      {"R1's with logprobs",
       {.temperature = 0.6f, .top_p = 0.95f, .logprobs = true, .top_logprobs = 3},
       0.9},
      {"min_p", {.temperature = 0.8f, .min_p = 0.1f}, 0.9},
      {"all", {.temperature = 0.9f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f}, 0.99},
      {"temperature last",
       {.temperature = 1.5f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f, .temperature_last = true},
       0.99},
      {"temperature last, top_p",
       {.temperature = 1.5f, .top_p = 0.8f, .temperature_last = true, .logprobs = true},
       0.8},
      {"penalties",
       {.temperature = 0.7f,
        .top_k = 20,
        .top_p = 0.95f,
        .repeat_penalty = 1.1f,
        .presence_penalty = 0.5f,
        .frequency_penalty = 0.2f},
       0.95},
      {"penalties, top_p",
       {.temperature = 0.6f, .top_p = 0.95f, .repeat_penalty = 1.1f, .presence_penalty = 0.5f},
       0.5},
      {"window", {.temperature = 0, .repeat_penalty = 1.5f, .penalty_window = 30}, 0.95},
      {"bias",
       {.temperature = 0.7f,
        .top_k = 20,
        .bias_tokens = {1, 7, 400, 900},
        .biases = {5.0f, -3.0f, 8.0f, -kInf}},
       0.99},
      {"bias, top_p",
       {.temperature = 0.7f,
        .top_p = 0.9f,
        .bias_tokens = {1, 7, 400, 900},
        .biases = {5.0f, -3.0f, 8.0f, -kInf},
        .logprobs = true},
       0.6},
      {"raising penalties", {.temperature = 0.7f, .top_k = 20, .presence_penalty = -0.5f}, 0},
      {"none", {.temperature = 0.7f}, 0},
      {"top_k of all", {.temperature = 0.7f, .top_k = 100000}, 0},
  };
}

class ReducedRow : public testing::TestWithParam<Kind> {};

TEST_P(ReducedRow, GivesTheTokenOfTheWholeRowOrNone) {
  std::mt19937 random(5);
  int model_rows = 0, decided = 0, needless = 0;
  for (int round = 0; round < 600; ++round) {
    SamplingParams params = GetParam().params;
    params.seed = static_cast<uint64_t>(round / 3);
    // Rows as a model's, flat ones, ones of many equals, ones shorter than what is kept.
    const bool as_a_models = round % 4 < 2;
    size_t n = 1000 + random() % 3000;
    std::vector<float> row = row_of(n, as_a_models ? 6.0f : 0.5f, random);
    if (round % 4 == 3) {
      for (float& x : row) x = std::round(x);
      if (round % 8 == 3) row.resize(n = 950 + random() % 51);
    }
    if (round % 5 == 0) row[random() % n] = -kInf;
    const size_t largest = as_a_models ? 128 : std::vector<size_t>{8, 64, 128, 2000}[random() % 4];
    std::vector<int32_t> history(200), forbidden;
    for (int32_t& id : history) id = static_cast<int32_t>(random() % n);
    // What stands out is penalised, and sometimes forbidden.
    for (int i = 0; i < 5; ++i) {
      history.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
    }
    if (round % 6 == 0) forbidden = {history.back(), 3, -1, static_cast<int32_t>(n)};
    if (round % 50 == 1) {  // the likeliest are out of the question
      for (size_t i = 0; i < n; ++i) {
        if (row[i] > 2.0f) forbidden.push_back(static_cast<int32_t>(i));
      }
    }
    Sampler whole(params, 100), sampler(params, 100);
    const RowNeeds needs = sampler.needs(largest);
    const Reduced reduced(row, largest, needs);
    SampleInput input{.logits = row,
                      .history = history,
                      .forbidden = forbidden,
                      .position = static_cast<uint64_t>(round)};
    const auto wanted = whole.sample(input);
    input.logits = reduced.row;
    const auto got = sampler.sample(input);
    ASSERT_TRUE(wanted.ok() && got.ok()) << wanted.status() << got.status();
    ASSERT_GE(wanted->id, 0);
    if (got->id >= 0) {
      ASSERT_TRUE(same(*got, *wanted)) << round << ": " << got->id << " for " << wanted->id;
      if (needs.whole) ++needless;
      // And the same distribution.
      const auto a =
          whole.distribution({.logits = row, .history = history, .forbidden = forbidden});
      const auto b = sampler.distribution(input);
      ASSERT_TRUE(a.ok() && b.ok());
      if (!b->empty()) {
        ASSERT_TRUE(std::ranges::equal(*a, *b, [](const Candidate& x, const Candidate& y) {
          return x.id == y.id && x.probability == y.probability;
        })) << round;
      }
    }
    if (as_a_models && round % 50 != 1) {
      ++model_rows;
      decided += got->id >= 0 ? 1 : 0;
    }
  }
  EXPECT_GE(decided, static_cast<int>(GetParam().decided * model_rows)) << "of " << model_rows;
  RecordProperty("decided", decided);
}

INSTANTIATE_TEST_SUITE_P(All, ReducedRow, testing::ValuesIn(kinds()), [](const auto& kind) {
  std::string name;
  for (const char c : std::string(kind.param.name)) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) name += c;
  }
  return name;
});

TEST(ReducedRowParts, SaysWhatARequestNeeds) {
  const auto needs = [](const SamplingParams& params) { return Sampler(params).needs(128); };
  EXPECT_FALSE(needs({.temperature = 0}).whole);
  EXPECT_TRUE(needs({}).whole);
  EXPECT_TRUE(needs({.top_k = 128}).whole);
  EXPECT_FALSE(needs({.top_k = 127}).whole);
  EXPECT_TRUE(needs({.temperature = 0, .logprobs = true, .top_logprobs = 128}).whole);
  EXPECT_TRUE(needs({.temperature = 0, .frequency_penalty = -1.0f}).whole);
  const RowNeeds r1 = needs({.temperature = 0.5f, .top_p = 0.95f, .logprobs = true});
  EXPECT_FALSE(r1.whole);
  EXPECT_EQ(r1.scales, (std::array<float, 2>{1.0f, 2.0f}));
  const RowNeeds raised = needs({.top_k = 1, .bias_tokens = {5, 6}, .biases = {-1.0f, 1.0f}});
  EXPECT_EQ(raised.also, std::vector<int32_t>{6});
}

// With a logit that is missing everything is possible: only what it cannot change is told.
TEST(ReducedRowParts, TellsNothingThatAMissingLogitMightChange) {
  std::vector<float> row(1000, 0.0f);
  row[500] = 3.0f;
  row[700] = 2.0f;
  const Reduced reduced(row, 2, {});
  Sampler greedy({.temperature = 0}), two({.top_k = 2}), one({.top_k = 1});
  EXPECT_EQ(greedy.sample({.logits = reduced.row, .history = {}})->id, 500);
  EXPECT_EQ(one.sample({.logits = reduced.row, .history = {}})->id, 500);
  // Another 2 may be missing.
  EXPECT_EQ(two.sample({.logits = reduced.row, .history = {}})->id, -1);
  const int32_t forbidden[] = {500};
  EXPECT_EQ(greedy.sample({.logits = reduced.row, .history = {}, .forbidden = forbidden})->id, -1);
  EXPECT_EQ(*likeliest(reduced.row), 500);
  EXPECT_EQ(*likeliest(Reduced(std::vector<float>(300, 1.0f), 4, {}).row), -1);
  // Without the sum no logprobs.
  EXPECT_FALSE(log_softmax_at(reduced.row, 500)->known);
  EXPECT_EQ(log_softmax_at(reduced.row, 1000).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ReducedRowParts, EverythingForbiddenIsReportedOnceTheRowIsWhole) {
  const std::vector<float> row = {1.0f, 2.0f, 3.0f};
  Sampler sampler({.temperature = 0, .bias_tokens = {0, 1, 2}, .biases = {-kInf, -kInf, -kInf}});
  const Reduced some(row, 2, {}), all(row, 3, {});
  EXPECT_EQ(sampler.sample({.logits = some.row, .history = {}})->id, -1);
  EXPECT_EQ(sampler.sample({.logits = all.row, .history = {}}).status(),
            sampler.sample({.logits = row, .history = {}}).status());
}

TEST(ReducedRowParts, LogprobsAreTheWholeRows) {
  std::mt19937 random(9);
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> row = row_of(3000, 5.0f, random);
    const auto id = static_cast<int32_t>(random() % 3000);
    const Reduced reduced(row, 64, {.scales = {1.0f, 0.0f}, .also = {id}});
    const uint32_t top_n = random() % 64;
    const auto wanted = log_softmax_at(row, id, top_n),
               got = log_softmax_at(reduced.row, id, top_n);
    ASSERT_TRUE(got.ok() && got->known);
    EXPECT_EQ(got->logprob, wanted->logprob);
    ASSERT_EQ(got->top.size(), wanted->top.size());
    for (size_t i = 0; i < got->top.size(); ++i) {
      EXPECT_EQ(got->top[i].id, wanted->top[i].id);
      EXPECT_EQ(got->top[i].logprob, wanted->top[i].logprob);
    }
    EXPECT_FALSE(log_softmax_at(reduced.row, id, 65)->known);
  }
}

TEST(ReducedRowParts, TheGateClosesWhereTheWholeRowWould) {
  std::mt19937 random(2);
  ReasoningOptions options;
  options.markers = {.open = {1}, .close = {2}};
  options.soft_budget = 1;
  int closes = 0, unknown = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<float> row = row_of(2000, 3.0f, random);
    row[2] = *std::ranges::max_element(row) - 0.05f * static_cast<float>(random() % 60);
    options.soft_close_rank = 1 + random() % 12;
    const int32_t prompt[] = {1};
    ReasoningGate gate(&options, prompt, [](int32_t) { return false; });
    gate.accept(10);
    ReasoningGate other = gate;
    RowNeeds needs;
    gate.add_needs(&needs);
    EXPECT_FALSE(needs.whole);
    const Reduced reduced(row, round % 3 == 0 ? 4 : 64, needs);
    const Constraint wanted = gate.next(row, false), got = other.next(reduced.row, false);
    EXPECT_FALSE(wanted.unknown);
    unknown += got.unknown ? 1 : 0;
    if (got.unknown) continue;
    EXPECT_EQ(got.force, wanted.force);
    closes += wanted.force >= 0 ? 1 : 0;
  }
  EXPECT_GT(closes, 20);
  EXPECT_LT(unknown, 50);
}

}  // namespace
}  // namespace ponder
