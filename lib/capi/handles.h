// What the handles of ponder.h are. Each holds one reference to an engine object, and engine
// objects keep what they need alive, so handles may go in any order. Made and destroyed in the .cc
// of their noun. Threads as ponder.h says for each function.
#pragma once

#include <ponder/ponder.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "lib/capi/guard.h"
#include "lib/engine/generation.h"
#include "lib/engine/model.h"
#include "lib/engine/request.h"
#include "lib/engine/runtime.h"
#include "lib/engine/session.h"
#include "lib/text/chat.h"

struct ponder_runtime_options {
  ponder::engine::RuntimeOptions options;
};

struct ponder_runtime {
  std::atomic<uint32_t> references{1};
  std::shared_ptr<ponder::engine::Runtime> runtime;
};

struct ponder_model_options {
  ponder::engine::ModelOptions options;
};

struct ponder_model {
  std::atomic<uint32_t> references{1};
  std::shared_ptr<ponder::engine::Model> model;
};

struct ponder_chat {
  ponder::Chat chat;
};

struct ponder_request {
  ponder::engine::Request request;
};

struct ponder_session {
  std::shared_ptr<ponder::engine::Session> session;
};

struct ponder_generation {
  std::shared_ptr<ponder::engine::Generation> generation;
  ponder::engine::Event event;  // what the last ponder_event points into
  // FINISHED has been handed out. Atomic, for a wait from a waker (refused, but not undefined) may
  // meet a next of the handle's own thread.
  std::atomic<bool> finished = false;
  void* user_data = nullptr;
};

namespace ponder::capi {

// PONDER_TOKENIZE_*, combined.
inline bool tokenize_flags_known(int32_t flags) {
  return (flags & ~(PONDER_TOKENIZE_SPECIAL | PONDER_TOKENIZE_ADD_SPECIAL)) == 0;
}
inline EncodeOptions encode_options(int32_t flags) {
  EncodeOptions options;
  options.parse_special = (flags & PONDER_TOKENIZE_SPECIAL) != 0;
  options.add_special = (flags & PONDER_TOKENIZE_ADD_SPECIAL) != 0;
  return options;
}

// Counted handles: one more reference, and one less.
template <typename Handle>
Handle* retain(Handle* handle) {
  if (handle != nullptr) handle->references.fetch_add(1, std::memory_order_relaxed);
  return handle;
}
template <typename Handle>
void release(Handle* handle) {
  if (handle != nullptr && handle->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    guarded_quietly([&] { delete handle; });
  }
}

}  // namespace ponder::capi
