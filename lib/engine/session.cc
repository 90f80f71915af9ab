#include "lib/engine/session.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "lib/engine/draft_model.h"
#include "lib/engine/engine.h"
#include "lib/engine/sequence.h"

namespace ponder::engine {
namespace {

// Drafted tokens at a time where the request does not say: n-grams cost nothing to propose; a layer
// that was trained to see one token ahead sees less with each further one.
int32_t usual_draft(Speculation method) {
  switch (method) {
    case Speculation::kMtp:
      return 4;
    case Speculation::kDraftModel:
      return 8;
    default:
      return 12;
  }
}

uint64_t new_seed() {
  try {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  } catch (...) {  // no source of randomness: the time will do, nothing secret hangs on it
    return static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  }
}

StatusOr<std::shared_ptr<Drafter>> make_drafter(const Request& request, Model& model) {
  if (request.drafter != nullptr) return request.drafter;
  switch (request.speculation) {
    case Speculation::kOff:
      return nullptr;
    case Speculation::kNgram:
      return std::make_shared<NgramDrafter>();
    case Speculation::kMtp:
      if (!model.info().has_draft_layer) {
        return unsupported_error(
            "speculation with the model's own draft layer was asked for, but ", model.info().name,
            " was loaded without one; load it with ponder_model_options_set_draft_layer, from a "
            "safetensors checkpoint that has the layer, or use n-grams");
      }
      return model.engine().make_layer_drafter();
    case Speculation::kDraftModel:
      if (request.draft_model == nullptr) {
        return invalid_argument_error(
            "speculation with a draft model was asked for, but the request names none; set it with "
            "ponder_request_set_draft_model");
      }
      PONDER_RETURN_IF_ERROR(model.check_draft(request.draft_model));
      return std::make_shared<ModelDrafter>(request.draft_model);
  }
  return nullptr;
}

StatusOr<SamplingParams> sampling_params(const Request& request, const ModelInfo& info) {
  SamplingParams p;
  p.temperature = request.temperature.value_or(info.temperature);
  p.top_p = request.top_p.value_or(info.top_p);
  p.min_p = request.min_p.value_or(info.min_p);
  p.top_k = request.top_k.value_or(info.top_k);
  p.repeat_penalty = request.repeat_penalty.value_or(info.repeat_penalty);
  p.presence_penalty = request.presence_penalty;
  p.frequency_penalty = request.frequency_penalty;
  for (const auto& [token, bias] : request.logit_bias) {
    p.bias_tokens.push_back(token);
    p.biases.push_back(bias);
  }
  p.seed = request.seed ? *request.seed : new_seed();
  p.logprobs = request.want_logprobs;
  p.top_logprobs = request.logprobs;
  PONDER_RETURN_IF_ERROR(p.validate(info.vocabulary));
  return p;
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, std::shared_ptr<Timeline> timeline)
    : model_(std::move(model)), timeline_(std::move(timeline)) {}

StatusOr<std::shared_ptr<Session>> Session::create(std::shared_ptr<Model> model) {
  std::shared_ptr<Timeline> timeline = model->engine().add_timeline();
  return std::shared_ptr<Session>(new Session(std::move(model), std::move(timeline)));
}

// Generations keep their session alive, so nothing is under way here.
Session::~Session() = default;

StatusOr<std::shared_ptr<Session>> Session::fork() {
  if (timeline_->busy.load()) return busy_error("a generation is under way in this session");
  return std::shared_ptr<Session>(
      new Session(model_, model_->engine().fork_timeline(*timeline_)));
}

uint32_t Session::token_count() const {
  return model_->engine().with_lock(
      [this] { return static_cast<uint32_t>(timeline_->tokens.size()); });
}

Status Session::truncate(uint32_t token_count) {
  if (timeline_->busy.load()) return busy_error("a generation is under way in this session");
  return model_->engine().with_lock([&]() -> Status {
    if (token_count > timeline_->tokens.size()) {
      return invalid_argument_error("the session holds ", timeline_->tokens.size(),
                                    " tokens and cannot be cut to ", token_count);
    }
    timeline_->tokens.resize(token_count);
    timeline_->table.truncate(static_cast<int32_t>(token_count));
    return OkStatus();
  });
}

void Session::cancel() {
  if (const std::shared_ptr<GenerationState> state = current_.lock()) state->cancelled.store(true);
  model_->runtime()->notify();
}

StatusOr<std::shared_ptr<Generation>> Session::submit(const Request& request) {
  if (timeline_->busy.load()) return busy_error("a generation is under way in this session");
  const ModelInfo& info = model_->info();
  PONDER_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, model_->prompt(request));
  PONDER_ASSIGN_OR_RETURN(const SamplingParams params, sampling_params(request, info));
  PONDER_ASSIGN_OR_RETURN(StopMatcher stops, StopMatcher::create(request.stops));

  const size_t prompt_size = prompt.size();
  auto sequence = std::make_unique<Sequence>();
  const auto state = std::make_shared<GenerationState>();
  sequence->state = state;
  sequence->timeline = timeline_;
  sequence->submitted = absl::Now();
  sequence->prompt_tokens = static_cast<uint32_t>(prompt_size);
  sequence->limit = request.max_tokens == 0
                        ? info.context
                        : static_cast<uint32_t>(std::min<uint64_t>(
                              info.context, prompt_size + uint64_t{request.max_tokens}));

  ReasoningOptions& reasoning = sequence->reasoning = model_->reasoning();
  if (request.reasoning == Reasoning::kOn && !info.reasons) {
    return unsupported_error("reasoning was asked for, but ", info.name,
                             " has no thinking phase (no <think> and </think> tokens)");
  }
  if (info.reasons) {
    reasoning.mode = static_cast<ReasoningMode>(request.reasoning);
    reasoning.soft_budget = request.thought_soft;
    reasoning.hard_budget = request.thought_hard;
    if (!request.thought_closing.empty()) {
      PONDER_ASSIGN_OR_RETURN(reasoning.closing,
                              model_->tokenizer().encode(request.thought_closing));
    }
  }
  if (request.ignore_eos) reasoning.end_of_text.clear();
  PONDER_RETURN_IF_ERROR(reasoning.validate(info.vocabulary));
  const Tokenizer& tokenizer = model_->tokenizer();
  sequence->gate.emplace(&reasoning, prompt,
                         [&](int32_t id) { return tokenizer.is_special(id); });
  sequence->sampler.emplace(params, prompt_size);
  Speculating& speculating = sequence->speculating;
  PONDER_ASSIGN_OR_RETURN(speculating.drafter, make_drafter(request, *model_));
  if (speculating.drafter != nullptr) {
    speculating.always = request.always_draft;
    speculating.most = request.max_draft == 0
                           ? usual_draft(request.speculation)
                           : static_cast<int32_t>(std::min<uint32_t>(request.max_draft, kMaxDraft));
  }
  EventWriter::Options events;
  events.stops = std::move(stops);
  if (request.chat != nullptr && !request.chat->tools().is_null()) {
    events.tools = model_->tool_format();
  }
  events.logprobs = request.want_logprobs;
  events.top_count = request.logprobs;
  events.hide_thoughts = request.thought_hidden;
  sequence->writer.emplace(&tokenizer, state.get(), std::move(events));

  auto generation = std::make_shared<Generation>(shared_from_this(), state);
  current_ = state;
  model_->engine().submit(std::move(sequence), std::move(prompt));
  model_->runtime()->notify();
  return generation;
}

}  // namespace ponder::engine
