// What the engine keeps of one timeline and of one request under way.
//
// A Timeline is guarded by the engine's lock; while a Sequence runs on it (busy), only the driver
// changes it. A Sequence belongs to the driver from the moment it is queued.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "lib/engine/drafter.h"
#include "lib/engine/drafting.h"
#include "lib/engine/generation.h"
#include "lib/kv/block_table.h"
#include "lib/sample/blank_trimmer.h"
#include "lib/sample/reasoning_gate.h"
#include "lib/sample/sampler.h"
#include "lib/sample/stop_matcher.h"
#include "lib/text/stream_decoder.h"
#include "lib/text/tool_calls.h"

namespace ponder::engine {

// Tokens owned, and the pages that hold the keys and values of the first table.size() of them.
struct Timeline {
  std::vector<int32_t> tokens;
  BlockTable table{nullptr};  // gets its cache from Engine::add_timeline
  std::atomic<bool> busy{false};  // a generation is under way; cleared by the driver without lock
  uint64_t last_used = 0;  // the engine's step count then: idle pages are taken back oldest first
};

// Where the logprobs of a scoring request go.
struct ScoreSink {
  uint32_t top_n = 0;
  std::vector<float> logprobs;      // [count - 1]
  std::vector<int32_t> top_tokens;  // [count, top_n]
  std::vector<float> top_logprobs;
};

// A text that a model reads, and goes on with, for the speculation of another (draft_model.h):
// always its likeliest tokens, no events. The driver's alone.
struct DraftSink {
  enum class State { kUnderWay, kDone, kFailed };  // kFailed: no room, cancelled, or worse
  int32_t wanted = 0;                              // tokens; 0: the text is only read
  State state = State::kUnderWay;
  std::vector<int32_t> tokens;
};

// Turns tokens into events: text of whole code points, thoughts apart from the answer, tool calls
// apart from its text, stop strings cut, blank lines around the markers trimmed. Tokens travel with
// the next event that comes out.
class EventWriter {
 public:
  struct Options {
    StopMatcher stops;
    ToolFormat tools = ToolFormat::kNone;  // how the model writes calls, if it was given tools
    bool logprobs = false;
    uint32_t top_count = 0;
    bool hide_thoughts = false;
  };
  EventWriter(const Tokenizer* tokenizer, GenerationState* state, Options options);

  // What was sampled, before it is known what it is.
  void queue(const SampledToken& token);
  // What the gate made of it. True: a stop string was found, the text ends here.
  bool resolve(const Accepted& accepted, const GenerationStats& totals);
  // The text ends without a stop string.
  void flush(const GenerationStats& totals);
  bool called_tools() const { return called_tools_; }

 private:
  void add_text(Phase phase, const GenerationStats& totals);
  void emit_answer(std::string text, bool last, const GenerationStats& totals);
  // With the tokens spoken since the last event.
  void emit(Event event, const GenerationStats& totals);

  GenerationState* state_;
  Options options_;
  ToolCallParser tools_;
  bool called_tools_ = false;
  std::deque<SampledToken> unresolved_;
  std::vector<SampledToken> spoken_;  // resolved as text, not yet in an event
  Phase spoken_phase_ = Phase::kNone;
  StreamDecoder thought_decoder_, answer_decoder_;
  std::optional<BlankTrimmer> thought_trimmer_, answer_trimmer_;  // set once a marker was seen
};

// What a sequence keeps for speculation.
struct Speculating {
  int32_t most = 0;  // tokens drafted at a time; 0: no speculation
  bool always = false;
  std::shared_ptr<Drafter> drafter;
  // The drafter's last proposal, of which a step may verify less than all, and its kind.
  std::vector<int32_t> draft;
  int32_t kind = 0;
  // By kind: how often the drafts were right. Drafters that are asked have one kind, and start with
  // what their record knows.
  std::array<Acceptance, Drafter::kKinds> acceptance = {Acceptance(0.4), Acceptance(0.6),
                                                        Acceptance(0.75)};
  bool started = false;
  size_t considered = 0;  // the text's size when it was last decided whether to ask
  int32_t unasked = 0;    // steps since it was last asked
  bool waits = false;     // no step before its drafter has made what it was asked for
};

struct Sequence {
  std::shared_ptr<GenerationState> state;
  std::shared_ptr<Timeline> timeline;
  uint32_t prompt_tokens = 0;
  uint32_t limit = 0;  // the timeline ends at so many tokens: max_tokens or the context
  bool ignore_eos = false;

  ReasoningOptions reasoning;  // outlives gate
  std::optional<ReasoningGate> gate;
  std::optional<Sampler> sampler;
  std::optional<EventWriter> writer;
  Speculating speculating;
  std::shared_ptr<ScoreSink> score;  // set: no sampling, logprobs of the prompt go here
  std::shared_ptr<DraftSink> drafts;  // set: no sampling, the likeliest tokens go here

  GenerationStats stats;
  absl::Time submitted, first_token;
  bool started = false;  // STARTED has been published
  bool admitted = false;  // has its place among the running
  bool ended = false;     // FINISHED or the failure is published

  int64_t computed() const { return timeline->table.size(); }
  int64_t pending() const { return static_cast<int64_t>(timeline->tokens.size()) - computed(); }
};

}  // namespace ponder::engine
