#include "lib/sample/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "lib/sample/philox.h"
#include "lib/sample/rows.h"

namespace ponder {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// A kept token and its weight in one number, which is larger the likelier the token and, among
// equals, the lower its id: positive floats sort as their bits do. A total order, so every
// selection has one right answer.
uint64_t ranked(int32_t id, float weight) {
  return uint64_t{std::bit_cast<uint32_t>(weight)} << 32 | ~static_cast<uint32_t>(id);
}
int32_t id_of(uint64_t token) { return static_cast<int32_t>(~static_cast<uint32_t>(token)); }
float weight_of(uint64_t token) { return std::bit_cast<float>(static_cast<uint32_t>(token >> 32)); }

double mass(std::span<const uint64_t> tokens) {
  double sum = 0.0;
  for (const uint64_t token : tokens) sum += static_cast<double>(weight_of(token));
  return sum;
}

// Brings to the front the fewest of the likeliest tokens whose weights reach `target`, the one that
// reaches it last among them; returns how many (at least 1, all if they fall short). A quickselect
// by mass: linear time where sorting a flat distribution would take milliseconds.
size_t select_mass(std::span<uint64_t> tokens, double target) {
  size_t low = 0, high = tokens.size();
  double chosen = 0.0;  // the weight of [0, low), short of the target
  constexpr size_t kSmall = 32;
  // Unlucky pivots cost time, not correctness: after so many rounds the rest is sorted.
  for (int rounds = 4 * std::bit_width(high); rounds > 0 && high - low > kSmall; --rounds) {
    uint64_t* const first = &tokens[low];
    uint64_t* const last = &tokens[high - 1];
    uint64_t* const middle = first + (high - low) / 2;
    if (*middle > *first) std::swap(*middle, *first);
    if (*last > *middle) std::swap(*last, *middle);
    if (*middle > *first) std::swap(*middle, *first);
    std::swap(*middle, *last);  // the median of three waits at the end
    const uint64_t pivot = *last;
    uint64_t* split = first;
    double left = 0.0;
    for (uint64_t* t = first; t != last; ++t) {
      // No branch that would be guessed wrong every other time: swapping two that both belong
      // behind the pivot does no harm.
      const uint64_t token = *t;
      const uint32_t goes_first = token > pivot ? 1 : 0;
      *t = *split;
      *split = token;
      split += goes_first;
      left += static_cast<double>(
          std::bit_cast<float>(static_cast<uint32_t>(token >> 32) & (0u - goes_first)));
    }
    std::swap(*split, *last);
    const size_t place = static_cast<size_t>(split - tokens.data());
    const double through = chosen + left + static_cast<double>(weight_of(pivot));
    if (chosen + left >= target && place > low) {
      high = place;
    } else if (through >= target) {
      return place + 1;
    } else {
      chosen = through;
      low = place + 1;
    }
  }
  std::ranges::sort(tokens.subspan(low, high - low), std::greater{});
  for (size_t i = low; i < high; ++i) {
    chosen += static_cast<double>(weight_of(tokens[i]));
    if (chosen >= target) return i + 1;
  }
  return high;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, size_t prompt_tokens)
    : params_(params), prompt_tokens_(prompt_tokens) {}

void Sampler::count_window(size_t begin, size_t end, int32_t by) {
  for (size_t i = begin; i < end; ++i) {
    const auto it = counts_.try_emplace(counted_[i]).first;
    it->second.all += by;
    if (i >= prompt_tokens_) it->second.generated += by;
    if (it->second.all == 0) counts_.erase(it);
  }
}

void Sampler::count_history(std::span<const int32_t> history) {
  const size_t common =
      static_cast<size_t>(std::ranges::mismatch(counted_, history).in1 - counted_.begin());
  count_window(std::max(window_begin_, common), counted_.size(), -1);
  counted_.resize(common);
  window_begin_ = std::min(window_begin_, common);

  counted_.insert(counted_.end(), history.begin() + static_cast<ptrdiff_t>(common), history.end());
  count_window(common, counted_.size(), 1);

  const size_t window = params_.penalty_window;
  const size_t begin = window > 0 && history.size() > window ? history.size() - window : 0;
  if (begin > window_begin_) {
    count_window(window_begin_, begin, -1);
  } else {
    count_window(begin, window_begin_, 1);
  }
  window_begin_ = begin;
}

std::span<const float> Sampler::adjust(const SampleInput& input) {
  if (params_.biases.empty() && !params_.has_penalties() && input.forbidden.empty()) {
    return input.logits;
  }
  adjusted_.assign(input.logits.begin(), input.logits.end());
  const auto in_row = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < adjusted_.size();
  };
  for (size_t i = 0; i < params_.biases.size(); ++i) {
    if (in_row(params_.bias_tokens[i])) adjusted_[params_.bias_tokens[i]] += params_.biases[i];
  }
  if (params_.has_penalties()) {
    count_history(input.history);
    for (const auto& [id, count] : counts_) {
      if (!in_row(id)) continue;
      float& x = adjusted_[id];
      x = x < 0 ? x * params_.repeat_penalty : x / params_.repeat_penalty;
      if (count.generated == 0) continue;
      x -= params_.frequency_penalty * static_cast<float>(count.generated) +
           params_.presence_penalty;
    }
  }
  for (const int32_t id : input.forbidden) {
    if (in_row(id)) adjusted_[id] = kMinusInf;
  }
  return adjusted_;
}

