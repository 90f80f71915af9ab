#include "lib/sample/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "lib/sample/philox.h"
#include "lib/tensor/rows.h"

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

// Weights are summed in whole units, so that a sum is the same in any order: 2^-42 of the likeliest
// token's weight, of which 2^21 tokens still fit 64 bits. What a token weighs below that is lost.
constexpr double kUnits = 0x1p42;
constexpr double kMostTokens = 0x1p21;

uint64_t units_of(float weight) {
  return static_cast<uint64_t>(static_cast<int64_t>(weight * static_cast<float>(kUnits)));
}
uint64_t units_of(uint64_t token) { return units_of(weight_of(token)); }

uint64_t mass(std::span<const uint64_t> tokens) {
  uint64_t sum = 0;
  for (const uint64_t token : tokens) sum += units_of(token);
  return sum;
}
// The fewest whole units that are at least `units`.
uint64_t at_least(double units) { return static_cast<uint64_t>(std::ceil(units)); }

// Brings to the front the fewest of the likeliest tokens whose weights reach `target`, the one that
// reaches it last among them; returns how many (at least 1, all if they fall short). A quickselect
// by mass: linear time where sorting a flat distribution would take milliseconds.
size_t select_mass(std::span<uint64_t> tokens, uint64_t target) {
  size_t low = 0, high = tokens.size();
  uint64_t chosen = 0;  // the weight of [0, low), short of the target
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
    uint64_t left = 0;
    for (uint64_t* t = first; t != last; ++t) {
      // No branch that would be guessed wrong every other time: swapping two that both belong
      // behind the pivot does no harm.
      const uint64_t token = *t;
      const uint32_t goes_first = token > pivot ? 1 : 0;
      *t = *split;
      *split = token;
      split += goes_first;
      left +=
          units_of(std::bit_cast<float>(static_cast<uint32_t>(token >> 32) & (0u - goes_first)));
    }
    std::swap(*split, *last);
    const size_t place = static_cast<size_t>(split - tokens.data());
    const uint64_t through = chosen + left + units_of(pivot);
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
    chosen += units_of(tokens[i]);
    if (chosen >= target) return i + 1;
  }
  return high;
}

