// Chat templates: the text is a template, compiled, tried out and rendered; then the tool-call
// parsers read it as an answer, in two pieces.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "lib/text/chat_template.h"
#include "lib/text/jinja.h"
#include "lib/text/tool_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto compiled = ponder::jinja::Template::compile(text); compiled.ok()) {
    static const auto* const variables = new nlohmann::ordered_json(nlohmann::ordered_json::parse(
        R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"h\u00e9 <x>"},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
             "function":{"name":"f","arguments":{"a":[1,2.5,"x",null,true]}}}]}],
            "tools":[{"type":"function","function":{"name":"f","parameters":{"b":1}}}],
            "add_generation_prompt":true,"bos_token":"<s>","n":3,"l":[3,1,2],"s":"a b"})"));
    ponder::jinja::RenderOptions options;
    options.strftime = [](absl::string_view format) { return std::string(format); };
    options.max_steps = 200'000;  // the fuzzer's time is better spent on other inputs
    options.max_memory_bytes = 8 << 20;
    (void)(*compiled)->render(*variables, options).status();
  }
  for (const auto format : {ponder::ToolFormat::kHermes, ponder::ToolFormat::kLlama,
                            ponder::ToolFormat::kDeepSeekR1, ponder::ToolFormat::kDeepSeekV31}) {
    ponder::ToolCallParser parser(format);
    (void)parser.feed(text.substr(0, size / 2));
    (void)parser.feed(text.substr(size / 2));
    (void)parser.finish();
  }
  return 0;
}
