#include <utility>

#include "lib/engine/sequence.h"

namespace ponder::engine {

EventWriter::EventWriter(const Tokenizer* tokenizer, GenerationState* state, StopMatcher stops,
                         uint32_t top_count, bool with_logprobs, bool hide_thoughts)
    : state_(state),
      top_count_(top_count),
      with_logprobs_(with_logprobs),
      hide_thoughts_(hide_thoughts),
      thought_decoder_(tokenizer, {}, /*continues=*/true),
      answer_decoder_(tokenizer, {}, /*continues=*/true),
      stops_(std::move(stops)) {}

void EventWriter::queue(const SampledToken& token) { unresolved_.push_back(token); }

void EventWriter::emit(EventKind kind, std::string text, const GenerationStats& totals) {
  Event event;
  event.kind = kind;
  event.prompt_tokens = event.done_tokens = static_cast<uint32_t>(totals.prompt_tokens);
  event.cached_tokens = static_cast<uint32_t>(totals.cached_tokens);
  event.thought_tokens = static_cast<uint32_t>(totals.thought_tokens);
  event.answer_tokens = static_cast<uint32_t>(totals.answer_tokens);
  if (kind != EventKind::kThought || !hide_thoughts_) {
    event.text = std::move(text);
    if (with_logprobs_) event.top_count = top_count_;
    for (const SampledToken& token : spoken_) {
      event.tokens.push_back(token.id);
      if (!with_logprobs_) continue;
      event.logprobs.push_back(token.logprob);
      for (const TokenLogprob& top : token.top) {
        event.top_tokens.push_back(top.id);
        event.top_logprobs.push_back(top.logprob);
      }
    }
  }
  spoken_.clear();
  state_->publish(std::move(event));
}

void EventWriter::add_text(Phase phase, const GenerationStats& totals) {
  SampledToken token = std::move(unresolved_.front());
  unresolved_.pop_front();
  const int32_t id = token.id;
  spoken_.push_back(std::move(token));
  spoken_phase_ = phase;
  std::string text;
  if (phase == Phase::kThinking) {
    text = thought_decoder_.push(id);
    if (!thought_trimmer_) thought_trimmer_.emplace(/*trailing=*/true);
    text = thought_trimmer_->feed(text);
    if (!text.empty() || hide_thoughts_) emit(EventKind::kThought, std::move(text), totals);
    return;
  }
  text = answer_decoder_.push(id);
  if (answer_trimmer_) text = answer_trimmer_->feed(text);
  text = stops_.feed(text).text;
  if (!text.empty()) emit(EventKind::kAnswer, std::move(text), totals);
}

bool EventWriter::resolve(const Accepted& accepted, const GenerationStats& totals) {
  for (int32_t i = 0; i < accepted.text_tokens && !unresolved_.empty(); ++i) {
    add_text(accepted.text_phase, totals);
    if (stops_.matched()) return true;
  }
  for (int32_t i = 0; i < accepted.hidden_tokens && !unresolved_.empty(); ++i) {
    unresolved_.pop_front();
  }
  if (accepted.opened) {
    // A thought begins: its text is trimmed from here, whatever blanks went before.
    thought_trimmer_.emplace(/*trailing=*/true);
  }
  if (accepted.closed != CloseReason::kNotClosed) {
    // White space that the trimmer holds at the end of the thought is dropped; its tokens are told.
    std::string rest = thought_trimmer_ ? thought_trimmer_->feed(thought_decoder_.flush())
                                        : thought_decoder_.flush();
    if (!rest.empty() || !spoken_.empty()) emit(EventKind::kThought, std::move(rest), totals);
    answer_trimmer_.emplace(/*trailing=*/false);
    Event event;
    event.kind = EventKind::kThoughtEnd;
    switch (accepted.closed) {
      case CloseReason::kSoftBudget:
      case CloseReason::kHardBudget:
        event.finish = Finish::kBudget;
        break;
      case CloseReason::kHost:
      case CloseReason::kOff:
        event.finish = Finish::kHost;
        break;
      default:
        event.finish = Finish::kStop;
    }
    event.prompt_tokens = event.done_tokens = static_cast<uint32_t>(totals.prompt_tokens);
    event.cached_tokens = static_cast<uint32_t>(totals.cached_tokens);
    event.thought_tokens = static_cast<uint32_t>(totals.thought_tokens);
    event.answer_tokens = static_cast<uint32_t>(totals.answer_tokens);
    state_->publish(std::move(event));
  }
  return false;
}

void EventWriter::flush(const GenerationStats& totals) {
  unresolved_.clear();
  if (spoken_phase_ == Phase::kThinking && answer_trimmer_ == std::nullopt) {
    std::string rest = thought_decoder_.flush();
    if (thought_trimmer_) rest = thought_trimmer_->feed(rest);
    if (!rest.empty() || !spoken_.empty()) emit(EventKind::kThought, std::move(rest), totals);
    return;
  }
  std::string rest = answer_decoder_.flush();
  if (answer_trimmer_) rest = answer_trimmer_->feed(rest);
  rest = stops_.feed(rest).text;
  if (!stops_.matched()) rest += stops_.finish();
  if (!rest.empty() || !spoken_.empty()) emit(EventKind::kAnswer, std::move(rest), totals);
}

}  // namespace ponder::engine
