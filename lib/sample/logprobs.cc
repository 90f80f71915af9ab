#include "lib/sample/logprobs.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "lib/tensor/rows.h"

namespace ponder {
namespace {

// The `n` largest logits with their places, largest first, equals by lowest place.
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

StatusOr<RowLogprobs> log_softmax_at(const LogitRow& row, int32_t id, uint32_t top_n) {
  if (id < 0 || static_cast<size_t>(id) >= row.vocabulary()) {
    return invalid_argument_error("token ", id, " is outside the vocabulary of ", row.vocabulary());
  }
  const std::span<const float> logits = row.logits();
  std::vector<float> block_max;
  PONDER_ASSIGN_OR_RETURN(const float max, scan_row(logits, &block_max));
  const std::optional<double> sum =
      row.reduced() ? row.sum(1.0f) : exp_sum(logits, block_max, max, 1.0f);
  const std::optional<size_t> at = row.find(id);
  RowLogprobs out;
  out.known = sum.has_value() && at.has_value();
  if (!out.known) return out;
  out.top = largest(logits, block_max, std::min<size_t>(top_n, row.vocabulary()));
  if (!out.top.empty()) {
    out.known = row.has_all_from(out.top.back().logprob) &&
                out.top.size() == std::min<size_t>(top_n, row.vocabulary());
    if (!out.known) return out;
  }
  const double log_sum = static_cast<double>(max) + std::log(*sum);
  out.logprob = static_cast<float>(static_cast<double>(logits[*at]) - log_sum);
  for (TokenLogprob& token : out.top) {
    token.id = row.id(static_cast<size_t>(token.id));
    token.logprob = static_cast<float>(static_cast<double>(token.logprob) - log_sum);
  }
  return out;
}

StatusOr<int32_t> likeliest(const LogitRow& row) {
  std::vector<float> block_max;
  PONDER_ASSIGN_OR_RETURN(const float max, scan_row(row.logits(), &block_max));
  if (!row.has_all_from(max)) return -1;
  return row.id(static_cast<size_t>(largest(row.logits(), block_max, 1).front().id));
}

}  // namespace ponder
