#include "lib/sample/params.h"

#include <algorithm>
#include <cmath>

namespace ponder {
namespace {

// NaN is out of every range.
Status check_range(absl::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return OkStatus();
  return invalid_argument_error(name, " is ", value, "; it must be between ", low, " and ", high);
}

}  // namespace

Status SamplingParams::validate(int64_t vocab) const {
  PONDER_RETURN_IF_ERROR(check_range("temperature", temperature, 0, 100));
  PONDER_RETURN_IF_ERROR(check_range("top_p", top_p, 0, 1));
  PONDER_RETURN_IF_ERROR(check_range("min_p", min_p, 0, 1));
  // Wide enough for every use, narrow enough that no logit becomes infinite.
  PONDER_RETURN_IF_ERROR(check_range("repeat penalty", repeat_penalty, 0.01, 100));
  PONDER_RETURN_IF_ERROR(check_range("presence penalty", presence_penalty, -100, 100));
  PONDER_RETURN_IF_ERROR(check_range("frequency penalty", frequency_penalty, -100, 100));
  if (bias_tokens.size() != biases.size()) {
    return invalid_argument_error("logit bias: ", bias_tokens.size(), " tokens but ", biases.size(),
                                  " values; give one value for each token");
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    if (bias_tokens[i] < 0 || bias_tokens[i] >= vocab) {
      return invalid_argument_error("logit bias: token ", bias_tokens[i],
                                    " is outside the vocabulary of ", vocab);
    }
    const bool ban = biases[i] == -INFINITY;
    if (!ban && !(std::fabs(biases[i]) <= 1e6f)) {
      return invalid_argument_error("logit bias: the value for token ", bias_tokens[i], " is ",
                                    biases[i],
                                    "; it must be between -1e6 and 1e6, or minus infinity");
    }
  }
  std::vector<int32_t> sorted = bias_tokens;
  std::ranges::sort(sorted);
  if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
    return invalid_argument_error("logit bias: token ", *twice, " is given more than once");
  }
  if (top_logprobs > 0 && !logprobs) {
    return invalid_argument_error("top_logprobs is ", top_logprobs, " but logprobs are off");
  }
  if (top_logprobs > kMaxTopLogprobs) {
    return invalid_argument_error("top_logprobs is ", top_logprobs, "; at most ", kMaxTopLogprobs,
                                  " can be had");
  }
  return OkStatus();
}

}  // namespace ponder
