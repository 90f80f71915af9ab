// What the tests of speculation share: requests of every kind, which must say the same whoever
// drafts.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "tests/lib/engine/support.h"

namespace ponder::engine {

inline Outcome run(const std::shared_ptr<Model>& model, const Request& request,
                   GenerationStats* stats = nullptr) {
  const auto session = Session::create(model).value();
  const auto submitted = session->submit(request);
  EXPECT_TRUE(submitted.ok()) << submitted.status();
  const auto generation = *submitted;
  Outcome outcome = collect(*generation);
  EXPECT_TRUE(outcome.failure.ok()) << outcome.failure;
  if (stats != nullptr) *stats = generation->stats();
  return outcome;
}

inline std::vector<int32_t> whole_text(const Request& request, const Outcome& outcome) {
  std::vector<int32_t> text = *request.tokens;
  text.insert(text.end(), outcome.tokens.begin(), outcome.tokens.end());
  return text;
}

struct Case {
  const char* name;
  std::function<void(Request*)> change;
};

inline std::vector<Case> speculation_cases() {
  return {Case{"Greedy", [](Request*) {}},
          Case{"PastTheEnd", [](Request* r) { r->ignore_eos = true; }},
          Case{"Sampling",
               [](Request* r) {
                 r->temperature = 1.1f;
                 r->seed = 4;
               }},
          Case{"SamplingTruncated",
               [](Request* r) {
                 r->temperature = 1.5f;
                 r->top_p = 0.95f;
                 r->top_k = 40;
                 r->min_p = 0.01f;
                 r->seed = 5;
                 r->ignore_eos = true;
               }},
          Case{"Penalties",
               [](Request* r) {
                 r->repeat_penalty = 1.2f;
                 r->presence_penalty = 0.4f;
                 r->frequency_penalty = 0.3f;
                 r->temperature = 0.8f;
                 r->seed = 6;
                 r->ignore_eos = true;
               }},
          Case{"Logprobs",
               [](Request* r) {
                 r->want_logprobs = true;
                 r->logprobs = 3;
               }},
          Case{"HardBudget",
               [](Request* r) {
                 r->thought_hard = 17;
                 r->max_tokens = 200;
               }},
          Case{"HardBudgetWithASentence",
               [](Request* r) {
                 r->thought_hard = 25;
                 r->thought_closing = "So";
                 r->want_logprobs = true;
               }},
          Case{"SoftBudget", [](Request* r) { r->thought_soft = 10; }},
          Case{"NoThought", [](Request* r) { r->reasoning = Reasoning::kOff; }},
          Case{"HiddenThought", [](Request* r) { r->thought_hidden = true; }},
          Case{"Stop",
               [](Request* r) {
                 r->tokens = golden_cases()[0].prompt;
                 r->stops = {"+1", " = "};
               }},
          Case{"Bias",
               [](Request* r) {
                 r->logit_bias = {{312, -INFINITY}, {220, 2.0f}};
               }},
          Case{"OneToken", [](Request* r) { r->max_tokens = 1; }},
          Case{"TwoTokens", [](Request* r) { r->max_tokens = 2; }},
          Case{"ThreeTokens", [](Request* r) { r->max_tokens = 3; }}};
}

}  // namespace ponder::engine
