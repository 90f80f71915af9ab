#include "measure.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace ponder::tool {
namespace {

using Clock = std::chrono::steady_clock;

// Pulls events until the end; the finish must be that of a request that got all it asked for.
void drain(ponder_generation* generation, uint64_t& prompt_tokens_computed) {
  for (;;) {
    ponder_event event{};
    ponder_error* error = nullptr;
    const ponder_status status = ponder_generation_next(generation, &event, sizeof event, &error);
    check(status, error, "generating");
    if (status == PONDER_DONE) return;
    if (status == PONDER_PENDING) {
      check(ponder_generation_wait(generation, PONDER_FOREVER), "waiting for the model");
    } else if (event.kind == PONDER_EVENT_STARTED) {
      prompt_tokens_computed += event.prompt_tokens - event.cached_tokens;
    } else if (event.kind == PONDER_EVENT_FINISHED && event.finish != PONDER_FINISH_LENGTH) {
      throw Failure("the measured request ended before its last token; the figures would be wrong");
    }
  }
}

}  // namespace

Meter::Meter(ponder_model* model, uint32_t batch, uint64_t seed)
    : random_(seed), any_token_(0, static_cast<ponder_token>(info_of(model).vocabulary - 1)) {
  for (uint32_t i = 0; i < batch; ++i) sessions_.push_back(new_session(model));
}

Timing Meter::prefill(uint32_t tokens) {
  forget();
  return run(random_prompts(tokens), 1);
}

Timing Meter::decode(uint32_t tokens, uint32_t depth) {
  forget();
  Prompts prompts = random_prompts(depth);
  if (depth > 0) run(prompts, 1);
  for (std::vector<ponder_token>& prompt : prompts) prompt.push_back(random_token());
  return run(prompts, tokens);
}

Meter::Prompts Meter::random_prompts(uint32_t tokens) {
  Prompts prompts(sessions_.size());
  for (std::vector<ponder_token>& prompt : prompts) {
    for (uint32_t i = 0; i < tokens; ++i) prompt.push_back(random_token());
  }
  return prompts;
}

ponder_token Meter::random_token() { return any_token_(random_); }

Timing Meter::run(const Prompts& prompts, uint32_t max_tokens) {
  std::vector<RequestPtr> requests;
  for (const std::vector<ponder_token>& prompt : prompts) {
    RequestPtr request = new_request();
    check(ponder_request_set_tokens(request.get(), prompt.data(), prompt.size()), "setting the prompt");
    check(ponder_request_set_max_tokens(request.get(), max_tokens), "setting the token limit");
    check(ponder_request_set_temperature(request.get(), 0), "setting the temperature");
    check(ponder_request_set_ignore_eos(request.get(), 1), "ignoring the end of text");
    requests.push_back(std::move(request));
  }
  Timing timing;
  std::vector<GenerationPtr> generations;
  const Clock::time_point begin = Clock::now();
  for (size_t i = 0; i < requests.size(); ++i) {
    generations.push_back(submit(sessions_[i].get(), requests[i].get()));
  }
  for (const GenerationPtr& generation : generations) {
    drain(generation.get(), timing.prompt_tokens_computed);
  }
  timing.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return timing;
}

void Meter::forget() {
  for (const SessionPtr& session : sessions_) {
    check(ponder_session_truncate(session.get(), 0), "emptying a session");
  }
}

Spread spread_of(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const size_t middle = samples.size() / 2;
  const double median =
      samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
  return {median, samples.front(), samples.back()};
}

}  // namespace ponder::tool
