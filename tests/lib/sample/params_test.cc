#include "lib/sample/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace ponder {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(SamplingParams, DefaultsAreValid) { EXPECT_TRUE(SamplingParams().validate(10).ok()); }

TEST(SamplingParams, AcceptsTheEndsOfEveryRange) {
  SamplingParams p;
  p.temperature = 0;
  p.top_p = 0;
  p.min_p = 1;
  p.top_k = UINT32_MAX;
  p.repeat_penalty = 100;
  p.presence_penalty = -100;
  p.frequency_penalty = 100;
  p.penalty_window = UINT32_MAX;
  p.bias_tokens = {0, 9};
  p.biases = {-INFINITY, 1e6f};
  p.logprobs = true;
  p.top_logprobs = SamplingParams::kMaxTopLogprobs;
  EXPECT_TRUE(p.validate(10).ok()) << p.validate(10);
}

TEST(SamplingParams, NamesTheParameterThatIsWrong) {
  const struct {
    const char* name;
    std::function<void(SamplingParams&)> spoil;
  } cases[] = {
      {"temperature", [](auto& p) { p.temperature = -0.1f; }},
      {"temperature", [](auto& p) { p.temperature = kNan; }},
      {"temperature", [](auto& p) { p.temperature = INFINITY; }},
      {"top_p", [](auto& p) { p.top_p = 1.01f; }},
      {"top_p", [](auto& p) { p.top_p = kNan; }},
      {"min_p", [](auto& p) { p.min_p = -1; }},
      {"repeat penalty", [](auto& p) { p.repeat_penalty = 0; }},
      {"presence penalty", [](auto& p) { p.presence_penalty = kNan; }},
      {"frequency penalty", [](auto& p) { p.frequency_penalty = 1e9f; }},
      {"logit bias: 1 tokens but 0 values", [](auto& p) { p.bias_tokens = {1}; }},
      {"token 10", [](auto& p) { p.bias_tokens = {10}, p.biases = {1}; }},
      {"token -1", [](auto& p) { p.bias_tokens = {-1}, p.biases = {1}; }},
      {"token 3", [](auto& p) { p.bias_tokens = {3}, p.biases = {kNan}; }},
      {"token 3", [](auto& p) { p.bias_tokens = {3}, p.biases = {INFINITY}; }},
      {"token 3 is given more than once",
       [](auto& p) {
         p.bias_tokens = {3, 4, 3}, p.biases = {1, 2, 3};
       }},
      {"top_logprobs", [](auto& p) { p.top_logprobs = 1; }},
      {"top_logprobs", [](auto& p) { p.logprobs = true, p.top_logprobs = 5000; }},
  };
  for (const auto& c : cases) {
    SamplingParams p;
    c.spoil(p);
    const Status status = p.validate(10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_NE(std::string(status.message()).find(c.name), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace ponder
