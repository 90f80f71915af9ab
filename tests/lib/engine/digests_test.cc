// The engine on a device that reduces rows of logits, and on the same one that does not: every
// request says the same, and few rows travel whole.
#include <gtest/gtest.h>

#include <cmath>

#include "backends/onednn/onednn.h"
#include "backends/ref/ops.h"
#include "lib/device/forwarding_backend.h"
#include "tests/golden/rig.h"
#include "tests/lib/engine/speculation.h"

namespace ponder {
namespace {

constexpr int64_t kVocabulary = 320;  // of the shipped model; none of its other matrices is so high

struct Traffic {
  uint64_t reduced = 0, whole = 0;  // rows of logits
  bool damage = false;              // a NaN gets into the logits
  int64_t refuse_over = INT64_MAX;  // rows longer than this are not reduced
};
Traffic traffic;

// The CPU backend, watched, with the reference's reduction.
class Watched final : public ForwardingBackend {
 public:
  Watched(std::unique_ptr<Backend> cpu, bool digests)
      : ForwardingBackend(std::move(cpu)), digests_(digests) {}

  Status linear(const LinearParams& p) override {
    PONDER_RETURN_IF_ERROR(ForwardingBackend::linear(p));
    if (traffic.damage && p.w->rows == kVocabulary) {
      for (int64_t r = 0; r < p.out.dim[0]; ++r) p.out.f32()[r * p.out.stride[0] + 17] = NAN;
    }
    return OkStatus();
  }
  Status download(const void* device, void* host, uint64_t bytes) override {
    const auto row = static_cast<uint64_t>(kVocabulary) * sizeof(float);
    if (bytes % row == 0) traffic.whole += bytes / row;
    return ForwardingBackend::download(device, host, bytes);
  }
  Status digest_rows(const DigestRowsParams& p) override {
    if (p.logits.dim[1] > traffic.refuse_over) return unsupported_error("too long");
    traffic.reduced += p.rows.size();
    return ref::digest_rows(p), OkStatus();
  }
  bool digests_rows() const override { return digests_; }

 private:
  const bool digests_;
};

class WatchedFactory final : public BackendFactory {
 public:
  explicit WatchedFactory(bool digests) : digests_(digests) {}
  std::vector<DeviceInfo> devices(const BackendContext& context) const override {
    return onednn_factory()->devices(context);
  }
  StatusOr<std::unique_ptr<Backend>> create(uint32_t,
                                            const BackendContext& context) const override {
    PONDER_ASSIGN_OR_RETURN(auto cpu, make_onednn_backend(context));
    return std::make_unique<Watched>(std::move(cpu), digests_);
  }

