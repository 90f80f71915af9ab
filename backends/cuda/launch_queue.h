// Kernel launches as data, and what becomes of them: run at once, or gathered until the slice of a
// step is complete and then run as one CUDA graph if the same launches were seen before.
//
// A graph is kept with the launches it was made of and replayed only for launches that are equal to
// them to the last bit of their arguments: a replay cannot differ from the calls it stands for.
// What changes from step to step (positions, pages, tokens) lies in device memory at addresses that
// stay (step_inputs.h), so that the steps of a batch that grows by no row are equal.
//
// Threads: the driver's, one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "backends/cuda/enqueue.h"
#include "lib/base/status.h"

namespace ponder::cuda {

// A run of launches with copies of their arguments, in order.
class Launches {
 public:
  void add(const LaunchShape& shape, std::span<const Argument> arguments);
  void clear();
  size_t size() const { return entries_.size(); }
  const LaunchShape& shape(size_t i) const { return entries_[i].shape; }
  // The arguments' addresses, as a launch wants them; valid until the next add.
  void arguments(size_t i, std::vector<void*>* out) const;

  uint64_t hash() const;
  bool operator==(const Launches& other) const;

 private:
  struct Entry {
    LaunchShape shape;
    uint32_t first = 0, count = 0;  // of offsets_
    bool operator==(const Entry&) const = default;
  };
  struct alignas(16) Unit {
    std::byte bytes[16];
  };
  std::vector<Entry> entries_;
  std::vector<uint32_t> offsets_;  // into values_
  std::vector<Unit> values_;       // each argument at a unit's start, zeros behind it
};

// What a device does with launches.
class LaunchRunner {
 public:
  virtual ~LaunchRunner() = default;
  virtual Status run(const Launches& launches) = 0;
  // A graph of them, to be replayed any number of times.
  virtual StatusOr<void*> record(const Launches& launches) = 0;
  virtual Status replay(void* graph) = 0;
  virtual void forget(void* graph) = 0;  // it may still be under way
};

class LaunchQueue {
 public:
  struct Stats {
    uint64_t run = 0, recorded = 0, replayed = 0;  // submits that were one of these
  };

  explicit LaunchQueue(LaunchRunner* runner) : runner_(runner) {}
  ~LaunchQueue();
  LaunchQueue(const LaunchQueue&) = delete;
  LaunchQueue& operator=(const LaunchQueue&) = delete;

  // Whether launches wait for submit() from now on; without, they run at once.
  void gather(bool on) { gathering_ = on; }
  void add(const LaunchShape& shape, std::span<const Argument> arguments);
  // Runs what was gathered.
  Status submit();
  // Forgets it: nobody wants the results any more, and the memory may be gone.
  void discard() { pending_.clear(); }
  // The first failure of launches that ran at once, told once.
  Status take_failure();
  const Stats& stats() const { return stats_; }

 private:
  // Seen once: no graph, for it may be the last time. From the second time on: a graph, unless the
  // device refused to make one.
  struct Known {
    Launches launches;
    void* graph = nullptr;
    bool refused = false;
    uint64_t last_use = 0;
  };
  void make_room(size_t launches);

  // A graph's node takes about a kilobyte or two on the device.
  static constexpr size_t kMostLaunches = 32768;  // in graphs
  static constexpr size_t kMostKnown = 4096;

  LaunchRunner* const runner_;
  bool gathering_ = false;
  Launches pending_;
  Status failure_;
  absl::flat_hash_map<uint64_t, Known> known_;  // by hash
  size_t recorded_launches_ = 0;
  uint64_t clock_ = 0;
  Stats stats_;
};

}  // namespace ponder::cuda
