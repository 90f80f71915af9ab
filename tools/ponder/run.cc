// `ponder run`: one prompt, one answer.

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "follow.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct RunArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string first, second;
  std::string system, tokens_file, messages_file;
  std::vector<std::string> stops;
  int32_t logprobs = -1;
  bool raw = false, add_special = false, json = false, ignore_eos = false;
  bool hide_thoughts = false, quiet = false;
  CLI::Option* first_given = nullptr;
  CLI::Option* second_given = nullptr;
  CLI::Option* system_given = nullptr;
};

// Sorts out "[MODEL] PROMPT": with --tokens or --messages there is no PROMPT. Returns the prompt.
std::string take_positionals(RunArguments& args) {
  const bool prompt_elsewhere = !args.tokens_file.empty() || !args.messages_file.empty();
  const bool have_first = args.first_given->count() > 0,
             have_second = args.second_given->count() > 0;
  if (prompt_elsewhere) {
    if (have_second) throw UsageError("--tokens and --messages take the place of PROMPT");
    args.model.model = args.first;
    return {};
  }
  if (have_second) {
    args.model.model = args.first;
    return args.second;
  }
  if (!have_first) throw UsageError("a PROMPT is needed ('-' reads it from standard input)");
  std::error_code ignored;
  if (std::filesystem::is_regular_file(std::filesystem::path(args.first) / "config.json",
                                       ignored)) {
    throw UsageError("'" + one_line(args.first) + "' is a model and no PROMPT follows it");
  }
  return args.first;
}

void set_prompt(const RunArguments& args, const std::string& prompt, Request& request) {
  if (!args.tokens_file.empty()) {
    const std::string where = "--tokens " + args.tokens_file;
    const std::vector<ponder_token> tokens =
        tokens_of(parse_json(read_input(args.tokens_file), where), where);
    if (tokens.empty())
      throw Failure(where + ": the array is empty; a prompt has at least one token");
    check(ponder_request_set_tokens(request.get(), tokens.data(), tokens.size()), where);
    return;
  }
  if (args.raw) {
    const int32_t flags =
        PONDER_TOKENIZE_SPECIAL | (args.add_special ? PONDER_TOKENIZE_ADD_SPECIAL : 0);
    check(ponder_request_set_text(request.get(), prompt.data(), prompt.size(), flags),
          "the prompt (is it UTF-8?)");
    return;
  }
  Chat chat;
  if (!args.messages_file.empty()) {
    chat.add_json(read_input(args.messages_file));
  } else {
    if (args.system_given->count() > 0) {
      check(ponder_chat_add(chat.get(), PONDER_ROLE_SYSTEM, args.system.data(), args.system.size()),
            "--system (is it UTF-8?)");
    }
    check(ponder_chat_add(chat.get(), PONDER_ROLE_USER, prompt.data(), prompt.size()),
          "the prompt (is it UTF-8?)");
  }
  request.chat(chat);
}

void run(RunArguments& args) {
  std::string prompt = take_positionals(args);
  if (prompt == "-") prompt = read_input("-");

  Request request;
  set_prompt(args, prompt, request);
  args.sampling.apply(request);
  for (const std::string& stop : args.stops) {
    check(ponder_request_add_stop(request.get(), stop.data(), stop.size()),
          "--stop (1 to 4096 bytes of UTF-8, at most 64 times)");
  }
  check(ponder_request_set_logprobs(request.get(), args.logprobs), "--logprobs (0 to 1000)");
  check(ponder_request_set_ignore_eos(request.get(), args.ignore_eos), "--ignore-eos");

  const Loaded loaded = args.sampling.load(args.model);
  loaded.add_draft_model(request);
  Session session(loaded.model);
  Generation generation = session.submit(request);
  Outcome outcome;
  // What the experts' memory did is the model's affair; here it has only this one request.
  const auto add_experts = [&] {
    const ponder_stats of_model = loaded.model.stats();
    outcome.stats.expert_bytes = of_model.expert_bytes;
    outcome.stats.expert_bytes_used = of_model.expert_bytes_used;
    outcome.stats.expert_hits = of_model.expert_hits;
    outcome.stats.expert_misses = of_model.expert_misses;
    outcome.stats.expert_bytes_read = of_model.expert_bytes_read;
  };
  if (args.json) {
    outcome = follow(generation, [](const ponder_event& event) {
      if (has_json(event)) output().json_line(event_json(event));
    });
    add_experts();
    output().json_line(finished_json(outcome));
  } else {
    Display display(!args.hide_thoughts);
    outcome = follow(generation, [&](const ponder_event& event) { display.show(event); });
    display.end();
    add_experts();
    if (!args.quiet) diagnostics().line(statistics_line(outcome));
  }
  if (outcome.finish == PONDER_FINISH_CANCELLED) throw CLI::RuntimeError(kExitInterrupted);
}

}  // namespace

