#include "lib/sample/reasoning_gate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/sample/logprobs.h"

namespace ponder {
namespace {

bool contains(std::span<const int32_t> ids, int32_t id) {
  return std::ranges::find(ids, id) != ids.end();
}

bool ends_with(std::span<const int32_t> text, std::span<const int32_t> marker) {
  return !marker.empty() && text.size() >= marker.size() &&
         std::ranges::equal(text.last(marker.size()), marker);
}

// The longest proper border of marker[0, length): what may still be its beginning after a mismatch.
int32_t border(std::span<const int32_t> marker, int32_t length) {
  const auto matched = marker.first(static_cast<size_t>(length));
  for (size_t n = matched.size() - 1; n > 0; --n) {
    if (std::ranges::equal(matched.first(n), matched.last(n))) return static_cast<int32_t>(n);
  }
  return 0;
}

Status check_ids(absl::string_view what, std::span<const int32_t> ids, int64_t vocab) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab) {
      return invalid_argument_error(what, ": token ", id, " is outside the vocabulary of ", vocab);
    }
  }
  return OkStatus();
}

}  // namespace

Status ReasoningOptions::validate(int64_t vocab) const {
  constexpr size_t kMaxMarker = 64;
  if (markers.open.empty() != markers.close.empty()) {
    return invalid_argument_error("reasoning: the ", markers.open.empty() ? "open" : "close",
                                  " marker is missing beside the other one; give both or neither");
  }
  if (!markers.open.empty() && markers.open == markers.close) {
    return invalid_argument_error("reasoning: the open and the close marker are the same tokens");
  }
  const std::pair<absl::string_view, const std::vector<int32_t>*> forced[] = {
      {"reasoning: open marker", &markers.open},
      {"reasoning: close marker", &markers.close},
      {"reasoning: closing sentence", &closing}};
  for (const auto& [what, ids] : forced) {
    PONDER_RETURN_IF_ERROR(check_ids(what, *ids, vocab));
    if (ids != &closing && ids->size() > kMaxMarker) {
      return invalid_argument_error(what, " has ", ids->size(), " tokens; at most ", kMaxMarker,
                                    " are supported");
    }
    for (const int32_t id : *ids) {
      if (contains(end_of_text, id)) {
        return invalid_argument_error(what, ": token ", id, " is an end-of-text token");
      }
    }
  }
  PONDER_RETURN_IF_ERROR(check_ids("reasoning: end-of-text tokens", end_of_text, vocab));
  if (hard_budget > 0 && soft_budget > hard_budget) {
    return invalid_argument_error("the soft thought budget of ", soft_budget,
                                  " tokens is above the hard one of ", hard_budget);
  }
  return OkStatus();
}

ReasoningGate::ReasoningGate(const ReasoningOptions* options, std::span<const int32_t> prompt,
                             absl::FunctionRef<bool(int32_t)> is_boundary)
    : options_(options) {
  const ReasoningMarkers& markers = options->markers;
  bool blank_after = true;
  for (size_t end = prompt.size(); end > 0; --end) {
    const auto text = prompt.first(end);
    const bool opens = ends_with(text, markers.open), closes = ends_with(text, markers.close);
    if (opens && (!closes || markers.open.size() > markers.close.size())) {
      phase_ = Phase::kThinking;
      return;
    }
    if (closes) {
      phase_ = Phase::kAnswering;
      if (blank_after) guard_left_ = kAnswerGuard;
      return;
    }
    const int32_t id = prompt[end - 1];
    blank_after = blank_after && is_blank(id);
    if (is_boundary(id)) return;
  }
}

std::span<const int32_t> ReasoningGate::marker() const {
  if (phase_ == Phase::kThinking) return options_->markers.close;
  if (phase_ == Phase::kNone && may_open_) return options_->markers.open;
  return {};
}

bool ReasoningGate::is_end_of_text(int32_t id) const { return contains(options_->end_of_text, id); }

bool ReasoningGate::is_blank(int32_t id) const {
  return std::ranges::binary_search(options_->blank, id);
}

void ReasoningGate::count_text(int32_t tokens) {
  (phase_ == Phase::kThinking ? thought_tokens_ : answer_tokens_) += static_cast<uint32_t>(tokens);
}

void ReasoningGate::add_needs(RowNeeds* needs) const {
  if (options_->soft_budget == 0 || phase_ == Phase::kAnswering) return;
  if (!needs->add_sum(1.0f)) needs->whole = true;
  const std::vector<int32_t>& close = options_->markers.close;
  needs->also.insert(needs->also.end(), close.begin(), close.end());
}

std::optional<bool> ReasoningGate::close_is_likely(const LogitRow& row) const {
  const int32_t id = options_->markers.close[held_];
  if (static_cast<size_t>(id) >= row.vocabulary()) return false;
  const std::optional<size_t> at = row.find(id);
  if (!at.has_value()) return std::nullopt;
  const float x = row.logits()[*at];
  const auto rank = std::ranges::count_if(row.logits(), [x](float y) { return y > x; });
  if (rank >= static_cast<int64_t>(options_->soft_close_rank)) return false;
  if (!row.has_all_from(x)) return std::nullopt;
  // A damaged row is the sampler's to report.
  const auto result = log_softmax_at(row, id);
  if (result.ok() && !result->known) return std::nullopt;
  return result.ok() && std::exp(result->logprob) >= options_->soft_close_probability;
}

