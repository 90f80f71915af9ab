// Drafts by the checkpoint's own layer and by a second model: the text stays the same, the layer's
// guesses are its reference's, and what does not help is left alone.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/engine/drafter.h"
#include "lib/engine/engine.h"
#include "lib/engine/needs.h"
#include "tests/golden/rig.h"
#include "tests/lib/engine/speculation.h"

namespace ponder::engine {
namespace {

constexpr size_t kPage = 32;  // tokens of a page of the cache

std::string oracle(const std::string& name) { return (kOracle / "A" / name).string(); }

std::vector<int32_t> some_prompt(size_t size) {
  std::vector<int32_t> prompt;
  for (size_t i = 0; i < size; ++i) prompt.push_back(static_cast<int32_t>(20 + i * i % 97));
  return prompt;
}

Request with_layer(Request request, uint32_t most = 0) {
  request.speculation = Speculation::kMtp;
  request.max_draft = most;
  request.always_draft = true;
  return request;
}

Request with_model(Request request, std::shared_ptr<Model> draft, uint32_t most = 0) {
  request.speculation = Speculation::kDraftModel;
  request.draft_model = std::move(draft);
  request.max_draft = most;
  request.always_draft = true;
  return request;
}

ModelOptions layered(ModelOptions options = {}) {
  options.draft_layer = true;
  return options;
}

// A copy of a checkpoint with half of its numbers' signs turned: the same shapes and tokens, and
// nothing right.
class Scrambled {
 public:
  explicit Scrambled(const std::string& from)
      : folder_(fs::temp_directory_path() / absl::StrCat("ponder-scrambled-", getpid())) {
    fs::remove_all(folder_);
    fs::copy(from, folder_);
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() != ".safetensors") continue;
      std::string bytes = read_text(entry.path());
      uint64_t header = 0;
      std::memcpy(&header, bytes.data(), sizeof header);
      uint32_t random = 1;
      for (size_t i = 8 + header; i + 1 < bytes.size(); i += 2) {
        random = random * 1664525 + 1013904223;
        if ((random >> 24 & 1) != 0) bytes[i + 1] = static_cast<char>(bytes[i + 1] ^ 0x80);
      }
      std::ofstream(entry.path(), std::ios::binary) << bytes;
    }
  }
  ~Scrambled() { fs::remove_all(folder_); }
  std::string path() const { return folder_.string(); }

 private:
  fs::path folder_;
};

// Keeps what the layer guesses, and proposes none of it.
class Recorder final : public Drafter {
 public:
  Moment moment() const override { return Moment::kInStep; }
  bool ask(std::span<const int32_t>, int32_t count) override {
    asked += count > 0 ? 1 : 0;
    return count > 0;
  }
  void deliver(size_t text_size, std::span<const int32_t> tokens) override {
    if (tokens.empty()) return;
    delivered.emplace_back(text_size, std::vector<int32_t>(tokens.begin(), tokens.end()));
  }
  int32_t propose(std::span<const int32_t>, int32_t, std::vector<int32_t>* draft) override {
    draft->assign(wrong < 0 ? 0 : 4, wrong);
    return 0;
  }

  int32_t wrong = -1;  // proposes this instead
  int asked = 0;
  std::vector<std::pair<size_t, std::vector<int32_t>>> delivered;
};

// ---- the layer
// ------------------------------------------------------------------------------------

