// Chat: messages, tools and template variables, as the chat template will see them.
//
// The parts of an assistant's turn are kept apart: its thought, its answer and its tool calls. What
// of them the model is shown again is the template's decision (ChatTemplate::render).
//
// Texts come from strangers: all of them are checked to be UTF-8, all JSON is parsed with bounds, and
// a call that fails changes nothing. Belongs to no model. One thread at a time; copies are
// independent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/json_memory.h"
#include "lib/base/status.h"
#include "nlohmann/json.hpp"

namespace ponder {

// Keys keep their order: templates print them.
using OrderedJson = nlohmann::ordered_json;

enum class Role : int32_t { kSystem = 1, kUser = 2, kAssistant = 3, kTool = 4 };

class Chat {
 public:
  // invalid_argument_error: not UTF-8.
  Status add(Role role, absl::string_view text);
  // `thought` empty: none. `tool_calls` empty, or a JSON array of
  // {"id":..,"type":"function","function":{"name":..,"arguments":..}}; corrupt_error if it is not.
  Status add_assistant(absl::string_view thought, absl::string_view answer,
                       absl::string_view tool_calls);
  Status add_tool_result(absl::string_view call_id, absl::string_view text);

  // OpenAI's form: one message object, an array of them, or {"messages":[..],"tools":[..],
  // "add_generation_prompt":bool,..} of which every other member is a variable.
  Status add_json(absl::string_view json);
  // The last of those forms.
  std::string to_json() const;

  // A JSON array in OpenAI's form; empty: none. corrupt_error if it is no array of objects.
  Status set_tools(absl::string_view json);
  // As JSON; nullopt takes it back.
  Status set_variable(absl::string_view name, std::optional<absl::string_view> json);
  void set_generation_prompt(bool on) { generation_prompt_ = on; }

  size_t size() const { return messages_.size(); }
  void truncate(size_t count);

  // What ChatTemplate reads. Each message is an object in OpenAI's form; "reasoning_content" holds
  // the thought.
  const OrderedJson& messages() const { return messages_; }
  const OrderedJson& tools() const { return tools_; }  // null: none
  const OrderedJson& variables() const { return variables_; }  // an object
  bool generation_prompt() const { return generation_prompt_; }

 private:
  OrderedJson messages_ = OrderedJson::array();
  OrderedJson tools_;
  OrderedJson variables_ = OrderedJson::object();
  bool generation_prompt_ = true;
};

}  // namespace ponder
