// Chat: what goes in is checked, what comes out is what went in, and failures change nothing.
#include "lib/text/chat.h"

#include <string>

#include "gtest/gtest.h"

namespace ponder {
namespace {

TEST(Chat, KeepsThePartsOfAnAssistantTurnApart) {
  Chat chat;
  ASSERT_TRUE(chat.add(Role::kSystem, "rules").ok());
  ASSERT_TRUE(chat.add(Role::kUser, "q").ok());
  ASSERT_TRUE(chat.add_assistant("hm", "", R"([{"id":"c1","type":"function",
      "function":{"name":"f","arguments":{"z":1,"a":2}}}])")
                  .ok());
  ASSERT_TRUE(chat.add_tool_result("c1", "42").ok());
  EXPECT_EQ(R"({"messages":[{"role":"system","content":"rules"},{"role":"user","content":"q"},)"
            R"({"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[{"id":"c1",)"
            R"("type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]},)"
            R"({"role":"tool","content":"42","tool_call_id":"c1"}],"add_generation_prompt":true})",
            chat.to_json());
}

TEST(Chat, JsonGoesThereAndBack) {
  const std::string json =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"é"}]}],)"
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}],)"
      R"("add_generation_prompt":false,"enable_thinking":true})";
  Chat chat;
  ASSERT_TRUE(chat.add_json(json).ok());
  EXPECT_EQ(json, chat.to_json());
  EXPECT_FALSE(chat.generation_prompt());
  EXPECT_EQ(1u, chat.size());
  ASSERT_TRUE(chat.add_json(R"({"role":"user","content":"one"})").ok());
  ASSERT_TRUE(chat.add_json(R"([{"role":"assistant","content":"two"}])").ok());
  EXPECT_EQ(3u, chat.size());
  chat.truncate(1);
  EXPECT_EQ(json, chat.to_json());
}

TEST(Chat, WrongInputsAreRefusedAndChangeNothing) {
  Chat chat;
  ASSERT_TRUE(chat.add(Role::kUser, "q").ok());
  const std::string before = chat.to_json();
  EXPECT_FALSE(chat.add(static_cast<Role>(99), "x").ok());
  EXPECT_FALSE(chat.add(Role::kUser, "\xff").ok());
  EXPECT_FALSE(chat.add_assistant("\xff", "a", "").ok());
  EXPECT_FALSE(chat.add_assistant("t", "a", "{}").ok());
  EXPECT_FALSE(chat.add_assistant("t", "a", "[1]").ok());
  EXPECT_FALSE(chat.add_tool_result("\xff", "a").ok());
  EXPECT_FALSE(chat.set_tools("{}").ok());
  EXPECT_FALSE(chat.set_tools("[1]").ok());
  EXPECT_FALSE(chat.set_tools("[").ok());
  EXPECT_FALSE(chat.set_variable("", "1").ok());
  EXPECT_FALSE(chat.set_variable("v", "{").ok());
  for (const char* json :
       {"", "1", "[", "[1]", "[{}]", R"([{"role":1}])", R"({"messages":1})",
        R"([{"role":"user","content":"ok"},{"role":2}])",
        R"({"messages":[{"role":"user","content":"x"}],"tools":1})",
        R"({"messages":[{"role":"user","content":"x"}],"add_generation_prompt":1})",
        R"([{"role":"assistant","tool_calls":[1]}])"}) {
    EXPECT_FALSE(chat.add_json(json).ok()) << json;
  }
  EXPECT_FALSE(chat.add_json(std::string(100000, '[')).ok());
  EXPECT_EQ(before, chat.to_json());
}

TEST(Chat, ToolsAndVariablesCanBeTakenBack) {
  Chat chat;
  ASSERT_TRUE(chat.set_tools(R"([{"type":"function"}])").ok());
  ASSERT_TRUE(chat.set_variable("date_string", "\"today\"").ok());
  EXPECT_EQ("today", chat.variables()["date_string"]);
  ASSERT_TRUE(chat.set_tools("").ok());
  ASSERT_TRUE(chat.set_variable("date_string", std::nullopt).ok());
  EXPECT_TRUE(chat.tools().is_null());
  EXPECT_TRUE(chat.variables().empty());
}

}  // namespace
}  // namespace ponder