class DraftLayerOf : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!fs::exists(oracle(GetParam()))) GTEST_SKIP() << "no reference data at " << kOracle;
  }
};
INSTANTIATE_TEST_SUITE_P(All, DraftLayerOf, testing::Values("dsv3-bf16", "dsv3-fp8"),
                         [](const auto& given) {
                           std::string name = given.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The prompt grows from one request to the next, so that most of it is found in the cache, read in
// chunks by other texts: the layer must have seen it all the same.
TEST_P(DraftLayerOf, GuessesWhatItsReferenceGuesses) {
  const fs::path folder = oracle(GetParam());
  const auto golden = open_golden(folder / "golden", "golden.safetensors");
  const Json manifest =
      parse_json(read_text(folder / "golden" / "manifest.json"), "manifest.json").value();
  ModelOptions options = layered();
  options.precision = Precision::kF32;
  options.hints["step_tokens"] = "24";
  const auto model = load(make_runtime(), options, folder.string());
  int compared = 0;
  bool cached = false;
  for (const Json& prompt : manifest["prompts"]) {
    const std::string name = prompt["name"];
    if (!golden->has(name + ".mtp.pos_i.top20_ids")) continue;
    SCOPED_TRACE(name);
    const std::vector<int32_t> ids = prompt["ids"];
    const std::vector<int32_t> top = integers(*golden, name + ".mtp.pos_i.top20_ids");
    const std::vector<float> logits = floats(*golden, name + ".mtp.pos_i.top20_logits");
    for (size_t n = 1; n + 1 < ids.size(); n += 1 + n / 3) {
      // A text that ends at a page's end would leave the pair of its own next token there.
      if (n % kPage > kPage - 4) continue;
      // The first n tokens; the model is made to say the next one.
      Request request = tokens_request({ids.begin(), ids.begin() + static_cast<int64_t>(n)});
      request.logit_bias = {{ids[n], 1e6f}};
      request.max_tokens = 3;
      request.ignore_eos = true;
      const auto recorder = std::make_shared<Recorder>();
      request.drafter = recorder;
      request.always_draft = true;
      request.max_draft = 1;
      cached |= run(model, request).cached_tokens > 0;
      ASSERT_FALSE(recorder->delivered.empty());
      const auto& [size, tokens] = recorder->delivered.front();
      EXPECT_EQ(size, n + 1);
      ASSERT_EQ(tokens.size(), 1u);
      const size_t pair = (n - 1) * 20;
      if (logits[pair] - logits[pair + 1] < 0.005f) continue;
      EXPECT_EQ(tokens[0], top[pair]) << "after " << n << " tokens";
      ++compared;
    }
  }
  EXPECT_GE(compared, 30);
  EXPECT_TRUE(cached);
}

TEST_P(DraftLayerOf, GuessesFurtherFromItsOwnGuesses) {
  const std::string folder = oracle(GetParam());
  ModelOptions options = layered();
  options.precision = Precision::kF32;
  const auto model = load(make_runtime(), options, folder);
  Request request = exactly(9, some_prompt(37));
  const auto recorder = std::make_shared<Recorder>();
  request.drafter = recorder;
  request.always_draft = true;
  request.max_draft = 3;
  const Outcome outcome = run(model, request);
  const std::vector<int32_t> text = whole_text(request, outcome);
  // By hand: the pairs of the text so far, then each guess with the state of the pass before.
  Rig rig(folder, "onednn", {.draft_layer = true});
  ASSERT_TRUE(rig.ok()) << rig.status();
  std::vector<std::vector<std::vector<float>>> hidden;
  rig.feed(text, 77, &hidden);
  const auto width = static_cast<size_t>(rig.width());
  int compared = 0;
  for (const auto& [size, tokens] : recorder->delivered) {
    SCOPED_TRACE(size);
    std::vector<float> states;
    for (size_t i = 0; i + 1 < size; ++i) {
      states.insert(states.end(), hidden.back()[i].begin(), hidden.back()[i].end());
    }
    std::vector<int32_t> pass(text.begin() + 1, text.begin() + static_cast<int64_t>(size));
    auto position = static_cast<int32_t>(0);
    for (const int32_t token : tokens) {
      const ModelGraph::Draft draft = rig.draft(pass, states, position);
      const size_t last = pass.size() - 1;
      const auto vocabulary = static_cast<size_t>(draft.logits.dim[1]);
      const float* row = draft.logits.f32() + last * vocabulary;
      std::vector<float> sorted(row, row + vocabulary);
      std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
      if (sorted[0] - sorted[1] < 0.005f) break;
      EXPECT_EQ(token, std::max_element(row, row + vocabulary) - row);
      ++compared;
      position += static_cast<int32_t>(pass.size());
      pass = {token};
      const float* state = draft.state.f32() + last * width;
      states.assign(state, state + width);
    }
  }
  EXPECT_GE(compared, 12);
}

TEST_P(DraftLayerOf, ChangesNoToken) {
  const std::string folder = oracle(GetParam());
  for (const char* step_tokens : {"512", "16"}) {
    ModelOptions options;
    options.hints["step_tokens"] = step_tokens;
    const auto plain = load(make_runtime(), options, folder);
    const auto model = load(make_runtime(), layered(options), folder);
    EXPECT_FALSE(plain->info().has_draft_layer);
    EXPECT_TRUE(model->info().has_draft_layer);
    for (const Case& c : speculation_cases()) {
      SCOPED_TRACE(c.name);
      Request request = tokens_request(some_prompt(70));
      request.max_tokens = 40;
      c.change(&request);
      if (request.max_tokens > 40) request.max_tokens = 40;
      const Outcome expected = run(plain, request);
      EXPECT_EQ(run(model, request).script, expected.script) << "loaded, not used";
      for (const uint32_t most : {1u, 3u, 16u}) {
        GenerationStats stats;
        EXPECT_EQ(run(model, with_layer(request, most), &stats).script, expected.script);
        if (request.max_tokens > 3) {
          EXPECT_GT(stats.drafted_tokens, 0u);
        }
      }
      Request real = with_layer(request);
      real.always_draft = false;
      EXPECT_EQ(run(model, real).script, expected.script);
    }
  }
}

TEST_P(DraftLayerOf, ManyTextsForksAndPreemptionsSayTheSame) {
  const std::string folder = oracle(GetParam());
  const auto plain = load(make_runtime(), {}, folder);
  ModelOptions tight = layered();
  tight.context = 192;
  tight.kv_bytes = load(make_runtime(), layered(), folder)->info().kv_bytes_per_token * 256;
  const auto model = load(make_runtime(), tight, folder);
  std::vector<Request> requests;
  std::vector<Outcome> expected;
  for (uint32_t i = 0; i < 6; ++i) {
    Request request = exactly(60, some_prompt(30 + 11 * i));
    if (i % 2 == 1) request.temperature = 1.0f, request.seed = i;
    expected.push_back(run(plain, request));
    requests.push_back(i == 4 ? request : with_layer(request, 1 + i));
  }
  std::vector<std::shared_ptr<Generation>> generations;
  for (const Request& r : requests) {
    generations.push_back(Session::create(model).value()->submit(r).value());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(collect(*generations[i]).script, expected[i].script) << i;
  }
  EXPECT_GT(model->stats().preemptions, 0u);
  // A fork in the middle of a page, each side going on with its own text.
  const auto session = Session::create(model).value();
  collect(*session->submit(requests[0]).value());
  const auto fork = session->fork().value();
  Request left = requests[0], right = requests[0];
  left.tokens->resize(25);
  left.tokens->push_back(3);
  right.tokens->resize(27);
  right.tokens->push_back(4);
  for (const auto& [side, request] :
       {std::pair(session, left), std::pair(fork, right), std::pair(session, right)}) {
    Request without = request;
    without.speculation = Speculation::kOff;
    EXPECT_EQ(collect(*side->submit(request).value()).script, run(plain, without).script);
  }
}

TEST_P(DraftLayerOf, CancelAtAnySliceLeavesNothingBehind) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime, layered(), oracle(GetParam()));
  Request request = exactly(12, some_prompt(20));
  const Outcome plain = run(model, request);
  const auto session = Session::create(model).value();
  for (uint32_t slices = 0; slices < 48; ++slices) {
    const auto generation = session->submit(with_layer(request, 3)).value();
    for (uint32_t i = 0; i < slices; ++i) ASSERT_TRUE(runtime->poll(0).ok());
    generation->cancel();
    const Outcome o = collect(*generation);
    ASSERT_LE(o.tokens.size(), plain.tokens.size());
    EXPECT_TRUE(std::equal(o.tokens.begin(), o.tokens.end(), plain.tokens.begin()));
    EXPECT_EQ(collect(*session->submit(request).value()).script, plain.script);
  }
}

