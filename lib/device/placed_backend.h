// One model on two devices: a GPU's backend with what fits there, and the processor's with the
// rest.
//
// Weights live where their layer is placed and an op runs where its weight, or its cache, lives;
// ops without either run where the slice's layer is placed. What an op reads is brought over when
// the newest copy is on the other side, which happens at borders between layers and around experts.
// A row's values are those that its ops' backends give, whatever the placement of other layers.
//
// Threads: as any Backend. One of these serves one model, is made before its load and outlives it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "lib/device/backend.h"

namespace ponder {

// Which layers' parts the processor takes; layers past the end of a list stay on the device.
struct Placement {
  std::vector<bool> layers_on_host;   // whole layers with their caches
  std::vector<bool> experts_on_host;  // the routed experts of layers that are else on the device
  // Embedding tables, of which a step reads a few rows, go to the processor as soon as anything
  // does, and experts that are read on demand always. For when there is nothing else:
  bool tables_on_host = false;

  static bool in(const std::vector<bool>& list, int64_t layer) {
    return layer >= 0 && static_cast<size_t>(layer) < list.size() &&
           list[static_cast<size_t>(layer)];
  }
  bool any() const { return tables_on_host || count(layers_on_host) + count(experts_on_host) > 0; }
  static uint32_t count(const std::vector<bool>& list) {
    return static_cast<uint32_t>(std::count(list.begin(), list.end(), true));
  }
};

// 7 of "model.layers.7.mlp.gate_proj.weight"; -1: of no layer.
int64_t layer_of_tensor(absl::string_view name);

// Both outlive the result.
std::unique_ptr<Backend> make_placed_backend(Backend* device, Backend* host, Placement placement);

}  // namespace ponder
