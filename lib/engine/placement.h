// Which layers and experts of a model stay on the processor when its device's memory does not hold
// them all. Private to lib/engine; plain functions, any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/status.h"
#include "lib/device/placed_backend.h"

namespace ponder::engine {

struct LayerNeeds {
  uint64_t expert_bytes = 0;  // routed experts
  uint64_t other_bytes = 0;   // the other weights
};

// What a model puts on a device, in bytes.
struct PlacementNeeds {
  std::vector<LayerNeeds> layers;
  uint64_t page_bytes = 0;         // of one layer's cache
  uint64_t fixed_bytes = 0;        // output, norms and work area: always on the device
  uint64_t table_bytes = 0;        // embedding: on the device only if all is
  bool experts_on_demand = false;  // then no experts are on the device
};

// What is on the device comes to at most `budget` bytes. Routed experts leave first, those of the
// first layers before others, then whole layers, from the first on: of an expert's weights a token
// reads few, of a layer's all. out_of_memory_error: not even one layer fits.
StatusOr<Placement> place(const PlacementNeeds& needs, uint64_t budget);

}  // namespace ponder::engine
