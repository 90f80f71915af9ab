// A loaded model and the engine around it: weights, tokenizer, template, KV cache, scheduler.
//
// Threads: any. One mutex (mu_) guards the timelines, the block cache and the queue; the driver
// holds it while it plans and commits, never while it computes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/engine/generation.h"
#include "lib/engine/request.h"
#include "lib/engine/runtime.h"
#include "lib/format/file_source.h"
#include "lib/format/model_files.h"
#include "lib/sample/reasoning_gate.h"
#include "lib/text/chat_template.h"
#include "lib/text/tokenizer.h"

namespace ponder::engine {

class Engine;
class LinearObserver;

struct ModelOptions {
  uint32_t device = 0;      // index into Runtime::devices()
  uint32_t context = 0;     // tokens of one session at the most; 0: a default that fits in memory
  uint64_t kv_bytes = 0;    // of the whole KV cache; 0: a default
  uint64_t expert_bytes = 0;  // memory for routed experts; 0: all of them stay
  uint64_t vram_bytes = 0;  // of a GPU's memory, all the model may take; 0: most of what is free
  bool draft_layer = false;   // load the layer for multi-token prediction too
  Precision precision = Precision::kAuto;
  std::optional<DType> kv_dtype;  // unset: the device's default
  // Nonzero stops the load with cancelled_error. Runs on the loading thread.
  std::function<int32_t(uint64_t done, uint64_t total)> progress;
  std::map<std::string, std::string> hints;  // see Model::load
  LinearObserver* observer = nullptr;        // sees all inputs of linear layers; outlives the model
};

struct ModelInfo {
  std::string architecture, name, fingerprint;
  uint64_t parameters = 0, weight_bytes = 0;
  uint64_t kv_bytes = 0, kv_bytes_per_token = 0;
  uint32_t vocabulary = 0, context = 0, trained_context = 0, layers = 0;
  bool reasons = false;             // has a thinking phase
  bool has_draft_layer = false;     // loaded
  DType kv_dtype = DType::kF32;
  std::vector<int32_t> eos_ids;
  // What a request gets when it does not say: the checkpoint's generation_config.json.
  // Temperature 0 (greedy) where the checkpoint says nothing, as its reference implementation does.
  float temperature = 0, top_p = 1, min_p = 0, repeat_penalty = 1;
  uint32_t top_k = 0;
  Precision precision = Precision::kAuto;
  uint32_t device_index = 0;
  std::string thought_open, thought_close;  // "<think>", "</think>"; empty when it does not reason
};

struct ModelStats {
  uint64_t prompt_tokens = 0, cached_tokens = 0, thought_tokens = 0, answer_tokens = 0;
  uint64_t steps = 0, preemptions = 0;
  uint64_t kv_bytes = 0, kv_bytes_used = 0, scratch_bytes = 0;
  uint32_t running = 0, waiting = 0;
  float prefill_tokens_per_s = 0, decode_tokens_per_s = 0;
  ExpertCacheStats experts;  // zeros when all experts stay
  uint64_t drafted_tokens = 0, accepted_tokens = 0;
};

struct Scores {
  std::vector<float> logprobs;      // [count - 1]: of tokens[i + 1] given tokens[..i]
  std::vector<int32_t> top_tokens;  // [count, top_n]
  std::vector<float> top_logprobs;
};

class Model : public std::enable_shared_from_this<Model> {
 public:
  // Blocks while loading. Errors as ponder_model_load documents them. Hints: "max_batch" (sequences per step), "step_tokens" (rows per step);
  // an unknown one is not_found_error.
  static StatusOr<std::shared_ptr<Model>> load(std::shared_ptr<Runtime> runtime,
                                               std::shared_ptr<const FileSource> files,
                                               const ModelOptions& options);
  ~Model();

  const ModelInfo& info() const { return info_; }
  ModelStats stats() const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::string& template_source() const { return template_source_; }  // empty: none
  const std::shared_ptr<Runtime>& runtime() const { return runtime_; }

  // The prompt text of `chat`, which says itself whether it ends with the opening of a new turn.
  // Reasoning on or off sets the variables that templates read for it.
  StatusOr<std::string> render(const Chat& chat, Reasoning reasoning = Reasoning::kModel) const;
  // The prompt of a request, checked: every token exists and there is room for at least one more.
  StatusOr<std::vector<int32_t>> prompt(const Request& request) const;

  // Blocks. Logprobs of given tokens; top_n alternatives at each position. Drives the runtime when
  // it is host-driven.
  StatusOr<Scores> score(std::span<const int32_t> tokens, uint32_t top_n);

  // How a request's thoughts are recognised and bounded; everything but its own budgets is the same
  // for all requests.
  const ReasoningOptions& reasoning() const { return reasoning_; }
  // Whether `draft` can draft for this model (draft_model.h).
  Status check_draft(const std::shared_ptr<Model>& draft);
  // How the model writes tool calls, as far as its template shows.
  ToolFormat tool_format() const {
    return template_ == nullptr ? ToolFormat::kNone : template_->facts().tool_format;
  }
  Engine& engine() { return *engine_; }

 private:
  Model() = default;
  void find_markers();
  void read_defaults(const ModelFiles& files);

  std::shared_ptr<Runtime> runtime_;
  std::unique_ptr<Backend> placed_;     // over the device's and the processor's, if on both
  std::unique_ptr<Backend> observing_;  // in front of the device's, if anybody observes
  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> template_;  // null: the checkpoint has none
  std::string template_source_;
  TokenizerSettings token_settings_;
  ReasoningOptions reasoning_;
  std::unique_ptr<Engine> engine_;
  absl::Mutex draft_mu_;
  std::weak_ptr<Model> checked_draft_ ABSL_GUARDED_BY(draft_mu_);  // the last that can
};

}  // namespace ponder::engine