TEST_P(DraftLayerOf, ScoresAreTheSameAndSoAreTextsAfterThem) {
  const std::string folder = oracle(GetParam());
  const auto plain = load(make_runtime(), {}, folder);
  const auto model = load(make_runtime(), layered(), folder);
  const std::vector<int32_t> text = some_prompt(100);
  EXPECT_EQ(model->score(text, 2)->logprobs, plain->score(text, 2)->logprobs);
  Request request = tokens_request(text);
  request.max_tokens = 20;
  EXPECT_EQ(run(model, with_layer(request)).script, run(plain, request).script);
}

TEST_P(DraftLayerOf, IsCountedInWhatAModelNeeds) {
  const auto runtime = make_runtime();
  const std::string folder = oracle(GetParam());
  ModelOptions options;
  options.context = 256;
  const ModelNeeds without = examine(*runtime, open_folder(folder).value(), options).value();
  const ModelNeeds with = examine(*runtime, open_folder(folder).value(), layered(options)).value();
  EXPECT_EQ(with.layers, without.layers);
  EXPECT_EQ(with.kv_bytes_per_1000,
            without.kv_bytes_per_1000 / without.layers * (without.layers + 1));
  EXPECT_GT(with.expert_bytes, without.expert_bytes);
  EXPECT_GT(with.attention_bytes, without.attention_bytes);
  EXPECT_GT(with.token_bytes, without.token_bytes);
}

