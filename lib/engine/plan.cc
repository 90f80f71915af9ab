#include "lib/engine/plan.h"

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"

namespace ponder::engine {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
// Without other word the KV cache holds this many full contexts, if the memory allows.
constexpr uint64_t kDefaultContexts = 16;

}  // namespace

StatusOr<Hints> read_hints(const std::map<std::string, std::string>& values) {
  Hints hints;
  for (const auto& [name, value] : values) {
    int32_t* const target = name == "max_batch"     ? &hints.max_batch
                            : name == "step_tokens" ? &hints.step_tokens
                                                    : nullptr;
    if (target == nullptr) {
      return not_found_error("hint \"", name, "\" is not known; this release knows max_batch, ",
                             "step_tokens");
    }
    if (!absl::SimpleAtoi(value, target) || *target < 1 || *target > 8192) {
      return invalid_argument_error(
          "hint \"", name, "\" must be a whole number from 1 to 8192, not \"", value, "\"");
    }
  }
  return hints;
}

DeviceInfo plan_device(const ModelOptions& options, DeviceInfo device) {
  if (device.kind == DeviceInfo::Kind::kGpu && options.vram_bytes != 0) {
    device.memory_total = std::min(device.memory_total, options.vram_bytes);
  }
  return device;
}

Status plan_memory(const ModelOptions& options, const DeviceInfo& device, uint32_t trained,
                   uint64_t bytes_per_token, int32_t page_tokens, Engine::Options* plan) {
  if (options.context > trained) {
    return unsupported_error("a context of ", options.context,
                             " tokens was asked for, but the model ", "was trained for ", trained,
                             "; ask for no more than that");
  }
  // The pages are touched only as they fill, so room for several contexts costs nothing by itself.
  const uint64_t budget = std::clamp<uint64_t>(device.memory_total / 8, 64 * kMiB, 8192 * kMiB);
  auto whole_pages = [&](uint64_t tokens) {
    const auto page = static_cast<uint64_t>(page_tokens);
    return (tokens + page - 1) / page * page * bytes_per_token;
  };
  if (device.memory_total != 0 && options.kv_bytes > device.memory_total) {
    return out_of_memory_error("a KV cache of ", options.kv_bytes, " bytes was asked for, but ",
                               device.name, " has only ", device.memory_total, " bytes of memory");
  }
  if (options.kv_bytes != 0) {
    const uint64_t tokens = options.kv_bytes / whole_pages(1) * static_cast<uint64_t>(page_tokens);
    if (tokens == 0 || (options.context != 0 && tokens < options.context)) {
      return out_of_memory_error("a KV cache of ", options.kv_bytes, " bytes holds ", tokens,
                                 " tokens; a context of ", std::max(options.context, 1u), " needs ",
                                 whole_pages(std::max(options.context, 1u)), " bytes");
    }
    plan->kv_bytes = options.kv_bytes;
    plan->context = options.context != 0
                        ? options.context
                        : static_cast<uint32_t>(std::min<uint64_t>(trained, tokens));
    return OkStatus();
  }
  plan->context = options.context != 0
                      ? options.context
                      : static_cast<uint32_t>(std::clamp<uint64_t>(
                            budget / bytes_per_token, static_cast<uint64_t>(page_tokens), trained));
  const uint64_t one = whole_pages(plan->context);
  plan->kv_bytes = std::max(one, std::min(budget, kDefaultContexts * one));
  return OkStatus();
}

Status no_draft_layer(absl::string_view name) {
  return unsupported_error(
      "a draft layer was asked for, but ", name,
      " has none; DeepSeek-V3 and R1 have one in their safetensors, GGUF conversions drop it");
}

StatusOr<StepMemory> step_memory(const ModelGraph& graph, int32_t step_tokens) {
  const std::vector<int32_t> zeros(static_cast<size_t>(step_tokens), 0);
  Batch batch;
  batch.tokens = batch.positions = zeros;
  batch.logit_rows = std::span(zeros).first(static_cast<size_t>(std::min(kLogitRows, step_tokens)));
  Exec measure;
  measure.begin_step(batch);
  measure.start_slice(0);
  Tensor h = graph.begin(measure, batch);
  for (int i = 0; i < graph.layers(); ++i) {
    measure.start_slice(i + 1);
    h = graph.layer(measure, batch, i, h);
  }
  measure.start_slice(graph.layers() + 1);
  graph.end(measure, batch, h);
  if (graph.has_draft_layer()) DraftLayer::measure(graph, measure, batch, h);
  PONDER_RETURN_IF_ERROR(measure.status());
  return StepMemory{measure.measured(), static_cast<uint64_t>(graph.vocabulary()) * sizeof(float) *
                                            batch.logit_rows.size()};
}

}  // namespace ponder::engine
