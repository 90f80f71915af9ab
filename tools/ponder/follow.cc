#include "follow.h"

#include <signal.h>

#include <algorithm>
#include <utility>

namespace ponder::tool {
namespace {

volatile sig_atomic_t interrupts = 0;
struct sigaction previous_action;

void count_interrupt(int) { interrupts = interrupts + 1; }

// Short enough that Ctrl-C feels immediate; news itself arrives without delay.
constexpr uint64_t kLookForInterruptsUs = 50'000;

// Per token; null in JSON where the model gave it no chance at all.
Json token_logprobs(const ponder_event& event) {
  Json values = Json::array();
  for (uint32_t i = 0; i < event.token_count; ++i) values.push_back(event.logprobs[i]);
  return values;
}

Json top_logprobs(const ponder_event& event) {
  Json rows = Json::array();
  for (uint32_t i = 0; i < event.token_count; ++i) {
    Json row = Json::array();
    for (uint32_t k = 0; k < event.top_count; ++k) {
      const size_t at = size_t{i} * event.top_count + k;
      row.push_back(Json::array({event.top_tokens[at], event.top_logprobs[at]}));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Json piece_json(const char* name, const ponder_event& event) {
  Json json = {
      {"event", name},
      {"text", text_of(event.text)},
      {"tokens", std::vector<ponder_token>(event.tokens, event.tokens + event.token_count)}};
  if (event.logprobs != nullptr) json["logprobs"] = token_logprobs(event);
  if (event.top_count > 0) json["top"] = top_logprobs(event);
  return json;
}

double rate(uint64_t tokens, uint64_t us) {
  return us == 0 ? 0 : static_cast<double>(tokens) * 1e6 / static_cast<double>(us);
}

std::string seconds(uint64_t us) { return human_number(static_cast<double>(us) / 1e6) + " s"; }

}  // namespace

InterruptCounter::InterruptCounter() {
  interrupts = 0;
  struct sigaction action {};
  action.sa_handler = count_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_action);
}

InterruptCounter::~InterruptCounter() { sigaction(SIGINT, &previous_action, nullptr); }

int InterruptCounter::count() const { return interrupts; }

void collect(const ponder_event& event, Outcome& outcome) {
  outcome.prompt_tokens = event.prompt_tokens;
  outcome.cached_tokens = event.cached_tokens;
  outcome.thought_tokens = event.thought_tokens;
  outcome.answer_tokens = event.answer_tokens;
  switch (event.kind) {
    case PONDER_EVENT_THOUGHT:
      outcome.thought += text_of(event.text);
      break;
    case PONDER_EVENT_THOUGHT_END:
      outcome.thought_end = event.finish;
      break;
    case PONDER_EVENT_ANSWER:
      outcome.answer += text_of(event.text);
      break;
    case PONDER_EVENT_FINISHED:
      outcome.finish = event.finish;
      outcome.tokens.assign(event.tokens, event.tokens + event.token_count);
      break;
    default:
      break;
  }
}

Outcome follow(Generation& generation, const std::function<void(const ponder_event&)>& on_event) {
  Outcome outcome;
  const InterruptCounter interrupt;
  int heeded = 0;
  bool thinking = false, closing = false;
  for (;;) {
    if (interrupt.count() > heeded) {
      heeded = interrupt.count();
      if (thinking && !closing) {
        closing = true;
        generation.close_thought();
      } else {
        generation.cancel();
      }
    }
    Event event;
    const ponder_status status = generation.next(event);
    if (status == PONDER_DONE) break;
    if (status == PONDER_PENDING) {
      generation.wait(kLookForInterruptsUs);
      continue;
    }
    collect(event.raw(), outcome);
    if (event.kind() == PONDER_EVENT_THOUGHT) thinking = true;
    if (event.kind() == PONDER_EVENT_THOUGHT_END || event.kind() == PONDER_EVENT_ANSWER) {
      thinking = false;
    }
    on_event(event.raw());
  }
  outcome.stats = generation.stats();
  return outcome;
}

const char* finish_name(int32_t finish) {
  switch (finish) {
    case PONDER_FINISH_STOP:
      return "stop";
    case PONDER_FINISH_LENGTH:
      return "length";
    case PONDER_FINISH_TOOL:
      return "tool";
    case PONDER_FINISH_CANCELLED:
      return "cancelled";
    case PONDER_FINISH_BUDGET:
      return "budget";
    case PONDER_FINISH_HOST:
      return "host";
    default:
      return "unknown";
  }
}

bool has_json(const ponder_event& event) {
  return event.kind == PONDER_EVENT_STARTED || event.kind == PONDER_EVENT_THOUGHT ||
         event.kind == PONDER_EVENT_THOUGHT_END || event.kind == PONDER_EVENT_ANSWER ||
         event.kind == PONDER_EVENT_TOOL_CALL;
}

Json event_json(const ponder_event& event) {
  switch (event.kind) {
    case PONDER_EVENT_STARTED:
      return {{"event", "started"},
              {"prompt_tokens", event.prompt_tokens},
              {"cached_tokens", event.cached_tokens}};
    case PONDER_EVENT_THOUGHT:
      return piece_json("thought", event);
    case PONDER_EVENT_THOUGHT_END:
      return {{"event", "thought_end"}, {"reason", finish_name(event.finish)}};
    case PONDER_EVENT_ANSWER:
      return piece_json("answer", event);
    default:
      return {{"event", "tool_call"},
              {"name", text_of(event.name)},
              {"id", text_of(event.id)},
              {"arguments", text_of(event.text)}};
  }
}

Json finished_json(const Outcome& outcome) {
  const ponder_stats& s = outcome.stats;
  Json json = {{"event", "finished"},
               {"reason", finish_name(outcome.finish)},
               {"tokens", outcome.tokens},
               {"thought_tokens", outcome.thought_tokens},
               {"answer_tokens", outcome.answer_tokens},
               {"stats",
                {{"prompt_tokens", s.prompt_tokens},
                 {"cached_tokens", s.cached_tokens},
                 {"steps", s.steps},
                 {"preemptions", s.preemptions},
                 {"prefill_s", static_cast<double>(s.prefill_us) / 1e6},
                 {"decode_s", static_cast<double>(s.decode_us) / 1e6},
                 {"prefill_tokens_per_s", s.prefill_tokens_per_s},
                 {"decode_tokens_per_s", s.decode_tokens_per_s}}}};
  if (s.drafted_tokens > 0) {
    json["stats"]["drafted_tokens"] = s.drafted_tokens;
    json["stats"]["accepted_tokens"] = s.accepted_tokens;
  }
  if (s.expert_bytes > 0) {
    json["experts"] = {{"bytes", s.expert_bytes},
                       {"bytes_used", s.expert_bytes_used},
                       {"hits", s.expert_hits},
                       {"misses", s.expert_misses},
                       {"bytes_read", s.expert_bytes_read}};
  }
  return json;
}

Display::~Display() {
  // Leave no terminal dimmed behind, whatever went wrong.
  try {
    set_dim(false);
    output().flush();
  } catch (...) {
  }
}

void Display::set_dim(bool on) {
  if (on == dim_ || !output().colours()) return;
  dim_ = on;
  output().write(on ? "\x1b[2m" : "\x1b[0m");
}

void Display::put(std::string_view text) {
  if (text.empty()) return;
  diagnostics().clear_progress();
  output().write(text);
  at_line_start_ = text.back() == '\n';
}

void Display::show(const ponder_event& event) {
  switch (event.kind) {
    case PONDER_EVENT_PREFILL:
      diagnostics().progress("reading the prompt: " + std::to_string(event.done_tokens) + " of " +
                             std::to_string(event.prompt_tokens) + " tokens");
      break;
    case PONDER_EVENT_THOUGHT:
      if (!show_thoughts_) {
        diagnostics().progress("thinking: " + std::to_string(event.thought_tokens) + " tokens");
        break;
      }
      set_dim(true);
      put(text_of(event.text));
      thought_shown_ = true;
      break;
    case PONDER_EVENT_ANSWER: {
      std::string_view text = text_of(event.text);
      if (thought_shown_ && !answer_begun_) {
        // One blank line between thought and answer, however the model spaces them.
        text.remove_prefix(std::min(text.find_first_not_of("\n"), text.size()));
        if (text.empty()) break;
        set_dim(false);
        put(at_line_start_ ? "\n" : "\n\n");
      }
      answer_begun_ = true;
      put(text);
      break;
    }
    case PONDER_EVENT_TOOL_CALL:
      set_dim(false);
      put(std::string(at_line_start_ ? "" : "\n") + std::string(text_of(event.name)) + " " +
          std::string(text_of(event.text)) + "\n");
      break;
    default:
      break;
  }
  output().flush();
}

void Display::end() {
  diagnostics().clear_progress();
  set_dim(false);
  if (!at_line_start_) output().write("\n");
  at_line_start_ = true;
  output().flush();
}

std::string statistics_line(const Outcome& outcome) {
  const ponder_stats& s = outcome.stats;
  const uint64_t computed = s.prompt_tokens - std::min(s.prompt_tokens, s.cached_tokens);
  std::string line = "prompt " + std::to_string(s.prompt_tokens) + " tokens";
  if (s.cached_tokens > 0) line += " (" + std::to_string(s.cached_tokens) + " cached)";
  line += " in " + seconds(s.prefill_us) + " (" + human_number(rate(computed, s.prefill_us)) +
          " tokens/s), then " + std::to_string(outcome.tokens.size()) + " tokens";
  if (outcome.thought_tokens > 0) {
    line += " (" + std::to_string(outcome.thought_tokens) + " of thought)";
  }
  line += " in " + seconds(s.decode_us) + " (" + human_number(s.decode_tokens_per_s) + " tokens/s)";
  if (outcome.thought_end == PONDER_FINISH_BUDGET) line += ", thought closed by its budget";
  if (outcome.thought_end == PONDER_FINISH_HOST) line += ", thought closed by you";
  if (outcome.finish == PONDER_FINISH_LENGTH) line += ", cut off at the token limit";
  if (outcome.finish == PONDER_FINISH_CANCELLED) line += ", cancelled";
  if (s.drafted_tokens > 0) {
    line += "; " + std::to_string(s.accepted_tokens) + " of " + std::to_string(s.drafted_tokens) +
            " guessed tokens right";
  }
  if (s.expert_bytes > 0) {
    line += "; experts: " + std::to_string(s.expert_hits) + " in memory, " +
            std::to_string(s.expert_misses) + " read (" + human_bytes(s.expert_bytes_read) + ")";
  }
  return line;
}

}  // namespace ponder::tool
