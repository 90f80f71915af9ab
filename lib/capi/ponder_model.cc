// Models: options, loading, description, text to tokens and back, scores.
#include <utility>

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"
#include "lib/capi/host.h"
#include "lib/engine/needs.h"

namespace capi = ponder::capi;
namespace engine = ponder::engine;

// ---- options ----------------------------------------------------------------------------------

ponder_status ponder_model_options_create(ponder_model_options** out) {
  if (out == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  *out = nullptr;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    *out = new ponder_model_options();
    return PONDER_OK;
  });
}

void ponder_model_options_destroy(ponder_model_options* o) {
  capi::guarded_quietly([&] { delete o; });
}

ponder_status ponder_model_options_set_device(ponder_model_options* o, uint32_t device) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.device = device;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_context(ponder_model_options* o, uint32_t max_tokens) {
  if (o == nullptr || max_tokens > capi::kMaxTokens) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.context = max_tokens;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_expert_bytes(ponder_model_options* o, uint64_t bytes) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.expert_bytes = bytes;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_vram_bytes(ponder_model_options* o, uint64_t bytes) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.vram_bytes = bytes;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_draft_layer(ponder_model_options* o, int32_t on) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.draft_layer = on != 0;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_kv_bytes(ponder_model_options* o, uint64_t bytes) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.kv_bytes = bytes;
  return PONDER_OK;
}

ponder_status ponder_model_options_set_kv_type(ponder_model_options* o, int32_t type) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  switch (type) {
    case PONDER_KV_AUTO:
      o->options.kv_dtype.reset();
      return PONDER_OK;
    case PONDER_KV_F32:
      o->options.kv_dtype = ponder::DType::kF32;
      return PONDER_OK;
    case PONDER_KV_BF16:
      o->options.kv_dtype = ponder::DType::kBF16;
      return PONDER_OK;
    case PONDER_KV_F16:
      o->options.kv_dtype = ponder::DType::kF16;
      return PONDER_OK;
    case PONDER_KV_Q8_0:
      o->options.kv_dtype = ponder::DType::kQ8_0;
      return PONDER_OK;
    case PONDER_KV_F8_E4M3:
      o->options.kv_dtype = ponder::DType::kF8_E4M3;
      return PONDER_OK;
    default:
      return PONDER_ERR_INVALID_ARGUMENT;
  }
}

ponder_status ponder_model_options_set_precision(ponder_model_options* o, int32_t precision) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  switch (precision) {
    case PONDER_PRECISION_AUTO:
      o->options.precision = ponder::Precision::kAuto;
      return PONDER_OK;
    case PONDER_PRECISION_F32:
      o->options.precision = ponder::Precision::kF32;
      return PONDER_OK;
    case PONDER_PRECISION_FP8:
      o->options.precision = ponder::Precision::kF8;
      return PONDER_OK;
    default:
      return PONDER_ERR_INVALID_ARGUMENT;
  }
}

ponder_status ponder_model_options_set_progress(ponder_model_options* o, ponder_progress_fn fn,
                                                void* user) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    if (fn == nullptr) {
      o->options.progress = nullptr;
    } else {
      o->options.progress = [fn, user](uint64_t done, uint64_t total) {
        return fn(user, done, total);
      };
    }
    return PONDER_OK;
  });
}

ponder_status ponder_model_options_set_hint(ponder_model_options* o, const char* name,
                                            const char* value) {
  if (o == nullptr || name == nullptr || *name == '\0') return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    if (value == nullptr) {
      o->options.hints.erase(name);
    } else {
      o->options.hints.insert_or_assign(name, value);
    }
    return PONDER_OK;
  });
}

// ---- loading ----------------------------------------------------------------------------------

