#include "lib/sample/reasoning_gate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace ponder {
namespace {

using Ids = std::vector<int32_t>;

// The vocabulary of these tests.
constexpr int32_t kOpen = 1, kClose = 2, kEos = 3, kTurn = 4, kBlank = 5, kWord = 10;
constexpr int64_t kVocab = 64;

ReasoningOptions r1() {
  ReasoningOptions o;
  o.markers = {.open = {kOpen}, .close = {kClose}};
  o.end_of_text = {kEos};
  o.blank = {kBlank};
  return o;
}

bool is_turn(int32_t id) { return id == kTurn || id == kEos; }

// Drives a gate as the engine does and keeps what the host would see.
struct Dialogue {
  Dialogue(const ReasoningOptions& options, const Ids& prompt) : gate(&options, prompt, is_turn) {
    EXPECT_TRUE(options.validate(kVocab).ok()) << options.validate(kVocab);
  }

  // One token: what the model would like to say, unless it is forced. Returns what was said.
  int32_t say(int32_t wish, bool close_now = false, const std::vector<float>& logits = {}) {
    const Constraint c = gate.next(logits, close_now);
    last_forbidden.assign(c.forbidden.begin(), c.forbidden.end());
    last_forced = c.force >= 0;
    return accept(c.force >= 0 ? c.force : wish);
  }

  int32_t accept(int32_t id) {
    last = gate.accept(id);
    pending.push_back(last.token);
    said.push_back(last.token);
    resolve(last);
    if (last.closed != CloseReason::kNotClosed) closed = last.closed;
    return last.token;
  }

  void say_all(const Ids& wishes) {
    for (const int32_t id : wishes) say(id);
  }

  void finish() { resolve(gate.finish()); }

  void resolve(const Accepted& a) {
    for (int32_t i = 0; i < a.text_tokens; ++i) {
      ASSERT_FALSE(pending.empty());
      (a.text_phase == Phase::kThinking ? thought : answer).push_back(pending.front());
      pending.pop_front();
    }
    for (int32_t i = 0; i < a.hidden_tokens; ++i) {
      ASSERT_FALSE(pending.empty());
      hidden.push_back(pending.front());
      pending.pop_front();
    }
    EXPECT_EQ(gate.thought_tokens(), thought.size());
    EXPECT_EQ(gate.answer_tokens(), answer.size());
    EXPECT_EQ(gate.hidden_tokens(), hidden.size());
    EXPECT_EQ(static_cast<size_t>(gate.held()), pending.size());
  }

