// How a launch leaves the .cu files: its kernel's address, its shape and its arguments, as data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backends/cuda/launch.h"

namespace ponder::cuda {

struct LaunchShape {
  const void* kernel = nullptr;  // the address that host code calls it by
  uint32_t grid[3] = {1, 1, 1};
  uint32_t threads = 1;
  uint32_t shared_bytes = 0;  // dynamic
  bool operator==(const LaunchShape&) const = default;
};

struct Argument {
  const void* value;
  size_t size;
};

// What `launch` (simt.cuh) calls; `s` is a Device's stream(). A failure is kept for Device::check.
void enqueue(Stream s, const LaunchShape& shape, std::span<const Argument> arguments);
// The most dynamic shared memory that a block can have on the stream's device, in bytes.
int64_t shared_memory_limit(Stream s);

// The same from a call: arguments become the kernel's parameter types, and the bytes between their
// members zeros, so that equal launches are equal bytes.
template <typename... Params, typename... Args>
void enqueue_call(Stream s, LaunchShape shape, void (*kernel)(Params...), Args... args) {
  shape.kernel = reinterpret_cast<const void*>(kernel);
  [&](Params... values) {
    (__builtin_clear_padding(&values), ...);
    const Argument arguments[] = {{&values, sizeof values}...};
    enqueue(s, shape, arguments);
  }(args...);
}

}  // namespace ponder::cuda
