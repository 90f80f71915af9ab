// The small host arrays that a step's kernels read (tokens, positions, pages, the plans of its
// attention), on the device: put together in staging memory and uploaded in one piece when the step
// begins, without a stop. A batch that comes again in the same shape finds them at the same
// addresses.
//
// Threads: the driver's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/cuda/attention_plan.h"
#include "backends/cuda/pack.h"
#include "backends/cuda/runtime.h"
#include "lib/device/backend.h"

namespace ponder::cuda {

class StepInputs {
 public:
  struct Places {
    const RowPlace* rows;  // [T]
    const int32_t* pages;
  };

  // Valid until the next call.
  struct Plan {
    const AttentionPlan* plan;
    const Tile* tiles;
    const SplitRow* rows;
    Places places;
  };

  explicit StepInputs(Device* device) : device_(device) {}

  // `batch` is known by its address until as many others have begun.
  Status begin(const Batch& batch);
  // Of the rows of `batch`, whether or not it was begun.
  StatusOr<Places> places(const Batch& batch);
  // A shape that the step before did not ask for is uploaded now, else it was when the step began.
  StatusOr<Plan> plan(const Batch& batch, const PlanShape& shape);
  // What the plans of `batch` uploaded so far want of scratch memory.
  uint64_t plan_scratch_bytes(const Batch& batch) const;
  // A batch's tokens, positions or logit rows; anything else is uploaded now.
  StatusOr<const int32_t*> find(std::span<const int32_t> values);
  // To any of the device's memory, in the order of the launches.
  Status send(const void* host, void* device, uint64_t bytes);
  // The same values are uploaded once in a life.
  StatusOr<const float*> constant(std::span<const float> values);

 private:
  // Memory of both sides for one upload at a time: two pieces of staging memory in turn, so that
  // the host may fill one while the other is read.
  struct Channel {
    DeviceBuffer device;
    std::shared_ptr<char> staging[2];
    uint64_t capacity = 0;
    int turn = 0;
    int first_mark = 0;
  };
  struct Planned {
    PlanShape shape;
    AttentionPlan plan;
    uint64_t tiles_at = 0, rows_at = 0;
    bool used = false;  // since the step began
  };
  struct Staged {
    Channel channel;
    const Batch* batch = nullptr;
    std::vector<SequenceSlice> slices;
    std::span<const int32_t> lists[3];  // tokens, positions, logit rows: where the host has them
    uint64_t at[3] = {};                // and the device
    std::vector<Planned> plans;
    uint64_t pages_at = 0;
    uint64_t last_use = 0;
  };
  struct Constant {
    std::vector<float> values;
    DeviceBuffer device;
  };

  Status reserve(Channel* channel, uint64_t bytes);
  Status send(Channel* channel, void* device, uint64_t bytes);
  Status stage(const Batch& batch, Staged* to);
  StatusOr<Staged*> staged(const Batch& batch);
  static Places places_of(const Staged& staged);

  // Models whose steps take turns on the device; one more is only slower.
  static constexpr int kBatches = 3;
  static_assert(2 * (kBatches + 1) + 2 <= Device::kMarks);

  Device* const device_;
  Staged staged_[kBatches];
  Channel other_;  // for what belongs to no batch
  std::vector<Constant> constants_;
  uint64_t clock_ = 0;
};

}  // namespace ponder::cuda
