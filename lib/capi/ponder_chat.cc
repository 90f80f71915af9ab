// Chats: messages and tools, and what a model's template makes of them.
#include <algorithm>
#include <optional>

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"

namespace capi = ponder::capi;

namespace {

ponder::Status chat_argument(const ponder_chat* c) {
  if (c == nullptr) return ponder::invalid_argument_error("the chat is NULL");
  return ponder::OkStatus();
}

// A (data, size) pair by its name, for functions that report in words.
ponder::StatusOr<absl::string_view> text_of(const char* data, size_t size, absl::string_view what) {
  absl::string_view text;
  if (!capi::text_argument(data, size, &text)) {
    return ponder::invalid_argument_error(what, " is NULL, or its size is no size");
  }
  return text;
}

}  // namespace

ponder_status ponder_chat_create(ponder_chat** out) {
  if (out == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  *out = nullptr;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    *out = new ponder_chat();
    return PONDER_OK;
  });
}

void ponder_chat_destroy(ponder_chat* c) {
  capi::guarded_quietly([&] { delete c; });
}

// ---- messages ---------------------------------------------------------------------------------

ponder_status ponder_chat_add(ponder_chat* c, int32_t role, const char* text, size_t size) {
  absl::string_view view;
  if (c == nullptr || role < PONDER_ROLE_SYSTEM || role > PONDER_ROLE_TOOL ||
      !capi::text_argument(text, size, &view)) {
    return PONDER_ERR_INVALID_ARGUMENT;
  }
  return capi::guarded(nullptr, [&] { return c->chat.add(static_cast<ponder::Role>(role), view); });
}

ponder_status ponder_chat_add_assistant(ponder_chat* c, const char* thought, size_t thought_size,
                                        const char* answer, size_t answer_size,
                                        const char* tool_calls, size_t tool_calls_size,
                                        ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(chat_argument(c));
    if (thought == nullptr) thought_size = 0;
    if (tool_calls == nullptr) tool_calls_size = 0;
    PONDER_ASSIGN_OR_RETURN(const auto thought_text, text_of(thought, thought_size, "the thought"));
    PONDER_ASSIGN_OR_RETURN(const auto answer_text, text_of(answer, answer_size, "the answer"));
    PONDER_ASSIGN_OR_RETURN(const auto calls, text_of(tool_calls, tool_calls_size, "tool_calls"));
    return c->chat.add_assistant(thought_text, answer_text, calls);
  });
}

ponder_status ponder_chat_add_tool_result(ponder_chat* c, const char* call_id, const char* text,
                                          size_t size) {
  absl::string_view view;
  if (c == nullptr || !capi::text_argument(text, size, &view)) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(
      nullptr, [&] { return c->chat.add_tool_result(call_id != nullptr ? call_id : "", view); });
}

ponder_status ponder_chat_add_json(ponder_chat* c, const char* json, size_t size,
                                   ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(chat_argument(c));
    PONDER_ASSIGN_OR_RETURN(const auto text, text_of(json, size, "the JSON"));
    return c->chat.add_json(text);
  });
}

ponder_status ponder_chat_get_json(const ponder_chat* c, char* text, size_t* size) {
  if (c == nullptr || !capi::buffer_argument(text, size)) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    const std::string json = c->chat.to_json();
    return capi::copy_buffer(json.data(), json.size(), text, size);
  });
}

uint32_t ponder_chat_message_count(const ponder_chat* c) {
  return c != nullptr ? static_cast<uint32_t>(c->chat.size()) : 0;
}

ponder_status ponder_chat_truncate(ponder_chat* c, uint32_t count) {
  if (c == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    c->chat.truncate(std::min<size_t>(count, c->chat.size()));
    return PONDER_OK;
  });
}

// ---- what surrounds them ----------------------------------------------------------------------

ponder_status ponder_chat_set_tools(ponder_chat* c, const char* json, size_t size,
                                    ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(chat_argument(c));
    PONDER_ASSIGN_OR_RETURN(const auto text, text_of(json, json != nullptr ? size : 0, "the JSON"));
    return c->chat.set_tools(text);
  });
}

ponder_status ponder_chat_set_variable(ponder_chat* c, const char* name, const char* json,
                                       size_t size, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(chat_argument(c));
    if (name == nullptr || *name == '\0') {
      return ponder::invalid_argument_error("the variable has no name");
    }
    if (json == nullptr) return c->chat.set_variable(name, std::nullopt);
    PONDER_ASSIGN_OR_RETURN(const auto text, text_of(json, size, "the JSON"));
    return c->chat.set_variable(name, text);
  });
}

ponder_status ponder_chat_set_generation_prompt(ponder_chat* c, int32_t on) {
  if (c == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  c->chat.set_generation_prompt(on != 0);
  return PONDER_OK;
}

ponder_status ponder_chat_render(const ponder_chat* c, const ponder_model* m, char* text,
                                 size_t* size, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::StatusOr<ponder_status> {
    PONDER_RETURN_IF_ERROR(chat_argument(c));
    if (m == nullptr) return ponder::invalid_argument_error("the model is NULL");
    if (!capi::buffer_argument(text, size)) {
      return ponder::invalid_argument_error("the buffer or its size is NULL");
    }
    PONDER_ASSIGN_OR_RETURN(const std::string prompt, m->model->render(c->chat));
    return capi::copy_buffer(prompt.data(), prompt.size(), text, size);
  });
}
