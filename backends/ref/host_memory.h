// How much memory this machine has, for DeviceInfo. Any thread.
#pragma once

#include <cstdint>

namespace ponder {

struct HostMemory {
  uint64_t total = 0;  // bytes; 0 when the system does not tell
  uint64_t free = 0;   // what can be had without swapping, page cache included
};

HostMemory host_memory();

}  // namespace ponder
