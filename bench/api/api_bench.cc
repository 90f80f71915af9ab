// Whole models through the public API: prefill, decode alone and in batches, the pause a
// host-driven frame makes, and the time from submit to the first token of a prompt that is already
// cached.
//
//   api_bench [MODEL] [Google Benchmark's options]
//
// MODEL defaults to the shipped model, which is so small that it measures the engine, not the
// kernels; give a real checkpoint for the latter.
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <ponder/ponder.hpp>

#include "tools/ponder/measure.h"
#include "tools/ponder/options.h"

namespace ponder::tool {
namespace {

std::string model_path;

// Loaded at first use and kept: loading is not what is measured.
const Loaded& model() {
  static const Loaded loaded = [] {
    ModelArguments arguments;
    arguments.model = model_path;
    return arguments.load();
  }();
  return loaded;
}

void set_rate(benchmark::State& state, int64_t tokens) {
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens * state.iterations()),
                                                  benchmark::Counter::kIsRate);
}

void prefill(benchmark::State& state) {
  Meter meter(model().model, 1, 1);
  const auto tokens = static_cast<uint32_t>(state.range(0));
  for (auto _ : state) state.SetIterationTime(meter.prefill(tokens).seconds);
  set_rate(state, tokens);
}
BENCHMARK(prefill)->Arg(64)->Arg(512)->UseManualTime()->Unit(benchmark::kMillisecond);

void decode(benchmark::State& state) {
  constexpr uint32_t kTokens = 32;
  const auto batch = static_cast<uint32_t>(state.range(0));
  const auto depth = static_cast<uint32_t>(state.range(1));
  Meter meter(model().model, batch, 1);
  for (auto _ : state) state.SetIterationTime(meter.decode(kTokens, depth).seconds);
  set_rate(state, int64_t{kTokens} * batch);
}
BENCHMARK(decode)
    ->ArgNames({"batch", "depth"})
    ->Args({1, 0})
    ->Args({1, 512})
    ->Args({4, 0})
    ->Args({8, 0})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// A prompt that another session has computed already: what is left is one token.
void first_token_of_a_cached_prompt(benchmark::State& state) {
  std::mt19937 random(1);
  std::vector<ponder_token> prompt(256);
  for (ponder_token& token : prompt) {
    token = static_cast<ponder_token>(random() % model().model.info().vocabulary);
  }
  Request request;
  request.tokens(prompt).max_tokens(1).temperature(0);
  Session(model().model).submit(request).collect();
  for (auto _ : state) {
    Session session(model().model);
    session.submit(request).collect();
  }
}
BENCHMARK(first_token_of_a_cached_prompt)->UseRealTime()->Unit(benchmark::kMicrosecond);

// A game's frame: poll() with a budget while a generation runs. The longest call is what a player
// would feel.
void host_driven_frame(benchmark::State& state) {
  const auto budget_us = static_cast<uint64_t>(state.range(0));
  RuntimeOptions options;
  options.drive(PONDER_DRIVE_HOST);
  Runtime runtime(options);
  const Model loaded = Model::load(runtime, model().path);
  Session session(loaded);
  Request request;
  request.text("Use 3, 7 and 21 to make 42.").ignore_eos();
  Generation generation = session.submit(request);
  double longest_us = 0;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    const bool more = runtime.poll(budget_us);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    longest_us = std::max(longest_us, took.count());
    Event event;
    while (generation.next(event) == PONDER_OK) {
    }
    if (!more) {
      state.PauseTiming();
      generation = session.submit(request);
      state.ResumeTiming();
    }
  }
  state.counters["longest_us"] = longest_us;
}
BENCHMARK(host_driven_frame)
    ->ArgName("budget_us")
    ->Arg(500)
    ->Arg(2000)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace ponder::tool

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc > 1) ponder::tool::model_path = argv[1];
  if (argc > 2 && benchmark::ReportUnrecognizedArguments(argc - 1, argv + 1)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
