#include <utility>

#include "lib/engine/sequence.h"

namespace ponder::engine {
namespace {

Event text_event(EventKind kind, std::string text) {
  Event event;
  event.kind = kind;
  event.text = std::move(text);
  return event;
}

Finish closed_by(CloseReason reason) {
  switch (reason) {
    case CloseReason::kSoftBudget:
    case CloseReason::kHardBudget:
      return Finish::kBudget;
    case CloseReason::kHost:
    case CloseReason::kOff:
      return Finish::kHost;
    default:
      return Finish::kStop;
  }
}

}  // namespace

EventWriter::EventWriter(const Tokenizer* tokenizer, GenerationState* state, Options options)
    : state_(state),
      options_(std::move(options)),
      tools_(options_.tools),
      thought_decoder_(tokenizer, {}, /*continues=*/true),
      answer_decoder_(tokenizer, {}, /*continues=*/true) {}

void EventWriter::queue(const SampledToken& token) { unresolved_.push_back(token); }

void EventWriter::emit(Event event, const GenerationStats& totals) {
  event.prompt_tokens = event.done_tokens = static_cast<uint32_t>(totals.prompt_tokens);
  event.cached_tokens = static_cast<uint32_t>(totals.cached_tokens);
  event.thought_tokens = static_cast<uint32_t>(totals.thought_tokens);
  event.answer_tokens = static_cast<uint32_t>(totals.answer_tokens);
  const bool hidden = event.kind == EventKind::kThought && options_.hide_thoughts;
  if (hidden) event.text.clear();
  if (!hidden && options_.logprobs) event.top_count = options_.top_count;
  for (const SampledToken& token : spoken_) {
    if (hidden) break;
    event.tokens.push_back(token.id);
    if (!options_.logprobs) continue;
    event.logprobs.push_back(token.logprob);
    for (const TokenLogprob& top : token.top) {
      event.top_tokens.push_back(top.id);
      event.top_logprobs.push_back(top.logprob);
    }
  }
  spoken_.clear();
  state_->publish(std::move(event));
}

void EventWriter::emit_answer(std::string text, bool last, const GenerationStats& totals) {
  if (options_.tools == ToolFormat::kNone) {
    if (!text.empty() || (last && !spoken_.empty())) {
      emit(text_event(EventKind::kAnswer, std::move(text)), totals);
    }
    return;
  }
  std::vector<ToolItem> items = tools_.feed(text);
  if (last) {
    for (ToolItem& item : tools_.finish()) items.push_back(std::move(item));
  }
  for (ToolItem& item : items) {
    if (!item.is_call) {
      emit(text_event(EventKind::kAnswer, std::move(item.text)), totals);
      continue;
    }
    called_tools_ = true;
    Event event = text_event(EventKind::kToolCall, std::move(item.call.arguments));
    event.name = std::move(item.call.name);
    event.id = std::move(item.call.id);
    emit(std::move(event), totals);
  }
}

void EventWriter::add_text(Phase phase, const GenerationStats& totals) {
  const int32_t id = unresolved_.front().id;
  spoken_.push_back(std::move(unresolved_.front()));
  unresolved_.pop_front();
  spoken_phase_ = phase;
  if (phase == Phase::kThinking) {
    if (!thought_trimmer_) thought_trimmer_.emplace(/*trailing=*/true);
    std::string text = thought_trimmer_->feed(thought_decoder_.push(id));
    if (!text.empty() || options_.hide_thoughts) {
      emit(text_event(EventKind::kThought, std::move(text)), totals);
    }
    return;
  }
  std::string text = answer_decoder_.push(id);
  if (answer_trimmer_) text = answer_trimmer_->feed(text);
  emit_answer(options_.stops.feed(text).text, false, totals);
}

bool EventWriter::resolve(const Accepted& accepted, const GenerationStats& totals) {
  for (int32_t i = 0; i < accepted.text_tokens && !unresolved_.empty(); ++i) {
    add_text(accepted.text_phase, totals);
    if (options_.stops.matched()) return true;
  }
  for (int32_t i = 0; i < accepted.hidden_tokens && !unresolved_.empty(); ++i) {
    unresolved_.pop_front();
  }
  // A thought that begins here is trimmed from here, whatever blanks went before.
  if (accepted.opened) thought_trimmer_.emplace(/*trailing=*/true);
  if (accepted.closed == CloseReason::kNotClosed) return false;

  // White space that the trimmer holds at the end of the thought is dropped; its tokens are told.
  std::string rest = thought_decoder_.flush();
  if (thought_trimmer_) rest = thought_trimmer_->feed(rest);
  if (!rest.empty() || !spoken_.empty()) {
    emit(text_event(EventKind::kThought, std::move(rest)), totals);
  }
  answer_trimmer_.emplace(/*trailing=*/false);
  Event event;
  event.kind = EventKind::kThoughtEnd;
  event.finish = closed_by(accepted.closed);
  emit(std::move(event), totals);
  return false;
}

void EventWriter::flush(const GenerationStats& totals) {
  unresolved_.clear();
  if (spoken_phase_ == Phase::kThinking && !answer_trimmer_) {
    std::string rest = thought_decoder_.flush();
    if (thought_trimmer_) rest = thought_trimmer_->feed(rest);
    if (!rest.empty() || !spoken_.empty()) {
      emit(text_event(EventKind::kThought, std::move(rest)), totals);
    }
    return;
  }
  std::string rest = answer_decoder_.flush();
  if (answer_trimmer_) rest = answer_trimmer_->feed(rest);
  rest = options_.stops.feed(rest).text;
  if (!options_.stops.matched()) rest += options_.stops.finish();
  emit_answer(std::move(rest), true, totals);
}

}  // namespace ponder::engine
