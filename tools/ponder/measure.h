// Timing of prefill and decode through the public API, as `ponder bench` reports it.
//
// Prefill of p tokens: from submit to the end of a request of p tokens that asks for one token, so
// the output matrix for the last position and one choice are included. Decode of n tokens at depth
// d: the session first computes d tokens, untimed; then a request that owns those and one more asks
// for n tokens, which is n steps of one token each. With a batch of b, b sessions do so together.
// Prompts are random tokens, new ones each time, so that no earlier prompt is found in the cache.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include <ponder/ponder.hpp>

#include "failure.h"

namespace ponder::tool {

struct Timing {
  double seconds = 0;
  // Prompt tokens that were computed inside the measured time, all sequences together.
  uint64_t prompt_tokens_computed = 0;
};

class Meter {
 public:
  // The model must outlive the meter.
  Meter(const Model& model, uint32_t batch, uint64_t seed);

  // `batch` prompts of `tokens` tokens each.
  Timing prefill(uint32_t tokens);
  // `tokens` steps of all `batch` sequences, each `depth` tokens long before.
  Timing decode(uint32_t tokens, uint32_t depth);

 private:
  using Prompts = std::vector<std::vector<ponder_token>>;

  Prompts random_prompts(uint32_t tokens);
  ponder_token random_token();
  // Runs one request per session to its end.
  Timing run(const Prompts& prompts, uint32_t max_tokens);
  // Empties the sessions, so that their past does not take room from the measured tokens.
  void forget();

  std::vector<Session> sessions_;
  std::mt19937_64 random_;
  std::uniform_int_distribution<ponder_token> any_token_;
};

// Middle, least and greatest of some figures.
struct Spread {
  double median = 0, min = 0, max = 0;
};
Spread spread_of(std::vector<double> samples);

}  // namespace ponder::tool
