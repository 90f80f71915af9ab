// What the engine's tests share: the shipped model, its golden texts, and a generation put together
// from its events.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/engine/model.h"
#include "lib/engine/runtime.h"
#include "lib/engine/session.h"
#include "lib/format/file_source.h"
#include "tests/paths/paths.h"

namespace ponder::engine {

inline const std::string kModel = kCountdownModel;
inline const std::string kGolden = std::string(kSourceDir) + "/tests/data/countdown_golden.json";

// What a generation said, put together from its events.
struct Outcome {
  std::string thought, answer;
  std::vector<int32_t> tokens;         // FINISHED's
  std::vector<int32_t> event_tokens;   // of the pieces
  std::vector<float> logprobs;
  Finish finish = Finish::kNone, closed_by = Finish::kNone;
  uint32_t prompt_tokens = 0, cached_tokens = 0, thought_tokens = 0, answer_tokens = 0;
  int prefill_events = 0;
  std::vector<std::string> script;  // every event after the prompt's, in words
  Status failure;
};

inline Outcome collect(Generation& generation) {
  Outcome outcome;
  Event event;
  while (true) {
    const auto waited = generation.wait(UINT64_MAX);
    if (!waited.ok()) {
      outcome.failure = waited.status();
      return outcome;
    }
    switch (generation.next(&event, &outcome.failure)) {
      case GenerationState::Next::kEvent:
        break;
      case GenerationState::Next::kPending:
        continue;
      default:
        return outcome;
    }
    switch (event.kind) {
      case EventKind::kStarted:
        outcome.prompt_tokens = event.prompt_tokens;
        outcome.cached_tokens = event.cached_tokens;
        break;
      case EventKind::kPrefill:
        ++outcome.prefill_events;
        break;
      case EventKind::kThought:
        outcome.thought += event.text;
        break;
      case EventKind::kThoughtEnd:
        outcome.closed_by = event.finish;
        break;
      case EventKind::kAnswer:
        outcome.answer += event.text;
        break;
      case EventKind::kFinished:
        outcome.finish = event.finish;
        outcome.tokens = event.tokens;
        outcome.thought_tokens = event.thought_tokens;
        outcome.answer_tokens = event.answer_tokens;
        break;
      default:
        break;
    }
    if (event.kind != EventKind::kStarted && event.kind != EventKind::kPrefill) {
      std::ostringstream line;
      line << static_cast<int>(event.kind) << ' ' << static_cast<int>(event.finish) << ' '
           << event.thought_tokens << ' ' << event.answer_tokens << ' ' << event.text;
      for (const int32_t id : event.tokens) line << ' ' << id;
      line << std::hexfloat;
      for (const float p : event.logprobs) line << ' ' << p;
      for (const int32_t id : event.top_tokens) line << ' ' << id;
      for (const float p : event.top_logprobs) line << ' ' << p;
      outcome.script.push_back(line.str());
    }
    if (event.kind == EventKind::kThought || event.kind == EventKind::kAnswer) {
      outcome.event_tokens.insert(outcome.event_tokens.end(), event.tokens.begin(),
                                  event.tokens.end());
      outcome.logprobs.insert(outcome.logprobs.end(), event.logprobs.begin(),
                              event.logprobs.end());
    }
  }
}

inline std::shared_ptr<Runtime> make_runtime(bool host_driven = false, uint32_t threads = 2) {
  RuntimeOptions options;
  options.threads = threads;
  options.host_driven = host_driven;
  return Runtime::create(std::move(options)).value();
}

inline std::shared_ptr<Model> load(const std::shared_ptr<Runtime>& runtime, ModelOptions options = {},
                            const std::string& path = kModel) {
  auto model = Model::load(runtime, open_folder(path).value(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

// In float32, where the golden texts hold.
inline std::shared_ptr<Model> load_exact() {
  ModelOptions options;
  options.precision = Precision::kF32;
  return load(make_runtime(), options);
}

inline Request tokens_request(std::vector<int32_t> tokens) {
  Request request;
  request.tokens = std::move(tokens);
  request.temperature = 0;
  return request;
}

// For just so many tokens, whatever they are.
inline Request exactly(uint32_t count, std::vector<int32_t> tokens) {
  Request request = tokens_request(std::move(tokens));
  request.max_tokens = count;
  request.ignore_eos = true;
  return request;
}

struct GoldenCase {
  std::vector<int32_t> prompt, greedy;
  std::vector<double> margins;
  std::string message;
};

inline std::vector<GoldenCase> golden_cases() {
  std::ifstream in(kGolden);
  std::stringstream text;
  text << in.rdbuf();
  std::vector<GoldenCase> cases;
  const Json golden = parse_json(text.str(), kGolden).value();
  for (const Json& c : golden["cases"]) {
    cases.push_back({c["prompt_ids"], c["greedy_ids"], c["margins"], c["message"]});
  }
  return cases;
}

// The prompt whose greedy run is longest.
inline GoldenCase longest_case() {
  auto cases = golden_cases();
  return *std::max_element(cases.begin(), cases.end(), [](const auto& a, const auto& b) {
    return a.greedy.size() < b.greedy.size();
  });
}

}  // namespace ponder::engine
