#include "lib/sample/logprobs.h"

#include <algorithm>
#include <cmath>

#include "lib/sample/rows.h"

namespace ponder {
namespace {

// The `n` largest logits with their ids, largest first, equals by lowest id.
std::vector<TokenLogprob> largest(std::span<const float> logits, std::span<const float> block_max,
                                  size_t n) {
  const auto before = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  };
  std::vector<TokenLogprob> heap;  // its front is the one that would leave first
  n = std::min(n, logits.size());
  heap.reserve(n + 1);
  if (n == 0) return heap;
  for (size_t b = 0; b < block_max.size(); ++b) {
    if (heap.size() == n && block_max[b] <= heap.front().logprob) continue;
    const size_t end = std::min((b + 1) * kRowBlock, logits.size());
    for (size_t i = b * kRowBlock; i < end; ++i) {
      // Ids come in ascending order, so among equals the later one loses.
      if (heap.size() == n && logits[i] <= heap.front().logprob) continue;
      heap.push_back({static_cast<int32_t>(i), logits[i]});
      std::ranges::push_heap(heap, before);
      if (heap.size() > n) {
        std::ranges::pop_heap(heap, before);
        heap.pop_back();
      }
    }
  }
  std::ranges::sort(heap, before);
  return heap;
}

}  // namespace

StatusOr<RowLogprobs> log_softmax_at(std::span<const float> logits, int32_t id, uint32_t top_n) {
  if (id < 0 || static_cast<size_t>(id) >= logits.size()) {
    return invalid_argument_error("token ", id, " is outside the vocabulary of ", logits.size());
  }
  std::vector<float> block_max;
  PONDER_ASSIGN_OR_RETURN(const float max, scan_row(logits, &block_max));
  const double sum = exp_sum(logits, block_max, max, 1.0f);
  const double log_sum = static_cast<double>(max) + std::log(sum);
  RowLogprobs out;
  out.logprob = static_cast<float>(static_cast<double>(logits[id]) - log_sum);
  out.top = largest(logits, block_max, top_n);
  for (TokenLogprob& token : out.top) {
    token.logprob = static_cast<float>(static_cast<double>(token.logprob) - log_sum);
  }
  return out;
}

StatusOr<int32_t> likeliest(std::span<const float> logits) {
  std::vector<float> block_max;
  PONDER_RETURN_IF_ERROR(scan_row(logits, &block_max).status());
  return largest(logits, block_max, 1).front().id;
}

}  // namespace ponder
