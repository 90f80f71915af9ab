#include "measure.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace ponder::tool {
namespace {

using Clock = std::chrono::steady_clock;

// Pulls events until the end; the finish must be that of a request that got all it asked for.
void drain(Generation& generation, uint64_t& prompt_tokens_computed) {
  Event event;
  while (generation.next_blocking(event)) {
    const ponder_event& raw = event.raw();
    if (raw.kind == PONDER_EVENT_STARTED) {
      prompt_tokens_computed += raw.prompt_tokens - raw.cached_tokens;
    } else if (raw.kind == PONDER_EVENT_FINISHED && raw.finish != PONDER_FINISH_LENGTH) {
      throw Failure("the measured request ended before its last token; the figures would be wrong");
    }
  }
}

}  // namespace

Meter::Meter(const Model& model, uint32_t batch, uint64_t seed)
    : random_(seed), any_token_(0, static_cast<ponder_token>(model.info().vocabulary - 1)) {
  for (uint32_t i = 0; i < batch; ++i) sessions_.emplace_back(model);
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
  std::vector<Request> requests(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    requests[i].tokens(prompts[i]).max_tokens(max_tokens).temperature(0).ignore_eos(true);
  }
  Timing timing;
  std::vector<Generation> generations;
  const Clock::time_point begin = Clock::now();
  for (size_t i = 0; i < requests.size(); ++i)
    generations.push_back(sessions_[i].submit(requests[i]));
  for (Generation& generation : generations) drain(generation, timing.prompt_tokens_computed);
  timing.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return timing;
}

void Meter::forget() {
  for (Session& session : sessions_) session.truncate(0);
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