  ReasoningGate gate;
  Accepted last;
  bool last_forced = false;
  Ids last_forbidden;
  std::deque<int32_t> pending;
  Ids said, thought, answer, hidden;
  CloseReason closed = CloseReason::kNotClosed;
};

// ---- the first phase -------------------------------------------------------------------------

TEST(ReasoningGate, ThePromptsTailDecidesTheFirstPhase) {
  const ReasoningOptions o = r1();
  const auto phase = [&](const Ids& prompt) { return ReasoningGate(&o, prompt, is_turn).phase(); };
  EXPECT_EQ(phase({}), Phase::kNone);
  EXPECT_EQ(phase({10, 11}), Phase::kNone);
  EXPECT_EQ(phase({kTurn, 10, kTurn, kOpen, kBlank}), Phase::kThinking) << "R1's template";
  EXPECT_EQ(phase({kTurn, 10, kTurn, kOpen, 20, 21}), Phase::kThinking) << "a thought begun";
  EXPECT_EQ(phase({kTurn, kOpen, kBlank, kClose, kBlank}), Phase::kAnswering) << "thinking off";
  EXPECT_EQ(phase({kTurn, kClose}), Phase::kAnswering) << "DeepSeek-V3.1 without thought";
  EXPECT_EQ(phase({kTurn, kOpen, 10, kClose, 11, kTurn, 12, kTurn, 13}), Phase::kNone)
      << "an earlier turn's thought";
  EXPECT_EQ(phase({kTurn, 10, kOpen, 11, kTurn, 13}), Phase::kNone) << "a user who quotes it";
  EXPECT_EQ(phase({10, kOpen, 11, kClose, 12}), Phase::kAnswering) << "plain text, no turns";
  EXPECT_EQ(phase({kClose, kOpen}), Phase::kThinking);
}

TEST(ReasoningGate, MarkersThatAreSpecialTokensAreNoBoundaries) {
  const ReasoningOptions o = r1();
  const auto all_special = [](int32_t) { return true; };
  EXPECT_EQ(ReasoningGate(&o, Ids{kTurn, kOpen}, all_special).phase(), Phase::kThinking);
}

TEST(ReasoningGate, MarkersOfSeveralTokensAreFoundInThePrompt) {
  ReasoningOptions o = r1();
  o.markers = {.open = {20, 21, 22}, .close = {20, 23, 22}};
  const auto phase = [&](const Ids& prompt) { return ReasoningGate(&o, prompt, is_turn).phase(); };
  EXPECT_EQ(phase({kTurn, 20, 21, 22, kBlank}), Phase::kThinking);
  EXPECT_EQ(phase({kTurn, 20, 21, 22, 10, 20, 23, 22}), Phase::kAnswering);
  EXPECT_EQ(phase({kTurn, 21, 22}), Phase::kNone);
  EXPECT_EQ(phase({20, kTurn, 21, 22}), Phase::kNone);
}

TEST(ReasoningGate, IsInertForAModelWithoutMarkers) {
  ReasoningOptions o;
  o.end_of_text = {kEos};
  o.mode = ReasoningMode::kOn;
  o.hard_budget = 1;
  Dialogue run(o, {kTurn, 10});
  run.say_all({kOpen, 10, kClose, 11});
  EXPECT_EQ(run.gate.phase(), Phase::kNone);
  EXPECT_EQ(run.answer, (Ids{kOpen, 10, kClose, 11}));
  run.say(kEos);
  EXPECT_TRUE(run.last.end_of_text);
  EXPECT_EQ(run.answer.size(), 4u);
}

// ---- markers in the output -------------------------------------------------------------------

TEST(ReasoningGate, SplitsThoughtAndAnswer) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen, kBlank});
  run.say_all({10, 11});
  EXPECT_EQ(run.gate.phase(), Phase::kThinking);
  run.say(kClose);
  EXPECT_EQ(run.last.closed, CloseReason::kModel);
  EXPECT_EQ(run.last.hidden_tokens, 1);
  run.say_all({12, 13, kEos});
  EXPECT_TRUE(run.last.end_of_text);
  EXPECT_EQ(run.thought, (Ids{10, 11}));
  EXPECT_EQ(run.answer, (Ids{12, 13}));
  EXPECT_EQ(run.hidden, (Ids{kClose, kEos}));
  EXPECT_EQ(run.gate.close_reason(), CloseReason::kModel);
}

TEST(ReasoningGate, OpensOnTheMarkerAtTheStartOfTheOutputOnly) {
  const ReasoningOptions o = r1();
  Dialogue first(o, {kTurn});
  first.say(kOpen);
  EXPECT_TRUE(first.last.opened);
  EXPECT_EQ(first.gate.phase(), Phase::kThinking);
  first.say(10);
  EXPECT_EQ(first.thought, (Ids{10}));

  Dialogue after_blanks(o, {kTurn});
  after_blanks.say_all({kBlank, kBlank, kOpen});
  EXPECT_EQ(after_blanks.gate.phase(), Phase::kThinking);

  Dialogue later(o, {kTurn});
  later.say_all({10, kOpen, 11, kClose});
  EXPECT_EQ(later.gate.phase(), Phase::kNone);
  EXPECT_EQ(later.answer, (Ids{10, kOpen, 11, kClose}));
}

TEST(ReasoningGate, NothingChangesAfterTheAnswerBegan) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({kClose, 10, kOpen, 11, kClose});
  EXPECT_EQ(run.gate.phase(), Phase::kAnswering);
  EXPECT_EQ(run.answer, (Ids{10, kOpen, 11, kClose}));
}

