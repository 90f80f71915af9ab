// Quantising: a model's files to a GGUF file, and which columns matter for it.
#include <utility>

#include "lib/capi/guard.h"
#include "lib/capi/handles.h"
#include "lib/engine/calibrate.h"
#include "lib/quantize/quantize_model.h"

namespace capi = ponder::capi;
namespace engine = ponder::engine;

ponder_status ponder_quantize(const char* from, const char* to, const char* type,
                              const char* importance, uint32_t threads, ponder_progress_fn fn,
                              void* user, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    if (from == nullptr || to == nullptr || type == nullptr) {
      return ponder::invalid_argument_error("a path or the type is NULL");
    }
    if (threads > 1024) {
      return ponder::invalid_argument_error(threads, " threads are more than 1024");
    }
    ponder::quantization::QuantizeOptions options;
    options.type = type;
    if (importance != nullptr) options.importance = importance;
    options.threads = threads;
    if (fn != nullptr) {
      options.progress = [fn, user](uint64_t done, uint64_t total) { return fn(user, done, total); };
    }
    return ponder::quantization::quantize_model(from, to, options);
  });
}

ponder_status ponder_calibrate(ponder_runtime* rt, const char* path, const ponder_model_options* o,
                               const char* text, size_t size, const char* to,
                               ponder_progress_fn fn, void* user, ponder_error** err) {
  return capi::guarded(err, [&]() -> ponder::Status {
    if (rt == nullptr) return ponder::invalid_argument_error("the runtime is NULL");
    if (path == nullptr || to == nullptr) return ponder::invalid_argument_error("a path is NULL");
    absl::string_view words;
    if (!capi::text_argument(text, size, &words)) {
      return ponder::invalid_argument_error("the text is NULL or its size is absurd");
    }
    if (rt->runtime->on_driver_thread()) {
      return ponder::busy_error("calibrate cannot be called from inside a callback");
    }
    PONDER_ASSIGN_OR_RETURN(auto files, ponder::open_folder(path));
    engine::CalibrateOptions options;
    if (o != nullptr) options.model = o->options;
    if (fn != nullptr) {
      options.progress = [fn, user](uint64_t done, uint64_t total) { return fn(user, done, total); };
    }
    return engine::calibrate(rt->runtime, std::move(files), words, to, options);
  });
}
