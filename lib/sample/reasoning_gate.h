// ReasoningGate: where a generation stands between thought and answer, decided on token ids.
//
//   NONE ----open marker----> THINKING ----close marker----> ANSWERING
//
// Events, budgets and counts all read this one state; nothing parses the text a second time.
//
// First phase. The prompt's own tail decides: going back from its end to the first turn boundary (a
// special token), the last marker found says THINKING (open; R1's template ends in "<think>\n") or
// ANSWERING (close; a template that turned thinking off). No marker there: NONE. Markers quoted
// in earlier turns or in a user's message do not count. From NONE, only an open marker at the very
// start of the output (blank tokens aside) leads to THINKING; later it is text like any other.
// After ANSWERING nothing changes any more.
//
// Markers are sequences of ids. Tokens that may be the beginning of one are held until it is
// complete (they were marker, and never text) or fails (they were text after all).
//
// Closing. The thought ends by
//   the model     it writes the close marker
//   end of text   the model ends within its thought, which would leave the user with no answer:
//                 the close marker takes the place of the end-of-text token, and the answer follows
//   soft budget   that many thought tokens are written and the close marker's next token is among
//                 the likely few: of rank below soft_close_rank and of probability at least
//                 soft_close_probability under the model's own logits. No closing sentence: the
//                 model was about to close
//   hard budget   the closing sentence, then the marker are forced. The sentence is thought text
//   and
//                 counts: forcing starts so early that thought tokens never exceed the budget.
//                 A sentence that does not leave room for a single thought token is left out
//   the host      "answer now": as the hard budget, at once
//   mode OFF      the marker alone, before the first thought token
// In the middle of a close marker a forced close completes that marker instead of starting over.
// Budgets count tokens generated as thought: not markers, not the prompt.
//
// A thought that was cut short leaves the model wanting to end it: after a forced close a close marker
// of one token is forbidden in the answer.
//
// The first tokens of the answer may not be end-of-text (a thought without an answer is no
// use to anybody), until one of them is not blank; at most kAnswerGuard tokens.
//
// Mode ON forces the open marker where the phase is NONE; mode OFF forbids it there.
//
// A gate is one pointer and a few integers: rollback (speculation) keeps a copy. One thread at a
// time; the host's "answer now" reaches it as an argument of next(). The options must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "lib/base/status.h"
#include "lib/sample/logit_row.h"

namespace ponder {

enum class Phase : int32_t { kNone = 0, kThinking = 1, kAnswering = 2 };
// As PONDER_REASONING_*.
enum class ReasoningMode : int32_t { kModel = 0, kOff = 1, kOn = 2 };
enum class CloseReason : int32_t {
  kNotClosed = 0,
  kModel,
  kEndOfText,
  kSoftBudget,
  kHardBudget,
  kHost,
  kOff,
};

// Either both are empty (the model does not reason) or neither is.
struct ReasoningMarkers {
  std::vector<int32_t> open;   // usually the one id of <think>
  std::vector<int32_t> close;  // </think>
};

struct ReasoningOptions {
  ReasoningMarkers markers;
  ReasoningMode mode = ReasoningMode::kModel;
  uint32_t soft_budget = 0;  // thought tokens; 0: none
  uint32_t hard_budget = 0;
  std::vector<int32_t> closing;      // the closing sentence; may be empty
  std::vector<int32_t> end_of_text;  // ids that end a text; empty: the text goes on past them
  std::vector<int32_t> blank;        // sorted ids of tokens that are only white space; may be empty
  uint32_t soft_close_rank = 5;
  float soft_close_probability = 0.01f;

  // One marker without the other, more than 64 ids in one, equal markers, a soft budget above
  // the hard one, end-of-text within a marker or the closing sentence, ids outside [0, vocab).
  Status validate(int64_t vocab) const;
};

// What the next token may be.
struct Constraint {
  int32_t force = -1;                  // >= 0: this token, without sampling
  std::span<const int32_t> forbidden;  // borrowed from the options
  std::span<const int32_t> marker;     // forbidden too
  // The reduced row does not tell whether the thought closes here: ask again with the whole one.
  bool unknown = false;
};

// What became of a token. The engine keeps the tokens not yet resolved in a queue: append `token`;
// then the first text_tokens of the queue are text of `text_phase` (kNone and kAnswering are both
// answer), and the hidden_tokens after those are markers or end-of-text, which no event shows.
struct Accepted {
  int32_t token = -1;  // enters the sequence; not the one sampled where end-of-text became a close
  Phase text_phase = Phase::kNone;
  int32_t text_tokens = 0;
  int32_t hidden_tokens = 0;
  bool opened = false;                           // the phase went to THINKING with this token
  CloseReason closed = CloseReason::kNotClosed;  // else: it went to ANSWERING with this token
  bool end_of_text = false;                      // the generation is over
};

class ReasoningGate {
 public:
  static constexpr int32_t kAnswerGuard = 4;

  // `options` must have passed validate(). `is_boundary` says of an id whether it separates turns:
  // the tokenizer's special tokens. A marker may be one too: it is recognised first.
  ReasoningGate(const ReasoningOptions* options, std::span<const int32_t> prompt,
                absl::FunctionRef<bool(int32_t)> is_boundary);

  Phase phase() const { return phase_; }
  uint32_t thought_tokens() const { return thought_tokens_; }
  uint32_t answer_tokens() const { return answer_tokens_; }
  // Markers and end-of-text. The three and held() together are all tokens accepted.
  uint32_t hidden_tokens() const { return hidden_tokens_; }
  int32_t held() const { return held_; }
  CloseReason close_reason() const { return closed_; }

  // What a reduced row must have for next() to be told by it, added to `needs`.
  void add_needs(RowNeeds* needs) const;
  // Before each token. `logits` are the model's own for it (only the soft budget looks at
  // them). `close_now`: the host wants the answer; keep it set until the phase changes, a
  // thought that opens later is closed then. Deciding to close is remembered, so ask once per
  // token.
  Constraint next(const LogitRow& logits, bool close_now);

  // After each token, sampled or forced: an id of the vocabulary.
  Accepted accept(int32_t id);

  // The generation ends here (length, stop string, cancel): how many held tokens are text after
  // all, and of which phase. They are counted.
  Accepted finish();

 private:
  enum class Forcing : uint8_t { kNothing, kClosing, kClose };

  // The marker that would end this phase now, or empty.
  std::span<const int32_t> marker() const;
  std::optional<bool> close_is_likely(const LogitRow& row) const;  // none: the row does not tell
  void start_close(CloseReason reason, bool with_sentence);
  bool is_end_of_text(int32_t id) const;
  bool is_blank(int32_t id) const;
  void count_text(int32_t tokens);

  const ReasoningOptions* options_;
  Phase phase_ = Phase::kNone;
  bool may_open_ = true;    // NONE: nothing but blanks so far
  int32_t guard_left_ = 0;  // ANSWERING: so many more tokens, if blank, before end-of-text may come
  Forcing forcing_ = Forcing::kNothing;
  CloseReason closing_for_ = CloseReason::kModel;
  CloseReason closed_ = CloseReason::kNotClosed;
  int32_t forced_ = 0;  // how much of the closing sentence is out
  int32_t held_ = 0;    // how much of the phase's marker the output ends with
  uint32_t thought_tokens_ = 0;
  uint32_t answer_tokens_ = 0;
  uint32_t hidden_tokens_ = 0;
};

}  // namespace ponder
