#include "lib/engine/model_tokenizer.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "lib/text/tokenizer_gguf.h"

namespace ponder::engine {
namespace {

StatusOr<GgufTokenizer> read_gguf(const GgufMetadata& metadata) {
  GgufTokenizer t;
  const auto key = [](absl::string_view name) { return absl::StrCat("tokenizer.ggml.", name); };
  PONDER_ASSIGN_OR_RETURN(const auto model, metadata.text(key("model")));
  PONDER_ASSIGN_OR_RETURN(const auto pre, metadata.text(key("pre")));
  t.model = model.value_or("");
  t.pre = pre.value_or("default");
  PONDER_ASSIGN_OR_RETURN(const auto* tokens, metadata.texts(key("tokens")));
  PONDER_ASSIGN_OR_RETURN(const auto* merges, metadata.texts(key("merges")));
  PONDER_ASSIGN_OR_RETURN(const auto* scores, metadata.numbers(key("scores")));
  PONDER_ASSIGN_OR_RETURN(const auto* types, metadata.integers(key("token_type")));
  if (tokens != nullptr) t.tokens = *tokens;
  if (merges != nullptr) t.merges = *merges;
  if (scores != nullptr) {
    t.scores.reserve(scores->size());
    for (const double score : *scores) t.scores.push_back(static_cast<float>(score));
  }
  if (types != nullptr) {
    t.token_type.reserve(types->size());
    for (const int64_t type : *types) {
      if (type < 0 || type > std::numeric_limits<int32_t>::max()) {
        return corrupt_error("tokenizer.ggml.token_type has ", type, ", which is no type");
      }
      t.token_type.push_back(static_cast<int32_t>(type));
    }
  }
  PONDER_ASSIGN_OR_RETURN(t.bos_token_id, metadata.integer(key("bos_token_id")));
  PONDER_ASSIGN_OR_RETURN(t.eos_token_id, metadata.integer(key("eos_token_id")));
  PONDER_ASSIGN_OR_RETURN(t.unknown_token_id, metadata.integer(key("unknown_token_id")));
  PONDER_ASSIGN_OR_RETURN(t.add_bos_token, metadata.boolean(key("add_bos_token")));
  PONDER_ASSIGN_OR_RETURN(t.add_eos_token, metadata.boolean(key("add_eos_token")));
  PONDER_ASSIGN_OR_RETURN(t.add_space_prefix, metadata.boolean(key("add_space_prefix")));
  return t;
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> make_tokenizer(const ModelFiles& files, const LogSink& log) {
  if (!files.gguf.has_value()) return Tokenizer::from_json(files.tokenizer_json, log);
  PONDER_ASSIGN_OR_RETURN(GgufTokenizer metadata, read_gguf(*files.gguf));
  PONDER_ASSIGN_OR_RETURN(TokenizerSpec spec, tokenizer_spec_from_gguf(std::move(metadata)));
  return Tokenizer::create(std::move(spec), "tokenizer.ggml");
}

}  // namespace ponder::engine