void add_run(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("run",
                         "Give the model one prompt and print what it thinks and answers.\n"
                         "One argument is the PROMPT, for the shipped model; with --tokens or "
                         "--messages it is the MODEL.");
  const auto args = std::make_shared<RunArguments>();
  args->first_given = command->add_option(
      "MODEL", args->first, "A model's folder; absent: the model shipped with ponder");
  args->second_given = command->add_option("PROMPT", args->second,
                                           "What the user says; '-' reads it from standard input");

  const std::string prompt = "Prompt";
  args->system_given =
      command->add_option("--system", args->system, "A system message before the prompt")
          ->group(prompt);
  CLI::Option* raw = command->add_flag("--raw", args->raw, "No chat template: the prompt as it is")
                         ->group(prompt)
                         ->excludes(args->system_given);
  command
      ->add_flag("--add-special", args->add_special,
                 "With --raw: add what the tokenizer adds to a text, such as its first token")
      ->group(prompt)
      ->needs(raw);
  CLI::Option* tokens =
      command
          ->add_option("--tokens", args->tokens_file, "A JSON array of token ids, used as they are")
          ->type_name("FILE")
          ->group(prompt)
          ->excludes(raw)
          ->excludes(args->system_given);
  command
      ->add_option(
          "--messages", args->messages_file,
          "Messages in the form of OpenAI's chat API, or {\"messages\":[..],\"tools\":[..]}")
      ->type_name("FILE")
      ->group(prompt)
      ->excludes(tokens)
      ->excludes(raw)
      ->excludes(args->system_given);

  args->sampling.add_options(*command);
  const std::string group = "Output";
  command->add_option("--stop", args->stops, "End when the answer holds this text; may be repeated")
      ->allow_extra_args(false)
      ->group(group);
  command->add_flag("--ignore-eos", args->ignore_eos, "Do not end at the end-of-text token")
      ->group(group);
  command
      ->add_option("--logprobs", args->logprobs,
                   "With --json: logarithms of probabilities, and the N likeliest tokens")
      ->type_name("N")
      ->check(CLI::Range(0, 1000))
      ->group(group);
  command->add_flag("--json", args->json, "A JSON object a line, as things happen")->group(group);
  command->add_flag("--hide-thoughts", args->hide_thoughts, "Print the answer only")->group(group);
  command->add_flag("-q,--quiet", args->quiet, "No statistics")->group(group);
  args->model.add_options(*command);

  add_examples(*command,
               "  ponder run \"Use 3, 7 and 21 to make 42.\"\n"
               "      The shipped model thinks (dimmed on a terminal), then answers.\n"
               "  ponder run --hide-thoughts -q \"Use 3, 7 and 21 to make 42.\" > answer.txt\n"
               "      Only the answer, for scripts.\n"
               "  ponder run ~/models/R1-Distill-Qwen-1.5B --think-hard 2000 - < question.txt\n"
               "      Another model, a long question, at most 2000 tokens of thought.\n"
               "  ponder run --json --seed 7 \"Use 3, 7 and 21 to make 42.\" | jq -r "
               "'select(.event==\"answer\").text'\n"
               "      Events for programs; the same seed gives the same tokens.\n"
               "Ctrl-C closes the thought and asks for the answer; a second one cancels.");
  command->callback([args] { run(*args); });
}

}  // namespace ponder::tool
