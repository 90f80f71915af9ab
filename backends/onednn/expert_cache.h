// The packed experts of all layers of one model within a budget of memory.
//
// Least recently used first, but an expert that was used again while it was here gets another turn:
// its uses are halved each time it would have to go. So those that are often used stay as if they
// were pinned, and what a long prompt touches once goes first.
//
// Owned by the model; ops touch it one at a time, stats() may be called by any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "backends/onednn/linear.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

struct ExpertMatrices {
  std::unique_ptr<PackedMatrix> gate_up, down;

  uint64_t bytes() const { return gate_up->bytes + down->bytes; }
};

// One expert of one layer, in memory or not. Belongs to its layer's PackedExperts.
struct ExpertEntry {
  ExpertMatrices matrices;  // null: not in memory
  uint64_t bytes = 0;       // of them

  bool held() const { return matrices.down != nullptr; }

 private:
  friend class LruExpertCache;
  ExpertEntry* newer = nullptr;  // among those held
  ExpertEntry* older = nullptr;
  uint64_t uses = 0;
  uint64_t round = 0;  // the last one that wanted it
};

class LruExpertCache final : public ExpertCache {
 public:
  explicit LruExpertCache(uint64_t budget) : budget_(budget) {}

  uint64_t budget() const { return budget_; }
  ExpertCacheStats stats() const override;

  // What is wanted from now on stays until the next round begins.
  void begin_round() { ++round_; }
  void want(ExpertEntry* entry);
  // Lets go of others until `bytes` fit, which all wanted ones together do. Returns the last that
  // went: its memory may serve again.
  ExpertMatrices make_room(uint64_t bytes);
  // There is room.
  void put(ExpertEntry* entry, ExpertMatrices matrices, uint64_t bytes_read);
  // The entry's layer ends.
  void forget(ExpertEntry* entry);

 private:
  void link(ExpertEntry* entry);  // as the newest
  void unlink(ExpertEntry* entry);
  ExpertMatrices take_out(ExpertEntry* entry);

  const uint64_t budget_;
  uint64_t round_ = 0;
  ExpertEntry* newest_ = nullptr;
  ExpertEntry* oldest_ = nullptr;
  std::atomic<uint64_t> held_{0}, hits_{0}, misses_{0}, read_{0};
};

}  // namespace ponder::cpu