TEST(ReasoningGate, ABrokenMarkerWasTextAfterAll) {
  ReasoningOptions o = r1();
  o.markers = {.open = {20, 21}, .close = {20, 20, 22}};
  Dialogue run(o, {kTurn, 20, 21});
  run.say(20);
  EXPECT_EQ(run.last.text_tokens, 0);
  EXPECT_EQ(run.gate.held(), 1);
  run.say(20);
  EXPECT_EQ(run.gate.held(), 2);
  run.say(20);  // the first of three is text now, the other two may still be the marker
  EXPECT_EQ(run.last.text_tokens, 1);
  EXPECT_EQ(run.gate.held(), 2);
  run.say(10);
  EXPECT_EQ(run.last.text_tokens, 3);
  run.say_all({20, 20, 20, 22, 11});
  EXPECT_EQ(run.thought, (Ids{20, 20, 20, 10, 20}));
  EXPECT_EQ(run.hidden, (Ids{20, 20, 22}));
  EXPECT_EQ(run.answer, (Ids{11}));
}

TEST(ReasoningGate, ABrokenOpenMarkerIsTheBeginningOfTheAnswer) {
  ReasoningOptions o = r1();
  o.markers = {.open = {20, 21}, .close = {22}};
  Dialogue run(o, {kTurn});
  run.say_all({20, 20, 21});
  EXPECT_EQ(run.gate.phase(), Phase::kNone) << "not at the start of the output any more";
  EXPECT_EQ(run.answer, (Ids{20, 20, 21}));
}

TEST(ReasoningGate, WhatIsHeldWhenTheTextEndsIsText) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21};
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({10, 20});
  run.finish();
  EXPECT_EQ(run.thought, (Ids{10, 20}));
  EXPECT_EQ(run.gate.held(), 0);

  ReasoningOptions open = r1();
  open.markers.open = {20, 21};
  Dialogue none(open, {kTurn});
  none.say_all({20, kEos});
  EXPECT_TRUE(none.last.end_of_text);
  EXPECT_EQ(none.answer, (Ids{20}));
  EXPECT_EQ(none.hidden, (Ids{kEos}));
}

// ---- closing -----------------------------------------------------------------------------------

TEST(ReasoningGate, EndOfTextWithinTheThoughtClosesIt) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen});
  run.say(10);
  EXPECT_EQ(run.say(kEos), kClose) << "the marker takes its place";
  EXPECT_FALSE(run.last.end_of_text);
  EXPECT_EQ(run.closed, CloseReason::kEndOfText);
  run.say(11);
  EXPECT_EQ(run.thought, (Ids{10}));
  EXPECT_EQ(run.answer, (Ids{11}));
}

TEST(ReasoningGate, EndOfTextWithinTheThoughtCompletesAMarkerOfSeveralTokens) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21, 22};
  for (const Ids& before : {Ids{10}, Ids{10, 20}, Ids{10, 20, 21}}) {
    Dialogue run(o, {kTurn, kOpen});
    run.say_all(before);
    for (int i = 0; i < 3 && run.gate.phase() == Phase::kThinking; ++i) run.say(kEos);
    EXPECT_EQ(run.said, (Ids{10, 20, 21, 22}));
    EXPECT_EQ(run.closed, CloseReason::kEndOfText);
    EXPECT_EQ(run.thought, (Ids{10}));
  }
}

TEST(ReasoningGate, TheHardBudgetForcesTheSentenceAndTheMarker) {
  ReasoningOptions o = r1();
  o.hard_budget = 6;
  o.closing = {30, 31};
  Dialogue run(o, {kTurn, kOpen});
  for (int i = 0; i < 9; ++i) run.say(10);
  EXPECT_EQ(run.said, (Ids{10, 10, 10, 10, 30, 31, kClose, 10, 10}));
  EXPECT_EQ(run.thought, (Ids{10, 10, 10, 10, 30, 31}));
  EXPECT_EQ(run.gate.thought_tokens(), 6u);
  EXPECT_EQ(run.closed, CloseReason::kHardBudget);
}

