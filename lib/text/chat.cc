#include "lib/text/chat.h"

#include "lib/base/json.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

// An upper bound for one JSON text of a host; the parts of a prompt that fits any context are smaller.
constexpr size_t kMaxJson = size_t{64} << 20;

Status check_utf8(absl::string_view text, absl::string_view what) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Read read = read_utf8(text.substr(at));
    if (!read.valid) {
      return invalid_argument_error(what, " is not UTF-8 at byte ", at);
    }
    at += read.size;
  }
  return OkStatus();
}

StatusOr<OrderedJson> parse(absl::string_view json, absl::string_view what) {
  if (json.size() > kMaxJson) {
    return invalid_argument_error(what, " has ", json.size(), " bytes; the most is ", kMaxJson);
  }
  // Depth and well-formedness are checked by the bounded parser; this one keeps the keys' order.
  PONDER_RETURN_IF_ERROR(parse_json(json, what).status());
  OrderedJson parsed = OrderedJson::parse(json.begin(), json.end(), nullptr,
                                          /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return corrupt_error(what, ": not valid JSON");
  return parsed;
}

const char* role_name(Role role) {
  switch (role) {
    case Role::kSystem: return "system";
    case Role::kUser: return "user";
    case Role::kAssistant: return "assistant";
    case Role::kTool: return "tool";
  }
  return nullptr;
}

// Filled after it exists: a braced list that runs out of memory halfway loses what it has.
OrderedJson message(const char* role, absl::string_view content) {
  OrderedJson made = OrderedJson::object();
  made["role"] = role;
  made["content"] = std::string(content);
  return made;
}

Status check_list_of_objects(const OrderedJson& json, absl::string_view what) {
  if (!json.is_array()) return corrupt_error(what, " must be a JSON array");
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_object()) return corrupt_error(what, ": entry ", i, " must be an object");
  }
  return OkStatus();
}

Status check_message(const OrderedJson& message) {
  if (!message.is_object()) return corrupt_error("a message must be a JSON object");
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    return corrupt_error("a message needs a \"role\" that is a string");
  }
  const auto calls = message.find("tool_calls");
  if (calls != message.end() && !calls->is_null()) {
    return check_list_of_objects(*calls, "\"tool_calls\" of a message");
  }
  return OkStatus();
}

}  // namespace

Status Chat::add(Role role, absl::string_view text) {
  const char* const name = role_name(role);
  if (name == nullptr) {
    return invalid_argument_error("role ", static_cast<int32_t>(role), " does not exist");
  }
  PONDER_RETURN_IF_ERROR(check_utf8(text, "the message"));
  messages_.push_back(message(name, text));
  return OkStatus();
}

Status Chat::add_assistant(absl::string_view thought, absl::string_view answer,
                           absl::string_view tool_calls) {
  PONDER_RETURN_IF_ERROR(check_utf8(thought, "the thought"));
  PONDER_RETURN_IF_ERROR(check_utf8(answer, "the answer"));
  OrderedJson turn = message("assistant", answer);
  if (!thought.empty()) turn["reasoning_content"] = std::string(thought);
  if (!tool_calls.empty()) {
    PONDER_ASSIGN_OR_RETURN(OrderedJson calls, parse(tool_calls, "the tool calls"));
    PONDER_RETURN_IF_ERROR(check_list_of_objects(calls, "the tool calls"));
    turn["tool_calls"] = std::move(calls);
  }
  messages_.push_back(std::move(turn));
  return OkStatus();
}

Status Chat::add_tool_result(absl::string_view call_id, absl::string_view text) {
  PONDER_RETURN_IF_ERROR(check_utf8(call_id, "the call's id"));
  PONDER_RETURN_IF_ERROR(check_utf8(text, "the tool's result"));
  OrderedJson result = message("tool", text);
  if (!call_id.empty()) result["tool_call_id"] = std::string(call_id);
  messages_.push_back(std::move(result));
  return OkStatus();
}

Status Chat::add_json(absl::string_view json) {
  PONDER_ASSIGN_OR_RETURN(OrderedJson given, parse(json, "the messages"));
  Chat changed = *this;  // kept only if all of it is well formed
  OrderedJson list = OrderedJson::array();
  if (given.is_array()) {
    list = std::move(given);
  } else if (given.is_object() && given.contains("messages")) {
    for (auto& [key, value] : given.items()) {
      if (key == "messages") {
        if (!value.is_array()) return corrupt_error("\"messages\" must be a JSON array");
        list = std::move(value);
      } else if (key == "tools") {
        if (value.is_null()) continue;
        PONDER_RETURN_IF_ERROR(check_list_of_objects(value, "\"tools\""));
        changed.tools_ = std::move(value);
      } else if (key == "add_generation_prompt") {
        if (!value.is_boolean()) {
          return corrupt_error("\"add_generation_prompt\" must be true or false");
        }
        changed.generation_prompt_ = value.get<bool>();
      } else {
        changed.variables_[key] = std::move(value);
      }
    }
  } else if (given.is_object()) {
    list.push_back(std::move(given));
  } else {
    return corrupt_error("messages must be a JSON object or an array of them");
  }
  for (OrderedJson& message : list) {
    PONDER_RETURN_IF_ERROR(check_message(message));
    changed.messages_.push_back(std::move(message));
  }
  *this = std::move(changed);
  return OkStatus();
}

std::string Chat::to_json() const {
  OrderedJson all = OrderedJson::object();
  all["messages"] = messages_;
  if (!tools_.is_null()) all["tools"] = tools_;
  all["add_generation_prompt"] = generation_prompt_;
  for (const auto& [key, value] : variables_.items()) all[key] = value;
  return all.dump();
}

Status Chat::set_tools(absl::string_view json) {
  if (json.empty()) {
    tools_ = nullptr;
    return OkStatus();
  }
  PONDER_ASSIGN_OR_RETURN(OrderedJson tools, parse(json, "the tools"));
  PONDER_RETURN_IF_ERROR(check_list_of_objects(tools, "the tools"));
  tools_ = std::move(tools);
  return OkStatus();
}

Status Chat::set_variable(absl::string_view name, std::optional<absl::string_view> json) {
  PONDER_RETURN_IF_ERROR(check_utf8(name, "the variable's name"));
  if (name.empty()) return invalid_argument_error("a template variable needs a name");
  if (!json) {
    variables_.erase(std::string(name));
    return OkStatus();
  }
  PONDER_ASSIGN_OR_RETURN(OrderedJson value, parse(*json, "the variable's value"));
  variables_[std::string(name)] = std::move(value);
  return OkStatus();
}

void Chat::truncate(size_t count) {
  if (count < messages_.size()) {
    messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(count), messages_.end());
  }
}

}  // namespace ponder
