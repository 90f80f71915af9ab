#include "lib/engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/time/clock.h"
#include "lib/engine/plan.h"
#include "lib/engine/scheduler.h"
#include "lib/sample/logprobs.h"

namespace ponder::engine {
namespace {

// Rows below which shrinking a prefill chunk further does not make a layer faster.
constexpr int64_t kMinRows = 8;

}  // namespace

StatusOr<std::unique_ptr<Engine>> Engine::create(Model* model, Backend* backend,
                                                 std::unique_ptr<ModelGraph> graph,
                                                 std::unique_ptr<WeightStore> weights,
                                                 const Options& options) {
  PONDER_ASSIGN_OR_RETURN(const KvLayout layout,
                          backend->kv_layout(graph->kv_shape(), options.kv_dtype));
  std::unique_ptr<Engine> engine(
      new Engine(model, backend, std::move(graph), std::move(weights), options, layout));
  PONDER_RETURN_IF_ERROR(engine->allocate());
  return engine;
}

Engine::Engine(Model* model, Backend* backend, std::unique_ptr<ModelGraph> graph,
               std::unique_ptr<WeightStore> weights, const Options& options, const KvLayout& layout)
    : model_(model),
      backend_(backend),
      weights_(std::move(weights)),
      graph_(std::move(graph)),
      options_(options),
      kv_layout_(layout),
      no_memory_(out_of_memory_error("host memory ran out while generating; free some, or run "
                                     "fewer generations at a time")),
      cache_(static_cast<int32_t>(std::clamp<uint64_t>(
                 options.kv_bytes /
                     (layout.page_bytes * static_cast<uint64_t>(graph_->kv_shape().layers)),
                 1, INT32_MAX / layout.page_tokens)),
             layout.page_tokens),
      drafts_(graph_->vocabulary(), &culprit_) {}

Engine::~Engine() = default;

Status Engine::allocate() {
  absl::MutexLock lock(&mu_);
  const KvShape shape = graph_->kv_shape();
  const uint64_t layer_bytes =
      kv_layout_.page_bytes * static_cast<uint64_t>(cache_.total_pages());
  std::vector<std::byte*> kv_layers;
  for (int i = 0; i < shape.layers; ++i) {
    PONDER_ASSIGN_OR_RETURN(
        Buffer pages, Buffer::create(backend_->page_allocator(i), layer_bytes, "the KV cache"));
    kv_layers.push_back(pages.as<std::byte>());
    kv_.push_back(std::move(pages));
  }

  PONDER_ASSIGN_OR_RETURN(const StepMemory memory, step_memory(*graph_, options_.step_tokens));
  PONDER_ASSIGN_OR_RETURN(arena_, Buffer::create(backend_->allocator(), memory.arena.total(),
                                                 "the work area of a step"));
  PONDER_ASSIGN_OR_RETURN(logits_, Buffer::create(model_->runtime()->allocator(),
                                                  memory.logits_bytes, "a step's logits"));
  reader_.emplace(
      backend_, graph_->vocabulary(),
      std::span(logits_.as<float>(), static_cast<size_t>(logits_.size()) / sizeof(float)));
  exec_ = Exec(backend_, arena_.as<std::byte>(), memory.arena, std::move(kv_layers), kv_layout_,
               shape);
  totals_.kv_bytes = layer_bytes * static_cast<uint64_t>(shape.layers);
  totals_.scratch_bytes = arena_.size() + logits_.size();
  if (graph_->has_draft_layer()) {
    draft_layer_ = std::make_unique<DraftLayer>(graph_.get(), &*reader_);
  }
  return OkStatus();
}

// ---- timelines ----------------------------------------------------------------------------------

std::shared_ptr<Timeline> Engine::add_timeline() {
  auto owned = std::make_unique<Timeline>();
  {
    absl::MutexLock lock(&mu_);
    owned->table = BlockTable(&cache_);
    timelines_.push_back(owned.get());
  }
  return std::shared_ptr<Timeline>(owned.release(), [this](Timeline* timeline) {
    {
      absl::MutexLock lock(&mu_);
      timeline->table.clear();
      timelines_.erase(std::remove(timelines_.begin(), timelines_.end(), timeline),
                       timelines_.end());
    }
    delete timeline;
  });
}

std::shared_ptr<Timeline> Engine::fork_timeline(const Timeline& from) {
  std::shared_ptr<Timeline> timeline = add_timeline();
  absl::MutexLock lock(&mu_);
  timeline->tokens = from.tokens;
  timeline->table = from.table.fork();
  timeline->last_used = from.last_used;
  return timeline;
}

void Engine::submit(std::unique_ptr<Sequence> sequence, std::vector<int32_t> prompt) {
  absl::MutexLock lock(&mu_);
  Timeline& timeline = *sequence->timeline;
  newcomers_.push_back(std::move(sequence));  // first: the rest cannot fail
  const auto [old_end, new_end] = std::mismatch(timeline.tokens.begin(), timeline.tokens.end(),
                                                prompt.begin(), prompt.end());
  (void)old_end;
  // The last token is computed in any case: its logits are wanted.
  const auto common = std::min<int64_t>(new_end - prompt.begin(),
                                        static_cast<int64_t>(prompt.size()) - 1);
  timeline.table.truncate(static_cast<int32_t>(common));
  timeline.tokens = std::move(prompt);
  timeline.busy = true;
  ++active_;
}

ModelStats Engine::stats() const {
  absl::MutexLock lock(&mu_);
  ModelStats stats = totals_;
  stats.kv_bytes_used = static_cast<uint64_t>(cache_.used_pages()) * kv_layout_.page_bytes *
                        static_cast<uint64_t>(graph_->kv_shape().layers);
  if (weights_->expert_cache != nullptr) stats.experts = weights_->expert_cache->stats();
  stats.running = admitted_.load();
  stats.waiting = active_.load() - stats.running;
  if (prefill_s_ > 0) {
    stats.prefill_tokens_per_s = static_cast<float>(static_cast<double>(prefill_rows_) / prefill_s_);
  }
  if (decode_s_ > 0) {
    stats.decode_tokens_per_s = static_cast<float>(static_cast<double>(decode_rows_) / decode_s_);
  }
  return stats;
}

// ---- the driver -----------------------------------------------------------------------------------

Engine::Progress Engine::run_slice() {
  culprit_ = nullptr;
  slice_began_ = absl::Now();
  Progress progress = Progress::kWorked;
  try {
    progress = run_slice_or_throw();
  } catch (const std::bad_alloc&) {
    if (culprit_ != nullptr) {
      step_.reset();
      fail(culprit_, no_memory_);
    } else {
      abandon(no_memory_);
    }
  } catch (...) {  // nothing of ours throws anything else; a host's callback must not, but might
    abandon(absl::InternalError("an unexpected exception stopped the step"));
  }
  busy_s_ += absl::ToDoubleSeconds(absl::Now() - slice_began_);
  if (progress == Progress::kIdle) {
    taken_busy_s_ = busy_s_;
    round_began_ = absl::InfinitePast();
  }
  return progress;
}

double Engine::take_busy() {
  const double now = busy_s_ + absl::ToDoubleSeconds(absl::Now() - slice_began_);
  return now - std::exchange(taken_busy_s_, now);
}

Engine::Progress Engine::run_slice_or_throw() {
  // Asked between any two slices of another model, so this comes before all else.
  if (active_.load() == 0 && running_.empty() && waiting_.empty() && !step_) return Progress::kIdle;
  {
    absl::MutexLock lock(&mu_);
    waiting_.reserve(waiting_.size() + newcomers_.size());
    for (std::unique_ptr<Sequence>& s : newcomers_) waiting_.push_back(std::move(s));
    newcomers_.clear();
  }
  reap();
  if (!step_) {
    const bool waits = wait_for_drafts();
    if (waits || !plan()) {
      if (running_.empty() && waiting_.empty()) return Progress::kIdle;
      return waits ? Progress::kWaiting : Progress::kWorked;
    }
  }
  Step& step = *step_;
  const int layers = graph_->layers();
  const absl::Time start = absl::Now();
  if (step.next_slice == 0) {
    exec_.begin_step(step.batch);
    exec_.start_slice(0);
    step.h = graph_->begin(exec_, step.batch);
    ++step.next_slice;
  } else if (step.next_slice <= layers) {
    exec_.start_slice(step.next_slice);
    step.h = graph_->layer(exec_, step.batch, step.next_slice - 1, step.h);
    ++step.next_slice;
    const auto rows = static_cast<double>(step.tokens.size());
    const double us = absl::ToDoubleMicroseconds(absl::Now() - start) / rows;
    if (rows >= kMinRows) us_per_row_ = us_per_row_ == 0 ? us : 0.8 * us_per_row_ + 0.2 * us;
  } else if (step.next_logits < step.logit_rows.size()) {
    run_logits();
  } else {
    run_draft_layer();
  }
  exec_.end_slice();
  if (!step_) return Progress::kWorked;  // the logits were damaged: all done
  if (step.drafting) {
    if (draft_layer_failed_ || draft_layer_->done()) commit();
  } else if (!exec_.status().ok()) {
    abandon(exec_.status());
  } else if (step.next_slice > layers && step.next_logits == step.logit_rows.size()) {
    // What the draft layer makes of the tokens that were chosen is the last part of the step.
    if (draft_layer_ == nullptr || draft_layer_failed_) {
      commit();
    } else {
      draft_layer_->begin(pairs_of(step), step.h);
      step.drafting = true;
      if (draft_layer_->done()) commit();
    }
  }
  return Progress::kWorked;
}

int64_t Engine::row_budget() const {
  const int64_t rows = options_.step_tokens;
  if (slice_budget_us_ == 0) return rows;
  if (us_per_row_ == 0) return std::min(rows, kMinRows);  // nothing is known yet: start small
  const double fit = static_cast<double>(slice_budget_us_) / us_per_row_;
  return fit >= static_cast<double>(rows) ? rows
                                          : std::min(rows, std::max(kMinRows, static_cast<int64_t>(fit)));
}

void Engine::admit() {
  while (!waiting_.empty() && running_.size() < static_cast<size_t>(options_.max_batch)) {
    Sequence& sequence = *waiting_.front();
    culprit_ = &sequence;
    Timeline& timeline = *sequence.timeline;
    // One that would only push others out again waits, in turn, until there is room for its text.
    const int64_t wanted = static_cast<int64_t>(timeline.tokens.size()) / cache_.block_size() + 1;
    if (!running_.empty() && longest_idle() == nullptr && wanted > cache_.free_pages()) break;
    if (sequence.score == nullptr) {
      const std::span<const int32_t> reusable(timeline.tokens.data(), timeline.tokens.size() - 1);
      // Other timelines may have computed more of this text than this one holds.
      if (cache_.cached_prefix(reusable) > timeline.table.size()) timeline.table.clear();
      if (timeline.table.size() == 0) timeline.table.adopt_prefix(reusable);
    }
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
    set_admitted(&sequence, true);
    if (sequence.started || sequence.drafts != nullptr) continue;
    sequence.started = true;
    sequence.stats.prompt_tokens = sequence.prompt_tokens;
    sequence.stats.cached_tokens = static_cast<uint64_t>(sequence.computed());
    totals_.prompt_tokens += sequence.stats.prompt_tokens;
    totals_.cached_tokens += sequence.stats.cached_tokens;
    sequence.state->update(sequence.stats);
    if (sequence.score != nullptr) continue;
    Event event;
    event.kind = EventKind::kStarted;
    event.prompt_tokens = sequence.prompt_tokens;
    event.cached_tokens = event.done_tokens = static_cast<uint32_t>(sequence.computed());
    sequence.state->publish(std::move(event));
  }
  culprit_ = nullptr;
}

Status Engine::copy_page(const PageCopy& copy) {
  const auto layers = static_cast<int>(graph_->kv_shape().layers);
  for (int layer = 0; layer < layers; ++layer) {
    PONDER_RETURN_IF_ERROR(backend_->copy_page(exec_.kv(layer), copy.from, copy.to));
  }
  return OkStatus();
}

bool Engine::make_room(Sequence* sequence, int32_t rows) {
  while (true) {
    const BlockTable::Room room = sequence->timeline->table.reserve(rows);
    if (room.missing_pages == 0) {
      const Status copied = room.copy.needed() ? copy_page(room.copy) : OkStatus();
      if (!copied.ok()) fail(sequence, copied);
      return copied.ok();
    }
    if (sequence->drafts != nullptr) {  // takes nothing from anybody
      set_ended(sequence);
      return false;
    }
    if (Timeline* const idle = longest_idle()) {
      idle->table.clear();  // its tokens stay, and are computed again when it speaks next
      continue;
    }
    // Pages of younger sequences, youngest first: they wait and are computed again later.
    bool preempted = false, older_holds_pages = false;
    for (size_t i = running_.size(); i-- > 0;) {
      Sequence& other = *running_[i];
      if (&other == sequence) {
        for (size_t j = 0; j < i; ++j) {
          older_holds_pages |= !running_[j]->timeline->table.pages().empty();
        }
        break;
      }
      if (other.ended || other.timeline->table.pages().empty()) continue;
      other.timeline->table.clear();
      set_admitted(&other, false);
      ++other.stats.preemptions;
      ++totals_.preemptions;
      waiting_.insert(waiting_.begin(), std::move(running_[i]));
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
      preempted = true;
      break;
    }
    if (preempted) continue;
    if (older_holds_pages) return false;  // wait until it has finished
    fail(sequence, context_full_error(
                       "the KV cache of ",
                       static_cast<int64_t>(cache_.total_pages()) * cache_.block_size(),
                       " tokens is full; load the model with a larger KV cache"));
    return false;
  }
}

int32_t Engine::room_for_drafts(Sequence* sequence, int32_t rows, int32_t wanted) {
  BlockTable& table = sequence->timeline->table;
  const int64_t unused = cache_.free_pages() - cache_.cached_pages();
  const int64_t fit = table.capacity() + unused * cache_.block_size() - table.size() - rows;
  const auto n = static_cast<int32_t>(std::clamp<int64_t>(fit, 0, wanted));
  // The page under the next token is this table's own already: there is nothing to copy.
  return n > 0 && table.reserve(rows + n).missing_pages == 0 ? n : 0;
}

Timeline* Engine::longest_idle() {
  Timeline* idle = nullptr;
  for (Timeline* t : timelines_) {
    if (t->busy.load() || t->table.pages().empty()) continue;
    if (idle == nullptr || t->last_used < idle->last_used) idle = t;
  }
  return idle;
}

bool Engine::plan() {
  Step step;
  {
    absl::MutexLock lock(&mu_);
    admit();
    drop_drafts_without_room();
    ++steps_;
    std::vector<int64_t> pending;
    for (const auto& s : running_) {
      pending.push_back(s->ended || s->speculating.waits ? 0 : s->pending());
    }
    int64_t budget = row_budget();
    // Of the rows that are left after one for each text that is being generated, drafts get half
    // at the most while a prompt waits for them.
    const int64_t spare = budget - std::count(pending.begin(), pending.end(), 1);
    const bool prefills =
        std::any_of(pending.begin(), pending.end(), [](int64_t n) { return n > 1; });
    const std::vector<int32_t> drafts = drafts_.choose(running_, prefills ? spare / 2 : spare);
    for (int32_t n : drafts) budget -= n;
    const std::vector<int32_t> rows = plan_rows(pending, budget);
    // First everybody's own rows, which may take pages from the idle and the younger.
    std::vector<Sequence*> chosen;
    for (const auto& s : running_) chosen.push_back(s.get());
    for (size_t i = 0; i < chosen.size(); ++i) {
      // An earlier one of this loop may have taken this one's pages and sent it back to wait.
      const bool still_running =
          std::any_of(running_.begin(), running_.end(),
                      [s = chosen[i]](const auto& r) { return r.get() == s; });
      culprit_ = chosen[i];
      if (rows[i] == 0 || !still_running || !make_room(chosen[i], rows[i])) chosen[i] = nullptr;
    }
    const std::vector<int32_t> wanted = want_drafts(chosen, rows);
    for (size_t i = 0; i < chosen.size(); ++i) {
      Sequence* const s = chosen[i];
      if (s == nullptr) continue;
      culprit_ = s;
      Item item;
      if (drafts[i] > 0) {
        const auto& draft = s->speculating.draft;
        item.draft.assign(draft.begin(), draft.begin() + room_for_drafts(s, rows[i], drafts[i]));
      }
      item.sequence = s;
      item.first_row = static_cast<int32_t>(step.tokens.size());
      item.rows = rows[i] + static_cast<int32_t>(item.draft.size());
      if (wanted[i] > 0) {
        // The first comes with the last row's pair, which has its room.
        item.wanted = 1 + room_for_drafts(s, item.rows, wanted[i] - 1);
      }
      item.first_position = static_cast<int32_t>(s->computed());
      const auto pages = s->timeline->table.pages();
      item.pages.assign(pages.begin(), pages.end());
      item.wants_logits = s->score != nullptr || rows[i] == s->pending();
      if (s->drafts != nullptr && s->drafts->wanted == 0) item.wants_logits = false;
      const std::vector<int32_t>& text = s->timeline->tokens;
      if (item.wants_logits && s->gate.has_value()) item.choices.reserve(item.draft.size() + 1);
      if (!item.draft.empty() && s->sampler->params().has_penalties()) {
        item.text.reserve(text.size() + item.draft.size());
        item.text = text;
        item.text.insert(item.text.end(), item.draft.begin(), item.draft.end());
      }
      for (int32_t r = 0; r < item.rows; ++r) {
        step.tokens.push_back(r < rows[i] ? text[static_cast<size_t>(item.first_position + r)]
                                          : item.draft[static_cast<size_t>(r - rows[i])]);
        step.positions.push_back(item.first_position + r);
        if (s->score != nullptr || (item.wants_logits && r >= rows[i] - 1)) {
          step.logit_rows.push_back(item.first_row + r);
          step.logit_items.push_back(static_cast<int32_t>(step.items.size()));
        }
      }
      s->timeline->last_used = steps_;
      step.items.push_back(std::move(item));
    }
    culprit_ = nullptr;
  }
  if (step.items.empty()) {
    reap();
    return false;
  }
  step.started = absl::Now();
  step_.emplace(std::move(step));
  // The vectors have come to rest: now views of them can be taken.
  for (const Item& item : step_->items) {
    step_->slices.push_back({item.first_row, item.rows, item.first_position, item.pages});
  }
  step_->batch = {step_->tokens, step_->positions, step_->slices, step_->logit_rows};
  tell();
  return true;
}

void Engine::run_logits() {
  Step& step = *step_;
  const size_t n = std::min<size_t>(kLogitRows, step.logit_rows.size() - step.next_logits);
  Batch batch = step.batch;
  batch.logit_rows = std::span<const int32_t>(step.logit_rows).subspan(step.next_logits, n);
  const std::span<const int32_t> owners =
      std::span<const int32_t>(step.logit_items).subspan(step.next_logits, n);
  const auto item_of = [&](size_t i) -> Item& {
    return step.items[static_cast<size_t>(owners[i])];
  };
  // Always the half of the arena that h is not in.
  exec_.start_slice(graph_->layers() + 1);
  const Tensor logits = graph_->end(exec_, batch, step.h);
  if (!exec_.status().ok()) return;
  std::vector<RowNeeds> needs;
  for (size_t i = 0; i < n; ++i) needs.push_back(row_needs(item_of(i), batch.logit_rows[i]));
  const Status read = reader_->read(logits, needs);
  if (!read.ok()) {
    abandon(read);
    return;
  }
  // A sequence's rows one after the other, for what the drafted tokens prove to be decides over the
  // next; those that are scored, and different sequences, at the same time.
  struct Reading {
    size_t next, end;
    Item* item;
    Status status;
  };
  std::vector<Reading> readings;
  for (size_t i = 0; i < n; ++i) {
    if (i > 0 && item_of(i).sequence->score == nullptr && owners[i] == owners[i - 1]) {
      readings.back().end = i + 1;
    } else {
      readings.push_back({i, i + 1, &item_of(i), {}});
    }
  }
  while (!readings.empty()) {
    model_->runtime()->pool()->parallel_for(
        static_cast<uint32_t>(readings.size()), [&](uint32_t r) {
          Reading& reading = readings[r];
          try {
            for (bool told = true; told && reading.next < reading.end; reading.next += told) {
              const StatusOr<bool> result = read_row(*reading.item, batch.logit_rows[reading.next],
                                                     reader_->row(reading.next));
              reading.status = result.status();
              if (!result.ok()) break;
              told = *result;
              if (told || reader_->row(reading.next).reduced()) continue;
              reading.status = internal_error("a whole row of logits does not decide over a token");
              break;
            }
          } catch (const std::bad_alloc&) {
            reading.status = no_memory_;
          }
        });
    for (Reading& reading : readings) {
      if (!reading.status.ok()) {
        if (!reading.item->sequence->ended) fail(reading.item->sequence, reading.status);
        reading.next = reading.end;
      } else if (reading.next < reading.end) {
        const Status fetched = reader_->fetch(reading.next);
        if (!fetched.ok()) {
          abandon(fetched);
          return;
        }
      }
    }
    std::erase_if(readings, [](const Reading& reading) { return reading.next == reading.end; });
  }
  step.next_logits += n;
}

RowNeeds Engine::row_needs(const Item& item, int32_t row) const {
  const Sequence& s = *item.sequence;
  RowNeeds needs;
  if (s.score != nullptr) {
    needs.whole = s.score->top_n >= RowReader::kLargest;
    needs.add_sum(1.0f);
    needs.also.push_back(std::max(scored_token(item, row), 0));
  } else if (s.drafts == nullptr) {
    needs = s.sampler->needs(RowReader::kLargest);
    s.gate->add_needs(&needs);
  }
  return needs;
}

StatusOr<bool> Engine::read_row(Item& item, int32_t row, const LogitRow& logits) {
  if (item.sequence->ended || item.settled) return true;
  if (item.sequence->score != nullptr) return score_row(item, row, logits);
  if (item.sequence->drafts != nullptr) {
    PONDER_ASSIGN_OR_RETURN(item.likeliest, likeliest(logits));
    return item.likeliest >= 0;
  }
  const StatusOr<bool> chosen = choose(item, logits);
  if (chosen.ok() || item.choices.empty()) return chosen;
  // After tokens that are good. They are told first, as they would be without a draft; the next step
  // comes to this row again.
  item.settled = true;
  return true;
}

int32_t Engine::scored_token(const Item& item, int32_t row) const {
  const std::vector<int32_t>& tokens = item.sequence->timeline->tokens;  // not changed while we run
  const auto next = static_cast<size_t>(item.first_position + row - item.first_row) + 1;
  return next < tokens.size() ? tokens[next] : -1;
}

StatusOr<bool> Engine::score_row(const Item& item, int32_t row, const LogitRow& logits) {
  Sequence& s = *item.sequence;
  const auto position = static_cast<size_t>(item.first_position + row - item.first_row);
  const int32_t next = scored_token(item, row);
  PONDER_ASSIGN_OR_RETURN(RowLogprobs r, log_softmax_at(logits, std::max(next, 0), s.score->top_n));
  if (!r.known) return false;
  if (next >= 0) s.score->logprobs[position] = r.logprob;
  for (size_t i = 0; i < r.top.size(); ++i) {
    s.score->top_tokens[position * s.score->top_n + i] = r.top[i].id;
    s.score->top_logprobs[position * s.score->top_n + i] = r.top[i].logprob;
  }
  return true;
}

// The token after the text and those drafted tokens that proved right, exactly as it would be chosen
// had they been generated one by one: with its own place's random number, by a copy of the gate that
// has accepted them. A drafted token is right if it is the one chosen in its place.
StatusOr<bool> Engine::choose(Item& item, const LogitRow& logits) {
  Sequence& s = *item.sequence;
  const std::vector<int32_t>& tokens = s.timeline->tokens;
  const size_t right = item.choices.size();  // so many drafted tokens are
  Choice choice{{}, *s.gate, -1};
  if (right > 0) {
    choice.gate = item.choices.back().gate;
    choice.gate.accept(item.choices.back().token.id);
  }
  const Constraint constraint = choice.gate.next(logits, s.state->close_thought.load());
  if (constraint.unknown) return false;
  SampleInput input;
  input.logits = logits;
  input.position = tokens.size() + right;
  input.history = tokens;
  if (!item.text.empty()) input.history = std::span(item.text).first(tokens.size() + right);
  std::vector<int32_t> forbidden;
  if (!constraint.forbidden.empty() || !constraint.marker.empty()) {
    forbidden.assign(constraint.forbidden.begin(), constraint.forbidden.end());
    forbidden.insert(forbidden.end(), constraint.marker.begin(), constraint.marker.end());
  }
  input.forbidden = forbidden;
  if (constraint.force >= 0) {
    PONDER_ASSIGN_OR_RETURN(choice.token, s.sampler->forced(input, constraint.force));
  } else {
    PONDER_ASSIGN_OR_RETURN(choice.token, s.sampler->sample(input));
  }
  if (choice.token.id < 0) return false;
  ReasoningGate after = choice.gate;
  const Accepted accepted = after.accept(choice.token.id);
  choice.said = accepted.token;
  item.settled = accepted.end_of_text || right == item.draft.size() ||
                 accepted.token != item.draft[right];
  item.choices.push_back(std::move(choice));
  return true;
}

void Engine::commit() {
  Step& step = *step_;
  const absl::Time now = absl::Now();
  const double seconds = absl::ToDoubleSeconds(now - step.started);
  const double busy = take_busy();
  size_t decoding = 0, decoded = 0;
  {
    absl::MutexLock lock(&mu_);
    for (Item& item : step.items) {
      Sequence& s = *item.sequence;
      if (s.ended) continue;
      culprit_ = &s;
      ++s.stats.steps;
      const bool decodes = s.drafts != nullptr
                               ? item.likeliest >= 0 && item.rows <= kMaxDraft + 1
                               : item.rows - std::ssize(item.draft) == 1 && s.stats.steps > 1;
      if (decodes) ++decoding;
      if (s.drafts != nullptr) {
        if (decodes) ++decoded;
        take_draft(item);
        culprit_ = nullptr;
        continue;
      }
      const size_t given = take_choices(item);
      if (decodes) decoded += given;
      if (s.ended) continue;
      if (s.score != nullptr) {
        if (s.pending() == 0) finish(&s, Finish::kStop);
      } else if (s.pending() > 1) {
        Event event;
        event.kind = EventKind::kPrefill;
        event.prompt_tokens = s.prompt_tokens;
        event.cached_tokens = static_cast<uint32_t>(s.stats.cached_tokens);
        event.done_tokens = std::min(s.prompt_tokens, static_cast<uint32_t>(s.computed()));
        s.state->publish(std::move(event));
      }
      culprit_ = nullptr;
    }
    ++totals_.steps;
    if (decoding == step.items.size()) {
      decode_s_ += seconds;
      decode_rows_ += decoded;
      const double drafting = step.drafting ? draft_layer_->seconds() : 0;
      drafts_.record_step(static_cast<int32_t>(step.tokens.size()), busy - drafting);
      if (round_began_ != absl::InfinitePast()) {
        drafts_.record_round(static_cast<int32_t>(decoding), decoded,
                             absl::ToDoubleSeconds(now - round_began_));
      }
    } else if (decoding == 0) {
      prefill_s_ += seconds;
      prefill_rows_ += step.tokens.size();
    }
    drafts_.skip_round();
    round_began_ = decoding == step.items.size() ? now : absl::InfinitePast();
    measure_drafts(step, busy);
  }
  step_.reset();
  reap();
}

size_t Engine::take_choices(Item& item) {
  Sequence& s = *item.sequence;
  BlockTable& table = s.timeline->table;
  // Only what proved right becomes part of the timeline; the next rows are written over the rest.
  table.advance(item.rows - static_cast<int32_t>(item.draft.size()));
  s.stats.drafted_tokens += item.draft.size();
  totals_.drafted_tokens += item.draft.size();
  const size_t before = s.timeline->tokens.size();
  size_t taken = 0;
  for (const Choice& choice : item.choices) {
    if (taken > 0) {
      table.advance(1);
      ++s.stats.accepted_tokens;
      ++totals_.accepted_tokens;
    }
    ++taken;
    s.gate = choice.gate;
    take_token(s, choice.token);
    if (s.ended) break;
  }
  table.publish(s.timeline->tokens);
  // Gives back the room of what was rejected, and of the draft pass.
  if (!item.draft.empty() || item.wanted > 1) table.truncate(table.size());
  if (taken > 0) drafts_.learn(s, before);
  return taken;
}

void Engine::take_token(Sequence& s, const SampledToken& sampled) {
  const absl::Time now = absl::Now();
  if (s.timeline->tokens.size() == s.prompt_tokens) {
    s.first_token = now;
    s.stats.prefill_us = static_cast<uint64_t>(absl::ToInt64Microseconds(now - s.submitted));
  } else {
    s.stats.decode_us = static_cast<uint64_t>(absl::ToInt64Microseconds(now - s.first_token));
    ++s.stats.decode_tokens;
  }
  const Accepted accepted = s.gate->accept(sampled.id);
  s.timeline->tokens.push_back(accepted.token);
  const uint64_t thoughts_before = s.stats.thought_tokens, answers_before = s.stats.answer_tokens;
  s.stats.thought_tokens = s.gate->thought_tokens();
  s.stats.answer_tokens = s.gate->answer_tokens();
  totals_.thought_tokens += s.stats.thought_tokens - thoughts_before;
  totals_.answer_tokens += s.stats.answer_tokens - answers_before;
  SampledToken told_token = sampled;  // where the gate put a close marker, with its place's logprobs
  told_token.id = accepted.token;
  s.writer->queue(told_token);
  s.state->update(s.stats);
  if (s.writer->resolve(accepted, s.stats)) {
    finish(&s, Finish::kStop);  // a stop string
  } else if (accepted.end_of_text) {
    finish(&s, Finish::kStop);
  } else if (s.timeline->tokens.size() >= s.limit) {
    finish(&s, Finish::kLength);
  }
}

void Engine::set_admitted(Sequence* s, bool admitted) {
  if (s->admitted == admitted) return;
  s->admitted = admitted;
  admitted ? ++admitted_ : --admitted_;
}

// The session is free before its host hears of the end: it may submit again at once.
void Engine::set_ended(Sequence* s) {
  set_admitted(s, false);
  --active_;
  s->timeline->busy = false;
  s->ended = true;
  if (s->drafts != nullptr && s->drafts->state == DraftSink::State::kUnderWay) {
    s->drafts->state = DraftSink::State::kFailed;
  }
}

void Engine::finish(Sequence* s, Finish reason) {
  if (s->ended) return;
  if (s->drafts != nullptr) return set_ended(s);  // nobody listens
  Event event;
  if (s->writer) {
    const Accepted rest = s->gate->finish();
    s->stats.thought_tokens = s->gate->thought_tokens();
    s->stats.answer_tokens = s->gate->answer_tokens();
    s->writer->resolve(rest, s->stats);
    s->writer->flush(s->stats);
    if (reason == Finish::kStop && s->writer->called_tools()) reason = Finish::kTool;
    const auto& tokens = s->timeline->tokens;
    if (tokens.size() > s->prompt_tokens) event.tokens.assign(tokens.begin() + s->prompt_tokens, tokens.end());
  }
  event.kind = EventKind::kFinished;
  event.finish = reason;
  event.prompt_tokens = s->prompt_tokens;
  event.done_tokens = std::min(s->prompt_tokens, static_cast<uint32_t>(s->computed()));
  event.cached_tokens = static_cast<uint32_t>(s->stats.cached_tokens);
  event.thought_tokens = static_cast<uint32_t>(s->stats.thought_tokens);
  event.answer_tokens = static_cast<uint32_t>(s->stats.answer_tokens);
  s->state->update(s->stats);
  set_ended(s);
  try {
    s->state->publish(std::move(event));
  } catch (const std::bad_alloc&) {
    s->state->fail(no_memory_);  // the end must be told, and this takes no memory
  }
}

void Engine::fail(Sequence* s, const Status& status) {
  if (s->ended) return;
  set_ended(s);
  s->state->fail(status);
}

void Engine::abandon(const Status& failure) {
  take_busy();  // no measure of anything
  round_began_ = absl::InfinitePast();
  drafts_.skip_round();
  if (step_) {
    for (Item& item : step_->items) fail(item.sequence, failure);
  } else {
    for (const auto& s : running_) fail(s.get(), failure);
    // Somebody has to, or the same would be tried for ever.
    if (running_.empty()) fail_waiting(failure);
  }
  step_.reset();
  reap();
}

// Newcomers stay where they are, since taking them in needs memory; they leave with the next ones.
void Engine::fail_waiting(const Status& failure) {
  for (const auto& s : waiting_) fail(s.get(), failure);
  bool news = false;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& s : newcomers_) {
      fail(s.get(), failure);
      news |= s->state->wake();
    }
  }
  if (news) model_->runtime()->wake_host();
}

void Engine::reap() {
  {
    absl::MutexLock lock(&mu_);
    for (auto* queue : {&waiting_, &running_}) {
      for (const auto& s : *queue) {
        if (s->ended || !s->state->cancelled.load()) continue;
        culprit_ = s.get();
        finish(s.get(), Finish::kCancelled);
        culprit_ = nullptr;
      }
    }
  }
  if (step_ && std::all_of(step_->items.begin(), step_->items.end(),
                           [](const Item& item) { return item.sequence->ended; })) {
    step_.reset();
  }
  tell();
  if (step_) return;
  // Ended sequences leave between steps: a running step still refers to them.
  for (auto* queue : {&waiting_, &running_}) {
    queue->erase(
        std::remove_if(queue->begin(), queue->end(), [](const auto& s) { return s->ended; }),
        queue->end());
  }
}

void Engine::tell() {
  bool news = false;
  for (auto* queue : {&waiting_, &running_}) {
    for (const auto& s : *queue) news |= s->state->wake();
  }
  if (news) model_->runtime()->wake_host();
}

}  // namespace ponder::engine
