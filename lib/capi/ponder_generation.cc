// Generations: events out, signals in.

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"

namespace capi = ponder::capi;
namespace engine = ponder::engine;

namespace {

// A view of the event that the handle keeps.
ponder_event view(const engine::Event& event) {
  ponder_event told = {};
  told.kind = static_cast<int32_t>(event.kind);
  told.finish = static_cast<int32_t>(event.finish);
  told.text = capi::borrow(event.text);
  told.name = capi::borrow(event.name);
  told.id = capi::borrow(event.id);
  const auto start_of = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
  told.tokens = start_of(event.tokens);
  told.logprobs = start_of(event.logprobs);
  told.top_tokens = start_of(event.top_tokens);
  told.top_logprobs = start_of(event.top_logprobs);
  told.token_count = static_cast<uint32_t>(event.tokens.size());
  told.top_count = event.top_count;
  told.prompt_tokens = event.prompt_tokens;
  told.cached_tokens = event.cached_tokens;
  told.done_tokens = event.done_tokens;
  told.thought_tokens = event.thought_tokens;
  told.answer_tokens = event.answer_tokens;
  return told;
}

}  // namespace

ponder_status ponder_generation_next(ponder_generation* g, ponder_event* ev, size_t ev_size,
                                     ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::StatusOr<ponder_status> {
    if (g == nullptr) return ponder::invalid_argument_error("the generation is NULL");
    // First, so that an unusable struct costs no event; also the zeroes promised for all but OK.
    PONDER_RETURN_IF_ERROR(capi::copy_out(ponder_event{}, ev, ev_size));
    ponder::Status failure;
    switch (g->generation->next(&g->event, &failure)) {
      case engine::GenerationState::Next::kEvent:
        g->finished = g->event.kind == engine::EventKind::kFinished;
        PONDER_RETURN_IF_ERROR(capi::copy_out(view(g->event), ev, ev_size));
        return PONDER_OK;
      case engine::GenerationState::Next::kPending:
        return PONDER_PENDING;
      case engine::GenerationState::Next::kDone:
        return PONDER_DONE;
      case engine::GenerationState::Next::kFailed:
        return failure;
    }
    return ponder::internal_error("the engine gave an event state that does not exist");
  });
}

ponder_status ponder_generation_wait(ponder_generation* g, uint64_t timeout_us) {
  if (g == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::StatusOr<ponder_status> {
    if (g->finished) return PONDER_DONE;
    PONDER_ASSIGN_OR_RETURN(const bool news, g->generation->wait(timeout_us));
    return news ? PONDER_OK : PONDER_PENDING;
  });
}

void ponder_generation_cancel(ponder_generation* g) {
  if (g != nullptr) capi::guarded_quietly([&] { g->generation->cancel(); });
}

void ponder_generation_close_thought(ponder_generation* g) {
  if (g != nullptr) capi::guarded_quietly([&] { g->generation->close_thought(); });
}

void ponder_generation_set_waker(ponder_generation* g, ponder_wake_fn fn, void* user) {
  if (g != nullptr) capi::guarded_quietly([&] { g->generation->set_waker({fn, user}); });
}

void ponder_generation_set_user_data(ponder_generation* g, void* user) {
  if (g != nullptr) g->user_data = user;
}

void* ponder_generation_get_user_data(const ponder_generation* g) {
  return g != nullptr ? g->user_data : nullptr;
}

ponder_status ponder_generation_get_stats(const ponder_generation* g, ponder_stats* stats,
                                          size_t stats_size) {
  if (g == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    const engine::GenerationStats known = g->generation->stats();
    ponder_stats told = {};
    told.prompt_tokens = known.prompt_tokens;
    told.cached_tokens = known.cached_tokens;
    told.thought_tokens = known.thought_tokens;
    told.answer_tokens = known.answer_tokens;
    told.steps = known.steps;
    told.preemptions = known.preemptions;
    told.prefill_us = known.prefill_us;
    told.decode_us = known.decode_us;
    const auto rate = [](uint64_t tokens, uint64_t us) {
      return us != 0
                 ? static_cast<float>(static_cast<double>(tokens) * 1e6 / static_cast<double>(us))
                 : 0.0F;
    };
    told.prefill_tokens_per_s = rate(known.prompt_tokens - known.cached_tokens, known.prefill_us);
    told.drafted_tokens = known.drafted_tokens;
    told.accepted_tokens = known.accepted_tokens;
    told.decode_tokens_per_s = rate(known.decode_tokens, known.decode_us);
    return capi::copy_out(told, stats, stats_size);
  });
}

void ponder_generation_destroy(ponder_generation* g) {
  capi::guarded_quietly([&] {
    if (g == nullptr) return;
    g->generation->handle.store(nullptr);
    delete g;
  });
}