namespace {

ponder::Status check_device(const ponder_runtime* rt, uint32_t device) {
  const size_t devices = rt->runtime->devices().size();
  if (device < devices) return ponder::OkStatus();
  return ponder::not_found_error("device ", device, " does not exist; there are ", devices,
                                 ", counted from 0");
}

ponder::Status load(ponder_runtime* rt, std::shared_ptr<const ponder::FileSource> files,
                    const ponder_model_options* o, ponder_model** out) {
  const engine::ModelOptions options = o != nullptr ? o->options : engine::ModelOptions();
  PONDER_RETURN_IF_ERROR(check_device(rt, options.device));
  auto handle = std::make_unique<ponder_model>();
  PONDER_ASSIGN_OR_RETURN(handle->model,
                          engine::Model::load(rt->runtime, std::move(files), options));
  *out = handle.release();
  return ponder::OkStatus();
}

ponder::Status load_arguments(ponder_runtime* rt, ponder_model** out) {
  if (rt == nullptr) return ponder::invalid_argument_error("the runtime is NULL");
  if (out == nullptr) return ponder::invalid_argument_error("out is NULL");
  if (rt->runtime->on_driver_thread()) {
    return ponder::busy_error(
        "a model cannot be loaded from inside a callback; do it from a thread"
        " of your own");
  }
  return ponder::OkStatus();
}

}  // namespace

ponder_status ponder_model_load(ponder_runtime* rt, const char* path, const ponder_model_options* o,
                                ponder_model** out, ponder_error** err) {
  if (out != nullptr) *out = nullptr;
  return capi::guarded(err, [&]() -> ponder::Status {
    PONDER_RETURN_IF_ERROR(load_arguments(rt, out));
    if (path == nullptr) return ponder::invalid_argument_error("the path is NULL");
    PONDER_ASSIGN_OR_RETURN(auto files, ponder::open_folder(path));
    return load(rt, std::move(files), o, out);
  });
}

ponder_status ponder_model_examine(ponder_runtime* rt, const char* path,
                                   const ponder_model_options* o, ponder_model_needs* needs,
                                   size_t needs_size, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    if (rt == nullptr) return ponder::invalid_argument_error("the runtime is NULL");
    if (path == nullptr) return ponder::invalid_argument_error("the path is NULL");
    const engine::ModelOptions options = o != nullptr ? o->options : engine::ModelOptions();
    PONDER_RETURN_IF_ERROR(check_device(rt, options.device));
    PONDER_ASSIGN_OR_RETURN(auto files, ponder::open_folder(path));
    PONDER_ASSIGN_OR_RETURN(const engine::ModelNeeds known,
                            engine::examine(*rt->runtime, std::move(files), options));
    ponder_model_needs told = {};
    told.parameters = known.parameters;
    told.weight_bytes = known.weight_bytes;
    told.attention_bytes = known.attention_bytes;
    told.feed_forward_bytes = known.feed_forward_bytes;
    told.expert_bytes = known.expert_bytes;
    told.other_bytes = known.other_bytes;
    told.token_bytes = known.token_bytes;
    told.kv_bytes = known.kv_bytes;
    told.kv_bytes_per_1000 = known.kv_bytes_per_1000;
    told.scratch_bytes = known.scratch_bytes;
    told.memory_total = known.memory_total;
    told.memory_free = known.memory_free;
    told.expert_budget = known.expert_budget;
    told.layers = known.layers;
    told.experts = known.experts;
    told.experts_chosen = known.experts_chosen;
    told.context = known.context;
    told.trained_context = known.trained_context;
    told.fits = static_cast<int32_t>(known.fit);
    told.host_layers = known.host_layers;
    told.host_expert_layers = known.host_expert_layers;
    told.vram_bytes = known.vram_bytes;
    return capi::copy_out(told, needs, needs_size);
  });
}

ponder_status ponder_model_load_io(ponder_runtime* rt, const ponder_io* io, size_t io_size,
                                   const ponder_model_options* o, ponder_model** out,
                                   ponder_error** err) {
  if (out != nullptr) *out = nullptr;
  return capi::guarded(err, [&]() -> ponder::Status {
    constexpr size_t kFirst = 5 * sizeof(void*);
    ponder_io table;
    ponder::Status usable = capi::copy_in(io, io_size, kFirst, "ponder_io", &table);
    if (!usable.ok()) {
      // The promise that close is called holds for every table that has one.
      if (io != nullptr && io_size >= kFirst && io->close != nullptr) io->close(io->user);
      return usable;
    }
    capi::HostFiles host(table);
    PONDER_RETURN_IF_ERROR(load_arguments(rt, out));
    PONDER_ASSIGN_OR_RETURN(auto files, host.open());
    return host.restore(load(rt, std::move(files), o, out));
  });
}

