#include "api.h"

namespace ponder::tool {
namespace {

// For the calls that fill a buffer of the caller's: once for the size, once for the contents.
template <typename Buffer, typename Call>
Buffer filled(Call call, std::string_view what) {
  Buffer buffer;
  for (;;) {
    size_t size = buffer.size();
    ponder_error* error = nullptr;
    const ponder_status status = call(buffer.data(), &size, &error);
    const bool too_small = status == PONDER_ERR_BUFFER_TOO_SMALL;
    if (too_small) {
      ponder_error_destroy(error);
    } else {
      check(status, error, what);
    }
    buffer.resize(size);
    if (!too_small) return buffer;
  }
}

}  // namespace

void check(ponder_status status, std::string_view what) { check(status, nullptr, what); }

void check(ponder_status status, ponder_error* error, std::string_view what) {
  const ErrorPtr owned(error);
  if (status >= 0) return;
  ponder_str message{};
  ponder_error_get(error, nullptr, &message);
  if (message.size != 0) throw Failure(std::string(view(message)));
  throw Failure(std::string(what) + ": " + ponder_status_name(status));
}

ChatPtr new_chat() {
  ponder_chat* chat = nullptr;
  check(ponder_chat_create(&chat), "making a chat");
  return ChatPtr(chat);
}

RequestPtr new_request() {
  ponder_request* request = nullptr;
  check(ponder_request_create(&request), "making a request");
  return RequestPtr(request);
}

SessionPtr new_session(ponder_model* model) {
  ponder_session* session = nullptr;
  ponder_error* error = nullptr;
  check(ponder_session_create(model, &session, &error), error, "opening a session");
  return SessionPtr(session);
}

GenerationPtr submit(ponder_session* session, const ponder_request* request) {
  ponder_generation* generation = nullptr;
  ponder_error* error = nullptr;
  check(ponder_session_submit(session, request, &generation, &error), error, "starting a request");
  return GenerationPtr(generation);
}

ponder_model_info info_of(const ponder_model* model) {
  ponder_model_info info{};
  check(ponder_model_get_info(model, &info, sizeof info), "asking for the model's description");
  return info;
}

std::vector<ponder_token> tokenize(const ponder_model* model, std::string_view text, int32_t flags) {
  return filled<std::vector<ponder_token>>(
      [&](ponder_token* tokens, size_t* count, ponder_error**) {
        return ponder_model_tokenize(model, text.data() == nullptr ? "" : text.data(), text.size(),
                                     flags, tokens, count);
      },
      "tokenizing a text (is it UTF-8?)");
}

std::string detokenize(const ponder_model* model, std::span<const ponder_token> tokens) {
  const ponder_token none = 0;  // no tokens at all are still not NULL
  return filled<std::string>(
      [&](char* text, size_t* size, ponder_error**) {
        return ponder_model_detokenize(model, tokens.empty() ? &none : tokens.data(), tokens.size(),
                                       text, size);
      },
      "turning tokens into text (are they all in the model's vocabulary?)");
}

std::string render(const ponder_chat* chat, const ponder_model* model) {
  return filled<std::string>(
      [&](char* text, size_t* size, ponder_error** error) {
        return ponder_chat_render(chat, model, text, size, error);
      },
      "rendering the chat");
}

}  // namespace ponder::tool
