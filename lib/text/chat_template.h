// A model's own chat template: from messages to the text that the model continues.
//
// Compiled once, rendered from any threads at once. The language is lib/text/jinja.h; templates are
// not trusted, and every call is bounded in time, memory and native stack.
//
// Thoughts of earlier turns reach the template as the message's "reasoning_content", next to a
// "content" that is the answer alone. Templates that can place a thought read that key (Qwen3);
// those that do not read it (R1 and its distills, QwQ) show the model its earlier answers without
// the thoughts, which is how they were trained. The content is never rewritten, so a rendering is
// byte for byte the reference's for the same messages; a host that has thoughts as
// <think>..</think> inside the content may leave them there, and templates that split on </think>
// take them out.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/json_memory.h"
#include "lib/base/status.h"
#include "lib/text/chat.h"
#include "lib/text/tool_calls.h"
#include "nlohmann/json.hpp"

namespace ponder {

namespace jinja {
class Template;
}

class ChatTemplate {
 public:
  struct Options {
    // The tokenizer's special tokens by the names templates use: {"bos_token", "<s>"} and so on.
    // One that is not there is undefined, and printed as nothing.
    std::vector<std::pair<std::string, std::string>> special_tokens;
    // The last message is not closed: the model goes on writing it. Excludes a generation prompt.
    bool continue_final = false;
    // Thinking on or off, for templates with a switch (Facts::thinking_variable); a variable of the
    // chat with the switch's name goes first.
    std::optional<bool> thinking;
    // What strftime_now tells; the local time of now if empty.
    std::optional<std::tm> now;
  };

  // What the template does, found out by rendering small chats with it.
  struct Facts {
    // The generation prompt ends inside a thought: the model never writes the opening itself. The
    // text is what was opened, as "<think>\n"; with thinking left as the template has it.
    std::string opened_thought;
    // The same with thinking switched on (equal where there is no switch).
    std::string opened_thought_on;
    // "enable_thinking" or "thinking" where the template's output depends on it, else empty.
    std::string thinking_variable;
    bool shows_system = false;  // a system message appears in the text
    bool shows_tools = false;   // tools do
    bool shows_tool_results = false;
    bool reads_thoughts = false;  // takes "reasoning_content"
    ToolFormat tool_format = ToolFormat::kNone;
  };

  // corrupt_error with a line number where `source` is no template.
  static StatusOr<std::unique_ptr<ChatTemplate>> compile(absl::string_view source);
  ~ChatTemplate();

  // invalid_argument_error: a chat without messages; what the template itself refuses, in its own
  // words (raise_exception); a message that is not of the form it expects. corrupt_error,
  // out_of_memory_error: a template that breaks its bounds.
  StatusOr<std::string> render(const Chat& chat, const Options& options) const;

  // Whether the template looks `variable` up: "enable_thinking", "date_string" ...
  bool reads(absl::string_view variable) const;
  // All that it looks up, sorted.
  const std::vector<std::string>& variables() const;

  const Facts& facts() const { return facts_; }

 private:
  explicit ChatTemplate(std::unique_ptr<jinja::Template> compiled);

  StatusOr<std::string> render_json(const OrderedJson& messages, const OrderedJson& tools,
                                    const OrderedJson& variables, bool generation_prompt,
                                    const Options& options, uint64_t max_steps) const;
  void find_facts(absl::string_view source);

  std::unique_ptr<jinja::Template> template_;
  Facts facts_;
};

// strftime with the C locale's English names, as Python's datetime writes them.
std::string format_time(const std::tm& time, absl::string_view format);

}  // namespace ponder
