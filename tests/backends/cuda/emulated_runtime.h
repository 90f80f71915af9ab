// The emulated device's switches, for tests of failure. One thread at a time.
#pragma once

#include <cstdint>

namespace ponder::cuda::emulation {

struct Faults {
  int devices = 1;                             // how many there are
  uint64_t memory = uint64_t{1} << 40;         // bytes that allocate() gives out before it fails
  int64_t shared_memory = int64_t{227} << 10;  // bytes that a block may have: sm_90's
  bool lose_device = false;                    // the next check finds a kernel fault
};
extern Faults faults;
extern int64_t allocations;  // living ones

}  // namespace ponder::cuda::emulation