void ReasoningGate::start_close(CloseReason reason, bool with_sentence) {
  const size_t sentence = options_->closing.size();
  const bool fits = options_->hard_budget == 0 ||
                    uint64_t{thought_tokens_} + sentence <= uint64_t{options_->hard_budget};
  closing_for_ = reason;
  forced_ = 0;
  forcing_ =
      with_sentence && sentence > 0 && held_ == 0 && fits ? Forcing::kClosing : Forcing::kClose;
}

Constraint ReasoningGate::next(const LogitRow& logits, bool close_now) {
  const ReasoningOptions& o = *options_;
  Constraint constraint;
  const auto end = marker();
  switch (phase_) {
    case Phase::kNone:
      if (end.empty()) break;
      if (o.mode == ReasoningMode::kOn) {
        constraint.force = end[held_];
      } else if (o.mode == ReasoningMode::kOff && held_ + 1 == std::ssize(end)) {
        constraint.forbidden = end.last(1);
      }
      break;

    case Phase::kThinking: {
      const uint64_t written = uint64_t{thought_tokens_} + static_cast<uint64_t>(held_);
      const uint64_t sentence = o.closing.size() < o.hard_budget ? o.closing.size() : 0;
      if (forcing_ != Forcing::kNothing) {
        // Decided before.
      } else if (o.mode == ReasoningMode::kOff) {
        start_close(CloseReason::kOff, false);
      } else if (close_now) {
        start_close(CloseReason::kHost, true);
      } else if (o.hard_budget > 0 && written + sentence >= o.hard_budget) {
        start_close(CloseReason::kHardBudget, true);
      } else if (o.soft_budget > 0 && written >= o.soft_budget) {
        const std::optional<bool> likely = close_is_likely(logits);
        constraint.unknown = !likely.has_value();
        if (likely.value_or(false)) start_close(CloseReason::kSoftBudget, false);
      }
      if (forcing_ == Forcing::kClosing) {
        constraint.force = o.closing[forced_];
      } else if (forcing_ == Forcing::kClose) {
        constraint.force = end[held_];
      }
      break;
    }

    case Phase::kAnswering:
      if (guard_left_ > 0) constraint.forbidden = o.end_of_text;
      if (closed_ != CloseReason::kNotClosed && closed_ != CloseReason::kModel &&
          o.markers.close.size() == 1) {
        constraint.marker = o.markers.close;
      }
      break;
  }
  return constraint;
}

Accepted ReasoningGate::accept(int32_t id) {
  Accepted out;
  if (is_end_of_text(id)) {
    if (phase_ != Phase::kThinking) {
      out = finish();
      out.token = id;
      out.hidden_tokens = 1;
      out.end_of_text = true;
      ++hidden_tokens_;
      return out;
    }
    start_close(CloseReason::kEndOfText, false);
    id = marker()[held_];
  }
  out.token = id;
  out.text_phase = phase_;
  if (forcing_ == Forcing::kClosing && id == options_->closing[forced_]) {
    if (++forced_ == std::ssize(options_->closing)) forcing_ = Forcing::kClose;
  }

  const auto end = marker();
  if (end.empty()) {
    out.text_tokens = 1;
    count_text(1);
    if (guard_left_ > 0) guard_left_ = is_blank(id) ? guard_left_ - 1 : 0;
    return out;
  }

  // Knuth, Morris and Pratt's search for the marker, one token at a time.
  const int32_t before = held_;
  while (held_ > 0 && end[held_] != id) held_ = border(end, held_);
  if (end[held_] == id) ++held_;
  out.text_tokens = before + 1 - held_;
  if (phase_ == Phase::kNone) {
    // What has turned out to be text was the marker's beginning, and then perhaps `id`.
    for (int32_t i = 0; i < out.text_tokens; ++i) {
      if (!is_blank(i < before ? end[i] : id)) may_open_ = false;
    }
    if (!may_open_) {
      out.text_tokens += held_;
      held_ = 0;
    }
  }
  count_text(out.text_tokens);
  if (held_ < std::ssize(end)) return out;

  out.hidden_tokens = held_;
  hidden_tokens_ += static_cast<uint32_t>(held_);
  held_ = 0;
  if (phase_ == Phase::kNone) {
    phase_ = Phase::kThinking;
    out.opened = true;
  } else {
    phase_ = Phase::kAnswering;
    guard_left_ = kAnswerGuard;
    closed_ = forcing_ == Forcing::kNothing ? CloseReason::kModel : closing_for_;
    out.closed = closed_;
  }
  forcing_ = Forcing::kNothing;
  return out;
}

Accepted ReasoningGate::finish() {
  Accepted out;
  out.text_phase = phase_;
  out.text_tokens = held_;
  count_text(held_);
  held_ = 0;
  return out;
}

}  // namespace ponder
