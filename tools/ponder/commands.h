// One function per command: adds it to the command line. The command runs as its parse callback and
// throws Failure, UsageError or PipeClosed; returning is success.
#pragma once

#include <CLI/CLI.hpp>

namespace ponder::tool {

void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_render(CLI::App& app);
void add_score(CLI::App& app);
void add_perplexity(CLI::App& app);
void add_quantize(CLI::App& app);
void add_calibrate(CLI::App& app);
void add_bench(CLI::App& app);
void add_info(CLI::App& app);
void add_devices(CLI::App& app);
void add_eval(CLI::App& app);

}  // namespace ponder::tool
