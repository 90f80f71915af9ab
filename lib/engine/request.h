// What to generate and how, as plain data: the C API's request object holds one of these.
//
// An unset optional means "the model's own default" (its generation_config.json). Values only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/text/chat.h"
#include "lib/text/tokenizer.h"

namespace ponder::engine {

class Drafter;  // lib/engine/drafter.h
class Model;

enum class Reasoning : int32_t { kModel = 0, kOff = 1, kOn = 2 };

// Who drafts tokens ahead for the model to verify. The text is the same with all of them.
enum class Speculation : int32_t {
  kOff = 0,
  kNgram = 1,  // what followed the same words earlier in the text
  kMtp = 2,    // the checkpoint's own layer for it
  kDraftModel = 3,
};

struct Request {
  // The prompt: exactly one of these. A chat is rendered with the model's template; text is
  // tokenised as text_options say; tokens are taken as they are.
  std::shared_ptr<const Chat> chat;
  std::optional<std::string> text;
  EncodeOptions text_options;
  std::optional<std::vector<int32_t>> tokens;

  uint32_t max_tokens = 0;  // generated tokens, thoughts included; 0: up to the context's end
  std::optional<uint64_t> seed;  // unset: a new one each time
  std::optional<float> temperature, top_p, min_p;
  std::optional<uint32_t> top_k;
  std::optional<float> repeat_penalty;
  float presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::string> stops;
  uint32_t logprobs = 0;      // top-n alternatives per token; see want_logprobs
  bool want_logprobs = false; // logprobs of the generated tokens
  bool ignore_eos = false;

  Speculation speculation = Speculation::kOff;
  std::shared_ptr<Model> draft_model;  // of kDraftModel
  uint32_t max_draft = 0;  // tokens drafted at a time, at most; 0: as suits the drafter
  // For tests and measurements. Drafts as much as it may, whatever it costs; and a drafter of the
  // caller's own, used by the driver, in place of what `speculation` names.
  bool always_draft = false;
  std::shared_ptr<Drafter> drafter;

  Reasoning reasoning = Reasoning::kModel;
  uint32_t thought_soft = 0, thought_hard = 0;  // thought tokens; 0: no limit
  std::string thought_closing;                  // said before a forced close
  bool thought_hidden = false;                  // events carry counts, no text
};

}  // namespace ponder::engine
