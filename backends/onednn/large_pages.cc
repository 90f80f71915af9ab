#include "backends/onednn/large_pages.h"

#include <bit>
#include <cstdint>

#if defined(__linux__)
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ponder::cpu {
namespace {

// Only whole large pages inside our own memory are spoken of: the rest may be a neighbour's too.
struct LargePages {
  LargePages(void* memory, size_t size) {
    constexpr uintptr_t kLarge = uintptr_t{2} << 20;
    const auto address = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t first = (address + kLarge - 1) & ~(kLarge - 1);
    const uintptr_t last = (address + size) & ~(kLarge - 1);
    if (memory == nullptr || first >= last) return;
    begin = reinterpret_cast<void*>(first);
    bytes = last - first;
  }
  void* begin = nullptr;
  size_t bytes = 0;
};

}  // namespace

LargePageAllocator::LargePageAllocator(Allocator* host) : host_(host) {
#if defined(__linux__)
  if (::syscall(SYS_get_mempolicy, nullptr, nodes_, kNodeWords * kWordBits, nullptr,
                MPOL_F_MEMS_ALLOWED) == 0) {
    int count = 0;
    for (const unsigned long word : nodes_) count += std::popcount(word);
    several_nodes_ = count > 1;
  }
#endif
}

void* LargePageAllocator::allocate(size_t size, size_t align) {
  void* const memory = host_->allocate(size, align);
#if defined(__linux__)
  if (const LargePages pages(memory, size); pages.bytes > 0) {
    ::madvise(pages.begin, pages.bytes, MADV_HUGEPAGE);
    // Every thread reads every weight sooner or later: from all nodes at once is the most that a
    // machine can give to all of them.
    if (several_nodes_) {
      ::syscall(SYS_mbind, pages.begin, pages.bytes, MPOL_INTERLEAVE, nodes_,
                kNodeWords * kWordBits, 0);
    }
  }
#endif
  return memory;
}

void LargePageAllocator::free(void* ptr, size_t size, size_t align) {
#if defined(__linux__)
  // The host may use these addresses again, for things of its own.
  if (const LargePages pages(ptr, size); several_nodes_ && pages.bytes > 0) {
    ::syscall(SYS_mbind, pages.begin, pages.bytes, MPOL_DEFAULT, nullptr, 0, 0);
  }
#endif
  host_->free(ptr, size, align);
}

}  // namespace ponder::cpu