// Between which bounds exp_sum over a row lies after some logits of it changed. `sum` is that of
// the row as it was; the largest logits are given before and after, and `rest` is not below those
// that are missing, of which `lowered` fell.
std::pair<double, double> bounds_of_sum(double sum, std::span<const float> before, float max_before,
                                        std::span<const float> after, float max_after, float rest,
                                        size_t lowered, float scale) {
  // exp_row rounds differences of logits to floats: up to 87 * 2^-23 of a weight.
  constexpr double kRounding = 1e-5;
  const auto weight = [scale](float logit, float max) {
    return std::exp((double{logit} - double{max}) * double{scale});
  };
  double there = 0.0, now = 0.0;
  for (const float x : before) there += weight(x, max_before);
  for (const float x : after) now += weight(x, max_after);
  const double missing = sum - there, doubt = sum * kRounding;
  const double fell = static_cast<double>(lowered) * weight(rest, max_before);
  const double factor = weight(max_before, max_after);
  return {factor * std::max(missing - doubt - fell, 0.0) + now * (1.0 - kRounding),
          factor * std::max(missing + doubt, 0.0) + now * (1.0 + kRounding)};
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

void Sampler::adjust(const SampleInput& input, Row* row) {
  row->logits = input.logits.logits();
  if (params_.biases.empty() && !params_.has_penalties() && input.forbidden.empty()) return;
  adjusted_.assign(row->logits.begin(), row->logits.end());
  row->logits = adjusted_;
  const auto is_token = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < input.logits.vocabulary();
  };
  // A missing token may fall without being looked at: it stays below what is known of all missing.
  const auto missing = [&](int32_t id, bool may_rise) {
    if (!is_token(id)) return;
    if (may_rise) row->known = false;
    ++row->lowered;
  };
  for (size_t i = 0; i < params_.biases.size(); ++i) {
    const int32_t id = params_.bias_tokens[i];
    if (const auto at = input.logits.find(id)) {
      adjusted_[*at] += params_.biases[i];
    } else {
      missing(id, params_.biases[i] > 0.0f);
    }
  }
  if (params_.has_penalties()) {
    count_history(input.history);
    for (const auto& [id, count] : counts_) {
      const auto at = input.logits.find(id);
      if (!at.has_value()) {
        missing(id, penalties_raise());
        continue;
      }
      float& x = adjusted_[*at];
      x = x < 0 ? x * params_.repeat_penalty : x / params_.repeat_penalty;
      if (count.generated == 0) continue;
      x -= params_.frequency_penalty * static_cast<float>(count.generated) +
           params_.presence_penalty;
    }
  }
  for (const int32_t id : input.forbidden) {
    if (const auto at = input.logits.find(id)) {
      adjusted_[*at] = kMinusInf;
    } else {
      missing(id, false);
    }
  }
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

bool Sampler::truncate(const Row& row) {
  const std::span<const float> logits = row.logits;
  const float max = row.max;
  const double temperature = params_.temperature;
  const double top_p = params_.top_p, min_p = params_.min_p;
  // The lowest logit that can survive. Without top_k: all tokens of weight below (1 - p) / V weigh
  // less than 1 - p together, so the p likeliest lie above them. A little is left for rounding;
  // what it lets through is weighed exactly below.
  float lowest = kMinusInf;
  if (params_.top_k > 0) {
    if (params_.top_k > logits.size() && logits.size() < row.given.vocabulary()) return false;
    lowest = kth_largest(logits);
  } else {
    const double vocabulary = static_cast<double>(row.given.vocabulary());
    const double least = std::max(top_p < 1.0 ? (1.0 - top_p) / vocabulary : 0.0, min_p);
    const double slack = 1e-5 * std::max(1.0, std::fabs(static_cast<double>(max)));
    const double cut = static_cast<double>(max) + std::log(least) / scale() - slack;
    lowest = static_cast<float>(std::max(cut, double{std::numeric_limits<float>::lowest()}));
  }
  // With top_p fewer may do.
  const bool all_kept = row.given.has_all_from(lowest);
  if (!all_kept && (params_.top_k > 0 || top_p >= 1.0)) return false;
  kept_.clear();
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (block_max_[b] < lowest) continue;
    const size_t begin = b * kRowBlock;
    const auto block = logits.subspan(begin, std::min(kRowBlock, logits.size() - begin));
    float weights[kRowBlock];
    exp_row(block, max, static_cast<float>(scale()), weights);
    for (size_t i = 0; i < block.size(); ++i) {
      if (block[i] < lowest || weights[i] == 0.0f) continue;
      kept_.push_back(ranked(row.given.id(begin + i), weights[i]));
    }
  }

  if (top_p < 1.0 && !keep_top_p(row, all_kept)) return false;
  if (min_p > 0.0) {
    std::erase_if(kept_, [&](uint64_t token) { return weight_of(token) < params_.min_p; });
  }
  if (params_.temperature_last && temperature != 1.0) {
    for (uint64_t& token : kept_) {
      const double logit = static_cast<double>(logits[*row.given.find(id_of(token))]);
      const double below = logit - static_cast<double>(max);
      token = ranked(id_of(token), static_cast<float>(std::exp(below / temperature)));
    }
    std::erase_if(kept_, [](uint64_t token) { return weight_of(token) == 0.0f; });
  }
  return true;
}

bool Sampler::keep_top_p(const Row& row, bool all_kept) {
  const double top_p = params_.top_p;
  const float scale = static_cast<float>(this->scale());
  if (params_.top_k > 0) {
    kept_.resize(select_mass(kept_, at_least(top_p * static_cast<double>(mass(kept_)))));
    return true;
  }
  double low = 0.0, high = 0.0;  // between these the sum of all weights lies
  if (!row.given.reduced()) {
    low = high = exp_sum(row.logits, block_max_, row.max, scale);
  } else {
    const std::optional<double> sum = row.given.sum(scale);
    if (!sum.has_value()) return false;
    low = high = *sum;
    if (row.adjusted()) {
      std::tie(low, high) = bounds_of_sum(*sum, row.given.logits(), row.given_max, row.logits,
                                          row.max, row.given.rest(), row.lowered, scale);
    }
    if (!(high <= kMostTokens)) return false;
  }
  const uint64_t target = at_least(top_p * high * kUnits);
  if (!all_kept) {
    // What is missing weighs hardly more than `rest` does, weights being rounded. What weighs more
    // comes first, and must suffice.
    float most = 0.0f;
    const float rest = row.given.rest();
    exp_row({&rest, 1}, row.max, scale, &most);
    most *= 1.0f + 1e-5f;
    std::erase_if(kept_, [most](uint64_t token) { return weight_of(token) <= most; });
    if (mass(kept_) < target) return false;
  }
  kept_.resize(select_mass(kept_, target));
  return low == high || select_mass(kept_, at_least(top_p * low * kUnits)) == kept_.size();
}

