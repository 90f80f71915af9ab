// Sampler: chooses the next token of one sequence from a row of logits.
//
// The choice depends on (parameters, logits, history, forbidden tokens, seed, position) and on
// nothing else: random numbers are a function of (seed, position), not of a state that moves, so a
// token is the same whether its sequence runs alone or in a batch, after a rollback, or again.
// Under a temperature the chosen token is where the random number falls when the kept tokens are
// laid out from the likeliest to the least likely (equals by lowest id), or by id when no
// truncation is asked for.
//
// A reduced row (logit_row.h) gives the token that the whole row would give, or none. So sums of
// weights are kept such that they depend neither on the order of their terms nor on terms that are
// cut off.
//
// One per sequence, one thread at a time. Owns scratch memory that is reused from token to token.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "lib/base/status.h"
#include "lib/sample/logit_row.h"
#include "lib/sample/logprobs.h"
#include "lib/sample/params.h"

namespace ponder {

struct SampledToken {
  int32_t id = -1;  // -1: the reduced row does not decide, the whole one will
  // Where params.logprobs is set: log-softmax of the logits as the model gave them, before any step
  // of SamplingParams, so that figures are comparable across requests and with scoring. Else 0.
  float logprob = 0.0f;
  std::vector<TokenLogprob> top;  // params.top_logprobs of them
};

struct Candidate {
  int32_t id = -1;
  double probability = 0.0;
};

// What one choice is made from. Everything is borrowed for the call.
struct SampleInput {
  LogitRow logits;                   // as the model gave them
  std::span<const int32_t> history;  // the text so far, prompt included; read only for penalties
  std::span<const int32_t> forbidden = {};  // may not be chosen; ids outside [0, V) are ignored
  uint64_t position = 0;  // of the token to choose in its text; the counter of the random numbers
};

class Sampler {
 public:
  // `params` must have passed validate(). Copied. The first `prompt_tokens` of every history were
  // not generated: the presence and frequency penalties leave them out.
  explicit Sampler(const SamplingParams& params, size_t prompt_tokens = 0);

  const SamplingParams& params() const { return params_; }

  // What a reduced row with the `largest` largest logits must have beside them to decide. `whole`
  // where it never or hardly ever does.
  RowNeeds needs(size_t largest) const;

  // Fails when the logits are damaged (NaN, infinity, nothing finite) or when the bias and the
  // forbidden tokens leave nothing to choose from.
  StatusOr<SampledToken> sample(const SampleInput& input);

  // What a token that was not chosen by sampling (a forced marker) would report: its logprobs.
  StatusOr<SampledToken> forced(const SampleInput& input, int32_t id) const;

  // The tokens that sample() would choose from with their probabilities, likeliest first, equals by
  // lowest id. Tokens of probability 0 are left out. Empty: the reduced row does not tell.
  StatusOr<std::vector<Candidate>> distribution(const SampleInput& input);

 private:
  // What is chosen from.
  struct Row {
    LogitRow given;                 // as the model gave it
    std::span<const float> logits;  // of the same ids, after bias, penalties and forbidden tokens
    float given_max = 0.0f;
    float max = 0.0f;
    size_t lowered = 0;  // how many of the missing tokens have less than the model gave them
    bool known = true;   // false: a missing token may be the likeliest, or may have risen

    bool adjusted() const { return logits.data() != given.logits().data(); }
  };

  // The row to choose from, checked, with its largest logit.
  StatusOr<Row> prepare(const SampleInput& input);
  // Sets row->logits to those after bias, penalties and forbidden tokens; to the given ones if none
  // applies.
  void adjust(const SampleInput& input, Row* row);
  // Brings counts_ to the window of `history`; cheap when it only grew or shrank at its end.
  void count_history(std::span<const int32_t> history);
  void count_window(size_t begin, size_t end, int32_t by);
  // Fills kept_ with what survives truncation; weights are relative to the likeliest. False: the
  // reduced row does not tell.
  bool truncate(const Row& row);
  // kept_ down to the fewest likeliest that top_p wants. The same.
  bool keep_top_p(const Row& row, bool all_kept);
  float kth_largest(std::span<const float> logits);
  int32_t draw_from_kept(double u);
  int32_t draw_from_row(std::span<const float> logits, float max, double u);

  bool truncates() const {
    return params_.top_k > 0 || params_.top_p < 1.0f || params_.min_p > 0.0f;
  }
  // What logits are multiplied by where tokens are cut off.
  double scale() const {
    return params_.temperature_last ? 1.0 : 1.0 / double{params_.temperature};
  }
  // Whether penalties may raise a logit.
  bool penalties_raise() const {
    return params_.repeat_penalty < 1.0f || params_.presence_penalty < 0.0f ||
           params_.frequency_penalty < 0.0f;
  }

  struct Counts {
    int32_t all = 0;
    int32_t generated = 0;
  };

  SamplingParams params_;
  size_t prompt_tokens_;
  std::vector<float> adjusted_;
  std::vector<float> block_max_;   // of the row to choose from, see rows.h
  std::vector<uint64_t> kept_;     // tokens and their weights, as ranked() in the .cc packs them
  std::vector<float> heap_;        // of the top_k largest logits
  std::vector<double> block_sum_;  // of weights, for a draw from the whole row

  // Tokens of counted_[window_begin_, end) are in counts_.
  std::vector<int32_t> counted_;
  size_t window_begin_ = 0;
  std::unordered_map<int32_t, Counts> counts_;
};

}  // namespace ponder
