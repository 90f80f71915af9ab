// DraftPlanner: which sequences get drafts, how many, and what came of them.
//
// Between two steps prepare() has drafters of that moment (drafter.h) begin where it pays; choose()
// then says how much of what is proposed a step verifies, and ask_in_step() what its draft pass is
// to make for the next one; learn() compares proposals with what was said. Whether it pays is
// plan_drafts' to say, from what was measured.
//
// Owned by the Engine, used by the driver alone; the engine's lock may be held.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/engine/drafting.h"
#include "lib/engine/sequence.h"

namespace ponder::engine {

class DraftPlanner {
 public:
  using Running = std::span<const std::unique_ptr<Sequence>>;

  // `*culprit` is whom an exception is about.
  DraftPlanner(int64_t vocabulary, Sequence** culprit)
      : vocabulary_(vocabulary), culprit_(culprit) {}

  // A step of `rows` took so long, and nobody's prompt was in it.
  void record_step(int32_t rows, double seconds) { times_.record(rows, seconds); }

  // A step came `seconds` after the last one, and nobody's prompt was in either.
  void record_round(int32_t texts, size_t tokens, double seconds);
  // What came before the next step is no round.
  void skip_round() { work_ = DraftTrial::Work::kNone; }

  // Sets Speculating::waits of all; true: of some. The lock is not held: drafts may be another
  // engine's work. A step has at most `budget` rows.
  bool prepare(Running running, int64_t budget);
  // How many drafted tokens each of `running` gets in the next step, at most `budget` in all.
  std::vector<int32_t> choose(Running running, int64_t budget);
  // How many tokens the draft pass should make for each of those who get a token in the coming
  // step.
  std::vector<int32_t> ask_in_step(std::span<Sequence* const> deciding, int64_t budget);
  // The text was `before` tokens long when its drafter proposed.
  void learn(Sequence& s, size_t before);

 private:
  // How many tokens it pays to have made for each of `who`, for a step of `rows` rows that comes
  // when their texts are `ahead` tokens longer.
  std::vector<int32_t> worth(std::span<Sequence* const> who, int32_t rows, int64_t ahead,
                             int64_t budget);

  int64_t vocabulary_;
  Sequence** culprit_;
  StepTimes times_;
  DraftTrial trial_;  // of drafters of the moment kBetween
  DraftTrial::Work work_ = DraftTrial::Work::kNone;  // in this round
};

}  // namespace ponder::engine
