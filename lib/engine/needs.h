// What a model needs, found out without loading it: its files' tables are read, its configuration
// and the shapes of its tensors checked as a load would, no weight touched. Any thread; no state.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/device/placed_backend.h"
#include "lib/engine/model.h"
#include "lib/engine/runtime.h"
#include "lib/format/file_source.h"
#include "lib/format/model_files.h"

namespace ponder::engine {

struct ModelNeeds {
  std::string architecture;
  uint64_t parameters = 0;
  uint64_t weight_bytes = 0;  // of all tensors in the files
  // Of those that are loaded, as they are stored; the packed copies take about as much.
  uint64_t attention_bytes = 0;
  uint64_t feed_forward_bytes = 0;  // dense layers and shared experts
  uint64_t expert_bytes = 0;        // routed experts
  uint64_t other_bytes = 0;         // embedding, output, routers, norms
  uint64_t token_bytes = 0;         // of weights that computing one token reads
  uint64_t kv_bytes = 0, kv_bytes_per_1000 = 0, scratch_bytes = 0;  // as a load would allot them
  uint64_t memory_total = 0, memory_free = 0;                       // of the device; 0: not told
  uint64_t expert_budget = 0;  // kOnDemand: what experts may take
  uint32_t layers = 0, experts = 0, experts_chosen = 0, context = 0, trained_context = 0;
  enum class Fit : int32_t {
    kNot = 0,       // not even with experts on demand
    kOnDemand = 1,  // with expert_bytes, set to expert_budget
    kAll = 2,       // everything stays in memory
    kPlaced = 3,    // parts of it on the processor, as `placement` says
  };
  Fit fit = Fit::kNot;
  // On a GPU: what the model may take of its memory, and what the processor takes over.
  uint64_t vram_bytes = 0;
  Placement placement;
  uint32_t host_layers = 0, host_expert_layers = 0;

  uint64_t resident_bytes() const {  // all but the experts
    return attention_bytes + feed_forward_bytes + other_bytes + kv_bytes + scratch_bytes;
  }
};

// Errors as Model::load.
StatusOr<ModelNeeds> examine(Runtime& runtime, std::shared_ptr<const FileSource> source,
                             const ModelOptions& options);
StatusOr<ModelNeeds> examine(Runtime& runtime, const ModelFiles& files,
                             const ModelOptions& options);

}  // namespace ponder::engine
