#include "lib/engine/model.h"

#include <algorithm>
#include <utility>

#include "lib/engine/draft_model.h"
#include "lib/engine/engine.h"
#include "lib/engine/model_tokenizer.h"
#include "lib/engine/needs.h"
#include "lib/engine/observing_backend.h"
#include "lib/engine/plan.h"
#include "lib/exec/loader.h"
#include "lib/models/registry.h"

namespace ponder::engine {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
// Progress is told so often at most.
constexpr uint64_t kProgressSteps = 200;

}  // namespace

Model::~Model() {
  if (engine_ != nullptr) runtime_->remove_model(this);
}

StatusOr<std::shared_ptr<Model>> Model::load(std::shared_ptr<Runtime> runtime,
                                             std::shared_ptr<const FileSource> source,
                                             const ModelOptions& options) {
  std::shared_ptr<Model> model(new Model());
  model->runtime_ = runtime;
  PONDER_ASSIGN_OR_RETURN(const Hints hints, read_hints(options.hints));
  PONDER_ASSIGN_OR_RETURN(Backend * backend, runtime->backend(options.device));
  OpenOptions open;
  open.allocator = runtime->allocator();
  PONDER_ASSIGN_OR_RETURN(ModelFiles files, open_model(std::move(source), open));
  if (backend->info().kind == DeviceInfo::Kind::kGpu) {
    PONDER_ASSIGN_OR_RETURN(const ModelNeeds needs, examine(*runtime, files, options));
    if (needs.placement.any()) {
      PONDER_ASSIGN_OR_RETURN(Backend * processor, runtime->processor());
      runtime->log().log(LogLevel::kInfo, files.name, " does not fit into ", needs.vram_bytes,
                         " bytes of ", backend->info().name, ": the processor takes ",
                         needs.host_layers, " of ", needs.layers, " layers and the experts of ",
                         needs.host_expert_layers);
      model->placed_ = make_placed_backend(backend, processor, needs.placement);
      backend = model->placed_.get();
    }
  } else if (options.vram_bytes != 0) {
    return unsupported_error("vram_bytes is for models on a GPU; ", backend->info().name,
                             " is none: choose another device, or leave it 0");
  }
  if (options.observer != nullptr) {
    model->observing_ = make_observing_backend(backend, options.observer);
    backend = model->observing_.get();
  }
  PONDER_ASSIGN_OR_RETURN(model->tokenizer_, make_tokenizer(files, runtime->log()));
  model->token_settings_ = files.tokenizer;
  model->template_source_ = files.tokenizer.chat_template;
  if (!model->template_source_.empty()) {
    PONDER_ASSIGN_OR_RETURN(model->template_, ChatTemplate::compile(model->template_source_));
  }

  auto weights = std::make_unique<WeightStore>();
  uint64_t next_told = 0;
  Loader::Progress progress;
  if (options.progress) {
    progress = [&](uint64_t done, uint64_t total) -> int32_t {
      if (done < next_told && done < total) return 0;
      next_told = done + total / kProgressSteps;
      return options.progress(done, total);
    };
  }
  const Config config(files.config, "config.json");
  PackOptions pack{options.precision};
  if (options.expert_bytes != 0) {
    PONDER_ASSIGN_OR_RETURN(weights->expert_cache, backend->make_expert_cache(options.expert_bytes));
    pack.expert_cache = weights->expert_cache.get();
  }
  const Loader loader(*files.weights, backend, pack, weights.get(), progress);
  PONDER_ASSIGN_OR_RETURN(std::unique_ptr<ModelGraph> graph,
                          make_model(config, loader, {.draft_layer = options.draft_layer}));
  if (options.draft_layer && !graph->has_draft_layer()) return no_draft_layer(files.name);

  const KvShape shape = graph->kv_shape();
  const DType kv_dtype = options.kv_dtype.value_or(
      shape.v_dim == 0 ? backend->default_latent_dtype(options.precision)
                       : backend->default_kv_dtype(options.precision));
  PONDER_ASSIGN_OR_RETURN(const KvLayout layout, backend->kv_layout(shape, kv_dtype));
  const uint64_t per_token = layout.page_bytes * static_cast<uint64_t>(shape.layers) /
                             static_cast<uint64_t>(layout.page_tokens);
  const auto trained = static_cast<uint32_t>(config.i("max_position_embeddings", 2048));
  PONDER_RETURN_IF_ERROR(config.status());
  Engine::Options plan;
  PONDER_RETURN_IF_ERROR(plan_memory(options, plan_device(options, backend->info()), trained,
                                     per_token, layout.page_tokens, &plan));
  plan.kv_dtype = kv_dtype;
  plan.max_batch = hints.max_batch;
  plan.step_tokens = hints.step_tokens;

  ModelInfo& info = model->info_;
  info.architecture = files.architecture;
  info.name = files.name;
  info.fingerprint = files.fingerprint;
  info.parameters = files.weights->parameters();
  info.weight_bytes = files.weights->total_bytes();
  info.kv_bytes = plan.kv_bytes;
  info.kv_bytes_per_token = per_token;
  info.vocabulary = static_cast<uint32_t>(graph->vocabulary());
  info.context = plan.context;
  info.trained_context = trained;
  info.layers = static_cast<uint32_t>(graph->layers());
  info.has_draft_layer = graph->has_draft_layer();
  info.kv_dtype = kv_dtype;
  info.precision = options.precision;
  info.device_index = options.device;
  if (pack.expert_cache != nullptr) weights->checkpoint = std::move(files.weights);
  model->read_defaults(files);
  model->find_markers();
  PONDER_RETURN_IF_ERROR(model->reasoning_.validate(info.vocabulary));

  PONDER_ASSIGN_OR_RETURN(model->engine_, Engine::create(model.get(), backend, std::move(graph),
                                                         std::move(weights), plan));
  runtime->add_model(model.get());
  runtime->log().log(LogLevel::kInfo, "loaded ", info.name, ": ", info.architecture, ", ",
                     info.parameters, " parameters, context ", info.context, ", KV cache ",
                     info.kv_bytes / kMiB, " MiB of ", dtype_name(kv_dtype));
  return model;
}

