// `ponder bench`: tokens per second of prefill and decode.

#include <sys/resource.h>

#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "measure.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct BenchArguments {
  ModelArguments model;
  uint32_t prompt = 512, generate = 64, depth = 0, batch = 1, repetitions = 5;
  uint64_t seed = 1;
  bool json = false;
};

uint64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

// Tokens per second of each repetition; one more comes first, unmeasured.
template <typename Measure>
std::vector<double> repeated(const BenchArguments& args, const char* what, uint64_t tokens,
                             uint64_t prompt_tokens, Measure measure) {
  std::vector<double> rates;
  for (uint32_t i = 0; i <= args.repetitions; ++i) {
    diagnostics().progress(std::string(what) + (i == 0 ? ": warming up"
                                                       : ": " + std::to_string(i) + " of " +
                                                             std::to_string(args.repetitions)));
    const Timing timing = measure();
    if (i == 0) continue;
    if (timing.prompt_tokens_computed != prompt_tokens) {
      diagnostics().line(
          "ponder: " + std::string(what) + ": " + std::to_string(timing.prompt_tokens_computed) +
          " prompt tokens were computed, " + std::to_string(prompt_tokens) + " were meant to be");
    }
    rates.push_back(static_cast<double>(tokens) / timing.seconds);
  }
  diagnostics().clear_progress();
  return rates;
}

Json part_json(uint32_t tokens, const std::vector<double>& rates) {
  const Spread spread = spread_of(rates);
  return {
      {"tokens", tokens},
      {"tokens_per_s",
       {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}, {"samples", rates}}}};
}

std::string part_line(const char* what, const std::string& of, const std::vector<double>& rates) {
  const Spread spread = spread_of(rates);
  return std::string(what) + of + "  " + human_number(spread.median) + " tokens/s  (" +
         human_number(spread.min) + " to " + human_number(spread.max) + ")\n";
}

void run(const BenchArguments& args) {
  const Loaded loaded = args.model.load();
  const uint32_t context = loaded.model.info().context;
  const uint64_t needed =
      std::max(uint64_t{args.prompt} + 1, uint64_t{args.depth} + args.generate + 1);
  if (needed > context) {
    throw Failure("the measurement needs " + std::to_string(needed) +
                  " tokens and the context holds " + std::to_string(context) +
                  "; choose smaller -p, -d or -n");
  }
  Meter meter(loaded.model, args.batch, args.seed);
  std::vector<double> prefill, decode;
  if (args.prompt > 0) {
    const uint64_t tokens = uint64_t{args.prompt} * args.batch;
    prefill = repeated(args, "prefill", tokens, tokens, [&] { return meter.prefill(args.prompt); });
  }
  if (args.generate > 0) {
    decode = repeated(args, "decode", uint64_t{args.generate} * args.batch, args.batch,
                      [&] { return meter.decode(args.generate, args.depth); });
  }

  if (args.json) {
    Json json = {{"model", loaded.path},
                 {"threads", args.model.threads},
                 {"device", args.model.device},
                 {"precision", args.model.precision},
                 {"batch", args.batch},
                 {"depth", args.depth},
                 {"repetitions", args.repetitions}};
    if (args.prompt > 0) json["prefill"] = part_json(args.prompt, prefill);
    if (args.generate > 0) json["decode"] = part_json(args.generate, decode);
    json["load_s"] = loaded.load_s;
    json["peak_rss_bytes"] = peak_rss_bytes();
    output().json_line(json);
    return;
  }
  const std::string batch = args.batch > 1 ? " x " + std::to_string(args.batch) : "";
  if (args.prompt > 0) {
    output().write(part_line("prefill ", std::to_string(args.prompt) + batch, prefill));
  }
  if (args.generate > 0) {
    output().write(part_line(
        "decode  ", std::to_string(args.generate) + batch + " at " + std::to_string(args.depth),
        decode));
  }
  output().write("loaded in " + human_number(loaded.load_s) + " s, at most " +
                 human_bytes(peak_rss_bytes()) + " resident\n");
  output().flush();
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Measure how fast a model reads and writes");
  const auto args = std::make_shared<BenchArguments>();
  args->model.add_positional(*command);
  const std::string group = "Measurement";
  command->add_option("-p,--prompt", args->prompt, "Prompt tokens to read; 0: skip")
      ->capture_default_str()
      ->group(group);
  command->add_option("-n,--generate", args->generate, "Tokens to write; 0: skip")
      ->capture_default_str()
      ->group(group);
  command->add_option("-d,--depth", args->depth, "Tokens in the context before writing")
      ->capture_default_str()
      ->group(group);
  command->add_option("-b,--batch", args->batch, "Sequences at the same time")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024))
      ->group(group);
  command
      ->add_option("-r,--repetitions", args->repetitions, "Measured runs after one that warms up")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000))
      ->group(group);
  command->add_option("--seed", args->seed, "Of the random prompts")
      ->capture_default_str()
      ->group(group);
  command->add_flag("--json", args->json, "One JSON object")->group(group);
  args->model.add_options(*command);
  add_examples(*command,
               "  ponder bench\n"
               "  ponder bench ~/models/R1-Distill-Qwen-1.5B -p 512 -n 64 -t 2 -r 5 --json\n"
               "  ponder bench -p 0 -n 64 -d 512 -b 8\n"
               "bench/compare/ runs this and llama-bench alternately on the same weights.");
  command->callback([args] { run(*args); });
}

}  // namespace ponder::tool