// Guesses that are never right: after the first ones the layer is asked once in 128 steps.
TEST_P(DraftLayerOf, IsLeftAloneWhenItIsNeverRight) {
  const auto model = load(make_runtime(), layered(), oracle(GetParam()));
  Request request = exactly(700, some_prompt(20));
  const Outcome plain = run(model, request);
  const auto recorder = std::make_shared<Recorder>();
  while (std::count(plain.tokens.begin(), plain.tokens.end(), ++recorder->wrong) > 0) {
  }
  request.drafter = recorder;
  GenerationStats stats;
  EXPECT_EQ(run(model, request, &stats).script, plain.script);
  EXPECT_LT(recorder->asked, 60);
  EXPECT_LT(stats.drafted_tokens, 200u);
}

TEST(DraftLayer, IsRefusedWhereThereIsNone) {
  const auto runtime = make_runtime();
  const auto refused = Model::load(runtime, open_folder(kModel).value(), layered());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented) << refused.status();
  EXPECT_EQ(examine(*runtime, open_folder(kModel).value(), layered()).status().code(),
            absl::StatusCode::kUnimplemented);
  const auto submitted = Session::create(load(runtime))
                             .value()
                             ->submit(with_layer(tokens_request(golden_cases()[0].prompt)));
  EXPECT_EQ(submitted.status().code(), absl::StatusCode::kUnimplemented) << submitted.status();
}

// ---- a second model
// -------------------------------------------------------------------------------

