// The C API with owners: a unique_ptr per handle, and failures as exceptions.
//
// Threads: as the functions of ponder.h underneath.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.h"
#include "ponder/ponder.h"

namespace ponder::tool {

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* handle) const {
    destroy(handle);
  }
};

using RuntimeOptionsPtr =
    std::unique_ptr<ponder_runtime_options, Destroy<ponder_runtime_options_destroy>>;
using RuntimePtr = std::unique_ptr<ponder_runtime, Destroy<ponder_runtime_release>>;
using ModelOptionsPtr = std::unique_ptr<ponder_model_options, Destroy<ponder_model_options_destroy>>;
using ModelPtr = std::unique_ptr<ponder_model, Destroy<ponder_model_release>>;
using ChatPtr = std::unique_ptr<ponder_chat, Destroy<ponder_chat_destroy>>;
using RequestPtr = std::unique_ptr<ponder_request, Destroy<ponder_request_destroy>>;
using SessionPtr = std::unique_ptr<ponder_session, Destroy<ponder_session_destroy>>;
using GenerationPtr = std::unique_ptr<ponder_generation, Destroy<ponder_generation_destroy>>;
using ErrorPtr = std::unique_ptr<ponder_error, Destroy<ponder_error_destroy>>;

inline std::string_view view(ponder_str s) {
  return s.size == 0 ? std::string_view() : std::string_view(s.data, s.size);
}

// Throws Failure when `status` is one. `what` says what was tried, for errors that bring no words.
void check(ponder_status status, std::string_view what);
// The same for calls with a trailing ponder_error**; takes the error over.
void check(ponder_status status, ponder_error* error, std::string_view what);

ChatPtr new_chat();
RequestPtr new_request();
SessionPtr new_session(ponder_model* model);
GenerationPtr submit(ponder_session* session, const ponder_request* request);

ponder_model_info info_of(const ponder_model* model);
std::vector<ponder_token> tokenize(const ponder_model* model, std::string_view text, int32_t flags);
std::string detokenize(const ponder_model* model, std::span<const ponder_token> tokens);
std::string render(const ponder_chat* chat, const ponder_model* model);

}  // namespace ponder::tool
