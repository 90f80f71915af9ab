// `ponder quantize` and `ponder calibrate`: smaller weights, and what to be careful with in them.

#include <filesystem>
#include <memory>
#include <string>

#include "commands.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct QuantizeArguments {
  std::string from, to, type, importance;
  uint32_t threads = 0;
};

int32_t show_bytes(void*, uint64_t done, uint64_t total) {
  if (total > 0) {
    diagnostics().progress("quantising: " + std::to_string(done * 100 / total) + "% of " +
                           human_bytes(total));
  }
  return 0;
}

int32_t show_windows(void*, uint64_t done, uint64_t total) {
  diagnostics().progress("calibrating: " + std::to_string(done) + " of " + std::to_string(total) +
                         " windows");
  return 0;
}

void quantize(const QuantizeArguments& args) {
  Error error;
  ponder::quantize(args.from, args.to, args.type, args.importance, args.threads, show_bytes,
                   nullptr, &error);
  diagnostics().clear_progress();
  if (error) throw error;
  output().write(args.to + "  " + human_bytes(std::filesystem::file_size(args.to)) + "\n");
  output().flush();
}

struct CalibrateArguments {
  ModelArguments model;
  std::string text, to;
};

void calibrate(const CalibrateArguments& args) {
  const std::string text = read_input(args.text);
  const Runtime runtime = args.model.make_runtime();
  const ModelOptions options;
  args.model.apply(runtime, options);
  Error error;
  Model::calibrate(runtime, args.model.path(), options, text, args.to, show_windows, nullptr,
                   &error);
  diagnostics().clear_progress();
  if (error) throw error;
}

}  // namespace

void add_quantize(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model to a GGUF file with smaller weights");
  const auto args = std::make_shared<QuantizeArguments>();
  command->add_option("IN", args->from, "A model folder (Qwen2, Llama, Qwen3) or a GGUF file")
      ->required();
  command->add_option("OUT", args->to, "The GGUF file to write")->required();
  command
      ->add_option(
          "--type", args->type,
          "f32 f16 bf16 q8_0 q6_k q5_k q5_k_s q5_k_m q5_0 q5_1 q4_k q4_k_s q4_k_m q4_0 q4_1 "
          "iq4_nl iq4_xs q3_k_s q3_k_m q2_k")
      ->required();
  command->add_option("--importance", args->importance, "A file made by 'ponder calibrate'")
      ->type_name("FILE");
  command
      ->add_option("-t,--threads", args->threads, "Threads that compute; 0: one per physical core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  add_examples(*command,
               "  ponder quantize ~/models/R1-Distill-Qwen-1.5B r1.gguf --type q4_k_m\n"
               "  ponder quantize r1-bf16.gguf r1.gguf --type iq4_xs --importance r1.imatrix\n"
               "docs/formats/quantization.md says what each type costs.");
  command->callback([args] { quantize(*args); });
}

void add_calibrate(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "calibrate", "Measure which columns of the weights matter, for 'ponder quantize'");
  const auto args = std::make_shared<CalibrateArguments>();
  command->add_option("MODEL", args->model.model, "A model folder or a GGUF file, best unquantised")
      ->required();
  command->add_option("TEXT", args->text, "What the model reads; '-': standard input")->required();
  command->add_option("OUT", args->to, "The importance file to write, a GGUF file as llama.cpp's")
      ->required();
  args->model.add_options(*command);
  add_examples(*command,
               "  ponder calibrate ~/models/R1-Distill-Qwen-1.5B thoughts.txt r1.imatrix\n"
               "A few hundred kilobytes of text like that which the model will see are enough.");
  command->callback([args] { calibrate(*args); });
}

}  // namespace ponder::tool
