// Models placed on two devices: wherever their parts are, the logits are those of one device.
#include "tests/golden/rig.h"

namespace ponder {
namespace {

struct Placing {
  std::string name;
  Placement placement;
};

std::vector<Placing> placings() {
  return {{"FirstLayers", {{true, true}, {}, false}},
          {"LastLayer", {{false, false, false, true}, {}, false}},
          {"EverySecondLayer", {{false, true, false, true}, {}, false}},
          {"Experts", {{}, {true, true, true, true, true, true}, false}},
          {"LayersAndExperts", {{true}, {false, true, true}, false}},
          {"Tables", {{}, {}, true}}};
}

class PlacedModel : public testing::TestWithParam<std::tuple<Placing, std::string>> {};

TEST_P(PlacedModel, GivesTheVerySameLogits) {
  const auto& [placing, backend] = GetParam();
  for (const char* path : {"A/dsv3-fp8", "A/qwen3moe-bf16", "A/qwen2-bf16", "A/llama-bf16"}) {
    if (!fs::exists(kOracle / path)) continue;
    SCOPED_TRACE(path);
    Rig one((kOracle / path).string(), backend);
    if (one.unsupported()) continue;
    ASSERT_TRUE(one.ok()) << one.status();
    Rig two((kOracle / path).string(), backend, {}, 0, Mapping::kAuto, placing.placement);
    ASSERT_TRUE(two.ok()) << two.status();
    const std::vector<int32_t> ids = {5, 17, 230, 9, 88, 411, 3, 77, 500, 123, 6, 342};
    for (const int chunk : {5, 1}) {
      one.rewind();
      two.rewind();
      EXPECT_EQ(one.feed(ids, chunk, nullptr), two.feed(ids, chunk, nullptr));
    }
  }
  if (!fs::exists(kOracle / "A")) GTEST_SKIP() << "no reference data at " << kOracle / "A";
}

// Experts on demand are the processor's, whatever the placement.
TEST_P(PlacedModel, ReadsExpertsOnDemand) {
  const auto& [placing, backend] = GetParam();
  const fs::path path = kOracle / "A/qwen3moe-bf16";
  if (!fs::exists(path)) GTEST_SKIP() << "no reference data at " << path;
  Rig one(path.string(), backend);
  if (one.unsupported()) GTEST_SKIP() << one.status().message();
  Rig two(path.string(), backend, {}, 500'000, Mapping::kAuto, placing.placement);
  ASSERT_TRUE(two.ok()) << two.status();
  const std::vector<int32_t> ids = {5, 17, 230, 9, 88, 411};
  EXPECT_EQ(one.feed(ids, 4, nullptr), two.feed(ids, 4, nullptr));
  EXPECT_LE(two.expert_stats().held_bytes, 500'000u);
}

INSTANTIATE_TEST_SUITE_P(All, PlacedModel,
                         testing::Combine(testing::ValuesIn(placings()),
                                          testing::ValuesIn(backends())),
                         [](const auto& given) {
                           return std::get<0>(given.param).name + "_on_" + std::get<1>(given.param);
                         });

}  // namespace
}  // namespace ponder