TEST(ReasoningGate, ASentenceThatLeavesNoRoomIsLeftOut) {
  ReasoningOptions o = r1();
  o.closing = {30, 31, 32};
  for (const uint32_t hard : {1u, 2u, 3u}) {
    o.hard_budget = hard;
    Dialogue run(o, {kTurn, kOpen});
    for (int i = 0; i < 5; ++i) run.say(10);
    EXPECT_EQ(run.thought, Ids(hard, 10));
    EXPECT_EQ(run.said[hard], kClose);
  }
}

TEST(ReasoningGate, TheHardBudgetCompletesAMarkerThatIsUnderWay) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21, 22};
  o.hard_budget = 3;
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({10, 20, 21, 10, 10});
  EXPECT_EQ(run.said, (Ids{10, 20, 21, 22, 10}));
  EXPECT_EQ(run.thought, (Ids{10}));
}

TEST(ReasoningGate, TheHostGetsTheSentenceAndTheMarkerAtOnce) {
  ReasoningOptions o = r1();
  o.closing = {30, 31};
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({10, 11});
  EXPECT_EQ(run.say(12, true), 30);
  EXPECT_EQ(run.say(12), 31) << "decided once, done to the end";
  EXPECT_EQ(run.say(12), kClose);
  EXPECT_EQ(run.closed, CloseReason::kHost);
  EXPECT_EQ(run.say(12, true), 12) << "too late to matter";
}

TEST(ReasoningGate, TheHostMayAskBeforeTheThoughtOpens) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn});
  EXPECT_EQ(run.say(kOpen, true), kOpen);
  EXPECT_EQ(run.say(10, true), kClose);
  EXPECT_EQ(run.closed, CloseReason::kHost);
}

TEST(ReasoningGate, TheHostsSentenceStaysWithinTheHardBudget) {
  ReasoningOptions o = r1();
  o.closing = {30, 31, 32, 33, 34};
  o.hard_budget = 4;
  Dialogue run(o, {kTurn, kOpen});
  run.say(10);
  EXPECT_EQ(run.say(10, true), kClose);
  EXPECT_EQ(run.gate.thought_tokens(), 1u);
}

TEST(ReasoningGate, TheSoftBudgetClosesWhenTheMarkerIsAmongTheLikelyFew) {
  ReasoningOptions o = r1();
  o.soft_budget = 2;
  o.closing = {30};
  std::vector<float> likely(kVocab, 0.0f), outranked(kVocab, 0.0f), improbable(kVocab, 0.0f);
  likely[10] = likely[11] = likely[12] = likely[13] = 9.0f;
  likely[kClose] = 8.0f;  // rank 4, counted from 0
  outranked = likely;
  outranked[14] = 9.0f;  // rank 5
  improbable[10] = 20.0f;
  improbable[kClose] = 10.0f;  // rank 1, but e^-10

  Dialogue run(o, {kTurn, kOpen});
  EXPECT_EQ(run.say(10, false, likely), 10) << "the budget is not used up";
  EXPECT_EQ(run.say(10, false, likely), 10);
  EXPECT_EQ(run.say(10, false, outranked), 10);
  EXPECT_EQ(run.say(10, false, improbable), 10);
  EXPECT_EQ(run.say(10, false, {}), 10);
  EXPECT_EQ(run.say(10, false, likely), kClose) << "no closing sentence: it was about to close";
  EXPECT_EQ(run.closed, CloseReason::kSoftBudget);
  EXPECT_EQ(run.gate.thought_tokens(), 5u);
}

