// Sessions: timelines of tokens, and the start of a generation.

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"

namespace capi = ponder::capi;
namespace engine = ponder::engine;

namespace {

// Inside a callback on the driver's thread an engine call could wait for itself.
ponder::Status not_inside_callback(const engine::Session& session) {
  if (session.model()->runtime()->on_driver_thread()) {
    return ponder::busy_error("called from inside a callback; note the event and act on it later");
  }
  return ponder::OkStatus();
}

}  // namespace

ponder_status ponder_session_create(ponder_model* m, ponder_session** out, ponder_error** err) {
  if (out != nullptr) *out = nullptr;
  return capi::guarded(err, [&]() -> ponder::Status {
    if (m == nullptr) return ponder::invalid_argument_error("the model is NULL");
    if (out == nullptr) return ponder::invalid_argument_error("out is NULL");
    auto handle = std::make_unique<ponder_session>();
    PONDER_ASSIGN_OR_RETURN(handle->session, engine::Session::create(m->model));
    *out = handle.release();
    return ponder::OkStatus();
  });
}

void ponder_session_destroy(ponder_session* s) {
  capi::guarded_quietly([&] {
    if (s == nullptr) return;
    // A generation keeps its session's inside alive, so the end of this handle is not the end of
    // it.
    s->session->cancel();
    delete s;
  });
}

ponder_status ponder_session_fork(ponder_session* s, ponder_session** out) {
  if (out != nullptr) *out = nullptr;
  if (s == nullptr || out == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(not_inside_callback(*s->session));
    auto handle = std::make_unique<ponder_session>();
    PONDER_ASSIGN_OR_RETURN(handle->session, s->session->fork());
    *out = handle.release();
    return ponder::OkStatus();
  });
}

uint32_t ponder_session_token_count(const ponder_session* s) {
  uint32_t count = 0;
  if (s != nullptr) capi::guarded_quietly([&] { count = s->session->token_count(); });
  return count;
}

ponder_status ponder_session_truncate(ponder_session* s, uint32_t token_count) {
  if (s == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(not_inside_callback(*s->session));
    return s->session->truncate(token_count);
  });
}

ponder_status ponder_session_submit(ponder_session* s, const ponder_request* r,
                                    ponder_generation** out, ponder_error** err) {
  if (out != nullptr) *out = nullptr;
  return capi::guarded(err, [&]() -> ponder::Status {
    if (s == nullptr) return ponder::invalid_argument_error("the session is NULL");
    if (r == nullptr) return ponder::invalid_argument_error("the request is NULL");
    if (out == nullptr) return ponder::invalid_argument_error("out is NULL");
    PONDER_RETURN_IF_ERROR(not_inside_callback(*s->session));
    auto handle = std::make_unique<ponder_generation>();
    PONDER_ASSIGN_OR_RETURN(handle->generation, s->session->submit(r->request));
    engine::Generation& generation = *handle->generation;
    *out = handle.release();
    // Only now can next_ready tell of it: news of before was announced too early.
    generation.handle.store(*out);
    s->session->model()->runtime()->wake_host();
    return ponder::OkStatus();
  });
}
