// Log-probabilities of tokens under one row of logits, as scoring and the logprobs option give
// them.
//
// Pure functions of their arguments; any thread. Sums are kept in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/status.h"
#include "lib/sample/logit_row.h"

namespace ponder {

struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0.0f;
};

struct RowLogprobs {
  bool known = true;              // false: the reduced row does not tell, the rest is not set
  float logprob = 0.0f;           // of the token asked for
  std::vector<TokenLogprob> top;  // likeliest first, equals by lowest id
};

// log-softmax of `logits` at `id`, and the top_n likeliest tokens (at most all). The row is refused
// as damaged when it holds a NaN or plus infinity, or is minus infinity throughout; an id outside
// the row is an invalid argument. A reduced row tells if it has the sum of scale 1.
StatusOr<RowLogprobs> log_softmax_at(const LogitRow& row, int32_t id, uint32_t top_n = 0);

// The token with the largest logit, of equals the lowest id. Damaged rows are refused as above. -1:
// the reduced row does not tell.
StatusOr<int32_t> likeliest(const LogitRow& row);

}  // namespace ponder