void Model::read_defaults(const ModelFiles& files) {
  const GenerationDefaults& d = files.defaults;
  if (d.do_sample.value_or(d.temperature.has_value())) info_.temperature = d.temperature.value_or(1);
  info_.top_p = d.top_p.value_or(1);
  info_.min_p = d.min_p.value_or(0);
  info_.top_k = static_cast<uint32_t>(std::max(0, d.top_k.value_or(0)));
  info_.repeat_penalty = d.repetition_penalty.value_or(1);
  for (int32_t id : d.eos_ids) {
    if (id >= 0 && static_cast<uint32_t>(id) < info_.vocabulary) info_.eos_ids.push_back(id);
  }
  const auto eos = tokenizer_->find_added(files.tokenizer.eos_token);
  if (eos && static_cast<uint32_t>(*eos) < info_.vocabulary &&
      std::find(info_.eos_ids.begin(), info_.eos_ids.end(), *eos) == info_.eos_ids.end()) {
    info_.eos_ids.push_back(*eos);
  }
}

void Model::find_markers() {
  // R1, its distillations and Qwen3: two added tokens.
  constexpr absl::string_view kOpen = "<think>", kClose = "</think>";
  const auto open = tokenizer_->find_added(kOpen), close = tokenizer_->find_added(kClose);
  reasoning_.end_of_text = info_.eos_ids;
  const auto known = std::min<int32_t>(tokenizer_->vocabulary_size(),
                                       static_cast<int32_t>(info_.vocabulary));
  if (!open || !close || *open >= known || *close >= known) return;
  info_.reasons = true;
  info_.thought_open = kOpen;
  info_.thought_close = kClose;
  reasoning_.markers = {{*open}, {*close}};
  for (int32_t id = 0; id < known; ++id) {
    const absl::string_view bytes = tokenizer_->token_bytes(id);
    if (!bytes.empty() && bytes.find_first_not_of(" \t\r\n") == absl::string_view::npos) {
      reasoning_.blank.push_back(id);
    }
  }
}

Status Model::check_draft(const std::shared_ptr<Model>& draft) {
  absl::MutexLock lock(&draft_mu_);
  if (checked_draft_.lock() == draft) return OkStatus();
  PONDER_RETURN_IF_ERROR(check_draft_model(*this, *draft));
  checked_draft_ = draft;
  return OkStatus();
}

ModelStats Model::stats() const { return engine_->stats(); }

StatusOr<Scores> Model::score(std::span<const int32_t> tokens, uint32_t top_n) {
  if (tokens.empty()) return invalid_argument_error("there is nothing to score");
  if (tokens.size() > info_.context) {
    return context_full_error(tokens.size(), " tokens are to be scored and the context holds ",
                              info_.context);
  }
  if (top_n > info_.vocabulary) {
    return invalid_argument_error("the ", top_n, " likeliest tokens were asked for, of ",
                                  info_.vocabulary);
  }
  for (int32_t token : tokens) {
    if (token < 0 || static_cast<uint32_t>(token) >= info_.vocabulary) {
      return invalid_argument_error("token ", token, " is not in the model's vocabulary of ",
                                    info_.vocabulary);
    }
  }
  const auto sink = std::make_shared<ScoreSink>();
  sink->top_n = top_n;
  sink->logprobs.resize(tokens.size() - 1);
  sink->top_tokens.resize(tokens.size() * top_n);
  sink->top_logprobs.resize(tokens.size() * top_n);
  const auto state = std::make_shared<GenerationState>();
  auto sequence = std::make_unique<Sequence>();
  sequence->state = state;
  sequence->timeline = engine_->add_timeline();
  sequence->score = sink;
  sequence->prompt_tokens = static_cast<uint32_t>(tokens.size());
  engine_->submit(std::move(sequence), {tokens.begin(), tokens.end()});
  runtime_->notify();
  const StatusOr<bool> waited = runtime_->wait(*state, UINT64_MAX);
  if (!waited.ok()) {
    state->cancelled.store(true);  // whoever drives next drops it
    return waited.status();
  }
  Event event;
  Status failure;
  if (state->next(&event, &failure) == GenerationState::Next::kFailed) return failure;
  return Scores{std::move(sink->logprobs), std::move(sink->top_tokens),
                std::move(sink->top_logprobs)};
}

}  // namespace ponder::engine
