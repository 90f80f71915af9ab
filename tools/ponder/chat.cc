// `ponder chat`: a conversation on a terminal.

#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "commands.h"
#include "follow.h"
#include "line_editor.h"
#include "options.h"

namespace ponder::tool {
namespace {

constexpr const char* kHelp =
    "/reset          start over (the system message stays)\n"
    "/system TEXT    set the system message and start over; no TEXT: none\n"
    "/think on|off   think before answering, or answer at once\n"
    "/budget N       close the thought after N tokens; 0: no limit\n"
    "/exit           leave; so do Ctrl-D, and Ctrl-C on an empty line\n"
    "Ctrl-C while the model thinks: answer now. Again: cancel.";

struct ChatArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string system;
  bool hide_thoughts = false, quiet = false;
};

class Conversation {
 public:
  Conversation(ChatArguments& args, const Loaded& loaded)
      : args_(args), loaded_(loaded), session_(loaded.model) {
    reset();
  }

  // One line of the user's; false: leave.
  bool take(std::string_view line) {
    if (line.empty()) return true;
    if (line.front() != '/') {
      answer(line);
      return true;
    }
    const size_t blank = line.find(' ');
    const std::string_view name = line.substr(0, blank);
    std::string_view rest =
        blank == std::string_view::npos ? std::string_view() : line.substr(blank);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return command(name, rest);
  }

 private:
  bool command(std::string_view name, std::string_view rest) {
    if (name == "/exit" || name == "/quit") return false;
    if (name == "/reset") {
      reset();
      diagnostics().line("started over");
    } else if (name == "/system") {
      args_.system = rest;
      reset();
      diagnostics().line(rest.empty() ? "no system message; started over"
                                      : "system message set; started over");
    } else if (name == "/think" && (rest == "on" || rest == "off")) {
      args_.sampling.no_think = rest == "off";
      args_.sampling.think = false;
      diagnostics().line("thinking is " + std::string(rest));
    } else if (name == "/budget" && set_budget(rest)) {
      diagnostics().line(args_.sampling.think_hard == 0
                             ? "no limit on the thought"
                             : "at most " + std::to_string(args_.sampling.think_hard) +
                                   " tokens of thought");
    } else if (name == "/help") {
      diagnostics().line(kHelp);
    } else {
      diagnostics().line("there is no such command, or not in that form; these are:\n" +
                         std::string(kHelp));
    }
    return true;
  }

  bool set_budget(std::string_view text) {
    uint32_t tokens = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), tokens);
    if (failed != std::errc() || end != text.data() + text.size()) return false;
    args_.sampling.think_hard = tokens;
    args_.sampling.think_soft = std::min(args_.sampling.think_soft, tokens);
    return true;
  }

  void reset() {
    chat_ = Chat();
    if (!args_.system.empty()) {
      check(ponder_chat_add(chat_.get(), PONDER_ROLE_SYSTEM, args_.system.data(),
                            args_.system.size()),
            "the system message (is it UTF-8?)");
    }
  }

  // A turn that fails leaves the conversation as it was.
  void answer(std::string_view text) {
    const uint32_t before = chat_.message_count();
    try {
      check(ponder_chat_add(chat_.get(), PONDER_ROLE_USER, text.data(), text.size()),
            "the message (is it UTF-8?)");
      Request request;
      request.chat(chat_);
      args_.sampling.apply(request);
      loaded_.add_draft_model(request);
      Generation generation = session_.submit(request);
      Display display(!args_.hide_thoughts);
      const Outcome outcome =
          follow(generation, [&](const ponder_event& event) { display.show(event); });
      display.end();
      if (!args_.quiet) diagnostics().line(statistics_line(outcome));
      if (outcome.finish == PONDER_FINISH_CANCELLED) {
        chat_.truncate(before);
      } else {
        remember(outcome);
      }
    } catch (const Failure& failure) {
      take_back(before, failure.what());
    } catch (const Error& error) {
      take_back(before, error.what());
    }
  }

  void take_back(uint32_t before, const char* why) {
    chat_.truncate(before);
    diagnostics().line("ponder: " + one_line(why) + " (/reset starts over)");
  }

  void remember(const Outcome& outcome) {
    std::string_view answer = outcome.answer;
    answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
    chat_.add_assistant(outcome.thought, answer);
  }

  ChatArguments& args_;
  const Loaded& loaded_;
  Session session_;
  Chat chat_;
};

void run(ChatArguments& args) {
  const Loaded loaded = args.sampling.load(args.model);
  const std::unique_ptr<LineEditor> editor = make_line_editor();
  if (diagnostics().is_terminal()) {
    const ponder_model_info info = loaded.model.info();
    diagnostics().line(std::string(text_of(info.name)) + ": " + std::to_string(info.context) +
                       " tokens of context. /help lists the commands.");
  }
  Conversation conversation(args, loaded);
  while (const std::optional<std::string> line = editor->read("> ")) {
    if (!conversation.take(*line)) break;
  }
}

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model, turn by turn");
  const auto args = std::make_shared<ChatArguments>();
  args->model.add_positional(*command);
  command->add_option("--system", args->system, "A system message before the conversation");
  command->add_flag("--hide-thoughts", args->hide_thoughts, "Show the answers only");
  command->add_flag("-q,--quiet", args->quiet, "No statistics");
  args->sampling.add_options(*command);
  args->model.add_options(*command);
  add_examples(*command,
               std::string("  ponder chat\n"
                           "  ponder chat ~/models/R1-Distill-Qwen-1.5B --think-hard 2000\n"
                           "  printf 'Use 3, 7 and 21 to make 42.\\n' | ponder chat -q\n"
                           "Inside:\n") +
                   kHelp);
  command->callback([args] { run(*args); });
}

}  // namespace ponder::tool
