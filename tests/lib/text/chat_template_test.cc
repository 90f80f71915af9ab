// Chat templates: every recorded case of the reference, what templates tell about themselves, and
// the parts around the template (clock, tokens, continued messages).
#include "lib/text/chat_template.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

const std::string kShared = kSharedDir;

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::unique_ptr<ChatTemplate> compile(absl::string_view source) {
  auto compiled = ChatTemplate::compile(source);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return compiled.ok() ? *std::move(compiled) : nullptr;
}

std::unique_ptr<ChatTemplate> shared_template(const std::string& name) {
  return compile(read(kShared + "/oracle/E/templates/" + name + ".jinja"));
}

bool have_oracle() { return std::filesystem::exists(kShared + "/oracle/E/cases.json"); }

Chat chat_of(const char* json) {
  Chat chat;
  EXPECT_TRUE(chat.add_json(json).ok());
  return chat;
}

const char kPlain[] =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

TEST(ChatTemplateOracle, RendersEveryCaseAsTheReference) {
  if (!have_oracle()) GTEST_SKIP() << "no " << kShared << "/oracle/E";
  const OrderedJson data = OrderedJson::parse(read(kShared + "/oracle/E/cases.json"));
  ASSERT_EQ(1224u, data["cases"].size());
  std::string name;
  std::unique_ptr<ChatTemplate> compiled;
  for (const OrderedJson& c : data["cases"]) {
    if (c["template"] != name) {
      name = c["template"].get<std::string>();
      compiled = shared_template(name);
      ASSERT_NE(nullptr, compiled);
    }
    OrderedJson all = c["kwargs"];
    all["messages"] = data["messages"][c["case"].get<std::string>()];
    all["tools"] = c["tools"].get<bool>() ? data["tools"] : OrderedJson();
    all["add_generation_prompt"] = c["add_generation_prompt"];
    Chat chat;
    ASSERT_TRUE(chat.add_json(all.dump()).ok());
    ChatTemplate::Options options;
    for (const char* token : {"bos_token", "eos_token"}) {
      if (c[token].is_string()) options.special_tokens.emplace_back(token, c[token]);
    }
    const auto rendered = compiled->render(chat, options);
    const std::string what = name + " " + c["case"].dump() + " " + c["kwargs"].dump();
    if (c.contains("error")) {
      EXPECT_FALSE(rendered.ok()) << what;
      if (c["error"] == "TemplateError") {
        EXPECT_EQ(c["error_text"].get<std::string>(), rendered.status().message()) << what;
      }
    } else {
      ASSERT_TRUE(rendered.ok()) << what << rendered.status();
      EXPECT_EQ(c["rendered"].get<std::string>(), *rendered) << what;
    }
  }
}

TEST(ChatTemplateOracle, ShippedCheckpointsHaveTemplatesThatCompile) {
  if (!have_oracle()) GTEST_SKIP() << "no " << kShared;
  int compiled = 0;
  for (const char* folder : {"/oracle/A", "/models"}) {
    for (const auto& entry : std::filesystem::directory_iterator(kShared + folder)) {
      const std::string path = entry.path().string() + "/tokenizer_config.json";
      if (!std::filesystem::exists(path)) continue;
      const OrderedJson config = OrderedJson::parse(read(path));
      if (!config.contains("chat_template")) continue;
      EXPECT_NE(nullptr, compile(config["chat_template"].get<std::string>())) << path;
      ++compiled;
    }
  }
  EXPECT_GT(compiled, 5);
}

TEST(ChatTemplateFacts, KnowWhatTheFamousTemplatesDo) {
  if (!have_oracle()) GTEST_SKIP() << "no " << kShared << "/oracle/E";
  const auto facts = [](const char* name) { return shared_template(name)->facts(); };

  const auto r1 = facts("r1-distill-qwen");
  EXPECT_EQ("<think>\n", r1.opened_thought);
  EXPECT_EQ("", r1.thinking_variable);
  EXPECT_TRUE(r1.shows_system);
  EXPECT_FALSE(r1.shows_tools);
  EXPECT_TRUE(r1.shows_tool_results);
  EXPECT_FALSE(r1.reads_thoughts);
  EXPECT_EQ(ToolFormat::kDeepSeekR1, r1.tool_format);

  const auto qwen3 = facts("qwen3");
  EXPECT_EQ("", qwen3.opened_thought);
  EXPECT_EQ("enable_thinking", qwen3.thinking_variable);
  EXPECT_TRUE(qwen3.shows_tools);
  EXPECT_TRUE(qwen3.reads_thoughts);
  EXPECT_EQ(ToolFormat::kHermes, qwen3.tool_format);

  const auto v31 = facts("deepseek-v3.1");
  EXPECT_EQ("", v31.opened_thought);
  EXPECT_EQ("<think>", v31.opened_thought_on);
  EXPECT_EQ("enable_thinking", v31.thinking_variable);
  EXPECT_EQ(ToolFormat::kDeepSeekV31, v31.tool_format);

  EXPECT_EQ("<think>\n", facts("qwq-32b").opened_thought);
  EXPECT_EQ(ToolFormat::kHermes, facts("qwen2.5-instruct").tool_format);
  EXPECT_EQ(ToolFormat::kLlama, facts("llama-3.1-instruct").tool_format);
  EXPECT_EQ(ToolFormat::kLlama, facts("llama-3.2-instruct").tool_format);
  EXPECT_EQ(ToolFormat::kNone, facts("llama-2-chat").tool_format);
  EXPECT_FALSE(facts("llama-2-chat").shows_tools);
  EXPECT_TRUE(facts("llama-2-chat").shows_system);
}