 private:
  const bool digests_;
};

}  // namespace

// In place of backends/builtin.cc.
std::span<const BackendFactory* const> builtin_backends() {
  static const WatchedFactory whole(false), reduced(true);
  static const BackendFactory* const backends[] = {&whole, &reduced};
  return backends;
}

namespace engine {
namespace {

struct Models {
  std::shared_ptr<Model> whole, reduced;
};

Models models(ModelOptions options = {}, const std::string& path = kModel) {
  const auto runtime = make_runtime();
  Models both;
  both.whole = load(runtime, options, path);
  options.device = 1;
  both.reduced = load(runtime, options, path);
  return both;
}

Request sampled(std::vector<int32_t> tokens, uint64_t seed) {
  Request request = tokens_request(std::move(tokens));
  request.max_tokens = 60;
  request.temperature = 0.6f;
  request.top_p = 0.95f;
  request.seed = seed;
  return request;
}

TEST(Digests, EveryKindOfRequestSaysTheSame) {
  const Models both = models();
  const auto prompts = golden_cases();
  for (const Case& c : speculation_cases()) {
    SCOPED_TRACE(c.name);
    Request request = tokens_request(prompts[1].prompt);
    request.max_tokens = 50;
    c.change(&request);
    EXPECT_EQ(run(both.reduced, request).script, run(both.whole, request).script);
    request.speculation = Speculation::kNgram;
    request.always_draft = true;
    EXPECT_EQ(run(both.reduced, request).script, run(both.whole, request).script);
  }
}

TEST(Digests, RowsTravelReducedWhereTheyDecide) {
  const Models both = models();
  struct Kind {
    const char* name;
    std::function<void(Request*)> change;
    double whole;  // of the rows, at most
  };
  const Kind kinds[] = {
      {"greedy", [](Request* r) { r->temperature = 0; }, 0},
      {"R1", [](Request*) {}, 0.05},
      {"Qwen3", [](Request* r) { r->top_k = 20; }, 0},
      {"logprobs", [](Request* r) { r->want_logprobs = true, r->logprobs = 4; }, 0.05},
      {"bias",
       [](Request* r) {
         r->logit_bias = {{5, 2.0f}, {9, -4.0f}};
       },
       0.1},
      {"penalties", [](Request* r) { r->repeat_penalty = 1.1f, r->presence_penalty = 0.2f; }, 0.2},
      {"soft budget", [](Request* r) { r->thought_soft = 3; }, 0.1},
      {"hard budget", [](Request* r) { r->thought_hard = 5, r->max_tokens = 30; }, 0.1},
      {"plain sampling", [](Request* r) { r->top_p = 1.0f; }, 1},
  };
  for (const Kind& kind : kinds) {
    SCOPED_TRACE(kind.name);
    Request request = sampled(golden_cases()[0].prompt, 11);
    kind.change(&request);
    const Outcome wanted = run(both.whole, request);
    traffic = {};
    const Outcome got = run(both.reduced, request);
    EXPECT_EQ(got.script, wanted.script);
    EXPECT_EQ(got.closed_by, wanted.closed_by);
    const auto rows = static_cast<double>(got.tokens.size());
    EXPECT_LE(static_cast<double>(traffic.whole), kind.whole * rows);
    EXPECT_EQ(static_cast<double>(traffic.reduced), kind.whole < 1 ? rows : 0);
  }
}

TEST(Digests, TextsOfAllKindsInOneStep) {
  const Models both = models();
  const auto all = [](const std::shared_ptr<Model>& model) {
    std::vector<std::shared_ptr<Generation>> generations;
    const auto prompts = golden_cases();
    for (uint64_t i = 0; i < 12; ++i) {
      Request request = sampled(prompts[i % prompts.size()].prompt, i);
      request.max_tokens = 30;
      if (i % 4 == 1) request.top_p = 1.0f;  // whole
      if (i % 4 == 2) request.logit_bias = {{static_cast<int32_t>(i), 3.0f}, {7, 1.0f}};
      if (i % 4 == 3) request.want_logprobs = true, request.logprobs = 2;
      if (i % 3 == 0) request.temperature = 0;
      generations.push_back(Session::create(model).value()->submit(request).value());
    }
    std::vector<std::vector<std::string>> scripts;
    for (const auto& g : generations) scripts.push_back(collect(*g).script);
    return scripts;
  };
  EXPECT_EQ(all(both.reduced), all(both.whole));
}

TEST(Digests, ScoresAreTheSame) {
  const Models both = models();
  const GoldenCase c = longest_case();
  std::vector<int32_t> text = c.prompt;
  text.insert(text.end(), c.greedy.begin(), c.greedy.end());
  for (const uint32_t top_n : {0u, 5u, 200u}) {
    traffic = {};
    const Scores got = both.reduced->score(text, top_n).value();
    EXPECT_EQ(traffic.whole, top_n < 100 ? 0 : text.size());
    const Scores wanted = both.whole->score(text, top_n).value();
    EXPECT_EQ(got.logprobs, wanted.logprobs);
    EXPECT_EQ(got.top_tokens, wanted.top_tokens);
    EXPECT_EQ(got.top_logprobs, wanted.top_logprobs);
  }
}

TEST(Digests, DraftsAreTheSame) {
  const std::string folder = (kOracle / "A/dsv3-bf16").string();
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  ModelOptions options;
  options.draft_layer = true;
  const Models both = models(options, folder);
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 30; ++i) prompt.push_back(20 + i * i % 97);
  Request request = tokens_request(prompt);
  request.max_tokens = 40;
  request.ignore_eos = true;
  request.speculation = Speculation::kMtp;
  request.max_draft = 3;
  request.always_draft = true;
  GenerationStats wanted, got;
  traffic = {};
  EXPECT_EQ(run(both.reduced, request, &got).script, run(both.whole, request, &wanted).script);
  EXPECT_EQ(got.accepted_tokens, wanted.accepted_tokens);
  EXPECT_GT(traffic.reduced, 40u);
}

TEST(Digests, DamageIsReportedInTheSameWords) {
  const Models both = models();
  const Request request = sampled(golden_cases()[0].prompt, 1);
  const auto failure = [&](const std::shared_ptr<Model>& model) {
    return collect(*Session::create(model).value()->submit(request).value()).failure;
  };
  traffic = {.damage = true};
  const Status wanted = failure(both.whole), got = failure(both.reduced);
  traffic = {};
  EXPECT_EQ(wanted.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(got, wanted);
  EXPECT_NE(wanted.message().find("token 17"), absl::string_view::npos) << wanted;
}

TEST(Digests, RowsThatTheDeviceRefusesTravelWhole) {
  const Models both = models();
  const Request request = sampled(golden_cases()[0].prompt, 1);
  traffic = {.refuse_over = 10};
  const Outcome got = run(both.reduced, request);
  EXPECT_EQ(traffic.reduced, 0u);
  EXPECT_EQ(traffic.whole, got.tokens.size());
  traffic = {};
  EXPECT_EQ(got.script, run(both.whole, request).script);
}

}  // namespace
}  // namespace engine
}  // namespace ponder
