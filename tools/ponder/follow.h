// Follows one generation to its end: collects what it says, hands each event on, heeds Ctrl-C.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ponder/ponder.hpp>

#include "output.h"

namespace ponder::tool {

// While one lives, SIGINT does not end the process but is counted.
class InterruptCounter {
 public:
  InterruptCounter();
  ~InterruptCounter();
  InterruptCounter(const InterruptCounter&) = delete;
  InterruptCounter& operator=(const InterruptCounter&) = delete;

  int count() const;
};

struct Outcome {
  int32_t finish = 0;       // PONDER_FINISH_*
  int32_t thought_end = 0;  // PONDER_FINISH_*, 0: no thought was closed
  std::string thought, answer;
  std::vector<ponder_token> tokens;  // all generated
  uint32_t prompt_tokens = 0, cached_tokens = 0;
  uint32_t thought_tokens = 0, answer_tokens = 0;
  ponder_stats stats{};
};

// Adds one event to what is known.
void collect(const ponder_event& event, Outcome& outcome);

// Blocks until the end. The first interrupt closes an open thought ("answer now"), the next
// cancels; without an open thought the first one cancels.
Outcome follow(Generation& generation, const std::function<void(const ponder_event&)>& on_event);

// "stop", "length", ...
const char* finish_name(int32_t finish);

// {"event":..}, the form of `run --json`. Only for kinds that have one; see has_json.
bool has_json(const ponder_event& event);
Json event_json(const ponder_event& event);
Json finished_json(const Outcome& outcome);

// Shows events as a person reads them: thoughts dimmed on a terminal, then the answer.
class Display {
 public:
  explicit Display(bool show_thoughts) : show_thoughts_(show_thoughts) {}
  ~Display();
  void show(const ponder_event& event);
  void end();  // after the last event: ends the line, takes the colour off

 private:
  void set_dim(bool on);
  void put(std::string_view text);

  bool show_thoughts_;
  bool dim_ = false;
  bool thought_shown_ = false;  // a thought stands above
  bool answer_begun_ = false;
  bool at_line_start_ = true;
};

// "prompt 23 tokens (0 cached) in 0.02 s, ...": one line.
std::string statistics_line(const Outcome& outcome);

}  // namespace ponder::tool
