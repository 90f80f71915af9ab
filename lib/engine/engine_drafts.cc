// Engine's part in speculation: its own draft layer's passes, and texts that it drafts for others.
#include <algorithm>
#include <utility>

#include "lib/engine/engine.h"

namespace ponder::engine {
bool Engine::wait_for_drafts() {
  if (!drafts_.prepare(running_, row_budget())) return false;
  // Everybody waits, so that steps stay whole; but not where a model waits for this one.
  const auto drafts = [](const auto& s) { return s->drafts != nullptr; };
  return std::none_of(running_.begin(), running_.end(), drafts) &&
         std::none_of(waiting_.begin(), waiting_.end(), drafts);
}

// ---- the draft layer ----------------------------------------------------------------------------

std::shared_ptr<Drafter> Engine::make_layer_drafter() {
  if (draft_layer_ == nullptr) return nullptr;
  return std::make_shared<LayerDrafter>(draft_layer_.get());
}

std::vector<int32_t> Engine::want_drafts(std::span<Sequence* const> chosen,
                                         std::span<const int32_t> rows) {
  std::vector<int32_t> wanted(chosen.size(), 0);
  if (draft_layer_ == nullptr || draft_layer_failed_) return wanted;
  std::vector<Sequence*> deciding;
  std::vector<size_t> whose;
  for (size_t i = 0; i < chosen.size(); ++i) {
    Sequence* const s = chosen[i];
    if (s == nullptr || s->ended || !s->gate.has_value() || rows[i] != s->pending()) continue;
    deciding.push_back(s);
    whose.push_back(i);
  }
  const std::vector<int32_t> counts = drafts_.ask_in_step(deciding, row_budget());
  for (size_t i = 0; i < whose.size(); ++i) wanted[whose[i]] = counts[i];
  return wanted;
}

DraftPairs Engine::pairs_of(const Step& step) const {
  DraftPairs pairs;
  for (const Item& item : step.items) {
    const Sequence& s = *item.sequence;
    if (s.ended) continue;
    const std::vector<int32_t>& text = s.timeline->tokens;  // nobody changes it while we run
    const auto own = static_cast<size_t>(item.rows) - item.draft.size();
    const size_t kept = own + (item.choices.empty() ? 0 : item.choices.size() - 1);
    DraftPairs::Text t;
    t.first_position = item.first_position;
    t.pages = item.pages;
    t.wanted = item.choices.empty() ? 0 : item.wanted;
    for (size_t r = 0; r < kept; ++r) {
      const size_t next = static_cast<size_t>(item.first_position) + r + 1;
      const int32_t token = next < text.size()      ? text[next]
                            : !item.choices.empty() ? item.choices[r + 1 - own].said
                                                    : item.likeliest;
      if (token < 0) break;  // nothing follows a text that is only read
      pairs.tokens.push_back(token);
      pairs.rows.push_back(item.first_row + static_cast<int32_t>(r));
      ++t.rows;
    }
    if (t.rows > 0) pairs.texts.push_back(std::move(t));
  }
  return pairs;
}

void Engine::run_draft_layer() {
  const Status status = draft_layer_->run_slice(exec_);
  if (!status.ok()) {
    // The tokens are chosen already, and the next ones do not need it.
    draft_layer_failed_ = true;
    model_->runtime()->log().log(LogLevel::kWarning, "the draft layer of ", model_->info().name,
                                 " failed, there are no drafts from now on: ", status.message());
    return;
  }
  if (!draft_layer_->done()) return;
  auto text = draft_layer_->texts().begin();
  for (const Item& item : step_->items) {
    Sequence& s = *item.sequence;
    if (text == draft_layer_->texts().end()) break;
    if (text->pages.data() != item.pages.data()) continue;  // it had no pairs
    if (!s.ended && s.speculating.drafter != nullptr) {
      const auto size = static_cast<size_t>(text->first_position + text->rows) + 1;
      s.speculating.drafter->deliver(size, text->made);
    }
    ++text;
  }
}

// ---- drafts for others --------------------------------------------------------------------------

void Engine::drop_drafts_without_room() {
  for (const auto& s : waiting_) {
    if (s->drafts != nullptr && !s->ended) set_ended(s.get());
  }
}

void Engine::take_draft(Item& item) {
  Sequence& s = *item.sequence;
  DraftSink& sink = *s.drafts;
  s.timeline->table.advance(item.rows);
  if (item.likeliest >= 0) {
    s.timeline->tokens.push_back(item.likeliest);
    sink.tokens.push_back(item.likeliest);
  }
  s.timeline->table.publish(s.timeline->tokens);
  const bool made = sink.wanted > 0 && std::ssize(sink.tokens) == sink.wanted;
  if (!made && s.pending() > 0) return;
  sink.state = DraftSink::State::kDone;
  set_ended(&s);
}

// Of steps in which every text gets a token and none is read.
void Engine::measure_drafts(const Step& step, double seconds) {
  for (const Item& item : step.items) {
    if (item.likeliest < 0 || item.rows > kMaxDraft + 1) return;
  }
  settle(&draft_seconds_, seconds / static_cast<double>(step.items.size()));
}

}  // namespace ponder::engine