float Sampler::kth_largest(std::span<const float> logits) {
  const size_t k = params_.top_k;
  if (k >= logits.size()) return kMinusInf;
  constexpr size_t kLargestHeap = 1024;
  if (k > kLargestHeap) {
    heap_.assign(logits.begin(), logits.end());
    std::ranges::nth_element(heap_, heap_.begin() + static_cast<ptrdiff_t>(k) - 1, std::greater{});
    return heap_[k - 1];
  }
  heap_.clear();
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (heap_.size() == k && block_max_[b] <= heap_.front()) continue;
    const size_t end = std::min((b + 1) * kRowBlock, logits.size());
    for (size_t i = b * kRowBlock; i < end; ++i) {
      if (heap_.size() == k) {
        if (logits[i] <= heap_.front()) continue;
        std::ranges::pop_heap(heap_, std::greater{});
        heap_.back() = logits[i];
      } else {
        heap_.push_back(logits[i]);
      }
      std::ranges::push_heap(heap_, std::greater{});
    }
  }
  return heap_.front();
}

void Sampler::truncate(std::span<const float> logits, float max) {
  const double temperature = params_.temperature;
  const double scale = params_.temperature_last ? 1.0 : 1.0 / temperature;
  const double top_p = params_.top_p, min_p = params_.min_p;
  // The lowest logit that can survive. Without top_k: all tokens of weight below (1 - p) / V weigh
  // less than 1 - p together, so the p likeliest lie above them. A little is left for rounding;
  // what it lets through is weighed exactly below.
  float lowest = kMinusInf;
  if (params_.top_k > 0) {
    lowest = kth_largest(logits);
  } else {
    const double least =
        std::max(top_p < 1.0 ? (1.0 - top_p) / static_cast<double>(logits.size()) : 0.0, min_p);
    const double slack = 1e-5 * std::max(1.0, std::fabs(static_cast<double>(max)));
    const double cut = static_cast<double>(max) + std::log(least) / scale - slack;
    lowest = static_cast<float>(std::max(cut, double{std::numeric_limits<float>::lowest()}));
  }
  kept_.clear();
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (block_max_[b] < lowest) continue;
    const size_t begin = b * kRowBlock;
    const auto block = logits.subspan(begin, std::min(kRowBlock, logits.size() - begin));
    float weights[kRowBlock];
    exp_row(block, max, static_cast<float>(scale), weights);
    for (size_t i = 0; i < block.size(); ++i) {
      if (block[i] < lowest || weights[i] == 0.0f) continue;
      kept_.push_back(ranked(static_cast<int32_t>(begin + i), weights[i]));
    }
  }

  if (top_p < 1.0) {
    const double total = params_.top_k > 0
                             ? mass(kept_)
                             : exp_sum(logits, block_max_, max, static_cast<float>(scale));
    kept_.resize(select_mass(kept_, top_p * total));
  }
  if (min_p > 0.0) {
    std::erase_if(kept_, [&](uint64_t token) { return weight_of(token) < params_.min_p; });
  }
  if (params_.temperature_last && temperature != 1.0) {
    for (uint64_t& token : kept_) {
      const double below = static_cast<double>(logits[id_of(token)]) - static_cast<double>(max);
      token = ranked(id_of(token), static_cast<float>(std::exp(below / temperature)));
    }
    std::erase_if(kept_, [](uint64_t token) { return weight_of(token) == 0.0f; });
  }
}