TEST(ReasoningGate, TheSoftBudgetForcesTheWholeMarker) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21};
  o.soft_budget = 1;
  std::vector<float> likely(kVocab, 0.0f);
  likely[20] = 9.0f;
  Dialogue run(o, {kTurn, kOpen});
  run.say(10);
  EXPECT_EQ(run.say(10, false, likely), 20);
  EXPECT_EQ(run.say(10, false, likely), 21);
  EXPECT_EQ(run.closed, CloseReason::kSoftBudget);
}

TEST(ReasoningGate, TheSoftBudgetAsksForTheNextTokenOfAMarkerUnderWay) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21};
  o.soft_budget = 1;
  std::vector<float> first(kVocab, 0.0f), second(kVocab, 0.0f);
  first[20] = second[21] = 20.0f;
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({10, 20});
  EXPECT_EQ(run.say(10, false, first), 10) << "another beginning is no reason to go on";
  run.say(20);
  EXPECT_EQ(run.say(10, false, second), 21);
  EXPECT_EQ(run.closed, CloseReason::kSoftBudget);
  EXPECT_EQ(run.thought, (Ids{10, 20, 10}));
}

TEST(ReasoningGate, AClosingSentenceThatHoldsTheMarkerClosesThere) {
  ReasoningOptions o = r1();
  o.closing = {30, kClose, 31};
  Dialogue run(o, {kTurn, kOpen});
  run.say(10);
  EXPECT_EQ(run.say(11, true), 30);
  EXPECT_EQ(run.say(11), kClose);
  EXPECT_EQ(run.closed, CloseReason::kHost);
  EXPECT_EQ(run.say(11), 11);
}

TEST(ReasoningGate, AClosingSentenceThatEndsInHalfAMarkerCompletesIt) {
  ReasoningOptions o = r1();
  o.markers.close = {20, 21};
  o.closing = {30, 20};
  Dialogue run(o, {kTurn, kOpen});
  run.say(10);
  run.say(11, true);
  run.say_all({11, 11, 11});
  EXPECT_EQ(run.said, (Ids{10, 30, 20, 21, 11}));
  EXPECT_EQ(run.thought, (Ids{10, 30}));
}

// ---- modes
// ---------------------------------------------------------------------------------------

TEST(ReasoningGate, OffAllowsNoThought) {
  ReasoningOptions o = r1();
  o.mode = ReasoningMode::kOff;
  o.closing = {30};
  Dialogue opened(o, {kTurn, kOpen, kBlank});
  EXPECT_EQ(opened.say(10), kClose);
  EXPECT_EQ(opened.closed, CloseReason::kOff);
  EXPECT_EQ(opened.gate.thought_tokens(), 0u);

  Dialogue none(o, {kTurn});
  none.say(10);
  EXPECT_EQ(none.last_forbidden, (Ids{kOpen}));
  none.say(10);
  EXPECT_TRUE(none.last_forbidden.empty()) << "later it is text like any other";

  o.markers.open = {20, 21};
  Dialogue longer(o, {kTurn});
  longer.say(20);
  EXPECT_TRUE(longer.last_forbidden.empty());
  longer.say(10);
  EXPECT_EQ(longer.last_forbidden, (Ids{21}));
  EXPECT_EQ(longer.answer, (Ids{20, 10}));
}

TEST(ReasoningGate, OnOpensTheThought) {
  ReasoningOptions o = r1();
  o.mode = ReasoningMode::kOn;
  o.markers.open = {20, 21};
  Dialogue run(o, {kTurn});
  EXPECT_EQ(run.say(10), 20);
  EXPECT_EQ(run.say(10), 21);
  EXPECT_TRUE(run.last.opened);
  EXPECT_EQ(run.say(10), 10);
  EXPECT_EQ(run.thought, (Ids{10}));

  Dialogue thinking(o, {kTurn, 20, 21});
  EXPECT_EQ(thinking.say(10), 10);
  Dialogue answering(o, {kTurn, kClose});
  EXPECT_EQ(answering.say(10), 10);
}

// ---- no answer without words
// -----------------------------------------------------------------------

