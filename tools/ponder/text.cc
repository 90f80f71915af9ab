// `ponder tokenize`, `detokenize` and `render`: text in, tokens out, and back.

#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "options.h"

namespace ponder::tool {

void add_tokenize(CLI::App& app) {
  struct Arguments {
    ModelArguments model;
    bool special = false, add_special = false;
  };
  CLI::App* command =
      app.add_subcommand("tokenize", "Text on standard input to a JSON array of token ids");
  const auto args = std::make_shared<Arguments>();
  args->model.add_positional(*command);
  command->add_flag(
      "--special", args->special,
      "\"<think>\" and friends become their tokens; without it they are ordinary text");
  command->add_flag("--add-special", args->add_special,
                    "Add what the tokenizer adds to a text, such as its first token");
  args->model.add_options(*command);
  add_examples(*command,
               "  printf 'make 42' | ponder tokenize\n"
               "  ponder tokenize ~/models/R1-Distill-Qwen-1.5B --special < prompt.txt\n"
               "The bytes are taken as they are: use printf, echo adds a line end.");
  command->callback([args] {
    const std::string text = read_input("-");
    const Loaded loaded = args->model.load();
    const int32_t flags = (args->special ? PONDER_TOKENIZE_SPECIAL : 0) |
                          (args->add_special ? PONDER_TOKENIZE_ADD_SPECIAL : 0);
    Error error;
    const std::vector<ponder_token> tokens = loaded.model.tokenize(text, flags, &error);
    check(error, "the text on standard input (is it UTF-8?)");
    output().json_line(tokens);
  });
}

void add_detokenize(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("detokenize", "A JSON array of token ids on standard input to text");
  const auto args = std::make_shared<ModelArguments>();
  args->add_positional(*command);
  args->add_options(*command);
  add_examples(
      *command,
      "  echo '[40, 275, 220, 17]' | ponder detokenize\n"
      "Exactly the tokens' bytes are printed, special tokens included, no line end added.");
  command->callback([args] {
    const std::vector<ponder_token> tokens =
        tokens_of(parse_json(read_input("-"), "standard input"), "standard input");
    const Loaded loaded = args->load();
    Error error;
    const std::string text = loaded.model.detokenize(tokens, &error);
    check(error,
          "a token id (the vocabulary has " + std::to_string(loaded.model.info().vocabulary) + ")");
    output().write(text);
    output().flush();
  });
}

void add_render(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "render", "Messages (JSON on standard input) to the prompt text the model gets");
  const auto args = std::make_shared<ModelArguments>();
  args->add_positional(*command);
  args->add_options(*command);
  add_examples(
      *command,
      "  echo '[{\"role\":\"user\",\"content\":\"Use 3, 7 and 21 to make 42.\"}]' | ponder render\n"
      "  ponder render MODEL < chat.json\n"
      "Input: an array of messages, or {\"messages\":[..],\"tools\":[..],\n"
      "\"add_generation_prompt\":true, ..} where other members are variables of the template.");
  command->callback([args] {
    Chat chat;
    chat.add_json(read_input("-"));
    const Loaded loaded = args->load();
    output().write(chat.render(loaded.model));
    output().flush();
  });
}

}  // namespace ponder::tool
