// Reads the small JSON files beside a checkpoint: config.json, generation_config.json,
// tokenizer_config.json and what belongs to it. Plain functions from text to values: no state, any
// thread. Texts are untrusted; each function names the file in its errors.
//
// Not to be mixed up with ponder::Config (lib/base/json.h), the typed view of one JSON object.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/json.h"
#include "lib/base/status.h"

namespace ponder {

// What the checkpoint's makers recommend for sampling; nullopt where they say nothing.
struct GenerationDefaults {
  std::optional<bool> do_sample;  // false: greedy, whatever the other fields say
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<int32_t> top_k;  // 0: no limit
  std::optional<float> repetition_penalty;
  std::optional<int32_t> max_new_tokens;
  std::vector<int32_t> eos_ids;  // any of them ends a text; empty: not told
  std::optional<int32_t> bos_id;
  std::optional<int32_t> pad_id;
};

// What tokenizer_config.json adds to tokenizer.json. A token that is not told is empty.
struct TokenizerSettings {
  std::string bos_token, eos_token, pad_token, unk_token;
  std::optional<bool> add_bos, add_eos;  // nullopt: as tokenizer.json's post-processor says
  std::string tokenizer_class;
  std::optional<uint64_t> max_length;  // nullopt also where the file holds its "no limit" number
  std::string chat_template;  // the one named "default" where there are several; may be empty
  // The others, by name: "tool_use", "rag". In the file's order.
  std::vector<std::pair<std::string, std::string>> named_templates;
};

// config.json, in one spelling whichever version of transformers wrote it. In the result:
//   "architectures"  is a non-empty array of strings
//   "rope_theta"     is at the top if the file has it at all (transformers 5 nests it)
//   "rope_scaling"   is absent, or an object with a "rope_type" other than "default"
//   "torch_dtype"    is a string ("dtype" in transformers 5), or absent
// All other keys are as in the file. Sizes are for the model files to check.
StatusOr<Json> read_model_config(absl::string_view text, absl::string_view what = "config.json");

// generation_config.json.
StatusOr<GenerationDefaults> read_generation_defaults(
    absl::string_view text, absl::string_view what = "generation_config.json");

// Fills the token ids that `defaults` leaves open with those of config.json.
Status complete_generation_defaults(const Json& config, GenerationDefaults* defaults);

// tokenizer_config.json.
StatusOr<TokenizerSettings> read_tokenizer_settings(
    absl::string_view text, absl::string_view what = "tokenizer_config.json");

// special_tokens_map.json: the tokens that `settings` leaves empty.
Status complete_special_tokens(absl::string_view text, TokenizerSettings* settings,
                               absl::string_view what = "special_tokens_map.json");

}  // namespace ponder
