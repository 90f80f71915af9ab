// Speculation changes nothing but speed: the same events, bit for bit, with any drafter.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "lib/engine/drafter.h"
#include "lib/engine/engine.h"
#include "tests/lib/engine/speculation.h"
#include "tests/paths/paths.h"

namespace ponder::engine {
namespace {

// Knows the whole text beforehand and proposes it, wrong at every n-th place if n is not 0.
class Prophet : public Drafter {
 public:
  Prophet(std::vector<int32_t> text, size_t wrong_every)
      : text_(std::move(text)), wrong_every_(wrong_every) {}
  int32_t propose(std::span<const int32_t> text, int32_t most,
                  std::vector<int32_t>* draft) override {
    draft->clear();
    for (size_t i = text.size(); i < text_.size() && draft->size() < static_cast<size_t>(most);
         ++i) {
      const bool wrong = wrong_every_ != 0 && i % wrong_every_ == 0;
      draft->push_back(wrong ? (text_[i] + 1) % 300 : text_[i]);
    }
    return 1;
  }

 private:
  std::vector<int32_t> text_;
  size_t wrong_every_;
};

// Proposes what no drafter should: too much, of tokens that do not exist, of a kind unheard of.
class Liar : public Drafter {
 public:
  int32_t propose(std::span<const int32_t> text, int32_t most,
                  std::vector<int32_t>* draft) override {
    static constexpr int32_t kIds[] = {-1, INT32_MAX, 320, INT32_MIN, 5, 319, 0};
    const size_t n = text.size();
    draft->assign(static_cast<size_t>(most) + n % 40, static_cast<int32_t>(n % 320));
    if (n % 3 == 0) (*draft)[n % draft->size()] = kIds[n % 7];
    return n % 2 == 0 ? 99 : -7;
  }
};

class Throwing : public Drafter {
 public:
  int32_t propose(std::span<const int32_t>, int32_t, std::vector<int32_t>*) override {
    throw std::bad_alloc();
  }
};

Request drafted(Request request, std::shared_ptr<Drafter> drafter, uint32_t most = 0) {
  request.drafter = std::move(drafter);
  request.speculation = Speculation::kNgram;
  request.always_draft = true;
  request.max_draft = most;
  return request;
}

// Runs `request` with every kind of drafter and expects what it says without.
void expect_the_same(const std::shared_ptr<Model>& model, const Request& request) {
  const Outcome plain = run(model, request);
  ASSERT_FALSE(plain.script.empty());
  const std::vector<int32_t> text = whole_text(request, plain);
  GenerationStats stats;
  for (const size_t wrong_every : {0, 2, 3, 7}) {
    for (const uint32_t most : {1u, 4u, 16u, 1000u}) {
      const Outcome o =
          run(model, drafted(request, std::make_shared<Prophet>(text, wrong_every), most), &stats);
      EXPECT_EQ(o.script, plain.script) << "wrong at " << wrong_every << ", draft of " << most;
      EXPECT_EQ(o.tokens, plain.tokens);
      EXPECT_EQ(o.finish, plain.finish);
      EXPECT_LE(stats.accepted_tokens, stats.drafted_tokens);
      if (wrong_every == 0 && plain.tokens.size() > 2) {
        EXPECT_GT(stats.accepted_tokens, 0u);
        EXPECT_LT(stats.steps, plain.tokens.size());
      }
    }
  }
  EXPECT_EQ(run(model, drafted(request, std::make_shared<Liar>())).script, plain.script);
  EXPECT_EQ(run(model, drafted(request, std::make_shared<NgramDrafter>())).script, plain.script);
  Request real = request;  // and as hosts ask for it, which drafts when that seems faster
  real.speculation = Speculation::kNgram;
  EXPECT_EQ(run(model, real).script, plain.script);
}

class SpeculationSays : public testing::TestWithParam<Case> {};

TEST_P(SpeculationSays, WhatIsSaidWithoutIt) {
  for (const Precision precision : {Precision::kAuto, Precision::kF32}) {
    ModelOptions options;
    options.precision = precision;
    const auto model = load(make_runtime(), options);
    Request request = tokens_request(longest_case().prompt);
    request.max_tokens = 100;
    GetParam().change(&request);
    expect_the_same(model, request);
  }
}

INSTANTIATE_TEST_SUITE_P(All, SpeculationSays, testing::ValuesIn(speculation_cases()),
                         [](const auto& instance) { return instance.param.name; });

// Attention over latents and experts, whose kernels depend on how many rows a step has.
TEST(Speculation, OtherArchitecturesSayWhatTheySayWithoutIt) {
  int tried = 0;
  for (const char* name : {"dsv3-fp8", "dsv3-bf16", "qwen3moe-bf16", "llama-bf16"}) {
    const std::string path = std::string(kSharedDir) + "/oracle/A/" + name;
    if (!std::filesystem::exists(path)) continue;
    SCOPED_TRACE(name);
    const auto model = load(make_runtime(), {}, path);
    ASSERT_NE(model, nullptr);
    Request request;
    request.tokens = std::vector<int32_t>{};
    for (int32_t i = 0; i < 40; ++i) request.tokens->push_back(20 + i * i % 97);
    request.temperature = 0;
    request.max_tokens = 60;
    request.ignore_eos = true;
    request.want_logprobs = true;
    expect_the_same(model, request);
    request.temperature = 1.0f;
    request.seed = 9;
    expect_the_same(model, request);
    ++tried;
  }
  if (tried == 0) GTEST_SKIP() << "no reference data in " << kSharedDir << "/oracle/A";
}

TEST(Speculation, CountsWhatItDraftedAndWhatWasRight) {
  const auto model = load(make_runtime());
  Request request = exactly(41, longest_case().prompt);
  GenerationStats stats;
  const std::vector<int32_t> text = whole_text(request, run(model, request, &stats));
  EXPECT_EQ(stats.drafted_tokens, 0u);
  EXPECT_EQ(stats.steps, 41u);
  // The first token comes with the prompt; then each step gives 4 drafted ones and one more.
  run(model, drafted(request, std::make_shared<Prophet>(text, 0), 4), &stats);
  EXPECT_EQ(stats.steps, 9u);
  EXPECT_EQ(stats.drafted_tokens, 32u);
  EXPECT_EQ(stats.accepted_tokens, 32u);
  // Never right: nothing is gained, and every step but the prompt's and the last drafted.
  run(model, drafted(request, std::make_shared<Prophet>(text, 1), 4), &stats);
  EXPECT_EQ(stats.steps, 41u);
  EXPECT_EQ(stats.accepted_tokens, 0u);
  EXPECT_EQ(stats.drafted_tokens, 36u * 4 + 3 + 2 + 1);
  EXPECT_EQ(model->stats().drafted_tokens, 32u + 150u);
  EXPECT_EQ(model->stats().accepted_tokens, 32u);
}

TEST(Speculation, TheContextsEndIsNeverPassed) {
  ModelOptions options;
  options.context = 64;
  const auto model = load(make_runtime(), options);
  Request request = tokens_request(longest_case().prompt);
  request.ignore_eos = true;
  expect_the_same(model, request);
}

TEST(Speculation, ManyTextsAtATimeSayWhatEachSaysAlone) {
  for (const char* step_tokens : {"512", "48"}) {
    ModelOptions options;
    options.hints["step_tokens"] = step_tokens;
    const auto model = load(make_runtime(false, 3), options);
    const auto cases = golden_cases();
    std::vector<Request> requests;
    std::vector<Outcome> alone;
    for (size_t i = 0; i < cases.size(); ++i) {
      Request request = tokens_request(cases[i].prompt);
      request.max_tokens = 120;
      if (i % 2 == 1) {
        request.temperature = 1.0f;
        request.seed = i;
      }
      alone.push_back(run(model, request));
      switch (i % 4) {
        case 0:
          request = drafted(request, std::make_shared<Prophet>(whole_text(request, alone[i]), 5));
          break;
        case 1:
          request = drafted(request, std::make_shared<NgramDrafter>());
          break;
        case 2:
          request = drafted(request, std::make_shared<Liar>());
          break;
        default:
          request.speculation = Speculation::kNgram;
      }
      requests.push_back(request);
    }
    std::vector<std::shared_ptr<Generation>> generations;
    for (const Request& r : requests) {
      generations.push_back(Session::create(model).value()->submit(r).value());
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(collect(*generations[i]).script, alone[i].script) << cases[i].message;
    }
  }
}

TEST(Speculation, PreemptedTextsStillSayTheSame) {
  Request request = exactly(150, longest_case().prompt);
  const auto roomy = load(make_runtime());
  const Outcome expected = run(roomy, request);
  ModelOptions options;
  options.context = 256;
  options.kv_bytes = roomy->info().kv_bytes_per_token * 288;
  const auto tight = load(make_runtime(), options);
  const std::vector<int32_t> text = whole_text(request, expected);
  std::vector<std::shared_ptr<Generation>> generations;
  for (size_t i = 0; i < 6; ++i) {
    generations.push_back(
        Session::create(tight)
            .value()
            ->submit(drafted(request, std::make_shared<Prophet>(text, i), 16))
            .value());
  }
  for (const auto& g : generations) {
    const Outcome outcome = collect(*g);
    ASSERT_TRUE(outcome.failure.ok()) << outcome.failure;
    EXPECT_EQ(outcome.script, expected.script);
  }
  EXPECT_GT(tight->stats().preemptions, 0u);
}

TEST(Speculation, DraftsTakeNoPageThatAnybodyHoldsOrMayFind) {
  const auto probe = load(make_runtime());
  const uint64_t token_bytes = probe->info().kv_bytes_per_token;
  Request first = tokens_request({5});
  first.max_tokens = 1;
  run(probe, first);
  // Page size, from what one token's timeline took, while it is idle.
  const auto idle = Session::create(probe).value();
  collect(*idle->submit(first).value());
  const uint64_t page = probe->stats().kv_bytes_used / token_bytes;
  ASSERT_GT(page, 0u);
  bool tried = false;
  for (const GoldenCase& c : golden_cases()) {
    // Ends by itself, so near the end of a page that a draft would go past it.
    Request talks = tokens_request(c.prompt);
    const Outcome plain = run(probe, talks);
    if (c.prompt.size() + plain.tokens.size() > 480) continue;
    const uint64_t computed = c.prompt.size() + plain.tokens.size() - 1;
    const uint64_t pages = (computed + page - 1) / page;
    if (computed % page != 0 && computed % page + 12 < page) continue;
    const uint64_t total = std::max((512 + page - 1) / page, pages + 1);
    ModelOptions options;
    options.context = 512;
    options.kv_bytes = total * page * token_bytes;
    // All other pages belong to an idle session, or to nobody but can be found by their text.
    for (const bool held : {true, false}) {
      const auto model = load(make_runtime(), options);
      ASSERT_EQ(model->info().kv_bytes, options.kv_bytes);
      auto holder = Session::create(model).value();
      Request holds = tokens_request(std::vector<int32_t>((total - pages) * page, 220));
      holds.max_tokens = 1;
      collect(*holder->submit(holds).value());
      if (!held) holder = Session::create(model).value();
      GenerationStats stats;
      const Outcome o = run(model, drafted(talks, std::make_shared<Liar>(), 16), &stats);
      EXPECT_EQ(o.script, plain.script);
      EXPECT_GT(stats.drafted_tokens, 0u);
      Request again = holds;
      again.tokens->push_back(7);
      EXPECT_EQ(collect(*holder->submit(again).value()).cached_tokens, (total - pages) * page)
          << (held ? "held" : "findable");
    }
    tried = true;
  }
  EXPECT_TRUE(tried) << "no golden text ends near the end of a page of " << page;
}

TEST(Speculation, CancelAtAnySliceLeavesNothingBehind) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime);
  Request request = tokens_request(golden_cases()[0].prompt);
  const Outcome plain = run(model, request);
  const std::vector<int32_t> text = whole_text(request, plain);
  const auto session = Session::create(model).value();
  for (uint32_t slices = 0; slices < 60; slices += 3) {
    const auto generation =
        session->submit(drafted(request, std::make_shared<Prophet>(text, 3), 4)).value();
    for (uint32_t i = 0; i < slices; ++i) ASSERT_TRUE(runtime->poll(0).ok());
    generation->cancel();
    const Outcome o = collect(*generation);
    EXPECT_TRUE(o.finish == Finish::kCancelled || o.finish == Finish::kStop);
    ASSERT_LE(o.tokens.size(), plain.tokens.size());
    EXPECT_TRUE(std::equal(o.tokens.begin(), o.tokens.end(), plain.tokens.begin()));
    // The session, its half-written pages included, serves the next one.
    EXPECT_EQ(collect(*session->submit(request).value()).script, plain.script);
  }
}

TEST(Speculation, ADrafterWithoutMemoryFailsItsTextAlone) {
  const auto model = load(make_runtime());
  const Request request = tokens_request(golden_cases()[0].prompt);
  const Outcome plain = run(model, request);
  const auto good = Session::create(model).value()->submit(request).value();
  const auto bad = Session::create(model)
                       .value()
                       ->submit(drafted(request, std::make_shared<Throwing>()))
                       .value();
  EXPECT_EQ(collect(*bad).failure.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(collect(*good).script, plain.script);
}

TEST(Speculation, HostDrivenInSmallSlicesSaysTheSame) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime);
  Request request = tokens_request(longest_case().prompt);
  const Outcome plain = run(model, request);
  const auto generation =
      Session::create(model)
          .value()
          ->submit(drafted(request, std::make_shared<Prophet>(whole_text(request, plain), 4)))
          .value();
  for (int i = 0; i < 100000 && runtime->poll(1).value(); ++i) {
  }
  EXPECT_EQ(collect(*generation).script, plain.script);
}

}  // namespace
}  // namespace ponder::engine