TEST(ReasoningGate, TheAnswerMayNotEndBeforeItBegan) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen});
  run.say_all({10, kClose, kBlank});
  EXPECT_EQ(run.last_forbidden, (Ids{kEos})) << "first token";
  run.say(11);
  EXPECT_EQ(run.last_forbidden, (Ids{kEos})) << "only a blank so far";
  run.say(12);
  EXPECT_TRUE(run.last_forbidden.empty());
}

TEST(ReasoningGate, TheGuardOfTheAnswerHasAnEnd) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen, kClose, kBlank});
  for (int i = 0; i < ReasoningGate::kAnswerGuard; ++i) {
    run.say(kBlank);
    EXPECT_EQ(run.last_forbidden, (Ids{kEos}));
  }
  run.say(kBlank);
  EXPECT_TRUE(run.last_forbidden.empty());
}

TEST(ReasoningGate, AnAnswerThatThePromptBeganMayEnd) {
  const ReasoningOptions o = r1();
  Dialogue run(o, {kTurn, kOpen, kClose, kBlank, 10});
  run.say(kEos);
  EXPECT_TRUE(run.last_forbidden.empty());
  EXPECT_TRUE(run.last.end_of_text);
}

// ---- options
// -----------------------------------------------------------------------------------------

TEST(ReasoningOptions, NamesWhatIsWrong) {
  const auto refusal = [](auto spoil) {
    ReasoningOptions o = r1();
    spoil(o);
    const Status status = o.validate(kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(refusal([](auto& o) { o.markers.open.clear(); }), "open marker is missing"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.markers.close.clear(); }), "close marker is missing"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.markers.open = {kClose}; }), "same tokens"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.markers.open = Ids(65, 7); }), "65 tokens"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.markers.close = {kEos}; }), "end-of-text"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.closing = {10, kEos}; }), "closing sentence"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.closing = {64}; }), "token 64"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.end_of_text = {-1}; }), "token -1"));
  EXPECT_TRUE(has(refusal([](auto& o) { o.soft_budget = 9, o.hard_budget = 8; }), "soft"));
  EXPECT_TRUE(ReasoningOptions().validate(0).ok());
}

// ---- properties
// ----------------------------------------------------------------------------------------

// Random models over a handful of tokens, so that markers begin, break and overlap all the time.
class RandomWorld {
 public:
  explicit RandomWorld(uint32_t seed) : random(seed) {
    options.markers.open = marker();
    do {
      options.markers.close = marker();
    } while (options.markers.close == options.markers.open);
    options.end_of_text = {kEos};
    options.blank = {kBlank};
    options.mode = static_cast<ReasoningMode>(pick(6) < 4 ? 0 : 1 + pick(2));
    if (pick(2) == 0) options.hard_budget = 1 + static_cast<uint32_t>(pick(12));
    if (pick(3) == 0) {
      const int most = options.hard_budget > 0 ? static_cast<int>(options.hard_budget) : 12;
      options.soft_budget = 1 + static_cast<uint32_t>(pick(most));
    }
    for (int n = pick(3) == 0 ? pick(5) : 0; n > 0; --n) options.closing.push_back(letter());
    prompt = {kTurn};
    if (pick(3) != 0) {
      prompt.insert(prompt.end(), options.markers.open.begin(), options.markers.open.end());
    }
  }

  int pick(int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); }
  int32_t letter() { return kWord + pick(3); }
  int32_t wish() {
    const int n = pick(12);
    return n == 0 ? kEos : n == 1 ? kBlank : letter();
  }
  Ids marker() {
    Ids ids(static_cast<size_t>(1 + pick(4)));
    for (int32_t& id : ids) id = letter();
    return ids;
  }
  std::vector<float> logits() {
    std::vector<float> row(kVocab, 0.0f);
    for (int32_t id = kWord; id < kWord + 3; ++id) row[id] = static_cast<float>(pick(12));
    return row;
  }

  std::mt19937 random;
  ReasoningOptions options;
  Ids prompt;
};

