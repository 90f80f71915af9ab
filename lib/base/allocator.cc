#include "lib/base/allocator.h"

#include <algorithm>
#include <new>

namespace ponder {
namespace {

class DefaultAllocator final : public Allocator {
 public:
  void* allocate(size_t size, size_t align) override {
    return ::operator new(size, std::align_val_t(align), std::nothrow);
  }
  void free(void* ptr, size_t, size_t align) override {
    ::operator delete(ptr, std::align_val_t(align));
  }
};

}  // namespace

Allocator* default_allocator() {
  static DefaultAllocator allocator;  // no state, nothing to destroy
  return &allocator;
}

StatusOr<Buffer> Buffer::create(Allocator* allocator, size_t size, absl::string_view what,
                                size_t align) {
  Buffer buffer;
  if (size == 0) return buffer;
  void* data = allocator->allocate(size, align);
  if (data == nullptr) {
    return out_of_memory_error(allocator->name(), ": could not allocate ", size, " bytes for ", what,
                               "; use a smaller model, context or KV cache");
  }
  if (reinterpret_cast<uintptr_t>(data) % align != 0) {
    allocator->free(data, size, align);
    return invalid_argument_error("the allocator returned memory for ", what,
                                  " that is not aligned to ", align, " bytes");
  }
  buffer.allocator_ = allocator;
  buffer.data_ = data;
  buffer.size_ = size;
  buffer.align_ = align;
  return buffer;
}

}  // namespace ponder
