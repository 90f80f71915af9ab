// `ponder score`: how likely the model finds given tokens.

#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "options.h"

namespace ponder::tool {
namespace {

struct ScoreArguments {
  ModelArguments model;
  std::string tokens_file;
  uint32_t top = 0;
};

Json score(Model& model, const std::vector<ponder_token>& tokens, uint32_t top) {
  if (tokens.empty()) throw Failure("cannot score an empty sequence; it needs at least one token");
  const Scores scores = model.score(tokens, top);
  Json rows = Json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    Json row = Json::array();
    for (size_t k = i * top; k < (i + 1) * top; ++k) {
      row.push_back(Json::array({scores.top_tokens[k], scores.top_logprobs[k]}));
    }
    rows.push_back(std::move(row));
  }
  return {{"tokens", tokens}, {"logprobs", scores.logprobs}, {"top", std::move(rows)}};
}

void run(const ScoreArguments& args) {
  const std::string where = "--tokens " + args.tokens_file;
  const Json json = parse_json(read_input(args.tokens_file), where);
  if (!json.is_array())
    throw Failure(where + ": expected a JSON array of ids, or an array of such arrays");
  std::vector<std::vector<ponder_token>> sequences;
  if (!json.empty() && json.front().is_array()) {
    for (const Json& item : json) {
      sequences.push_back(
          tokens_of(item, where + ", sequence " + std::to_string(sequences.size())));
    }
  } else {
    sequences.push_back(tokens_of(json, where));
  }
  Loaded loaded = args.model.load();
  const uint32_t vocabulary = loaded.model.info().vocabulary;
  if (args.top > vocabulary) {
    throw Failure("--top " + std::to_string(args.top) + " is more than the model's " +
                  std::to_string(vocabulary) + " tokens");
  }
  for (const std::vector<ponder_token>& tokens : sequences) {
    output().json_line(score(loaded.model, tokens, args.top));
  }
}

}  // namespace

void add_score(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("score", "Logarithms of the probabilities the model gives to tokens");
  const auto args = std::make_shared<ScoreArguments>();
  args->model.add_positional(*command);
  command
      ->add_option("--tokens", args->tokens_file,
                   "A JSON array of token ids, or an array of such arrays; '-': standard input")
      ->type_name("FILE")
      ->required();
  command->add_option("--top", args->top, "Also the N likeliest tokens at each place")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json")->description("Accepted for symmetry: the output is always JSON");
  args->model.add_options(*command);
  add_examples(
      *command,
      "  printf '16+1+4 = 21' | ponder tokenize | ponder score --tokens - --top 3\n"
      "One object a line per sequence: \"tokens\" [T]; \"logprobs\" [T-1], of tokens[i+1] after\n"
      "tokens[..i]; \"top\" [T][N] of [id, logprob], likeliest first.");
  command->callback([args] { run(*args); });
}

}  // namespace ponder::tool
