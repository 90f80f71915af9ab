// Where a model's parts go, and the engine with a device whose memory is too small: the reference
// backend twice, once as a processor and once as if it were a GPU.
#include "lib/engine/placement.h"

#include <gtest/gtest.h>

#include <cstring>

#include "backends/ref/ref.h"
#include "lib/device/forwarding_backend.h"
#include "lib/engine/needs.h"
#include "tests/lib/engine/support.h"

namespace ponder {
namespace {

// Memory in which what nobody wrote is no number.
class Unwritten final : public Allocator {
 public:
  void* allocate(size_t size, size_t align) override {
    void* const memory = default_allocator()->allocate(size, align);
    if (memory != nullptr) std::memset(memory, 0xff, size);
    return memory;
  }
  void free(void* ptr, size_t size, size_t align) override {
    default_allocator()->free(ptr, size, align);
  }
};

constexpr uint64_t kGpuMemory = uint64_t{1} << 30;

class PretendedGpu final : public ForwardingBackend {
 public:
  explicit PretendedGpu(const BackendContext& context)
      : ForwardingBackend(make_ref_backend(context)) {
    info_.kind = DeviceInfo::Kind::kGpu;
    info_.backend = "pretended";
    info_.name = "a pretended GPU";
    info_.memory_total = info_.memory_free = kGpuMemory;
  }
  const DeviceInfo& info() const override { return info_; }
  Allocator* allocator() override { return &memory_; }
  Allocator* page_allocator(int) override { return &memory_; }
  bool digests_rows() const override { return true; }

 private:
  DeviceInfo info_;
  Unwritten memory_;
};

class PretendedFactory final : public BackendFactory {
 public:
  std::vector<DeviceInfo> devices(const BackendContext& context) const override {
    return {PretendedGpu(context).info()};
  }
  StatusOr<std::unique_ptr<Backend>> create(uint32_t,
                                            const BackendContext& context) const override {
    return std::make_unique<PretendedGpu>(context);
  }
};

}  // namespace

// In place of backends/builtin.cc.
std::span<const BackendFactory* const> builtin_backends() {
  static const PretendedFactory pretended;
  static const BackendFactory* const backends[] = {ref_factory(), &pretended};
  return backends;
}

namespace engine {
namespace {

using Layers = std::vector<bool>;

PlacementNeeds mixture() {  // 4 layers: the first without experts
  PlacementNeeds needs;
  needs.layers = {{0, 50}, {100, 10}, {100, 10}, {100, 10}};
  needs.page_bytes = 5;
  needs.fixed_bytes = 20;
  needs.table_bytes = 30;
  return needs;
}

TEST(Place, AllOnTheDeviceWhenItFits) {
  EXPECT_FALSE(place(mixture(), 450)->any());  // 20 + 30 + 80 + 20 + 300
  EXPECT_TRUE(place(mixture(), 449)->any());
}

TEST(Place, ExpertsLeaveFirstAndTheTable) {
  const Placement p = *place(mixture(), 420);  // the table alone
  EXPECT_EQ(p.layers_on_host, Layers(4, false));
  EXPECT_EQ(p.experts_on_host, Layers(4, false));
  EXPECT_EQ(place(mixture(), 419)->experts_on_host, (Layers{false, true, false, false}));
  EXPECT_EQ(place(mixture(), 220)->experts_on_host, (Layers{false, true, true, false}));
  EXPECT_EQ(place(mixture(), 120)->experts_on_host, (Layers{false, true, true, true}));
  EXPECT_EQ(place(mixture(), 120)->layers_on_host, Layers(4, false));
}

TEST(Place, ThenLayersFromTheFirstOn) {
  EXPECT_EQ(place(mixture(), 119)->layers_on_host, (Layers{true, false, false, false}));
  EXPECT_EQ(place(mixture(), 50)->layers_on_host, (Layers{true, true, false, false}));
  EXPECT_EQ(place(mixture(), 50)->experts_on_host, (Layers{false, false, true, true}));
  EXPECT_EQ(place(mixture(), 35)->layers_on_host, (Layers{true, true, true, false}));
  const Status none = place(mixture(), 34).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(none.message().find("35"), absl::string_view::npos) << none;
}

TEST(Place, ExpertsOnDemandAreTheProcessors) {
  PlacementNeeds needs = mixture();
  needs.experts_on_demand = true;
  EXPECT_EQ(place(needs, 10'000)->experts_on_host, Layers(4, true));
}

std::vector<int32_t> generate(const std::shared_ptr<Model>& model) {
  std::vector<std::shared_ptr<Generation>> generations;
  for (size_t i = 0; i < 3; ++i) {
    Request request = tokens_request(golden_cases()[i].prompt);
    request.max_tokens = 12;
    generations.push_back(Session::create(model).value()->submit(request).value());
  }
  std::vector<int32_t> tokens;
  for (const auto& g : generations) {
    const Outcome outcome = collect(*g);
    EXPECT_TRUE(outcome.failure.ok()) << outcome.failure;
    tokens.insert(tokens.end(), outcome.tokens.begin(), outcome.tokens.end());
  }
  return tokens;
}

TEST(PlacedModel, GeneratesTheSameAtEveryBudget) {
  const auto runtime = make_runtime();
  ModelOptions options;
  options.precision = Precision::kF32;
  options.context = 128;
  options.hints["step_tokens"] = "16";
  const std::vector<int32_t> wanted = generate(load(runtime, options));
  ASSERT_FALSE(wanted.empty());
  options.device = 1;
  const auto files = open_folder(kModel).value();
  const ModelNeeds whole = examine(*runtime, files, options).value();
  EXPECT_EQ(whole.fit, ModelNeeds::Fit::kAll);
  EXPECT_EQ(whole.host_layers, 0u);
  EXPECT_EQ(generate(load(runtime, options)), wanted);
  uint32_t before = 0;
  for (const uint64_t tenths : {9, 7, 5}) {
    options.vram_bytes = (whole.resident_bytes() + whole.expert_bytes) * tenths / 10;
    const ModelNeeds needs = examine(*runtime, files, options).value();
    EXPECT_EQ(needs.fit, ModelNeeds::Fit::kPlaced) << tenths;
    EXPECT_EQ(needs.vram_bytes, options.vram_bytes);
    EXPECT_GE(needs.host_layers, before);
    before = needs.host_layers;
    EXPECT_EQ(generate(load(runtime, options)), wanted) << tenths;
  }
  EXPECT_GT(before, 0u);
  options.vram_bytes = 1000;
  const Status refused = Model::load(runtime, files, options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
}

TEST(PlacedModel, ABudgetIsForGpus) {
  ModelOptions options;
  options.vram_bytes = 1'000'000;
  const Status refused = Model::load(make_runtime(), open_folder(kModel).value(), options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace engine
}  // namespace ponder
