// The host's memory as the CPU backend wants it: in large pages, and spread over the machine's
// memory nodes. Weights, key/value pages and arenas are large, and read all over in every step.
//
// Advice only: where the system cannot or may not, the memory is what the host gave. Any thread.
#pragma once

#include "lib/base/allocator.h"

namespace ponder::cpu {

class LargePageAllocator final : public Allocator {
 public:
  explicit LargePageAllocator(Allocator* host);

  void* allocate(size_t size, size_t align) override;
  void free(void* ptr, size_t size, size_t align) override;
  absl::string_view name() const override { return host_->name(); }

 private:
  static constexpr int kNodeWords = 16;  // 1024 nodes, Linux's most
  static constexpr int kWordBits = 8 * static_cast<int>(sizeof(unsigned long));

  Allocator* const host_;
  bool several_nodes_ = false;
  unsigned long nodes_[kNodeWords] = {};  // that this process may use
};

}  // namespace ponder::cpu
