#include "lib/engine/draft_planner.h"

#include <algorithm>
#include <utility>

namespace ponder::engine {
namespace {

// A layer that was not worth asking is tried again after so many steps: its logits cost little.
constexpr int32_t kTryAgain = 128;

// Never more than the limit leaves room for, of which a step gives one without any draft.
int32_t most_drafts(const Sequence& s, int64_t ahead) {
  const int64_t left =
      static_cast<int64_t>(s.limit) - static_cast<int64_t>(s.timeline->tokens.size()) - ahead - 1;
  return static_cast<int32_t>(std::clamp<int64_t>(left, 0, s.speculating.most));
}

bool drafts_at(const Sequence& s, Drafter::Moment moment) {
  return s.speculating.drafter != nullptr && s.speculating.drafter->moment() == moment;
}

}  // namespace

std::vector<int32_t> DraftPlanner::worth(std::span<Sequence* const> who, int32_t rows,
                                         int64_t ahead, int64_t budget) {
  std::vector<DraftCandidate> candidates;
  for (Sequence* const s : who) {
    Speculating& own = s->speculating;
    DraftRecord* const record = own.drafter->record();
    if (!own.started && record != nullptr) own.acceptance[0] = record->start();
    own.started = true;
    candidates.push_back({most_drafts(*s, ahead), &own.acceptance[0], own.drafter->seconds_each()});
  }
  std::vector<int32_t> counts = plan_drafts(candidates, rows, times_, budget);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (who[i]->speculating.always) counts[i] = candidates[i].most;
  }
  return counts;
}

bool DraftPlanner::prepare(Running running, int64_t budget) {
  std::vector<Sequence*> due;
  int32_t deciding = 0;
  for (const auto& s : running) {
    s->speculating.waits = false;
    if (s->ended || s->pending() != 1) continue;
    ++deciding;
    if (!drafts_at(*s, Drafter::Moment::kBetween)) continue;
    if (s->speculating.considered != s->timeline->tokens.size()) due.push_back(s.get());
  }
  if (!due.empty()) {
    const std::vector<int32_t> counts = worth(due, deciding, 0, budget - deciding);
    const bool allowed = trial_.allowed();
    for (size_t i = 0; i < due.size(); ++i) {
      *culprit_ = due[i];
      const std::vector<int32_t>& text = due[i]->timeline->tokens;
      Speculating& own = due[i]->speculating;
      if (counts[i] > 0 && (allowed || own.always) && own.drafter->ask(text, counts[i])) {
        work_ = std::max(work_, DraftTrial::Work::kReading);
      }
      own.considered = text.size();
    }
    *culprit_ = nullptr;
  }
  bool some = false;
  for (const auto& s : running) {
    if (s->ended || s->pending() != 1 || !drafts_at(*s, Drafter::Moment::kBetween)) continue;
    s->speculating.waits = s->speculating.drafter->working();
    some |= s->speculating.waits;
  }
  if (some) work_ = DraftTrial::Work::kDrafting;
  return some;
}

void DraftPlanner::record_round(int32_t texts, size_t tokens, double seconds) {
  trial_.record(texts, tokens, seconds, std::exchange(work_, DraftTrial::Work::kNone));
}

std::vector<int32_t> DraftPlanner::ask_in_step(std::span<Sequence* const> deciding,
                                               int64_t budget) {
  std::vector<int32_t> counts(deciding.size(), 0);
  std::vector<Sequence*> who;
  std::vector<size_t> whose;
  for (size_t i = 0; i < deciding.size(); ++i) {
    if (!drafts_at(*deciding[i], Drafter::Moment::kInStep)) continue;
    who.push_back(deciding[i]);
    whose.push_back(i);
  }
  const auto rows = static_cast<int32_t>(deciding.size());
  const std::vector<int32_t> worthwhile = worth(who, rows, 1, budget - rows);
  for (size_t i = 0; i < who.size(); ++i) {
    Speculating& own = who[i]->speculating;
    int32_t count = worthwhile[i];
    if (count == 0 && ++own.unasked >= kTryAgain) count = std::min(1, most_drafts(*who[i], 1));
    own.drafter->ask(who[i]->timeline->tokens, count);
    if (count > 0) own.unasked = 0;
    counts[whose[i]] = count;
  }
  return counts;
}

std::vector<int32_t> DraftPlanner::choose(Running running, int64_t budget) {
  std::vector<int32_t> counts(running.size(), 0);
  std::vector<DraftCandidate> candidates;
  std::vector<size_t> whose;
  int32_t deciding = 0;  // sequences of which the step takes one row anyway
  for (size_t i = 0; i < running.size(); ++i) {
    Sequence& s = *running[i];
    Speculating& own = s.speculating;
    own.draft.clear();  // may be there still, of a step that was not to be
    if (s.ended || own.waits || s.pending() != 1) continue;
    ++deciding;
    const int32_t most = most_drafts(s, 0);
    if (most < 1 || own.drafter == nullptr) continue;
    *culprit_ = &s;
    own.kind = std::clamp(own.drafter->propose(s.timeline->tokens, most, &own.draft), 0,
                          Drafter::kKinds - 1);
    const auto exists = [this](int32_t id) { return id >= 0 && id < vocabulary_; };
    const auto end = std::find_if_not(own.draft.begin(), own.draft.end(), exists);
    own.draft.resize(static_cast<size_t>(std::min<std::ptrdiff_t>(end - own.draft.begin(), most)));
    if (own.always) {
      counts[i] = static_cast<int32_t>(std::clamp<int64_t>(budget, 0, std::ssize(own.draft)));
      budget -= counts[i];
      continue;
    }
    // What is proposed is made already: its cost was looked at when it was asked for.
    candidates.push_back({static_cast<int32_t>(own.draft.size()),
                          &own.acceptance[static_cast<size_t>(own.kind)], 0});
    whose.push_back(i);
  }
  *culprit_ = nullptr;
  if (candidates.empty()) return counts;
  const std::vector<int32_t> planned = plan_drafts(candidates, deciding, times_, budget);
  for (size_t i = 0; i < whose.size(); ++i) counts[whose[i]] = planned[i];
  return counts;
}

// Compares the drafter's proposal with what was said instead, also where none or few of it were
// verified: a drafter that has become good is noticed at no cost.
void DraftPlanner::learn(Sequence& s, size_t before) {
  Speculating& own = s.speculating;
  const std::span<const int32_t> said = std::span(s.timeline->tokens).subspan(before);
  const size_t known = std::min(said.size(), own.draft.size());
  const auto right = std::mismatch(said.begin(), said.begin() + static_cast<std::ptrdiff_t>(known),
                                   own.draft.begin())
                         .first -
                     said.begin();
  const auto n = static_cast<int32_t>(right);
  const bool missed = right < static_cast<std::ptrdiff_t>(known);
  own.acceptance[static_cast<size_t>(own.kind)].record(n, missed);
  DraftRecord* const record = own.drafter == nullptr ? nullptr : own.drafter->record();
  if (record != nullptr && known > 0) record->acceptance.record(n, missed);
  own.draft.clear();
}

}  // namespace ponder::engine
