// Speculation's bookkeeping: what drafted tokens are worth, and how many a step should verify.
//
// A step that also computes d drafted tokens of a sequence gives 1 to 1 + d tokens instead of one,
// and takes longer. Both sides are measured: Acceptance counts which drafts were right, StepTimes
// how long steps of so many rows take, and plan_drafts takes the counts that promise the most
// tokens per second, which may be none. Nothing here can change what is generated.
//
// Pure values, no device and no clock; one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace ponder::engine {

// Drafted tokens of one sequence in one step, at the most.
inline constexpr int32_t kMaxDraft = 16;

// How often drafted tokens of one kind were right, by their place in the draft. Old news fades.
class Acceptance {
 public:
  // Until there is news, each drafted token is taken to be right with this probability if those
  // before it were.
  explicit Acceptance(double prior = 0.6) : prior_(prior) {}

  // Of a draft the first `right` tokens were right and, if `missed`, the next one was wrong.
  void record(int32_t right, bool missed);
  // The probability that the first n drafted tokens are all right. 1 for n = 0.
  double chance(int32_t n) const;
  void forget() { places_ = {}; }

 private:
  struct Place {
    double right = 0, tested = 0;
  };
  double prior_;
  std::array<Place, kMaxDraft> places_ = {};
};

// Makes *estimate follow what was measured; 0 is "nothing yet". What makes work slower than it need
// be is somebody else's: that is believed slowly.
void settle(double* estimate, double seconds);

// What is known of the drafts of one maker, a layer or a model, from all texts it drafted for.
struct DraftRecord {
  Acceptance acceptance;
  uint32_t texts = 0;

  // What a new text starts with. One of sixteen without prejudice: the texts may have changed.
  Acceptance start() { return texts++ % 16 == 15 ? Acceptance() : acceptance; }
};

// How long a step takes that computes so many rows, each the next of some text.
class StepTimes {
 public:
  static constexpr int32_t kMaxRows = 256;

  void record(int32_t rows, double seconds);
  // Whether such a step has been seen among the last few hundred.
  bool known(int32_t rows) const;
  // Between two sizes that are known a straight line; beyond the largest known as long as that: the
  // step that this talks into existence is measured then.
  double seconds(int32_t rows) const;
  // The largest step worth trying: little more than the largest known, for one that turns out slow
  // is then not much slower.
  int32_t reach() const;

 private:
  static constexpr uint64_t kForgetAfter = 256;  // steps: the load and the texts' lengths change
  struct Entry {
    double seconds = 0;
    uint64_t seen = 0;  // 0: never
  };
  std::array<Entry, kMaxRows + 1> entries_ = {};
  uint64_t steps_ = 0;
};

// Whether drafts that somebody works for between the steps pay, by trying. Rounds, from one step's
// end to the next one's, are compared with those without, in tokens per second of all that passes:
// also what no estimate sees, such as the change of models and cold caches. A trial that lost is
// followed by a rest of many times what it took, the reading of the text included: whatever a
// drafter costs, one that never pays takes a small share of the time. Rounds without are believed
// to be rather too fast than too slow (settle): on a noisy machine a small gain goes unused.
class DraftTrial {
 public:
  // What the drafters did in a round.
  enum class Work { kNone, kReading, kDrafting };

  // Whether drafts may be asked for now. Never before it is known what is without them.
  bool allowed() const { return rested_ >= rest_ && without_.seconds(1) > 0; }
  // A round of `texts` texts gave so many tokens.
  void record(int32_t texts, size_t tokens, double seconds, Work work);

 private:
  void rest(double seconds);

  StepTimes without_;  // rounds without drafts, by the number of texts
  double rest_ = 0, rested_ = 0;  // seconds from the last trial to the next, and how many are over
  // The trial under way.
  double spent_ = 0;    // seconds, reading included
  double seconds_ = 0;  // of rounds with drafts
  double instead_ = 0;  // what their tokens would have taken
  int32_t rounds_ = 0;
  int32_t won_ = 0;  // trials one after the other
};

// One sequence that could have drafted tokens in the next step.
struct DraftCandidate {
  int32_t most = 0;  // so many, at most kMaxDraft
  const Acceptance* acceptance = nullptr;
  double seconds_each = 0;  // what making one of them costs
};

// How many drafted tokens of each candidate to add to a step that has `rows` rows and gives as many
// tokens without them; at most `budget` in all. None unless that is clearly faster, and none while
// it is not known how long the step takes without.
std::vector<int32_t> plan_drafts(std::span<const DraftCandidate> candidates, int32_t rows,
                                 const StepTimes& times, int64_t budget);

}  // namespace ponder::engine