class DraftModelSays : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, DraftModelSays, testing::ValuesIn(speculation_cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(DraftModelSays, WhatIsSaidWithoutIt) {
  const auto runtime = make_runtime();
  for (const char* step_tokens : {"512", "16"}) {
    ModelOptions options;
    options.hints["step_tokens"] = step_tokens;
    const auto model = load(runtime, options);
    const auto same = load(runtime, options);
    Request request = tokens_request(longest_case().prompt);
    request.max_tokens = 100;
    GetParam().change(&request);
    const Outcome expected = run(model, request);
    for (const uint32_t most : {1u, 4u, 16u}) {
      GenerationStats stats;
      EXPECT_EQ(run(model, with_model(request, same, most), &stats).script, expected.script);
      if (expected.tokens.size() > 3) {
        EXPECT_GT(stats.drafted_tokens, 0u);
      }
    }
    Request real = with_model(request, same);
    real.always_draft = false;
    EXPECT_EQ(run(model, real).script, expected.script);
  }
}

TEST(DraftModel, OfTheSameWeightsIsAlwaysRightGreedily) {
  std::vector<std::string> folders = {kModel};
  if (fs::exists(oracle("dsv3-fp8"))) folders.push_back(oracle("dsv3-fp8"));
  for (const std::string& folder : folders) {
    SCOPED_TRACE(folder);
    const auto runtime = make_runtime();
    const auto model = load(runtime, {}, folder), same = load(runtime, {}, folder);
    Request request = exactly(101, some_prompt(40));
    GenerationStats stats;
    const Outcome expected = run(model, request);
    EXPECT_EQ(run(model, with_model(request, same, 4), &stats).script, expected.script);
    EXPECT_EQ(stats.accepted_tokens, stats.drafted_tokens);
    // A token with the prompt, then 5 a step; the first of these comes before any draft.
    EXPECT_LE(stats.steps, 22u);
  }
}

TEST(DraftModel, OfOtherWeightsIsLeftAloneAndTheTextIsTheSame) {
  const Scrambled scrambled(kModel);
  const auto runtime = make_runtime();
  const auto model = load(runtime), wrong = load(runtime, {}, scrambled.path());
  Request request = exactly(900, longest_case().prompt);
  const Outcome expected = run(model, request);
  GenerationStats stats;
  Request real = with_model(request, wrong);
  real.always_draft = false;
  EXPECT_EQ(run(model, real, &stats).script, expected.script);
  EXPECT_LT(stats.drafted_tokens, 40u);
  EXPECT_LT(wrong->stats().steps, 80u) << "it was asked again and again";
  EXPECT_EQ(run(model, with_model(request, wrong, 3), &stats).script, expected.script);
  EXPECT_LT(stats.accepted_tokens * 5, stats.drafted_tokens);
  // What the first text showed holds for the next: it is hardly asked at all.
  const uint64_t before = wrong->stats().steps;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(run(model, real).script, expected.script);
  EXPECT_LT(wrong->stats().steps - before, 40u);
}

// What pays is a matter of time, and under sanitizers times are not the program's own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kTimesAreReal = false;
#else
constexpr bool kTimesAreReal = true;
#endif

// Knows the text, but takes its time over each word, and says that words cost nothing.
class Slow final : public Drafter {
 public:
  explicit Slow(std::vector<int32_t> text) : text_(std::move(text)) {}
  Moment moment() const override { return Moment::kBetween; }
  bool ask(std::span<const int32_t> text, int32_t count) override {
    ++asked;
    size_ = text.size();
    count_ = count;
    ready_ = absl::Now() + absl::Milliseconds(30);
    return true;
  }
  bool working() override { return absl::Now() < ready_; }
  int32_t propose(std::span<const int32_t> text, int32_t, std::vector<int32_t>* draft) override {
    draft->clear();
    if (text.size() != size_) return 0;
    for (size_t i = size_; i < text_.size() && std::ssize(*draft) < count_; ++i) {
      draft->push_back(text_[i]);
    }
    return 0;
  }

  int asked = 0;

 private:
  std::vector<int32_t> text_;
  size_t size_ = 0;
  int32_t count_ = 0;
  absl::Time ready_ = absl::InfinitePast();
};

TEST(DraftModel, ThatIsAlwaysRightButNeverPaysIsHardlyAsked) {
  if (!kTimesAreReal) GTEST_SKIP() << "a sanitizer changes what pays";
  const auto model = load(make_runtime());
  Request request = exactly(800, longest_case().prompt);
  const Outcome expected = run(model, request);
  int asked = 0;
  for (int i = 0; i < 3; ++i) {  // what one text showed holds for the next ones
    const auto slow = std::make_shared<Slow>(whole_text(request, expected));
    request.drafter = slow;
    EXPECT_EQ(run(model, request).script, expected.script);
    asked += slow->asked;
  }
  EXPECT_GT(asked, 0);
  EXPECT_LT(asked, 50) << "of 2400 tokens";
}

// The same model again: its drafts are right and take as long as the text itself.
TEST(DraftModel, ThatIsAsLargeAsTheModelHardlyRuns) {
  if (!kTimesAreReal) GTEST_SKIP() << "a sanitizer changes what pays";
  const auto runtime = make_runtime();
  const auto model = load(runtime), same = load(runtime);
  Request request = exactly(800, longest_case().prompt);
  const Outcome expected = run(model, request);
  Request real = with_model(request, same);
  real.always_draft = false;
  EXPECT_EQ(run(model, real).script, expected.script);
  const uint64_t before = same->stats().steps;
  for (int i = 0; i < 4; ++i) EXPECT_EQ(run(model, real).script, expected.script);
  EXPECT_LT(same->stats().steps - before, 800u) << "for 3200 tokens";
}

TEST(DraftModel, ManyTextsAtATimeSayWhatEachSaysAlone) {
  const auto runtime = make_runtime(false, 3);
  ModelOptions options;
  options.hints["step_tokens"] = "48";
  const auto model = load(runtime, options), draft = load(runtime);
  const auto cases = golden_cases();
  std::vector<Outcome> alone;
  std::vector<std::shared_ptr<Generation>> generations;
  std::vector<Request> requests;
  for (size_t i = 0; i < cases.size(); ++i) {
    Request request = tokens_request(cases[i].prompt);
    request.max_tokens = 120;
    if (i % 2 == 1) request.temperature = 1.0f, request.seed = i;
    alone.push_back(run(model, request));
    if (i % 5 != 4) request = with_model(request, draft, 1 + static_cast<uint32_t>(i % 6));
    request.always_draft = i % 3 != 0;
    requests.push_back(request);
  }
  for (const Request& r : requests) {
    generations.push_back(Session::create(model).value()->submit(r).value());
  }
  // The draft model has texts of its own meanwhile.
  const Outcome own = run(draft, tokens_request(cases[0].prompt));
  EXPECT_EQ(own.tokens, run(model, tokens_request(cases[0].prompt)).tokens);
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(collect(*generations[i]).script, alone[i].script) << cases[i].message;
  }
}

