// How many drafted tokens a step verifies: on clocks and drafts that are made up.
#include "lib/engine/drafting.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace ponder::engine {
namespace {

// Generates `tokens` tokens of `sequences` texts at a time, whose drafts of 8 are right token by
// token with probability p, on a machine that takes seconds(rows) for a step.
struct Ran {
  double seconds = 0, tokens = 0, drafted = 0;
  double speed() const { return tokens / seconds; }
};

struct Simulation {
  Simulation(int sequence_count, double chance, std::function<double(int32_t)> clock)
      : sequences(sequence_count),
        p(chance),
        seconds(std::move(clock)),
        acceptance(static_cast<size_t>(sequence_count)) {}

  int sequences;
  double p;
  std::function<double(int32_t)> seconds;
  std::mt19937 random{7};
  StepTimes times;
  std::vector<Acceptance> acceptance;

  Ran run(int steps, bool drafts = true) {
    Ran ran;
    std::bernoulli_distribution right(p);
    for (int step = 0; step < steps; ++step) {
      std::vector<DraftCandidate> candidates;
      for (const Acceptance& a : acceptance) candidates.push_back({8, &a, 0});
      std::vector<int32_t> counts(static_cast<size_t>(sequences), 0);
      if (drafts) counts = plan_drafts(candidates, sequences, times, 512);
      const int32_t rows = std::accumulate(counts.begin(), counts.end(), sequences);
      times.record(rows, seconds(rows));
      ran.seconds += seconds(rows);
      for (size_t i = 0; i < counts.size(); ++i) {
        int32_t accepted = 0;
        while (accepted < counts[i] && right(random)) ++accepted;
        // What was said is compared as far as it goes: one token past those that were right.
        const bool missed = accepted < counts[i] || !right(random);
        acceptance[i].record(accepted + (missed ? 0 : 1), missed);
        ran.tokens += accepted + 1;
        ran.drafted += counts[i];
      }
    }
    return ran;
  }
};

double memory_bound(int32_t) { return 0.010; }
double compute_bound(int32_t rows) { return 0.010 * rows; }

TEST(Drafting, DraftsMuchWhereRowsAreFreeAndDraftsAreRight) {
  Simulation s(1, 0.9, memory_bound);
  s.run(100);
  const Ran ran = s.run(200);
  EXPECT_GT(ran.speed(), 450) << "one token per step is 100";
}

TEST(Drafting, FallsBackWhereEachRowCostsAsMuchAsAStep) {
  Simulation s(1, 0.5, compute_bound);
  s.run(100);
  const Ran ran = s.run(2000);
  EXPECT_GT(ran.speed(), 0.99 * 100) << "within a hundredth of not drafting at all";
  EXPECT_LT(ran.drafted, 0.02 * ran.tokens);
}

TEST(Drafting, FallsBackWhereDraftsAreWrongAndComesBackWhenTheyAreRight) {
  const auto seconds = [](int32_t rows) { return 0.010 + 0.001 * (rows - 1); };
  Simulation s(1, 0.01, seconds);
  s.run(100);
  EXPECT_LT(s.run(500).drafted, 5);
  s.p = 0.95;
  s.run(100);
  EXPECT_GT(s.run(200).speed(), 250);
}

TEST(Drafting, NeverLosesMoreThanItsMeasuring) {
  for (const double slope : {0.0, 0.0002, 0.001, 0.003, 0.01}) {
    for (const double p : {0.0, 0.2, 0.5, 0.8, 1.0}) {
      for (const int sequences : {1, 4, 32}) {
        const auto seconds = [slope](int32_t rows) { return 0.010 + slope * rows; };
        Simulation s(sequences, p, seconds);
        s.run(50);
        const double without = sequences / seconds(sequences);
        EXPECT_GT(s.run(600).speed(), 0.97 * without)
            << "slope " << slope << " p " << p << " sequences " << sequences;
      }
    }
  }
}

TEST(Drafting, GivesTheRowsToTheTextWhoseDraftsAreRight) {
  Simulation s(2, 0.5, memory_bound);
  for (int i = 0; i < 100; ++i) {
    s.acceptance[0].record(0, true);
    s.acceptance[1].record(8, false);
  }
  s.times.record(2, 0.01);
  s.times.record(10, 0.01);
  const std::vector<DraftCandidate> candidates = {{8, &s.acceptance[0], 0},
                                                  {8, &s.acceptance[1], 0}};
  EXPECT_EQ(plan_drafts(candidates, 2, s.times, 8), (std::vector<int32_t>{0, 8}));
}

TEST(Drafting, KeepsToItsBounds) {
  StepTimes times;
  Acceptance sure(1.0);
  const std::vector<DraftCandidate> candidates = {{100, &sure, 0}};
  EXPECT_EQ(plan_drafts(candidates, 1, times, 100), std::vector<int32_t>{0}) << "nothing known";
  times.record(1, 0.01);
  EXPECT_EQ(plan_drafts(candidates, 1, times, 100), std::vector<int32_t>{1}) << "one row further";
  times.record(16, 0.01);
  EXPECT_EQ(plan_drafts(candidates, 1, times, 100), std::vector<int32_t>{kMaxDraft});
  EXPECT_EQ(plan_drafts(candidates, 1, times, 3), std::vector<int32_t>{3});
  EXPECT_EQ(plan_drafts(candidates, 1, times, 0), std::vector<int32_t>{0});
  EXPECT_EQ(plan_drafts(candidates, 1, times, -5), std::vector<int32_t>{0});
  times.record(StepTimes::kMaxRows, 0.01);
  EXPECT_EQ(plan_drafts(candidates, StepTimes::kMaxRows, times, 100), std::vector<int32_t>{0});
  EXPECT_EQ(plan_drafts(candidates, 10 * StepTimes::kMaxRows, times, 100),
            std::vector<int32_t>{0});
  EXPECT_EQ(plan_drafts({}, 1, times, 100), std::vector<int32_t>{});
}

TEST(Drafting, WhatADraftCostsToMakeCounts) {
  StepTimes times;
  times.record(1, 0.01);
  Acceptance good(0.9);
  EXPECT_GT(plan_drafts(std::vector<DraftCandidate>{{8, &good, 0.001}}, 1, times, 8)[0], 0);
  EXPECT_EQ(plan_drafts(std::vector<DraftCandidate>{{8, &good, 0.02}}, 1, times, 8)[0], 0);
}

TEST(Drafting, IsNotTakenInByAStepThatSeemedSlow) {
  StepTimes times;
  times.record(1, 0.03);  // the first one, with nothing in the caches
  times.record(2, 0.01);
  Acceptance bad(0.4);
  for (int i = 0; i < 40; ++i) bad.record(0, true);
  EXPECT_EQ(plan_drafts(std::vector<DraftCandidate>{{8, &bad, 0}}, 1, times, 8)[0], 0);
}

// A machine on which a round takes 10 ms and one with drafts `with` ms, that a drafter works for
// whenever it is allowed to; reading the text takes another 5 rounds of 20 ms each time.
struct TrialRun {
  double share = 0;  // of the rounds, with drafts
  double speed = 0;  // of what is without
};
TrialRun try_drafts(double with, size_t tokens, int rounds) {
  DraftTrial trial;
  double seconds = 0, given = 0, drafted = 0;
  int reading = 0;
  for (int i = 0; i < rounds; ++i) {
    auto work = DraftTrial::Work::kNone;
    double round = 0.010;
    if (trial.allowed()) {
      work = reading < 5 ? DraftTrial::Work::kReading : DraftTrial::Work::kDrafting;
      round = reading++ < 5 ? 0.020 : with;
    } else {
      reading = 0;
    }
    const size_t n = work == DraftTrial::Work::kDrafting ? tokens : 1;
    trial.record(1, n, round, work);
    seconds += round;
    given += static_cast<double>(n);
    drafted += work == DraftTrial::Work::kDrafting ? 1 : 0;
  }
  return {drafted / rounds, given / seconds / 100};
}

TEST(DraftTrial, WhatLosesTakesASmallShareOfTheTime) {
  for (const double with : {0.0105, 0.015, 0.030, 0.5}) {
    const TrialRun ran = try_drafts(with, 1, 20000);
    EXPECT_GT(ran.speed, 0.95) << with;
    EXPECT_LT(ran.share, 0.025) << with;
    EXPECT_GT(ran.share, 0) << with;
  }
  EXPECT_LT(try_drafts(0.030, 1, 20000).share, 0.01);
}

TEST(DraftTrial, WhatWinsIsNotHeldUp) {
  const TrialRun ran = try_drafts(0.020, 4, 20000);
  EXPECT_GT(ran.share, 0.95);
  EXPECT_GT(ran.speed, 1.9);
}

TEST(DraftTrial, BeginsOnlyWhereItHasSomethingToCompareWith) {
  DraftTrial trial;
  EXPECT_FALSE(trial.allowed());
  trial.record(0, 1, 0.01, DraftTrial::Work::kNone);
  trial.record(1, 0, 0.01, DraftTrial::Work::kNone);
  trial.record(1, 1, 0, DraftTrial::Work::kNone);
  EXPECT_FALSE(trial.allowed());
  trial.record(3, 3, 0.01, DraftTrial::Work::kNone);
  EXPECT_TRUE(trial.allowed());
}

// The number of texts changes all the time.
TEST(DraftTrial, ComparesWithTheSameNumberOfTexts) {
  DraftTrial trial;
  for (int texts = 1; texts <= 4; ++texts) {
    trial.record(texts, static_cast<size_t>(texts), 0.008 + 0.002 * texts,
                 DraftTrial::Work::kNone);
  }
  for (int i = 0; i < 7; ++i) {
    const int texts = 1 + i % 4;
    trial.record(texts, static_cast<size_t>(2 * texts), 0.015, DraftTrial::Work::kDrafting);
  }
  EXPECT_TRUE(trial.allowed());
  trial.record(1, 2, 0.015, DraftTrial::Work::kDrafting);
  EXPECT_TRUE(trial.allowed()) << "twice the tokens in half as much time again";
  for (int i = 0; i < 8; ++i) trial.record(4, 4, 0.018, DraftTrial::Work::kDrafting);
  EXPECT_FALSE(trial.allowed());
}

TEST(StepTimes, InterpolatesForgetsAndIgnoresNonsense) {
  StepTimes times;
  EXPECT_EQ(times.seconds(3), 0);
  times.record(2, 1.0);
  times.record(4, 3.0);
  EXPECT_EQ(times.seconds(3), 2.0);
  EXPECT_EQ(times.seconds(1), 1.0);
  EXPECT_EQ(times.seconds(1000), 3.0);
  times.record(0, 5);
  times.record(-1, 5);
  times.record(StepTimes::kMaxRows + 1, 5);
  times.record(3, 0);
  EXPECT_FALSE(times.known(0));
  EXPECT_FALSE(times.known(3));
  for (int i = 0; i < 300; ++i) times.record(2, 1.0);
  EXPECT_TRUE(times.known(2));
  EXPECT_FALSE(times.known(4)) << "the load may have changed since";
}

}  // namespace
}  // namespace ponder::engine
