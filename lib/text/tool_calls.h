// Tool calls in what a model writes: told apart from the answer while the text comes in.
//
// The parser is fed the answer's text in pieces of any size; out come the plain text, holding back
// only what may still turn out to be the start of a marker, and whole calls. Text that begins like
// a call but is none comes out as plain text in the end, unchanged: nothing the model wrote is
// lost. One parser per answer; one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ponder {

enum class ToolFormat : int32_t {
  kNone = 0,
  kHermes = 1,  // <tool_call>{"name": .., "arguments": {..}}</tool_call>: Qwen, QwQ, Hermes
  kLlama = 2,   // the whole answer is {"name": .., "parameters": {..}}, maybe after <|python_tag|>
  kDeepSeekR1 =
      3,  // <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{..}\n```<｜tool▁call▁end｜>
  kDeepSeekV31 = 4,  // <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{..}<｜tool▁call▁end｜>
};

// What a chat template teaches its model to write.
ToolFormat detect_tool_format(absl::string_view template_source);

struct ToolCall {
  std::string id;  // "call_1" and so on, in the order of the calls of one parser
  std::string name;
  std::string arguments;  // JSON: an object, as the model wrote it
};

// A piece of an answer: text, or a call.
struct ToolItem {
  bool is_call = false;
  std::string text;
  ToolCall call;
};

class ToolCallParser {
 public:
  // `first_id` numbers the calls: "call_<first_id>" and on.
  explicit ToolCallParser(ToolFormat format, uint32_t first_id = 1)
      : format_(format), next_id_(first_id) {}

  // What has become certain with `piece`. Texts are whole code points if the pieces are.
  std::vector<ToolItem> feed(absl::string_view piece);
  // The rest: call it once, at the end of the answer.
  std::vector<ToolItem> finish();

 private:
  using Items = std::vector<ToolItem>;

  bool advance(bool at_end, Items& out);
  bool find_marker(bool at_end, Items& out);
  bool read_call(bool at_end, Items& out);
  bool read_whole_answer(bool at_end, Items& out);
  bool parse_call(absl::string_view body, ToolCall& call) const;
  void take_text(size_t size, Items& out);
  void take_call(size_t size, ToolCall call, Items& out);

  ToolFormat format_;
  uint32_t next_id_;
  std::string held_;         // not yet decided
  size_t scanned_ = 0;       // of held_, in a call: no closing marker that counts before this
  bool in_call_ = false;     // held_ begins with an opening marker
  bool after_call_ = false;  // white space here belongs to no text
  bool plain_ = false;       // kLlama: the answer did not begin like a call
};

}  // namespace ponder
