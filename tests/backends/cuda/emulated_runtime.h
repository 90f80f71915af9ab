// The emulated device's switches, for tests of failure. One thread at a time.
#pragma once

#include <cstdint>

#include "backends/cuda/launch_linear.h"

namespace ponder::cuda::emulation {

struct Faults {
  int devices = 1;                             // how many there are
  uint64_t memory = uint64_t{1} << 40;         // bytes that allocate() gives out before it fails
  int64_t shared_memory = int64_t{227} << 10;  // bytes that a block may have: sm_90's
  F8Operands f8_operands = F8Operands::kRegisters;  // sm_89's
  bool lose_device = false;                    // the next launch is a kernel's fault
  bool refuse_graphs = false;
};
extern Faults faults;
extern int64_t allocations;  // living ones, of both kinds of memory
extern int64_t made;         // allocations ever
extern int64_t waits;        // times that the host waited for the device
struct Graphs {
  uint64_t recorded = 0, replayed = 0, forgotten = 0;
  uint64_t launched = 0;  // kernels outside graphs
};
extern Graphs graphs;

}  // namespace ponder::cuda::emulation
