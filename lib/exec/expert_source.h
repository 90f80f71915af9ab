// Finds weights and their scales in a checkpoint: what the Loader does while a model is loaded, and
// what the experts' source goes on doing while it runs. Private to lib/exec; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/format/checkpoint.h"

namespace ponder {

// The tensor, if it is there and has this shape; one of f8_e4m3 comes with its scales.
StatusOr<WeightData> find_weight(const Checkpoint& checkpoint, const std::string& name,
                                 std::span<const int64_t> shape);

// The experts "<prefix><e>.gate_proj.weight" and so on, or the stacks "<prefix>gate_proj.weight":
// all are there with these shapes, or it is the error. `bytes` is what they take in the checkpoint,
// which outlives the source. `on_demand`: what is found is read, never mapped, because the disk may
// fail while the model runs.
StatusOr<std::unique_ptr<ExpertSource>> make_expert_source(const Checkpoint& checkpoint,
                                                           const std::string& prefix,
                                                           int64_t experts, int64_t width,
                                                           int64_t hidden, bool on_demand,
                                                           uint64_t* bytes);

}  // namespace ponder