int32_t Sampler::draw_from_kept(double u) {
  const size_t n = select_mass(kept_, at_least(u * static_cast<double>(mass(kept_))));
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
  row.given = input.logits;
  PONDER_ASSIGN_OR_RETURN(row.given_max, scan_row(input.logits.logits(), &block_max_));
  row.max = row.given_max;
  adjust(input, &row);
  if (row.adjusted()) row.max = rescan_row(row.logits, &block_max_);
  if (!row.given.has_all_from(row.max)) row.known = false;
  if (row.known && row.max == kMinusInf) {
    return invalid_argument_error("the logit bias and the rules of the moment forbid all ",
                                  row.given.vocabulary(),
                                  " tokens: nothing is left to choose from");
  }
  return row;
}

RowNeeds Sampler::needs(size_t largest) const {
  constexpr size_t kMostRaised = 256;
  RowNeeds needs;
  const bool sums_all = !params_.greedy() && params_.top_k == 0 && params_.top_p < 1.0f;
  needs.whole = (!params_.greedy() && !truncates()) || params_.top_k >= largest ||
                params_.top_logprobs >= largest || (params_.has_penalties() && penalties_raise()) ||
                (params_.logprobs && !needs.add_sum(1.0f)) ||
                (sums_all && !needs.add_sum(static_cast<float>(scale())));
  for (size_t i = 0; i < params_.biases.size(); ++i) {
    if (params_.biases[i] > 0.0f) needs.also.push_back(params_.bias_tokens[i]);
  }
  if (needs.also.size() > kMostRaised) needs.whole = true;
  return needs;
}

StatusOr<SampledToken> Sampler::sample(const SampleInput& input) {
  PONDER_ASSIGN_OR_RETURN(const Row row, prepare(input));
  if (!row.known) return SampledToken{};
  size_t at = 0;
  if (params_.greedy()) {
    const size_t block =
        static_cast<size_t>(std::ranges::find(block_max_, row.max) - block_max_.begin());
    const auto begin = row.logits.begin() + static_cast<ptrdiff_t>(block * kRowBlock);
    at = static_cast<size_t>(std::find(begin, row.logits.end(), row.max) - row.logits.begin());
    return forced(input, row.given.id(at));
  }
  const double u = uniform_at(params_.seed, input.position);
  if (truncates()) {
    if (!truncate(row)) return SampledToken{};
    return forced(input, draw_from_kept(u));
  }
  if (row.given.reduced()) return SampledToken{};
  return forced(input, draw_from_row(row.logits, row.max, u));
}

StatusOr<SampledToken> Sampler::forced(const SampleInput& input, int32_t id) const {
  SampledToken token;
  token.id = id;
  if (params_.logprobs) {
    PONDER_ASSIGN_OR_RETURN(RowLogprobs row,
                            log_softmax_at(input.logits, id, params_.top_logprobs));
    if (!row.known) return SampledToken{};
    token.logprob = row.logprob;
    token.top = std::move(row.top);
  }
  return token;
}

StatusOr<std::vector<Candidate>> Sampler::distribution(const SampleInput& input) {
  PONDER_ASSIGN_OR_RETURN(const Row row, prepare(input));
  std::vector<Candidate> out;
  if (!row.known) return out;
  if (params_.greedy()) {
    const auto likeliest = std::ranges::find(row.logits, row.max) - row.logits.begin();
    return std::vector<Candidate>{{row.given.id(static_cast<size_t>(likeliest)), 1.0}};
  }
  if (!truncate(row)) return out;
  std::ranges::sort(kept_, std::greater{});
  double total = 0.0;
  for (const uint64_t token : kept_) total += static_cast<double>(weight_of(token));
  out.reserve(kept_.size());
  for (const uint64_t token : kept_) {
    out.push_back({id_of(token), static_cast<double>(weight_of(token)) / total});
  }
  return out;
}

}  // namespace ponder
