// What a model is loaded with: tuning that was asked for, and how much memory its cache gets.
// Private to lib/engine; plain functions, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/engine/engine.h"
#include "lib/engine/model.h"
#include "lib/exec/exec.h"
#include "lib/models/model.h"

namespace ponder::engine {

struct Hints {
  int32_t max_batch = 64;
  int32_t step_tokens = 512;
};

StatusOr<Hints> read_hints(const std::map<std::string, std::string>& values);

// The device as a model may use it: vram_bytes is all there is of it.
DeviceInfo plan_device(const ModelOptions& options, DeviceInfo device);

// How long a context and how large a cache: what was asked for, else what fits.
Status plan_memory(const ModelOptions& options, const DeviceInfo& device, uint32_t trained,
                   uint64_t bytes_per_token, int32_t page_tokens, Engine::Options* plan);

// Of a load that asked for a layer that the checkpoint does not have.
Status no_draft_layer(absl::string_view name);

// Rows of logits that are computed and looked at together: bounds the arena for scoring, where
// every row is wanted. A row is as long as the vocabulary.
inline constexpr int32_t kLogitRows = 32;

// What the largest step takes, found by running it in measuring mode.
struct StepMemory {
  ArenaSize arena;            // of the device
  uint64_t logits_bytes = 0;  // of the host
  uint64_t total() const { return arena.total() + logits_bytes; }
};
StatusOr<StepMemory> step_memory(const ModelGraph& graph, int32_t step_tokens);

}  // namespace ponder::engine