ponder_model* ponder_model_retain(ponder_model* m) { return capi::retain(m); }

void ponder_model_release(ponder_model* m) { capi::release(m); }

// ---- description ------------------------------------------------------------------------------

ponder_status ponder_model_get_info(const ponder_model* m, ponder_model_info* info,
                                    size_t info_size) {
  if (m == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    const engine::ModelInfo& known = m->model->info();
    ponder_model_info told = {};
    told.architecture = capi::borrow(known.architecture);
    told.name = capi::borrow(known.name);
    told.fingerprint = capi::borrow(known.fingerprint);
    told.thought_open = capi::borrow(known.thought_open);
    told.thought_close = capi::borrow(known.thought_close);
    told.eos_tokens = known.eos_ids.data();
    told.eos_count = static_cast<uint32_t>(known.eos_ids.size());
    told.parameters = known.parameters;
    told.weight_bytes = known.weight_bytes;
    told.kv_bytes = known.kv_bytes;
    told.kv_bytes_per_1000 = known.kv_bytes_per_token * 1000;
    told.vocabulary = known.vocabulary;
    told.context = known.context;
    told.trained_context = known.trained_context;
    told.layers = known.layers;
    told.device = known.device_index;
    told.precision = static_cast<int32_t>(known.precision);
    if (known.kv_dtype == ponder::DType::kF32) told.kv_type = PONDER_KV_F32;
    if (known.kv_dtype == ponder::DType::kBF16) told.kv_type = PONDER_KV_BF16;
    if (known.kv_dtype == ponder::DType::kF16) told.kv_type = PONDER_KV_F16;
    if (known.kv_dtype == ponder::DType::kQ8_0) told.kv_type = PONDER_KV_Q8_0;
    if (known.kv_dtype == ponder::DType::kF8_E4M3) told.kv_type = PONDER_KV_F8_E4M3;
    told.reasons = known.reasons;
    told.has_template = !m->model->template_source().empty();
    told.top_k = known.top_k;
    told.temperature = known.temperature;
    told.top_p = known.top_p;
    told.min_p = known.min_p;
    told.repeat_penalty = known.repeat_penalty;
    told.has_draft_layer = known.has_draft_layer;
    return capi::copy_out(told, info, info_size);
  });
}

ponder_status ponder_model_get_template(const ponder_model* m, ponder_str* source) {
  if (m == nullptr || source == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  *source = capi::borrow(m->model->template_source());
  return source->size != 0 ? PONDER_OK : PONDER_ERR_NOT_FOUND;
}

ponder_status ponder_model_get_stats(const ponder_model* m, ponder_stats* stats,
                                     size_t stats_size) {
  if (m == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    const engine::ModelStats known = m->model->stats();
    ponder_stats told = {};
    told.prompt_tokens = known.prompt_tokens;
    told.cached_tokens = known.cached_tokens;
    told.thought_tokens = known.thought_tokens;
    told.answer_tokens = known.answer_tokens;
    told.steps = known.steps;
    told.preemptions = known.preemptions;
    told.kv_bytes = known.kv_bytes;
    told.kv_bytes_used = known.kv_bytes_used;
    told.scratch_bytes = known.scratch_bytes;
    told.running = known.running;
    told.waiting = known.waiting;
    told.prefill_tokens_per_s = known.prefill_tokens_per_s;
    told.decode_tokens_per_s = known.decode_tokens_per_s;
    told.expert_bytes = known.experts.budget_bytes;
    told.expert_bytes_used = known.experts.held_bytes;
    told.expert_hits = known.experts.hits;
    told.expert_misses = known.experts.misses;
    told.expert_bytes_read = known.experts.bytes_read;
    told.drafted_tokens = known.drafted_tokens;
    told.accepted_tokens = known.accepted_tokens;
    return capi::copy_out(told, stats, stats_size);
  });
}

