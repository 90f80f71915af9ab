// The `ponder` command: the library from a shell. docs/cli.md is its reference.

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <utility>

#include "commands.h"
#include "failure.h"
#include "options.h"

namespace ponder::tool {
namespace {

// Plainer than the default: "--top-k N", without lists of what excludes what.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(34); }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_positional() || option->get_type_size() == 0) return {};
    std::string type = option->get_type_name();
    type.resize(std::min(type.find(':'), type.size()));
    if (type == "UINT" || type == "INT") type = "N";
    if (type == "FLOAT") type = "X";
    const std::string value = option->get_default_str();
    return " " + type + (value.empty() ? "" : " (" + value + ")");
  }
  // One blank line between groups, not two.
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
    return text;
  }
};

std::string version_text() {
  int32_t major = 0, minor = 0, patch = 0;
  ponder_version(&major, &minor, &patch);
  return "ponder " + std::to_string(major) + "." + std::to_string(minor) + "." +
         std::to_string(patch);
}

// "ponder run", as far as the command line got.
std::string command_name(const CLI::App& app) {
  std::string name = "ponder";
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    name += " " + at->get_name();
  }
  return name;
}

int usage_failure(const CLI::App& app, const std::string& message) {
  const std::string name = command_name(app);
  diagnostics().line(name + ": " + one_line(message) + " (" + name + " --help explains)");
  return kExitUsage;
}

int failure(const std::string& message) {
  diagnostics().line("ponder: " + one_line(message));
  return kExitFailed;
}

int run(int argc, char** argv) {
  CLI::App app("Run reasoning language models: they think, then they answer.", "ponder");
  app.set_version_flag("--version", version_text, "Print the version");
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());
  add_run(app);
  add_chat(app);
  add_tokenize(app);
  add_detokenize(app);
  add_render(app);
  add_score(app);
  add_perplexity(app);
  add_quantize(app);
  add_calibrate(app);
  add_bench(app);
  add_info(app);
  add_devices(app);
  add_eval(app);
  add_examples(
      app,
      "  ponder run \"Use 3, 7 and 21 to make 42.\"\n"
      "      Watch the shipped model think and answer.\n"
      "  ponder chat\n"
      "  ponder run --help\n"
      "A model is a folder in the Hugging Face layout; without one the shipped model is used.\n"
      "Results go to standard output, everything else to standard error. Exit status: 0 done,\n"
      "1 it failed (one line says what and the remedy), 2 the command line is wrong.");
  try {
    app.parse(argc, argv);
    output().flush();
    return kExitDone;
  } catch (const CLI::Success& e) {  // --help, --version
    std::ostringstream text;
    app.exit(e, text, text);
    output().write(text.str());
    output().flush();
    return kExitDone;
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    // The parser only says that a command is missing.
    if (app.get_subcommands().empty() && argc > 1 && argv[1][0] != '-') {
      return usage_failure(app, "there is no command '" + std::string(argv[1]) + "'");
    }
    return usage_failure(app, e.what());
  } catch (const UsageError& e) {
    return usage_failure(app, e.what());
  } catch (const Failure& e) {
    return failure(e.what());
  } catch (const Error& e) {
    return failure(e.what());
  }
}

}  // namespace
}  // namespace ponder::tool

int main(int argc, char** argv) {
  // A closed pipe is an error of write(2), not the end of the process: see Output.
  ::signal(SIGPIPE, SIG_IGN);
  try {
    return ponder::tool::run(argc, argv);
  } catch (const ponder::tool::PipeClosed&) {
    return ponder::tool::kExitPipeClosed;
  } catch (const std::bad_alloc&) {
    std::fputs("ponder: out of memory\n", stderr);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ponder: %s\n", e.what());
  }
  return ponder::tool::kExitFailed;
}
