// Tool calls in answers: every format, in one piece and in pieces of every size.
#include "lib/text/tool_calls.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace ponder {
namespace {

// "text|<id name arguments>|text": adjacent texts joined, so that it does not depend on the pieces.
std::string shown(ToolFormat format, const std::string& answer, size_t piece) {
  ToolCallParser parser(format);
  std::string out;
  bool in_text = false;
  const auto take = [&](const std::vector<ToolItem>& items) {
    for (const ToolItem& item : items) {
      if (item.is_call) {
        out += "<" + item.call.id + " " + item.call.name + " " + item.call.arguments + ">";
        in_text = false;
      } else {
        EXPECT_FALSE(item.text.empty());
        if (!in_text) out += "|";
        out += item.text;
        in_text = true;
      }
    }
  };
  for (size_t at = 0; at < answer.size(); at += piece) take(parser.feed(answer.substr(at, piece)));
  take(parser.finish());
  EXPECT_TRUE(parser.finish().empty());
  return out;
}

void expect(ToolFormat format, const std::string& answer, const std::string& wanted) {
  for (const size_t piece : {answer.size() + 1, size_t{1}, size_t{2}, size_t{3}, size_t{7}}) {
    EXPECT_EQ(wanted, shown(format, answer, piece)) << answer << " in pieces of " << piece;
  }
}

TEST(ToolCalls, WithoutAFormatEverythingIsText) {
  expect(ToolFormat::kNone, "<tool_call>{}</tool_call>", "|<tool_call>{}</tool_call>");
  expect(ToolFormat::kNone, "", "");
}

TEST(ToolCalls, HermesCallsComeOutBetweenTexts) {
  const ToolFormat f = ToolFormat::kHermes;
  expect(f, "Just text. <b> 1 < 2", "|Just text. <b> 1 < 2");
  expect(f,
         "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.50]}}\n</tool_call>",
         "<call_1 add {\"a\": 1, \"b\": [2.50]}>");
  expect(f,
         "Let me look.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
         "<tool_call>{\"name\":\"g\",\"arguments\":{\"x\":\"</tool_call> é\"}}</tool_call>\n",
         "|Let me look.\n<call_1 f {}><call_2 g {\"x\":\"</tool_call> é\"}>");
  expect(f, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and more",
         "<call_1 f {}>| and more");
}

TEST(ToolCalls, HermesTakesWhatModelsGetSlightlyWrong) {
  const ToolFormat f = ToolFormat::kHermes;
  expect(f, "<tool_call>{\"name\":\"f\"}</tool_call>", "<call_1 f {}>");
  expect(f, "<tool_call>{\"name\":\"f\",\"arguments\":null}</tool_call>", "<call_1 f {}>");
  expect(f, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
         "<call_1 f {\"a\":1}>");
  expect(f, "<tool_call>{\"name\":\"f\",\"parameters\":{\"a\":1}}</tool_call>",
         "<call_1 f {\"a\":1}>");
  expect(f, "<tool_call>\n{\"name\":\"f\",\"arguments\":{}}\n", "<call_1 f {}>");  // not closed
}

TEST(ToolCalls, WhatIsNoCallComesOutUnchanged) {
  const ToolFormat f = ToolFormat::kHermes;
  for (const std::string& answer : std::vector<std::string>{
           "<tool_call>", "<tool_cal", "<tool_call>{\"name\":</tool_call>",
           "<tool_call>[]</tool_call> text", "<tool_call>{\"name\":1,\"arguments\":{}}</tool_call>",
           "<tool_call>{\"name\":\"\",\"arguments\":{}}</tool_call>",
           "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>", "</tool_call>",
           "a <tool_call>b</tool_call> c"}) {
    const std::string out = shown(f, answer, 1);
    EXPECT_EQ("|" + answer, out);
  }
  // A broken one does not take a good one with it.
  expect(f, "<tool_call>oops</tool_call>\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
         "|<tool_call>oops</tool_call>\n<call_1 f {}>");
}

TEST(ToolCalls, TextIsHeldBackOnlyWhileItMayBecomeAMarker) {
  ToolCallParser parser(ToolFormat::kHermes);
  auto items = parser.feed("abc <tool");
  ASSERT_EQ(1u, items.size());
  EXPECT_EQ("abc ", items[0].text);
  items = parser.feed("s>");
  ASSERT_EQ(1u, items.size());
  EXPECT_EQ("<tools>", items[0].text);
  EXPECT_TRUE(parser.finish().empty());
}

TEST(ToolCalls, LlamaAnswersWithAnObject) {
  const ToolFormat f = ToolFormat::kLlama;
  expect(f, "{\"name\": \"get\", \"parameters\": {\"city\": \"São {Paulo}\"}}",
         "<call_1 get {\"city\": \"São {Paulo}\"}>");
  expect(f, "<|python_tag|>{\"name\": \"get\", \"parameters\": {}}", "<call_1 get {}>");
  expect(f, "\n {\"name\":\"a\",\"parameters\":{}}; {\"name\":\"b\",\"parameters\":{\"x\":1}}\n",
         "<call_1 a {}><call_2 b {\"x\":1}>");
  expect(f, "Hello {\"name\": \"get\", \"parameters\": {}}",
         "|Hello {\"name\": \"get\", \"parameters\": {}}");
  expect(f, "{\"answer\": 42}", "|{\"answer\": 42}");
  expect(f, "{\"name\": \"get\", \"parameters\": {", "|{\"name\": \"get\", \"parameters\": {");
  expect(f, "<|python_tag|>brave_search.call(query=\"x\")",
         "|<|python_tag|>brave_search.call(query=\"x\")");
  expect(f, "  ", "|  ");
}

TEST(ToolCalls, DeepSeekR1FencesItsArguments) {
  expect(
      ToolFormat::kDeepSeekR1,
      "Looking.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
      "```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜>\n"
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜>",
      "|Looking.<call_1 get_weather {\"city\": \"Paris\"}><call_2 add {\"a\": 1}>");
  expect(ToolFormat::kDeepSeekR1, "<｜User｜> 你好 <｜tool", "|<｜User｜> 你好 <｜tool");
}

TEST(ToolCalls, DeepSeekV31NamesComeFirst) {
  expect(
      ToolFormat::kDeepSeekV31,
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"b\"}<｜tool▁call▁end｜>"
      "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>done",
      "<call_1 f {\"a\": \"b\"}><call_2 g {}>|done");
}

TEST(ToolCalls, IdsContinueWhereTheHostSays) {
  ToolCallParser parser(ToolFormat::kHermes, 7);
  const auto items = parser.feed("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>");
  ASSERT_EQ(1u, items.size());
  EXPECT_EQ("call_7", items[0].call.id);
}

TEST(ToolCalls, DeepNestingIsNoCall) {
  const std::string deep(100000, '[');
  const std::string answer = "<tool_call>{\"name\":\"f\",\"arguments\":" + deep + "</tool_call>";
  EXPECT_EQ("|" + answer, shown(ToolFormat::kHermes, answer, 4096));
}

}  // namespace
}  // namespace ponder