TEST(DraftModel, SessionsGoOnForkAndFindWhatIsCached) {
  const auto runtime = make_runtime();
  const auto model = load(runtime), draft = load(runtime);
  Request request = exactly(50, longest_case().prompt);
  const auto session = Session::create(model).value();
  Outcome turn = collect(*session->submit(with_model(request, draft, 5)).value());
  EXPECT_EQ(turn.script, run(model, request).script);
  request.tokens = whole_text(request, turn);
  const auto fork = session->fork().value();
  const Outcome next = run(model, request);
  turn = collect(*session->submit(with_model(request, draft, 5)).value());
  EXPECT_EQ(turn.script, next.script);
  EXPECT_GT(turn.cached_tokens, 0u);
  EXPECT_EQ(collect(*fork->submit(with_model(request, draft, 3)).value()).script, next.script);
}

TEST(DraftModel, PreemptedTextsStillSayTheSame) {
  Request request = exactly(150, longest_case().prompt);
  const auto runtime = make_runtime();
  const auto draft = load(runtime);
  const Outcome expected = run(draft, request);
  ModelOptions options;
  options.context = 256;
  options.kv_bytes = draft->info().kv_bytes_per_token * 288;
  const auto tight = load(runtime, options);
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 6; ++i) {
    generations.push_back(
        Session::create(tight).value()->submit(with_model(request, draft, 8)).value());
  }
  for (const auto& g : generations) EXPECT_EQ(collect(*g).script, expected.script);
  EXPECT_GT(tight->stats().preemptions, 0u);
}

// Too short a context, and a cache that holds one text of several: those without room go on alone,
// and a text of the draft model's own loses nothing to them.
TEST(DraftModel, WithoutRoomStopsQuietly) {
  const auto runtime = make_runtime();
  const auto model = load(runtime);
  Request request = exactly(120, longest_case().prompt);
  const Outcome expected = run(model, request);
  ModelOptions options;
  options.context = 64;
  const auto brief = load(runtime, options);
  GenerationStats stats;
  EXPECT_EQ(run(model, with_model(request, brief, 4), &stats).script, expected.script);
  EXPECT_GT(stats.drafted_tokens, 0u);
  EXPECT_EQ(stats.accepted_tokens, stats.drafted_tokens);
  EXPECT_LT(stats.drafted_tokens, 64u);

  options.context = 160;
  options.kv_bytes = model->info().kv_bytes_per_token * 160;
  const auto small = load(runtime, options);
  const auto own = Session::create(small).value();
  Request mine = request;
  mine.max_tokens = 60;
  const Outcome said = collect(*own->submit(mine).value());
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 5; ++i) {
    generations.push_back(
        Session::create(model).value()->submit(with_model(request, small, 4)).value());
  }
  for (const auto& g : generations) EXPECT_EQ(collect(*g).script, expected.script);
  mine.tokens = whole_text(mine, said);
  EXPECT_GE(collect(*own->submit(mine).value()).cached_tokens, mine.tokens->size() - 1)
      << "an idle session's pages were taken for drafts";
}

