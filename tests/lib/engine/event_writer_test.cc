// Tokens in, events out: what the host sees of thoughts, answers, tool calls and stop strings.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/engine/generation.h"
#include "lib/engine/sequence.h"
#include "lib/text/tokenizer.h"

namespace ponder::engine {
namespace {

class EventWriterTest : public testing::Test {
 protected:
  EventWriterTest() {
    // One token for each printable ASCII character, the space and the line end.
    Json vocabulary = Json::object();
    for (char c = '!'; c <= '~'; ++c) vocabulary[std::string(1, c)] = vocabulary.size();
    vocabulary["\u0120"] = vocabulary.size();
    vocabulary["\u010a"] = vocabulary.size();
    const Json json = {
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}},
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
        {"decoder", {{"type", "ByteLevel"}}}};
    auto tokenizer = Tokenizer::from_json(json.dump());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // Says `text` token by token, as thought or as answer.
  bool say(EventWriter& writer, const std::string& text, Phase phase) {
    const std::vector<int32_t> ids = tokenizer_->encode(text).value();
    for (int32_t id : ids) {
      SampledToken token;
      token.id = id;
      writer.queue(token);
      Accepted accepted;
      accepted.token = id;
      accepted.text_phase = phase;
      accepted.text_tokens = 1;
      if (writer.resolve(accepted, {})) return true;
    }
    return false;
  }

  std::vector<Event> events() {
    std::vector<Event> all;
    Event event;
    Status failure;
    while (state_.next(&event, &failure) == GenerationState::Next::kEvent) all.push_back(event);
    return all;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  GenerationState state_;
};

TEST_F(EventWriterTest, ToolCallsComeApartFromTheAnswersText) {
  EventWriter::Options options;
  options.tools = ToolFormat::kHermes;
  EventWriter writer(tokenizer_.get(), &state_, options);
  say(writer, "Let me see. <tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}\n"
              "</tool_call>", Phase::kAnswering);
  writer.flush({});
  EXPECT_TRUE(writer.called_tools());
  std::string text;
  int calls = 0;
  size_t tokens = 0;
  for (const Event& e : events()) {
    tokens += e.tokens.size();
    if (e.kind == EventKind::kAnswer) text += e.text;
    if (e.kind != EventKind::kToolCall) continue;
    ++calls;
    EXPECT_EQ(e.name, "weather");
    EXPECT_EQ(e.text, "{\"city\": \"Ulm\"}");
    EXPECT_FALSE(e.id.empty());
  }
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(text.find("tool_call"), std::string::npos);
  EXPECT_EQ(text.substr(0, 11), "Let me see.");
  EXPECT_GT(tokens, 20u);
}

TEST_F(EventWriterTest, WithoutToolsACallIsOrdinaryText) {
  EventWriter writer(tokenizer_.get(), &state_, {});
  const std::string said = "<tool_call>{\"name\": \"x\", \"arguments\": {}}</tool_call>";
  say(writer, said, Phase::kAnswering);
  writer.flush({});
  std::string text;
  for (const Event& e : events()) text += e.text;
  EXPECT_EQ(text, said);
  EXPECT_FALSE(writer.called_tools());
}

TEST_F(EventWriterTest, AStopStringEndsTheAnswerAndIsNotTold) {
  EventWriter::Options options;
  options.stops = StopMatcher::create({"END"}).value();
  EventWriter writer(tokenizer_.get(), &state_, options);
  EXPECT_TRUE(say(writer, "one two END three", Phase::kAnswering));
  writer.flush({});
  std::string text;
  for (const Event& e : events()) text += e.text;
  EXPECT_EQ(text, "one two ");
}

TEST_F(EventWriterTest, ThoughtsAreTrimmedAndHiddenThoughtsKeepOnlyCounts) {
  for (const bool hidden : {false, true}) {
    EventWriter::Options options;
    options.hide_thoughts = hidden;
    GenerationState state;
    EventWriter writer(tokenizer_.get(), &state, options);
    say(writer, "\nHm, 7*3.\n", Phase::kThinking);
    Accepted close;
    close.closed = CloseReason::kHardBudget;
    writer.resolve(close, {});
    say(writer, "\n\n21", Phase::kAnswering);
    writer.flush({});
    std::string thought, answer;
    Finish closed_by = Finish::kNone;
    size_t thought_tokens = 0;
    Event e;
    Status failure;
    while (state.next(&e, &failure) == GenerationState::Next::kEvent) {
      if (e.kind == EventKind::kThought) thought += e.text, thought_tokens += e.tokens.size();
      if (e.kind == EventKind::kThoughtEnd) closed_by = e.finish;
      if (e.kind == EventKind::kAnswer) answer += e.text;
    }
    EXPECT_EQ(thought, hidden ? "" : "Hm, 7*3.");
    EXPECT_EQ(thought_tokens == 0, hidden);
    EXPECT_EQ(answer, "21");
    EXPECT_EQ(closed_by, Finish::kBudget);
  }
}

}  // namespace
}  // namespace ponder::engine
