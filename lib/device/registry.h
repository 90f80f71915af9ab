// The backends that this build contains, as an explicit list: no static constructors, no plug-ins.
//
// backends/builtin.cc defines builtin_backends(); everything else in lib/ knows backends only
// through the interfaces here and in backend.h.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "lib/device/backend.h"

namespace ponder {

// What a backend gets from its runtime; all of it outlives the backend.
struct BackendContext {
  Allocator* allocator = nullptr;  // host memory
  ThreadPool* pool = nullptr;
  LogSink log;
};

class BackendFactory {
 public:
  virtual ~BackendFactory() = default;
  // The devices this backend can drive on this machine, possibly none; never fails and is quick.
  virtual std::vector<DeviceInfo> devices(const BackendContext& context) const = 0;
  // `index` counts within devices().
  virtual StatusOr<std::unique_ptr<Backend>> create(uint32_t index,
                                                    const BackendContext& context) const = 0;
};

// In order of preference: the first device of the first backend that has one is the default.
// Lives as long as the library.
std::span<const BackendFactory* const> builtin_backends();

}  // namespace ponder
