// What the tests of linear layers share, whatever the type of their weights.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tests/conformance/support.h"

namespace ponder {

class ProductConformance : public Conformance {
 protected:
  static std::unique_ptr<PackedWeight> pack(const Machine& machine,
                                            std::span<const WeightData> parts,
                                            Precision precision) {
    auto packed = machine->pack_linear(parts, PackOptions{precision});
    EXPECT_TRUE(packed.ok()) << packed.status();
    return packed.ok() ? *std::move(packed) : nullptr;
  }
  // The product of x, [m, K], and the weight: [m, N].
  static std::vector<float> run(const Machine& machine, const PackedWeight* w, std::vector<float> x,
                                int64_t m, std::vector<float>* bias = nullptr) {
    std::vector<float> out(static_cast<size_t>(m * w->rows), NAN);
    LinearParams p{};
    p.x = view(x, {m, w->cols});
    p.w = w;
    if (bias != nullptr) p.bias = view(*bias, {w->rows});
    p.out = view(out, {m, w->rows});
    EXPECT_TRUE(machine->linear(p).ok());
    return out;
  }
};

}  // namespace ponder