TEST(ReasoningGate, KeepsItsPromisesInEveryWorld) {
  int closed[7] = {};
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomWorld world(seed);
    Dialogue run(world.options, world.prompt);
    const bool starts_thinking = run.gate.phase() == Phase::kThinking;
    Ids text;  // everything shown, in order
    for (int i = 0; i < 60 && !run.last.end_of_text; ++i) {
      const Phase before = run.gate.phase();
      run.say(world.wish(), world.pick(40) == 0, world.logits());
      if (run.last_forced && world.options.hard_budget > 0 && before == Phase::kThinking) {
        ASSERT_NE(run.said.back(), kEos);
      }
      ASSERT_LE(run.gate.thought_tokens(),
                world.options.hard_budget > 0 ? world.options.hard_budget : UINT32_MAX);
      if (world.options.mode == ReasoningMode::kOff && !starts_thinking) {
        // What it may not do is open a thought where there was none; a wish that ignores
        // `forbidden` is not the gate's fault.
        if (run.gate.phase() == Phase::kThinking) break;
      }
    }
    run.finish();
    ASSERT_TRUE(run.pending.empty());
    ASSERT_EQ(run.thought.size() + run.answer.size() + run.hidden.size(), run.said.size());
    ++closed[static_cast<int>(run.closed)];

    // The same split, found by looking at the whole output at once.
    const Ids& said = run.said;
    const ReasoningMarkers& markers = world.options.markers;
    size_t begin = 0;
    Ids answer, thought, hidden;
    bool thinking = starts_thinking;
    if (!thinking) {
      size_t blanks = 0;
      while (blanks < said.size() && said[blanks] == kBlank) ++blanks;
      const auto after = std::span(said).subspan(blanks);
      if (after.size() >= markers.open.size() &&
          std::ranges::equal(after.first(markers.open.size()), markers.open)) {
        answer.assign(blanks, kBlank);
        hidden = markers.open;
        begin = blanks + markers.open.size();
        thinking = true;
      }
    }
    if (thinking) {
      const auto end = std::search(said.begin() + static_cast<ptrdiff_t>(begin), said.end(),
                                   markers.close.begin(), markers.close.end());
      thought.assign(said.begin() + static_cast<ptrdiff_t>(begin), end);
      begin = static_cast<size_t>(end - said.begin());
      if (end != said.end()) {
        hidden.insert(hidden.end(), markers.close.begin(), markers.close.end());
        begin += markers.close.size();
      }
    }
    for (size_t i = begin; i < said.size(); ++i) {
      (said[i] == kEos ? hidden : answer).push_back(said[i]);
    }
    ASSERT_EQ(run.thought, thought);
    ASSERT_EQ(run.answer, answer);
    ASSERT_EQ(run.hidden, hidden);
    ASSERT_EQ(run.closed != CloseReason::kNotClosed, run.gate.phase() == Phase::kAnswering);
  }
  for (const CloseReason reason :
       {CloseReason::kNotClosed, CloseReason::kModel, CloseReason::kEndOfText,
        CloseReason::kSoftBudget, CloseReason::kHardBudget, CloseReason::kHost,
        CloseReason::kOff}) {
    EXPECT_GT(closed[static_cast<int>(reason)], 100) << static_cast<int>(reason);
  }
}

TEST(ReasoningGate, ACopyTakesBackWhatWasSaidSince) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    RandomWorld world(seed);
    Dialogue run(world.options, world.prompt);
    for (int i = world.pick(20); i > 0 && !run.last.end_of_text; --i) {
      run.say(world.wish(), false, world.logits());
    }
    const Dialogue saved = run;
    Ids wishes(10);
    for (int32_t& id : wishes) id = world.wish();
    Dialogue draft = saved;
    draft.say_all(wishes);
    run = saved;
    run.say_all(wishes);
    ASSERT_EQ(run.said, draft.said);
    ASSERT_EQ(run.thought, draft.thought);
    ASSERT_EQ(run.answer, draft.answer);
    ASSERT_EQ(run.closed, draft.closed);
  }
}

}  // namespace
}  // namespace ponder
