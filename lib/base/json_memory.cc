#include "lib/base/json_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>

#include "nlohmann/json.hpp"

namespace ponder {
namespace {

static_assert(sizeof(nlohmann::json) == sizeof(nlohmann::ordered_json));

// Blocks from outside the heap, few and short-lived: a slot per block. A slot's size is written by
// whoever claimed it and read by whoever holds its block.
struct Slot {
  std::atomic<void*> block{nullptr};
  size_t bytes = 0;
};
constexpr size_t kSlots = 64;
Slot slots[kSlots];
std::atomic<uint32_t> used_slots{0};

// Marks a slot as claimed while its block is being made.
void* const kClaimed = &used_slots;

void* map_block(size_t bytes) {
  used_slots.fetch_add(1);
  for (Slot& slot : slots) {
    void* expected = nullptr;
    if (!slot.block.compare_exchange_strong(expected, kClaimed)) continue;
    void* const block =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block != MAP_FAILED) {
      slot.bytes = bytes;
      slot.block.store(block);
      return block;
    }
    slot.block.store(nullptr);
    break;
  }
  used_slots.fetch_sub(1);
  return nullptr;
}

}  // namespace

void* allocate_json_values(size_t count) {
  if (count > SIZE_MAX / 2 / sizeof(nlohmann::json)) throw std::bad_alloc();
  const size_t bytes = count * sizeof(nlohmann::json);
  void* block = ::operator new(bytes, std::nothrow);
  if (block == nullptr) block = map_block(bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void free_json_values(void* values) noexcept {
  if (values != nullptr && used_slots.load() != 0) {
    for (Slot& slot : slots) {
      if (slot.block.load() != values) continue;
      const size_t bytes = slot.bytes;
      slot.block.store(nullptr);
      used_slots.fetch_sub(1);
      ::munmap(values, bytes);
      return;
    }
  }
  ::operator delete(values);
}

}  // namespace ponder