// ---- tokens -----------------------------------------------------------------------------------

ponder_status ponder_model_tokenize(const ponder_model* m, const char* text, size_t size,
                                    int32_t flags, ponder_token* tokens, size_t* count) {
  absl::string_view view;
  if (m == nullptr || !capi::text_argument(text, size, &view) ||
      !capi::tokenize_flags_known(flags) || !capi::buffer_argument(tokens, count)) {
    return PONDER_ERR_INVALID_ARGUMENT;
  }
  return capi::guarded(nullptr, [&]() -> ponder::StatusOr<ponder_status> {
    PONDER_ASSIGN_OR_RETURN(const auto ids,
                            m->model->tokenizer().encode(view, capi::encode_options(flags)));
    return capi::copy_buffer(ids.data(), ids.size(), tokens, count);
  });
}

ponder_status ponder_model_detokenize(const ponder_model* m, const ponder_token* tokens,
                                      size_t count, char* text, size_t* size) {
  if (m == nullptr || (tokens == nullptr && count != 0) || count > capi::kMaxTokens ||
      !capi::buffer_argument(text, size)) {
    return PONDER_ERR_INVALID_ARGUMENT;
  }
  return capi::guarded(nullptr, [&]() -> ponder_status {
    for (size_t i = 0; i < count; ++i) {
      if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= m->model->info().vocabulary) {
        return PONDER_ERR_INVALID_ARGUMENT;
      }
    }
    const std::string bytes = m->model->tokenizer().decode({tokens, count});
    return capi::copy_buffer(bytes.data(), bytes.size(), text, size);
  });
}

ponder_status ponder_model_get_token_text(const ponder_model* m, ponder_token token, char* text,
                                          size_t* size) {
  if (m == nullptr || !capi::buffer_argument(text, size)) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    if (token < 0 || static_cast<uint32_t>(token) >= m->model->info().vocabulary) {
      return PONDER_ERR_NOT_FOUND;
    }
    const absl::string_view bytes = m->model->tokenizer().token_bytes(token);
    return capi::copy_buffer(bytes.data(), bytes.size(), text, size);
  });
}

// ---- scores -----------------------------------------------------------------------------------

ponder_status ponder_model_score(ponder_model* m, const ponder_token* tokens, size_t count,
                                 uint32_t top_n, float* logprobs, ponder_token* top_tokens,
                                 float* top_logprobs, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    if (m == nullptr) return ponder::invalid_argument_error("the model is NULL");
    if (tokens == nullptr || count == 0) {
      return ponder::invalid_argument_error("there are no tokens to score");
    }
    const engine::ModelInfo& info = m->model->info();
    if (count > info.context) {
      return ponder::context_full_error(count, " tokens do not fit the context of ", info.context,
                                        "; score a shorter text or load with a larger context");
    }
    if (top_n > info.vocabulary) {
      return ponder::invalid_argument_error("top_n is ", top_n, ", but the vocabulary has only ",
                                            info.vocabulary, " tokens");
    }
    for (size_t i = 0; i < count; ++i) {
      if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= info.vocabulary) {
        return ponder::invalid_argument_error("token ", tokens[i], " at ", i,
                                              " is outside the vocabulary of ", info.vocabulary);
      }
    }
    if (m->model->runtime()->on_driver_thread()) {
      return ponder::busy_error("score cannot be called from inside a callback");
    }
    if (top_tokens == nullptr && top_logprobs == nullptr) top_n = 0;
    PONDER_ASSIGN_OR_RETURN(const engine::Scores scores, m->model->score({tokens, count}, top_n));
    const auto give = [](const auto& from, auto* to) {
      if (to != nullptr) std::copy(from.begin(), from.end(), to);
    };
    give(scores.logprobs, logprobs);
    give(scores.top_tokens, top_tokens);
    give(scores.top_logprobs, top_logprobs);
    return ponder::OkStatus();
  });
}
