// The engine end to end on the shipped model: batching, reuse, budgets, cancel, scoring.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "tests/lib/engine/support.h"

namespace ponder::engine {
namespace {

void expect_golden(const GoldenCase& c, const std::vector<int32_t>& got) {
  const size_t n = std::min(got.size(), c.greedy.size());
  for (size_t i = 0; i < n; ++i) {
    if (got[i] == c.greedy[i]) continue;
    // Near ties may fall either way, and the texts part there.
    EXPECT_LE(c.margins[i], 0.005) << "token " << i << " of \"" << c.message << "\"";
    return;
  }
  EXPECT_EQ(got.size(), c.greedy.size()) << c.message;
}

TEST(Engine, GivesTheGoldenContinuationsAloneAndInABatch) {
  const auto runtime = make_runtime();
  ModelOptions options;
  options.precision = Precision::kF32;
  const auto model = load(runtime, options);
  const auto cases = golden_cases();
  ASSERT_EQ(cases.size(), 20u);
  std::vector<std::vector<int32_t>> alone;
  for (const GoldenCase& c : cases) {
    Request request = tokens_request(c.prompt);
    request.max_tokens = 300;
    const Outcome outcome = collect(*Session::create(model).value()->submit(request).value());
    ASSERT_TRUE(outcome.failure.ok()) << outcome.failure;
    expect_golden(c, outcome.tokens);
    alone.push_back(outcome.tokens);
  }
  std::vector<std::shared_ptr<Generation>> generations;
  for (const GoldenCase& c : cases) {
    Request request = tokens_request(c.prompt);
    request.max_tokens = 300;
    generations.push_back(Session::create(model).value()->submit(request).value());
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(collect(*generations[i]).tokens, alone[i]) << cases[i].message;
  }
}

TEST(Engine, SplitsThoughtAndAnswer) {
  const auto model = load_exact();
  const GoldenCase c = golden_cases()[0];
  const Request request = tokens_request(c.prompt);
  const Outcome o = collect(*Session::create(model).value()->submit(request).value());
  EXPECT_EQ(o.thought, "I need 21 from 1 16 4.\n16+1=17, left 4 17\n  17+4=21 yes");
  EXPECT_EQ(o.answer, "16+1+4 = 21");
  EXPECT_EQ(o.closed_by, Finish::kStop);
  EXPECT_EQ(o.finish, Finish::kStop);
  EXPECT_EQ(o.prompt_tokens, c.prompt.size());
  EXPECT_EQ(o.thought_tokens + o.answer_tokens, o.event_tokens.size());
  // All but the close marker and the end of text were told as text.
  EXPECT_EQ(o.tokens.size(), o.event_tokens.size() + 2);
}

class EngineDeterminism : public testing::TestWithParam<Precision> {};

TEST_P(EngineDeterminism, SameSeedSameTokensAloneAmongOthersChunkedOrFromThePrefixCache) {
  const auto cases = golden_cases();
  Request request;
  // Several turns, so that the prompt is longer than a few pages and than a small chunk.
  std::vector<int32_t> prompt;
  for (int i = 0; i < 6; ++i) {
    prompt.insert(prompt.end(), cases[static_cast<size_t>(i)].prompt.begin(),
                  cases[static_cast<size_t>(i)].prompt.end());
    prompt.insert(prompt.end(), cases[static_cast<size_t>(i)].greedy.begin(),
                  cases[static_cast<size_t>(i)].greedy.end());
  }
  prompt.resize(300);
  prompt.insert(prompt.end(), cases[7].prompt.begin(), cases[7].prompt.end());
  request.tokens = prompt;
  request.temperature = 1.2f;
  request.top_p = 0.98f;
  request.seed = 42;
  request.max_tokens = 120;
  request.ignore_eos = true;

  ModelOptions options;
  options.precision = GetParam();
  std::vector<int32_t> expected;
  {
    const auto model = load(make_runtime(false, 1), options);
    const Outcome alone = collect(*Session::create(model).value()->submit(request).value());
    ASSERT_TRUE(alone.failure.ok()) << alone.failure;
    EXPECT_EQ(alone.cached_tokens, 0u);
    expected = alone.tokens;
    ASSERT_EQ(expected.size(), 120u);
    // Again, from another session: the prompt's full pages are found.
    const Outcome again = collect(*Session::create(model).value()->submit(request).value());
    EXPECT_GE(again.cached_tokens, 256u);
    EXPECT_EQ(again.tokens, expected);
    // Another seed says something else: the test can fail.
    Request other = request;
    other.seed = 43;
    EXPECT_NE(collect(*Session::create(model).value()->submit(other).value()).tokens, expected);
  }
  {
    // Among seven others that come and go, with more threads.
    const auto model = load(make_runtime(false, 3), options);
    std::vector<std::shared_ptr<Generation>> others;
    for (int i = 0; i < 7; ++i) {
      Request other = tokens_request(cases[static_cast<size_t>(8 + i)].prompt);
      other.temperature = 1.0f;
      other.seed = 1000 + i;
      other.max_tokens = 20 + 25 * i;
      others.push_back(Session::create(model).value()->submit(other).value());
    }
    const Outcome among = collect(*Session::create(model).value()->submit(request).value());
    EXPECT_EQ(among.tokens, expected);
    for (const auto& g : others) EXPECT_EQ(collect(*g).finish == Finish::kNone, false);
  }
  {
    ModelOptions chunked = options;
    chunked.hints["step_tokens"] = "37";
    const auto model = load(make_runtime(), chunked);
    const Outcome outcome = collect(*Session::create(model).value()->submit(request).value());
    EXPECT_GE(outcome.prefill_events, 5);
    EXPECT_EQ(outcome.tokens, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, EngineDeterminism,
                         testing::Values(Precision::kAuto, Precision::kF32));

TEST(Engine, PreemptsTheYoungestAndStillSaysTheSame) {
  const GoldenCase c = longest_case();
  Request request = exactly(150, c.prompt);
  const auto roomy = load(make_runtime());
  const auto expected = collect(*Session::create(roomy).value()->submit(request).value()).tokens;
  ModelOptions options;
  options.context = 256;
  options.kv_bytes = roomy->info().kv_bytes_per_token * 288;
  const auto tight = load(make_runtime(), options);
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 6; ++i) {
    generations.push_back(Session::create(tight).value()->submit(request).value());
  }
  for (const auto& g : generations) {
    const Outcome outcome = collect(*g);
    ASSERT_TRUE(outcome.failure.ok()) << outcome.failure;
    EXPECT_EQ(outcome.tokens, expected);
  }
  EXPECT_GT(tight->stats().preemptions, 0u);
  EXPECT_EQ(tight->stats().running, 0u);
}

TEST(Engine, TakesPagesBackFromIdleSessions) {
  const GoldenCase c = golden_cases()[0];
  ModelOptions options;
  options.context = 256;
  options.kv_bytes = load(make_runtime())->info().kv_bytes_per_token * 256;
  const auto model = load(make_runtime(), options);
  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 12; ++i) {
    sessions.push_back(Session::create(model).value());
    Request request = tokens_request(c.prompt);
    (*request.tokens)[3] = 220 + i % 3;
    request.max_tokens = 40;
    const Outcome outcome = collect(*sessions.back()->submit(request).value());
    ASSERT_TRUE(outcome.failure.ok()) << outcome.failure;
  }
  EXPECT_GT(sessions[0]->token_count(), c.prompt.size());
}

TEST(Session, ReusesWhatTheLastTurnComputed) {
  const auto model = load(make_runtime());
  const auto session = Session::create(model).value();
  const GoldenCase c = longest_case();
  Request request = exactly(50, c.prompt);
  const Outcome first = collect(*session->submit(request).value());
  EXPECT_EQ(session->token_count(), c.prompt.size() + 50);
  Request next = request;
  next.tokens->insert(next.tokens->end(), first.tokens.begin(), first.tokens.end());
  next.tokens->push_back(220);
  const Outcome second = collect(*session->submit(next).value());
  // All but the last generated token, which was never fed, and the new one.
  EXPECT_EQ(second.cached_tokens, c.prompt.size() + 49);
  // A fresh model agrees.
  EXPECT_EQ(collect(*Session::create(load(make_runtime())).value()->submit(next).value()).tokens,
            second.tokens);
}

TEST(Session, ForksShareTheirPastAndGoOwnWays) {
  const auto model = load(make_runtime());
  const auto session = Session::create(model).value();
  const GoldenCase c = longest_case();
  Request request = exactly(70, c.prompt);
  const Outcome whole = collect(*session->submit(request).value());
  const auto fork = session->fork().value();
  EXPECT_EQ(fork->token_count(), session->token_count());
  // Both continue within the same partly filled page, differently.
  Request a = request, b = request;
  for (Request* r : {&a, &b}) {
    r->tokens->insert(r->tokens->end(), whole.tokens.begin(), whole.tokens.begin() + 60);
  }
  a.tokens->push_back(16);
  b.tokens->push_back(17);
  const auto ga = session->submit(a).value();
  const auto gb = fork->submit(b).value();
  const Outcome oa = collect(*ga), ob = collect(*gb);
  EXPECT_GT(oa.cached_tokens, 0u);
  EXPECT_GT(ob.cached_tokens, 0u);
  const auto fresh = load(make_runtime());
  EXPECT_EQ(collect(*Session::create(fresh).value()->submit(a).value()).tokens, oa.tokens);
  EXPECT_EQ(collect(*Session::create(fresh).value()->submit(b).value()).tokens, ob.tokens);
}

TEST(Session, TruncateForgetsAndRefusesToInvent) {
  const auto session = Session::create(load(make_runtime())).value();
  Request request = exactly(30, longest_case().prompt);
  collect(*session->submit(request).value());
  const uint32_t count = session->token_count();
  EXPECT_EQ(session->truncate(count + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(session->truncate(10).ok());
  EXPECT_EQ(session->token_count(), 10u);
}

TEST(Session, OneGenerationAtATime) {
  const auto session = Session::create(load(make_runtime(true))).value();
  Request request = tokens_request(longest_case().prompt);
  const auto generation = session->submit(request).value();
  EXPECT_EQ(session->submit(request).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(session->truncate(0).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(session->fork().status().code(), absl::StatusCode::kAborted);
  generation->cancel();
  EXPECT_EQ(collect(*generation).finish, Finish::kCancelled);
  EXPECT_TRUE(session->submit(request).ok());
}

TEST(Generation, CancelTakesEffectAtTheNextLayerPrefillIncluded) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime);
  std::vector<int32_t> prompt(500, 220);
  for (uint32_t slices = 0; slices < 8; ++slices) {
    const auto generation =
        Session::create(model).value()->submit(tokens_request(prompt)).value();
    for (uint32_t i = 0; i < slices; ++i) ASSERT_TRUE(runtime->poll(0).value());
    generation->cancel();
    ASSERT_TRUE(runtime->poll(0).ok());
    Event event;
    Status failure;
    Finish finish = Finish::kNone;
    while (generation->next(&event, &failure) == GenerationState::Next::kEvent) {
      finish = event.finish;
    }
    EXPECT_EQ(finish, Finish::kCancelled) << "after " << slices << " slices";
  }
  // Nothing is left behind: the next one runs as ever.
  const GoldenCase c = golden_cases()[0];
  EXPECT_EQ(collect(*Session::create(model).value()->submit(tokens_request(c.prompt)).value())
                .finish,
            Finish::kStop);
}

TEST(Generation, HardBudgetIsNeverExceededAndStillGetsAnAnswer) {
  const auto model = load(make_runtime());
  const GoldenCase c = longest_case();
  for (uint32_t hard : {1u, 2u, 5u, 17u, 40u}) {
    Request request = tokens_request(c.prompt);
    request.thought_hard = hard;
    request.max_tokens = 200;
    const Outcome o = collect(*Session::create(model).value()->submit(request).value());
    EXPECT_LE(o.thought_tokens, hard);
    EXPECT_EQ(o.closed_by, Finish::kBudget);
    EXPECT_GT(o.answer_tokens, 0u);
    EXPECT_FALSE(o.answer.empty());
    EXPECT_EQ(std::count(o.tokens.begin(), o.tokens.end(), 312), 1) << "the real close token";
  }
}

TEST(Generation, CloseThoughtFromAnotherThreadAnswersNow) {
  const auto model = load(make_runtime());
  Request request = tokens_request(longest_case().prompt);
  request.logit_bias = {{312, -INFINITY}};  // the model itself never closes
  const auto generation = Session::create(model).value()->submit(request).value();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    generation->close_thought();
  });
  const Outcome o = collect(*generation);
  other.join();
  EXPECT_EQ(o.closed_by, Finish::kHost);
  EXPECT_FALSE(o.answer.empty());
}

TEST(Generation, ThinkingOffAnswersAtOnce) {
  const auto model = load(make_runtime());
  Request request = tokens_request(golden_cases()[0].prompt);
  request.reasoning = Reasoning::kOff;
  request.max_tokens = 30;
  const Outcome o = collect(*Session::create(model).value()->submit(request).value());
  EXPECT_EQ(o.thought_tokens, 0u);
  EXPECT_TRUE(o.thought.empty());
  EXPECT_FALSE(o.answer.empty());
  EXPECT_EQ(o.tokens.at(0), 312);
}

TEST(Generation, StopStringsEndTheAnswerBeforeThem) {
  const auto model = load_exact();
  Request request = tokens_request(golden_cases()[0].prompt);
  request.stops = {" = "};
  const Outcome o = collect(*Session::create(model).value()->submit(request).value());
  EXPECT_EQ(o.answer, "16+1+4");
  EXPECT_EQ(o.finish, Finish::kStop);
}

TEST(Generation, LimitsAreKept) {
  ModelOptions options;
  options.context = 64;
  const auto model = load(make_runtime(), options);
  Request request = tokens_request(longest_case().prompt);
  request.ignore_eos = true;
  const Outcome full = collect(*Session::create(model).value()->submit(request).value());
  EXPECT_EQ(full.finish, Finish::kLength);
  EXPECT_EQ(full.prompt_tokens + full.tokens.size(), 64u);
  request.max_tokens = 3;
  EXPECT_EQ(collect(*Session::create(model).value()->submit(request).value()).tokens.size(), 3u);
  request.tokens = std::vector<int32_t>(64, 5);
  EXPECT_EQ(Session::create(model).value()->submit(request).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST(Generation, LogprobsAreThoseOfScoring) {
  const auto model = load(make_runtime());
  const GoldenCase c = golden_cases()[2];
  Request request = tokens_request(c.prompt);
  request.want_logprobs = true;
  request.logprobs = 3;
  const Outcome o = collect(*Session::create(model).value()->submit(request).value());
  ASSERT_EQ(o.logprobs.size(), o.event_tokens.size());
  std::vector<int32_t> all = c.prompt;
  all.insert(all.end(), o.tokens.begin(), o.tokens.end());
  const Scores scores = model->score(all, 2).value();
  ASSERT_EQ(scores.logprobs.size(), all.size() - 1);
  size_t matched = 0;
  for (size_t i = 0; i < o.tokens.size() && matched < o.event_tokens.size(); ++i) {
    if (o.tokens[i] != o.event_tokens[matched]) continue;  // a marker
    EXPECT_EQ(o.logprobs[matched], scores.logprobs[c.prompt.size() + i - 1]) << i;
    ++matched;
  }
  EXPECT_EQ(matched, o.event_tokens.size());
  // Greedy: the chosen token is the likeliest.
  const size_t at = c.prompt.size() - 1;
  EXPECT_EQ(scores.top_tokens[at * 2], o.tokens[0]);
}

TEST(Model, RefusesTokensThatDoNotExist) {
  const auto model = load(make_runtime());
  EXPECT_EQ(model->score(std::vector<int32_t>{1, -1}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->score(std::vector<int32_t>{1, 320}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Session::create(model).value()->submit(tokens_request({INT32_MAX})).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Model, LoadStopsWhenProgressSaysSo) {
  ModelOptions options;
  options.progress = [](uint64_t done, uint64_t total) { return done * 2 > total ? 1 : 0; };
  EXPECT_EQ(Model::load(make_runtime(), open_folder(kModel).value(), options).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(Runtime, HostDrivenWorkHappensInPollOnly) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime);
  const auto generation =
      Session::create(model).value()->submit(tokens_request(golden_cases()[0].prompt)).value();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Event event;
  Status failure;
  EXPECT_EQ(generation->next(&event, &failure), GenerationState::Next::kPending);
  int polls = 0;
  bool more = true;
  while (more && polls < 100000) {
    more = runtime->poll(0).value();
    ++polls;
  }
  EXPECT_FALSE(more);
  EXPECT_GT(polls, 100);  // a slice is a layer, not a step
  EXPECT_EQ(collect(*generation).finish, Finish::kStop);
}

TEST(Runtime, AnyOrderOfReleaseIsLegal) {
  for (int order = 0; order < 6; ++order) {
    auto runtime = make_runtime();
    auto model = load(runtime);
    auto session = Session::create(model).value();
    auto generation = session->submit(tokens_request(longest_case().prompt)).value();
    const int keys[6][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2},
                            {2, 0, 3, 1}, {0, 3, 1, 2}, {2, 1, 0, 3}};
    for (int key : keys[order]) {
      if (key == 0) runtime.reset();
      if (key == 1) model.reset();
      if (key == 2) session.reset();
      if (key == 3) generation.reset();
    }
  }
}

}  // namespace
}  // namespace ponder::engine