TEST(ChatTemplate, TellsTheVariablesItReads) {
  const auto compiled =
      compile("{{ messages }}{% if enable_thinking %}x{% endif %}{{ date_string }}");
  EXPECT_TRUE(compiled->reads("enable_thinking"));
  EXPECT_TRUE(compiled->reads("date_string"));
  EXPECT_FALSE(compiled->reads("thinking"));
}

TEST(ChatTemplate, NeedsAMessage) {
  const auto compiled = compile(kPlain);
  const auto rendered = compiled->render(Chat(), {});
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, rendered.status().code());
}

TEST(ChatTemplate, SpecialTokensAreVariablesAndAbsentOnesAreEmpty) {
  const auto compiled = compile(kPlain);
  Chat chat;
  ASSERT_TRUE(chat.add(Role::kUser, "hi").ok());
  ChatTemplate::Options options;
  EXPECT_EQ("[user]hi[assistant]", *compiled->render(chat, options));
  options.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  EXPECT_EQ("<s>[user]hi</s>[assistant]", *compiled->render(chat, options));
}

TEST(ChatTemplate, TheThinkingSwitchSetsTheVariableTheTemplateReads) {
  const auto compiled =
      compile("{{ messages[0].content }}{{ enable_thinking }}{{ thinking is defined }}");
  Chat chat = chat_of(R"([{"role":"user","content":"q"}])");
  ChatTemplate::Options options;
  EXPECT_EQ("qFalse", *compiled->render(chat, options));
  options.thinking = false;
  EXPECT_EQ("qFalseTrue", *compiled->render(chat, options));
  options.thinking = true;
  EXPECT_EQ("qTrueTrue", *compiled->render(chat, options));
  ASSERT_TRUE(chat.set_variable("enable_thinking", "\"host\"").ok());
  EXPECT_EQ("qhostTrue", *compiled->render(chat, options));
}

TEST(ChatTemplate, ContinuesTheLastMessage) {
  const auto compiled = compile(kPlain);
  Chat chat = chat_of(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a b "}])");
  chat.set_generation_prompt(false);
  ChatTemplate::Options options;
  options.special_tokens = {{"eos_token", "</s>"}};
  options.continue_final = true;
  EXPECT_EQ("[user]q</s>[assistant]a b ", *compiled->render(chat, options));
  // A template that trims the message trims the end that is continued.
  const auto trims = compile("{% for m in messages %}[{{ m.content|trim }}]{% endfor %}");
  EXPECT_EQ("[q][a b", *trims->render(chat, options));
  const auto silent = compile("{{ messages|length }}");
  EXPECT_FALSE(silent->render(chat, options).ok());
  chat.set_generation_prompt(true);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, compiled->render(chat, options).status().code());
}

TEST(ChatTemplate, ThoughtsGoInAsReasoningContent) {
  const auto compiled = compile(
      "{% for m in messages %}{{ m.role }}:{% if m.reasoning_content is string %}"
      "({{ m.reasoning_content }}){% endif %}{{ m.content }};{% endfor %}");
  Chat chat;
  ASSERT_TRUE(chat.add(Role::kUser, "q").ok());
  ASSERT_TRUE(chat.add_assistant("thought", "answer", "").ok());
  EXPECT_EQ("user:q;assistant:(thought)answer;", *compiled->render(chat, {}));
  EXPECT_TRUE(compiled->facts().reads_thoughts);
}

TEST(ChatTemplate, TemplateErrorsKeepTheTemplatesWordsAndOthersSayWhere) {
  const Chat chat = chat_of(R"([{"role":"user","content":null}])");
  const Status raised =
      compile("{{ raise_exception('Only text, please.') }}")->render(chat, {}).status();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, raised.code());
  EXPECT_EQ("Only text, please.", raised.message());
  const Status type = compile("{{ 'a' + messages[0].content }}")->render(chat, {}).status();
  EXPECT_EQ("chat template: line 1: TypeError: can only concatenate str (not \"NoneType\") to str",
            type.message());
  EXPECT_EQ(absl::StatusCode::kDataLoss, ChatTemplate::compile("{% if %}").status().code());
}

TEST(ChatTemplate, TheClockIsInjected) {
  const auto compiled = compile("{{ strftime_now('%d %b %Y') }}");
  ChatTemplate::Options options;
  std::tm now{};
  now.tm_mday = 5, now.tm_mon = 6, now.tm_year = 126;
  options.now = now;
  EXPECT_EQ("05 Jul 2026",
            *compiled->render(chat_of(R"([{"role":"user","content":"q"}])"), options));
}

TEST(FormatTime, WritesWhatPythonsStrftimeWrites) {
  std::tm t{};  // Sunday, 2024-03-03 04:05:06
  t.tm_year = 124, t.tm_mon = 2, t.tm_mday = 3, t.tm_hour = 4, t.tm_min = 5, t.tm_sec = 6;
  t.tm_wday = 0, t.tm_yday = 62;
  EXPECT_EQ("2024-03-03 04:05:06", format_time(t, "%Y-%m-%d %H:%M:%S"));
  EXPECT_EQ("Sun Sunday Mar March", format_time(t, "%a %A %b %B"));
  EXPECT_EQ("04 AM 063 24 3 3 %", format_time(t, "%I %p %j %y %-d %-m %%"));
  EXPECT_EQ("09 09 0 7", format_time(t, "%U %W %w %u"));
  EXPECT_EQ("Sun Mar  3 04:05:06 2024|03/03/24|04:05", format_time(t, "%c|%x|%R"));
  EXPECT_EQ("%Q%", format_time(t, "%Q%"));
}

}  // namespace
}  // namespace ponder
