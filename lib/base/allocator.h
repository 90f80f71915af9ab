// Where large memory comes from: weights, KV pages, step arenas. Small objects use operator new.
//
// A runtime has one Allocator, the host's or the default; it outlives every Buffer made from it.
// Any thread may call it at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "lib/base/status.h"

namespace ponder {

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Returns nullptr when there is no memory. `align` is a power of two.
  virtual void* allocate(size_t size, size_t align) = 0;
  virtual void free(void* ptr, size_t size, size_t align) = 0;
  // Whose memory it is, for error texts: "host memory", "memory of cuda:0".
  virtual absl::string_view name() const { return "host memory"; }
};

// The process's own memory; lives as long as the library.
Allocator* default_allocator();

// An owned piece of host memory, move-only. Contents are uninitialised.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) allocator_->free(data_, size_, align_);
  }

  // `what` goes into the error: "KV cache", "weights of layer 3".
  static StatusOr<Buffer> create(Allocator* allocator, size_t size, absl::string_view what,
                                 size_t align = 64);

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(Buffer& other) {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(align_, other.align_);
  }

  Allocator* allocator_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
  size_t align_ = 0;
};

}  // namespace ponder
