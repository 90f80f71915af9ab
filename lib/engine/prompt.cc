// From a request to the tokens of its prompt.
#include <utility>

#include "lib/engine/model.h"

namespace ponder::engine {

StatusOr<std::string> Model::render(const Chat& chat, Reasoning reasoning) const {
  if (template_ == nullptr) {
    return not_found_error(info_.name, " has no chat template; give the prompt as text or tokens");
  }
  ChatTemplate::Options options;
  const std::pair<const char*, const std::string*> tokens[] = {
      {"bos_token", &token_settings_.bos_token},
      {"eos_token", &token_settings_.eos_token},
      {"pad_token", &token_settings_.pad_token},
      {"unk_token", &token_settings_.unk_token}};
  for (const auto& [name, text] : tokens) {
    if (!text->empty()) options.special_tokens.emplace_back(name, *text);
  }
  if (reasoning != Reasoning::kModel) options.thinking = reasoning == Reasoning::kOn;
  return template_->render(chat, options);
}

StatusOr<std::vector<int32_t>> Model::prompt(const Request& request) const {
  std::vector<int32_t> tokens;
  if (request.tokens) {
    tokens = *request.tokens;
  } else if (request.text) {
    PONDER_ASSIGN_OR_RETURN(tokens, tokenizer_->encode(*request.text, request.text_options));
  } else if (request.chat != nullptr) {
    PONDER_ASSIGN_OR_RETURN(const std::string text, render(*request.chat, request.reasoning));
    EncodeOptions options;
    options.parse_special = true;  // the template writes the special tokens, begin-of-text included
    PONDER_ASSIGN_OR_RETURN(tokens, tokenizer_->encode(text, options));
  } else {
    return invalid_argument_error("the request has no prompt; set a chat, a text or tokens");
  }
  if (tokens.empty()) return invalid_argument_error("the prompt is empty; it needs one token at least");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= info_.vocabulary) {
      return invalid_argument_error("token ", tokens[i], " at position ", i,
                                    " of the prompt is not in the model's vocabulary of ",
                                    info_.vocabulary);
    }
  }
  if (tokens.size() >= info_.context) {
    return context_full_error("the prompt has ", tokens.size(), " tokens and the context holds ",
                              info_.context, "; shorten it, or load the model with a longer context");
  }
  return tokens;
}

}  // namespace ponder::engine
