// The harness itself: ops through copies on a device are the ops.
#include "tests/conformance/support.h"

namespace ponder {
namespace {

TEST(StagingBackend, GivesWhatTheBackendGives) {
  const Machine direct = reference();
  Machine staged = reference();
  staged.backend = std::make_unique<StagingBackend>(std::move(staged.backend));
  const WeightData weight = make_weight("w", DType::kF32, {24, 16}, random_floats(24 * 16, 1));
  const auto run = [&](const Machine& machine) {
    auto wide = random_floats(5 * 40, 2), bias = random_floats(24, 3), norm = random_floats(8, 4);
    auto angles = random_floats(5 * 8, 5), out = std::vector<float>(5 * 30, -1.0f);
    // Two heads of 8 inside rows of 40, changed in place; what lies beside them stays.
    Tensor heads = Tensor::make(wide.data() + 3, DType::kF32, {5, 2, 8});
    heads.stride[0] = 40;
    EXPECT_TRUE(machine->rms_norm({heads, view(norm, {8}), 1e-5f, heads}).ok());
    EXPECT_TRUE(machine->rope({heads, view(angles, {5, 8}), true}).ok());
    Tensor x = Tensor::make(wide.data() + 3, DType::kF32, {5, 16});
    x.stride[0] = 40;
    EXPECT_TRUE(machine->add({x, x, x}).ok());
    auto packed = machine->pack_linear({&weight, 1}, PackOptions{Precision::kF32});
    EXPECT_TRUE(packed.ok());
    Tensor to = Tensor::make(out.data() + 1, DType::kF32, {5, 24});
    to.stride[0] = 30;
    EXPECT_TRUE(machine->linear({x, packed->get(), view(bias, {24}), to}).ok());
    wide.insert(wide.end(), out.begin(), out.end());
    return wide;
  };
  const auto wanted = run(direct), got = run(staged);
  EXPECT_TRUE(same_bits(wanted.data(), got.data(), wanted.size()));
}

}  // namespace
}  // namespace ponder
