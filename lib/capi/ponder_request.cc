// Requests: what to generate, and how. Setters check what can be checked without a model; the rest
// is the session's submit.
#include <limits>

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"

namespace capi = ponder::capi;

namespace {

constexpr size_t kMaxStops = 64;
constexpr size_t kMaxStopBytes = 4096;
constexpr int32_t kMaxTopLogprobs = 1000;

// Runs `body` on the request's plain data.
template <typename Body>
ponder_status set(ponder_request* r, bool valid, Body&& body) {
  if (r == nullptr || !valid) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    body(r->request);
    return PONDER_OK;
  });
}

bool within(float value, float low, float high) { return value >= low && value <= high; }

}  // namespace

ponder_status ponder_request_create(ponder_request** out) {
  if (out == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  *out = nullptr;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    *out = new ponder_request();
    return PONDER_OK;
  });
}

void ponder_request_destroy(ponder_request* r) {
  capi::guarded_quietly([&] { delete r; });
}

// ---- the prompt -------------------------------------------------------------------------------

ponder_status ponder_request_set_chat(ponder_request* r, const ponder_chat* c) {
  return set(r, c != nullptr, [&](ponder::engine::Request& request) {
    auto copy = std::make_shared<const ponder::Chat>(c->chat);
    request.chat = std::move(copy);
    request.text.reset();
    request.tokens.reset();
  });
}

ponder_status ponder_request_set_text(ponder_request* r, const char* text, size_t size,
                                      int32_t flags) {
  absl::string_view view;
  const bool valid = capi::text_argument(text, size, &view) && capi::tokenize_flags_known(flags);
  return set(r, valid, [&](ponder::engine::Request& request) {
    request.text = std::string(view);
    request.chat.reset();
    request.tokens.reset();
    request.text_options = capi::encode_options(flags);
  });
}

ponder_status ponder_request_set_tokens(ponder_request* r, const ponder_token* tokens,
                                        size_t count) {
  const bool valid = tokens != nullptr && count != 0 && count <= capi::kMaxTokens;
  return set(r, valid, [&](ponder::engine::Request& request) {
    request.tokens = std::vector<int32_t>(tokens, tokens + count);
    request.chat.reset();
    request.text.reset();
  });
}

// ---- sampling ---------------------------------------------------------------------------------

ponder_status ponder_request_set_max_tokens(ponder_request* r, uint32_t n) {
  return set(r, true, [&](ponder::engine::Request& request) { request.max_tokens = n; });
}

ponder_status ponder_request_set_seed(ponder_request* r, uint64_t seed) {
  return set(r, true, [&](ponder::engine::Request& request) { request.seed = seed; });
}

ponder_status ponder_request_set_temperature(ponder_request* r, float t) {
  return set(r, within(t, 0, 100),
             [&](ponder::engine::Request& request) { request.temperature = t; });
}

ponder_status ponder_request_set_top_p(ponder_request* r, float p) {
  return set(r, p > 0 && p <= 1, [&](ponder::engine::Request& request) { request.top_p = p; });
}

ponder_status ponder_request_set_top_k(ponder_request* r, uint32_t k) {
  return set(r, true, [&](ponder::engine::Request& request) { request.top_k = k; });
}

ponder_status ponder_request_set_min_p(ponder_request* r, float p) {
  return set(r, within(p, 0, 1), [&](ponder::engine::Request& request) { request.min_p = p; });
}

ponder_status ponder_request_set_penalties(ponder_request* r, float repeat, float presence,
                                           float frequency) {
  const bool valid =
      within(repeat, 0.01F, 100) && within(presence, -100, 100) && within(frequency, -100, 100);
  return set(r, valid, [&](ponder::engine::Request& request) {
    request.repeat_penalty = repeat;
    request.presence_penalty = presence;
    request.frequency_penalty = frequency;
  });
}

ponder_status ponder_request_set_logit_bias(ponder_request* r, const ponder_token* tokens,
                                            const float* bias, size_t count) {
  bool valid = count == 0 || (tokens != nullptr && bias != nullptr && count <= capi::kMaxTokens);
  for (size_t i = 0; valid && i < count; ++i) {
    const bool forbids = bias[i] == -std::numeric_limits<float>::infinity();
    valid = tokens[i] >= 0 && (forbids || within(bias[i], -1e6F, 1e6F));
  }
  return set(r, valid, [&](ponder::engine::Request& request) {
    std::vector<std::pair<int32_t, float>> pairs;
    pairs.reserve(count);
    for (size_t i = 0; i < count; ++i) pairs.emplace_back(tokens[i], bias[i]);
    request.logit_bias = std::move(pairs);
  });
}

ponder_status ponder_request_add_stop(ponder_request* r, const char* text, size_t size) {
  absl::string_view view;
  const bool valid = capi::text_argument(text, size, &view) && !view.empty() &&
                     view.size() <= kMaxStopBytes && r != nullptr &&
                     r->request.stops.size() < kMaxStops;
  return set(r, valid, [&](ponder::engine::Request& request) { request.stops.emplace_back(view); });
}

ponder_status ponder_request_set_logprobs(ponder_request* r, int32_t top_n) {
  return set(r, top_n >= -1 && top_n <= kMaxTopLogprobs, [&](ponder::engine::Request& request) {
    request.want_logprobs = top_n >= 0;
    request.logprobs = top_n > 0 ? static_cast<uint32_t>(top_n) : 0;
  });
}

ponder_status ponder_request_set_ignore_eos(ponder_request* r, int32_t on) {
  return set(r, true, [&](ponder::engine::Request& request) { request.ignore_eos = on != 0; });
}

ponder_status ponder_request_set_speculation(ponder_request* r, int32_t method,
                                             uint32_t max_draft) {
  return set(r, method >= PONDER_SPECULATION_OFF && method <= PONDER_SPECULATION_DRAFT_MODEL,
             [&](ponder::engine::Request& request) {
               request.speculation = static_cast<ponder::engine::Speculation>(method);
               request.max_draft = max_draft;
             });
}

ponder_status ponder_request_set_draft_model(ponder_request* r, ponder_model* m) {
  return set(r, true, [&](ponder::engine::Request& request) {
    request.draft_model = m == nullptr ? nullptr : m->model;
  });
}

// ---- reasoning --------------------------------------------------------------------------------

ponder_status ponder_request_set_reasoning(ponder_request* r, int32_t mode) {
  return set(r, mode >= PONDER_REASONING_MODEL && mode <= PONDER_REASONING_ON,
             [&](ponder::engine::Request& request) {
               request.reasoning = static_cast<ponder::engine::Reasoning>(mode);
             });
}

ponder_status ponder_request_set_thought_budget(ponder_request* r, uint32_t soft, uint32_t hard) {
  return set(r, soft == 0 || hard == 0 || soft <= hard, [&](ponder::engine::Request& request) {
    request.thought_soft = soft;
    request.thought_hard = hard;
  });
}

ponder_status ponder_request_set_thought_closing(ponder_request* r, const char* text, size_t size) {
  absl::string_view view;
  return set(r, capi::text_argument(text, size, &view), [&](ponder::engine::Request& request) {
    request.thought_closing = std::string(view);
  });
}

ponder_status ponder_request_set_thought_hidden(ponder_request* r, int32_t hidden) {
  return set(r, true,
             [&](ponder::engine::Request& request) { request.thought_hidden = hidden != 0; });
}
