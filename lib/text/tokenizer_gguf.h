// The tokenizer in the metadata of a GGUF file as a TokenizerSpec.
//
// Knows the model kinds "gpt2" (byte-level BPE, with the pre-tokenizers named below) and "llama"
// (SentencePiece with scores). The reader of GGUF files fills the plain struct; nothing here knows
// the file format. Values only; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/text/tokenizer_spec.h"

namespace ponder {

// Keys of the file under "tokenizer.ggml.", as they are named there.
struct GgufTokenizer {
  std::string model;
  std::string pre;
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> token_type;
  std::vector<std::string> merges;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> eos_token_id;
  std::optional<int64_t> unknown_token_id;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_space_prefix;
};

// Errors name the key. Pre-tokenizers: default, gpt-2, qwen2, deepseek-r1-qwen, llama-bpe, llama3,
// llama-v3, deepseek-llm, deepseek-coder, deepseek-v3. Ids are those of the Hugging Face tokenizer
// that the file was made from, which for Qwen2's kind means NFC first.
StatusOr<TokenizerSpec> tokenizer_spec_from_gguf(GgufTokenizer metadata);

// The other way round: what a GGUF file calls cutting by these regular expressions in this order,
// byte by byte afterwards, after NFC or not. Empty: it has no name for it.
std::string gguf_pre_tokenizer(const std::vector<std::string>& patterns, bool nfc);

}  // namespace ponder
