// SamplingParams: how the next token is chosen from a row of logits.
//
// Plain values; validate() once, when a request is submitted. The steps, in this order:
//
//   1. logit_bias            added
//   2. repeat_penalty        logits of tokens in the window: divided if positive, else multiplied
//      frequency, presence   subtracted: frequency * count + presence, of generated tokens
//   3. temperature           logits divided by it; 0 takes the likeliest token and skips the rest
//   4. top_k                 the k likeliest, and whatever ties with the last of them
//   5. top_p                 the fewest likeliest tokens whose probabilities reach p, at least one
//   6. min_p                 tokens at least min_p times as likely as the likeliest
//
// That is the order and meaning of transformers' generate(). With temperature_last step 3 comes
// after step 6, which is llama.cpp's default chain (whose top_k keeps exactly k among equals).
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/status.h"

namespace ponder {

struct SamplingParams {
  float temperature = 1.0f;  // below 1e-5: greedy
  uint32_t top_k = 0;        // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  bool temperature_last = false;

  float repeat_penalty = 1.0f;     // 1: off
  float presence_penalty = 0.0f;   // 0: off
  float frequency_penalty = 0.0f;  // 0: off
  uint32_t penalty_window = 0;     // the last so many tokens of the text count; 0: all of them

  // Parallel; an id may not occur twice. A bias of minus infinity bans a token.
  std::vector<int32_t> bias_tokens = {};
  std::vector<float> biases = {};

  uint64_t seed = 0;

  bool logprobs = false;      // of the chosen token, under the model's own distribution
  uint32_t top_logprobs = 0;  // and of the likeliest so many; needs logprobs

  static constexpr float kGreedyBelow = 1e-5f;
  static constexpr uint32_t kMaxTopLogprobs = 1024;

  bool greedy() const { return temperature < kGreedyBelow; }
  bool has_penalties() const {
    return repeat_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }

  // Names the first parameter that is out of its range, and the range. `vocab` is the number of
  // logits in a row.
  Status validate(int64_t vocab) const;
};

}  // namespace ponder