int32_t Sampler::draw_from_kept(double u) {
  const size_t n = select_mass(kept_, u * mass(kept_));
  return id_of(kept_[n - 1]);
}

int32_t Sampler::draw_from_row(std::span<const float> logits, float max, double u) {
  const float scale = 1.0f / params_.temperature;
  const auto block = [&](size_t b) {
    return logits.subspan(b * kRowBlock, std::min(kRowBlock, logits.size() - b * kRowBlock));
  };
  block_sum_.resize(block_max_.size());
  double total = 0.0;
  for (size_t b = 0; b < block_sum_.size(); ++b) {
    const bool matters = block_matters(block_max_[b], max, scale);
    block_sum_[b] = matters ? exp_sum_block(block(b), max, scale) : 0.0;
    total += block_sum_[b];
  }
  const double target = u * total;
  double sum = 0.0;
  size_t last = 0;  // the last block of any weight
  for (size_t b = 0; b < block_sum_.size(); ++b) {
    if (block_sum_[b] == 0.0) continue;
    last = b;
    if (sum + block_sum_[b] >= target) break;
    sum += block_sum_[b];
  }
  float weights[kRowBlock];
  exp_row(block(last), max, scale, weights);
  size_t chosen = 0;
  for (size_t i = 0; i < block(last).size(); ++i) {
    if (weights[i] == 0.0f) continue;
    chosen = i;
    sum += static_cast<double>(weights[i]);
    if (sum >= target) break;
  }
  return static_cast<int32_t>(last * kRowBlock + chosen);
}

StatusOr<Sampler::Row> Sampler::prepare(const SampleInput& input) {
  Row row;
  PONDER_ASSIGN_OR_RETURN(row.max, scan_row(input.logits, &block_max_));
  row.logits = adjust(input);
  if (row.logits.data() != input.logits.data()) row.max = rescan_row(row.logits, &block_max_);
  if (row.max == kMinusInf) {
    return invalid_argument_error("the logit bias and the rules of the moment forbid all ",
                                  row.logits.size(), " tokens: nothing is left to choose from");
  }
  return row;
}

StatusOr<SampledToken> Sampler::sample(const SampleInput& input) {
  PONDER_ASSIGN_OR_RETURN(const Row row, prepare(input));
  const auto [logits, max] = row;
  int32_t id = 0;
  if (params_.greedy()) {
    const size_t block =
        static_cast<size_t>(std::ranges::find(block_max_, max) - block_max_.begin());
    const auto begin = logits.begin() + static_cast<ptrdiff_t>(block * kRowBlock);
    id = static_cast<int32_t>(std::find(begin, logits.end(), max) - logits.begin());
  } else {
    const double u = uniform_at(params_.seed, input.position);
    if (truncates()) {
      truncate(logits, max);
      id = draw_from_kept(u);
    } else {
      id = draw_from_row(logits, max, u);
    }
  }
  return forced(input, id);
}

StatusOr<SampledToken> Sampler::forced(const SampleInput& input, int32_t id) const {
  SampledToken token;
  token.id = id;
  if (params_.logprobs) {
    PONDER_ASSIGN_OR_RETURN(RowLogprobs row,
                            log_softmax_at(input.logits, id, params_.top_logprobs));
    token.logprob = row.logprob;
    token.top = std::move(row.top);
  }
  return token;
}

StatusOr<std::vector<Candidate>> Sampler::distribution(const SampleInput& input) {
  PONDER_ASSIGN_OR_RETURN(const Row row, prepare(input));
  const auto [logits, max] = row;
  if (params_.greedy()) {
    const auto likeliest = std::ranges::find(logits, max);
    return std::vector<Candidate>{{static_cast<int32_t>(likeliest - logits.begin()), 1.0}};
  }
  truncate(logits, max);
  std::ranges::sort(kept_, std::greater{});
  const double total = mass(kept_);
  std::vector<Candidate> out;
  out.reserve(kept_.size());
  for (const uint64_t token : kept_) {
    out.push_back({id_of(token), static_cast<double>(weight_of(token)) / total});
  }
  return out;
}

}  // namespace ponder