TEST(DraftModel, TwoModelsMayDraftForEachOther) {
  const auto runtime = make_runtime();
  const auto a = load(runtime), b = load(runtime);
  Request request = exactly(150, longest_case().prompt);
  const Outcome expected = run(a, request);
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 6; ++i) {
    generations.push_back(Session::create(i % 2 == 0 ? a : b)
                              .value()
                              ->submit(with_model(request, i % 2 == 0 ? b : a, 3))
                              .value());
  }
  for (const auto& g : generations) EXPECT_EQ(collect(*g).script, expected.script);
}

TEST(DraftModel, CancelAtAnySliceLeavesNothingBehind) {
  const auto runtime = make_runtime(true);
  const auto model = load(runtime), draft = load(runtime);
  Request request = tokens_request(golden_cases()[0].prompt);
  request.max_tokens = 30;
  const Outcome plain = run(model, request);
  const auto session = Session::create(model).value();
  for (uint32_t slices = 0; slices < 80; slices += 2) {
    const auto generation = session->submit(with_model(request, draft, 4)).value();
    for (uint32_t i = 0; i < slices; ++i) ASSERT_TRUE(runtime->poll(0).ok());
    generation->cancel();
    const Outcome o = collect(*generation);
    ASSERT_LE(o.tokens.size(), plain.tokens.size());
    EXPECT_TRUE(std::equal(o.tokens.begin(), o.tokens.end(), plain.tokens.begin()));
    EXPECT_EQ(collect(*session->submit(request).value()).script, plain.script);
  }
  while (runtime->poll(1000).value()) {
  }
  EXPECT_EQ(draft->stats().running, 0u);
  EXPECT_EQ(draft->stats().waiting, 0u);
}

TEST(DraftModel, LivesAsLongAsATextNeedsIt) {
  for (const bool host_driven : {false, true}) {
    const auto runtime = make_runtime(host_driven);
    const auto model = load(runtime);
    Request request = exactly(80, longest_case().prompt);
    const Outcome expected = run(model, request);
    auto draft = load(runtime);
    const std::weak_ptr<Model> watched = draft;
    Request drafted = with_model(request, std::move(draft), 4);
    auto generation = Session::create(model).value()->submit(drafted).value();
    drafted = {};
    EXPECT_FALSE(watched.expired());
    EXPECT_EQ(collect(*generation).script, expected.script);
    // The driver lets go of it when it next looks.
    for (int i = 0; i < 5000 && !watched.expired(); ++i) {
      if (host_driven) {
        runtime->poll(0).value();
      } else {
        usleep(1000);
      }
    }
    EXPECT_TRUE(watched.expired());
    // And a text that is given up in the middle.
    generation =
        Session::create(model).value()->submit(with_model(request, load(runtime), 4)).value();
    if (host_driven) runtime->poll(5000).value();
  }
}

TEST(DraftModel, MustBeAnotherModelOfTheSameRuntimeAndTokens) {
  const auto runtime = make_runtime();
  const auto model = load(runtime);
  const auto session = Session::create(model).value();
  const Request request = tokens_request(golden_cases()[0].prompt);
  const auto code = [&](const Request& r) { return session->submit(r).status().code(); };
  EXPECT_EQ(code(with_model(request, nullptr)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(with_model(request, model)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(with_model(request, load(make_runtime()))), absl::StatusCode::kInvalidArgument);
  if (fs::exists(oracle("dsv3-bf16"))) {
    const auto other = load(runtime, {}, oracle("dsv3-bf16"));
    EXPECT_EQ(code(with_model(request, other)), mismatch_error("").code());
  }
  EXPECT_EQ(code(with_model(request, load(runtime))), absl::StatusCode::kOk);
}

TEST(DraftModel, MayItselfHaveADraftLayer) {
  if (!fs::exists(oracle("dsv3-bf16"))) GTEST_SKIP() << "no reference data at " << kOracle;
  const auto runtime = make_runtime();
  const auto model = load(runtime, {}, oracle("dsv3-bf16"));
  const auto draft = load(runtime, layered(), oracle("dsv3-bf16"));
  Request request = exactly(50, some_prompt(40));
  GenerationStats stats;
  const Outcome expected = run(model, request);
  EXPECT_EQ(run(model, with_model(request, draft, 4), &stats).script, expected.script);
  EXPECT_EQ(stats.accepted_tokens, stats.drafted_tokens);
  EXPECT_EQ(run(draft, with_layer(request)).script, expected.script);
}

}  // namespace
}  // namespace ponder::engine
