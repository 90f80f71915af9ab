// A byte-level BPE tokenizer of any vocabulary size, for models whose weights mean nothing.
#pragma once

#include <cstdint>

#include "architectures.h"

namespace ponder::golden {

// The least vocabulary: 256 bytes and six added tokens.
constexpr int64_t kLeastVocabulary = 262;

// A tokenizer.json with exactly `vocabulary` tokens: the bytes, then pairs and triples of bytes
// with their merges, and at the end R1's six: begin and end of sentence, User, Assistant, <think>
// and
// </think>. Every text can be encoded, every id decoded. Throws std::invalid_argument below
// kLeastVocabulary and above 16 million.
Json tokenizer(int64_t vocabulary);

// The ids of the added tokens of such a tokenizer.
inline int64_t bos_id(int64_t vocabulary) { return vocabulary - 6; }
inline int64_t eos_id(int64_t vocabulary) { return vocabulary - 5; }

// A tokenizer_config.json to go with it: the tokens' names and a template in R1's form.
Json tokenizer_config(int64_t context);

}  // namespace ponder::golden
