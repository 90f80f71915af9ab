#include "lib/engine/drafting.h"

#include <algorithm>

namespace ponder::engine {
namespace {

// What is known fades by this with each new draft: about 25 count. The prior weighs as much as one
// of them. A drafter that is never right is thus thought to be right less often than kWorthwhile
// asks, and is left alone.
constexpr double kFade = 0.96;
constexpr double kPriorWeight = 1;
constexpr double kWorthwhile = 1.03;  // drafting must promise this much more: clocks are not exact
// Long enough that a round which the system held up decides nothing alone.
constexpr int32_t kTrialRounds = 8;
constexpr int32_t kTrialsBetweenLooks = 64;
constexpr double kRest = 40;  // after a trial that lost, so many times what it took

}  // namespace

void Acceptance::record(int32_t right, bool missed) {
  const int32_t tested = std::min(right + (missed ? 1 : 0), kMaxDraft);
  for (int32_t i = 0; i < tested; ++i) {
    Place& place = places_[static_cast<size_t>(i)];
    place.right = kFade * place.right + (i < right ? 1 : 0);
    place.tested = kFade * place.tested + 1;
  }
}

double Acceptance::chance(int32_t n) const {
  double chance = 1;
  for (int32_t i = 0; i < n; ++i) {
    const Place& place = places_[static_cast<size_t>(std::min(i, kMaxDraft - 1))];
    chance *= (place.right + kPriorWeight * prior_) / (place.tested + kPriorWeight);
  }
  return chance;
}

void settle(double* estimate, double seconds) {
  if (!(seconds > 0)) return;
  if (*estimate == 0) {
    *estimate = seconds;
  } else {
    *estimate += (seconds < *estimate ? 0.5 : 0.1) * (std::min(seconds, 2 * *estimate) - *estimate);
  }
}

void StepTimes::record(int32_t rows, double seconds) {
  if (rows < 1 || rows > kMaxRows || !(seconds > 0)) return;
  Entry& entry = entries_[static_cast<size_t>(rows)];
  if (!known(rows)) entry.seconds = 0;
  settle(&entry.seconds, seconds);
  entry.seen = ++steps_;
}

bool StepTimes::known(int32_t rows) const {
  if (rows < 1 || rows > kMaxRows) return false;
  const Entry& entry = entries_[static_cast<size_t>(rows)];
  return entry.seen != 0 && steps_ - entry.seen < kForgetAfter;
}

double StepTimes::seconds(int32_t rows) const {
  if (known(rows)) return entries_[static_cast<size_t>(rows)].seconds;
  int32_t below = std::min(rows, kMaxRows), above = rows;
  while (below > 0 && !known(below)) --below;
  while (above <= kMaxRows && !known(above)) ++above;
  const auto at = [&](int32_t r) { return entries_[static_cast<size_t>(r)].seconds; };
  if (below <= 0 && above > kMaxRows) return 0;
  if (below <= 0) return at(above);
  if (above > kMaxRows) return at(below);
  return at(below) + (at(above) - at(below)) * (rows - below) / (above - below);
}

int32_t StepTimes::reach() const {
  int32_t largest = kMaxRows;
  while (largest > 0 && !known(largest)) --largest;
  return std::min(largest + std::max(1, largest / 4), kMaxRows);
}

void DraftTrial::rest(double seconds) {
  rest_ = seconds;
  rested_ = 0;
}

void DraftTrial::record(int32_t texts, size_t tokens, double seconds, Work work) {
  if (texts < 1 || tokens == 0 || !(seconds > 0)) return;
  if (work == Work::kNone) {
    without_.record(texts, seconds);
    rested_ += seconds;
    return;
  }
  const double round = without_.seconds(texts);
  const double instead = round * static_cast<double>(tokens) / texts;
  spent_ += seconds;
  if (work == Work::kReading) return;
  seconds_ += seconds;
  instead_ += instead;
  if (++rounds_ < kTrialRounds) return;
  if (instead_ > seconds_ * kWorthwhile) {
    // From time to time a few rounds without: what they take changes.
    if (++won_ % kTrialsBetweenLooks == 0) rest(kTrialRounds * round);
  } else {
    won_ = 0;
    rest(spent_ * kRest);
  }
  spent_ = seconds_ = instead_ = 0;
  rounds_ = 0;
}

std::vector<int32_t> plan_drafts(std::span<const DraftCandidate> candidates, int32_t rows,
                                 const StepTimes& times, int64_t budget) {
  std::vector<int32_t> counts(candidates.size(), 0);
  if (rows < 1 || !times.known(rows)) return counts;
  budget = std::min<int64_t>(budget, times.reach() - rows);
  // What one more drafted token of each candidate would give, the likeliest first. A sequence's
  // later drafts never give more than its earlier ones, so the best so many are found one by one.
  struct Offer {
    double gain;
    size_t candidate;
    bool operator<(const Offer& o) const {
      return gain != o.gain ? gain < o.gain : candidate > o.candidate;
    }
  };
  std::vector<Offer> offers;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].most > 0) offers.push_back({candidates[i].acceptance->chance(1), i});
  }
  std::make_heap(offers.begin(), offers.end());
  std::vector<size_t> taken;
  double tokens = rows, making = 0;
  const double without = times.seconds(rows);
  double best = tokens / without * kWorthwhile;
  size_t best_taken = 0;
  while (!offers.empty() && static_cast<int64_t>(taken.size()) < budget) {
    std::pop_heap(offers.begin(), offers.end());
    const Offer offer = offers.back();
    offers.pop_back();
    const DraftCandidate& c = candidates[offer.candidate];
    tokens += offer.gain;
    making += c.seconds_each;
    taken.push_back(offer.candidate);
    const int32_t next = ++counts[offer.candidate] + 1;
    if (next <= std::min(c.most, kMaxDraft)) {
      offers.push_back({c.acceptance->chance(next), offer.candidate});
      std::push_heap(offers.begin(), offers.end());
    }
    // More rows never take less time, whatever the clock said: a first step may have been a slow
    // one.
    const double with = std::max(without, times.seconds(rows + static_cast<int32_t>(taken.size())));
    const double speed = tokens / (with + making);
    if (speed > best) {
      best = speed;
      best_taken = taken.size();
    }
  }
  std::fill(counts.begin(), counts.end(), 0);
  for (size_t i = 0; i < best_taken; ++i) ++counts[taken[i]];
  return counts;
}

}  // namespace ponder::engine
