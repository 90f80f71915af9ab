#include "lib/engine/placement.h"

namespace ponder::engine {

StatusOr<Placement> place(const PlacementNeeds& needs, uint64_t budget) {
  const size_t layers = needs.layers.size();
  uint64_t experts = 0, rest = needs.fixed_bytes;
  for (const LayerNeeds& layer : needs.layers) {
    experts += layer.expert_bytes;
    rest += layer.other_bytes + needs.page_bytes;
  }
  Placement placement;
  if (!needs.experts_on_demand && rest + needs.table_bytes + experts <= budget) return placement;
  placement.tables_on_host = true;
  if (needs.experts_on_demand && rest <= budget) {
    placement.experts_on_host.assign(layers, true);
    return placement;
  }
  // Experts of the last layers, as far as there is room beside all other weights.
  placement.experts_on_host.assign(layers, false);
  uint64_t room = budget > rest && !needs.experts_on_demand ? budget - rest : 0;
  for (size_t i = layers; i-- > 0;) {
    const uint64_t bytes = needs.layers[i].expert_bytes;
    if (bytes <= room) {
      room -= bytes;
    } else {
      placement.experts_on_host[i] = true;
      room = 0;  // no gaps: layers before this one are no different
    }
  }
  // Whole layers, from the first on, until the others fit.
  placement.layers_on_host.assign(layers, false);
  for (size_t i = 0; i < layers && rest > budget; ++i) {
    placement.layers_on_host[i] = true;
    placement.experts_on_host[i] = false;  // part of the layer
    rest -= needs.layers[i].other_bytes + needs.page_bytes;
  }
  if (rest > budget || (layers > 0 && placement.layers_on_host[layers - 1])) {
    const uint64_t least =
        needs.fixed_bytes +
        (layers > 0 ? needs.layers[layers - 1].other_bytes + needs.page_bytes : 0);
    return out_of_memory_error("the device may hold ", budget,
                               " bytes of the model, and the output, ",
                               "the work area and one layer alone take ", least,
                               "; allow more (vram_bytes), use a smaller context or hint ",
                               "step_tokens, or run on the processor");
  }
  return placement;
}

}  // namespace ponder::engine
