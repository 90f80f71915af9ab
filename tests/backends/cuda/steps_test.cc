// Whole steps on the emulated device: what is uploaded when, and graphs, which must give what the
// calls themselves give.
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/cuda.h"
#include "backends/cuda/launch_queue.h"
#include "gtest/gtest.h"
#include "lib/base/thread_pool.h"
#include "lib/tensor/half.h"
#include "tests/backends/cuda/emulated_runtime.h"

namespace ponder {
namespace {

using cuda::emulation::faults;
using cuda::emulation::graphs;

constexpr int64_t kVocabulary = 40, kWidth = 64, kHeads = 2, kHead = 32;
constexpr int32_t kPages = 12;

std::vector<float> random_floats(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

WeightData bf16_weight(int64_t rows, int64_t cols, uint32_t seed) {
  auto bytes = std::make_shared<std::vector<uint16_t>>();
  for (float v : random_floats(static_cast<size_t>(rows * cols), seed)) {
    bytes->push_back(f32_to_bf16(v));
  }
  WeightData w;
  w.name = "model.some.weight";
  w.dtype = DType::kBF16;
  w.shape = {rows, cols};
  w.data = bytes->data();
  w.owner = bytes;
  return w;
}

// The plain data of one step, as the engine holds it.
struct Step {
  std::vector<int32_t> tokens, positions, logit_rows;
  std::vector<std::vector<int32_t>> pages;
  std::vector<SequenceSlice> slices;
  Batch batch;
};

// A model of one layer with a cache of its own, fed by hand.
class Toy {
 public:
  explicit Toy(Backend* backend) : backend_(backend) {
    const WeightData table = bf16_weight(kVocabulary, kWidth, 1);
    table_ = *backend->pack_table(table);
    const WeightData parts[] = {bf16_weight(kWidth, kWidth, 2), bf16_weight(2 * kWidth, kWidth, 3)};
    qkv_ = *backend->pack_linear(parts, {});
    norm_ = random_floats(kWidth, 4);
    layer_.shape = {1, kHeads, kHead, kHead};
    layer_.layout = *backend->kv_layout(layer_.shape, DType::kF16);
    cache_.resize(static_cast<size_t>(kPages) * layer_.layout.page_bytes + 64);
    layer_.base = cache_.data() + (64 - reinterpret_cast<uintptr_t>(cache_.data()) % 64) % 64;
    arena_.resize(1 << 18);
  }

  // Sequence s of the step at position `at` + s; `rows` rows each.
  void fill(Step* step, int sequences, int32_t at, int32_t rows = 1) const {
    *step = Step();
    for (int32_t s = 0; s < sequences; ++s) {
      step->pages.push_back({2 * s + 1, 2 * s});
      for (int32_t r = 0; r < rows; ++r) {
        step->positions.push_back(at + s + r);
        step->tokens.push_back((at * 7 + s * 3 + r) % kVocabulary);
      }
      step->logit_rows.push_back((s + 1) * rows - 1);
    }
    for (int32_t s = 0; s < sequences; ++s) {
      step->slices.push_back({s * rows, rows, at + s, step->pages[static_cast<size_t>(s)]});
    }
    step->batch = {step->tokens, step->positions, step->slices, step->logit_rows};
  }

  Status begin(const Step& step) { return backend_->begin_step(step.batch); }
  // The layer's ops; the result is out().
  Status layer(const Step& step, bool as_slice) {
    const Batch& b = step.batch;
    const auto t = static_cast<int64_t>(b.tokens.size());
    used_ = 0;
    const Tensor h = take({t, kWidth}), normed = take({t, kWidth}), qkv = take({t, 3 * kWidth});
    const Tensor rotations = take({t, kHead}), mixed = take({t, kWidth});
    out_ = take({static_cast<int64_t>(b.logit_rows.size()), kWidth});
    const auto part = [&](int64_t i) {
      Tensor x = Tensor::make(qkv.f32() + i * kWidth, DType::kF32, {t, kHeads, kHead});
      x.stride[0] = 3 * kWidth;
      return x;
    };
    if (as_slice) PONDER_RETURN_IF_ERROR(backend_->start_slice(b, 1));
    PONDER_RETURN_IF_ERROR(backend_->embed({table_.get(), b.tokens, h}));
    const Tensor norm = Tensor::make(norm_.data(), DType::kF32, {kWidth});
    PONDER_RETURN_IF_ERROR(backend_->rms_norm({h, norm, 1e-6f, normed}));
    PONDER_RETURN_IF_ERROR(backend_->linear({normed, qkv_.get(), {}, qkv}));
    PONDER_RETURN_IF_ERROR(backend_->rope_table({inv_freq_, 1.0f, b.positions, rotations}));
    PONDER_RETURN_IF_ERROR(backend_->rope({part(0), rotations, false}));
    PONDER_RETURN_IF_ERROR(backend_->rope({part(1), rotations, false}));
    PONDER_RETURN_IF_ERROR(backend_->kv_write({layer_, part(1), part(2), &b}));
    PONDER_RETURN_IF_ERROR(backend_->attention({part(0), layer_, &b, 0.2f, mixed}));
    PONDER_RETURN_IF_ERROR(backend_->add({h, mixed, mixed}));
    PONDER_RETURN_IF_ERROR(backend_->gather_rows({mixed, b.logit_rows, out_}));
    return as_slice ? backend_->end_slice() : OkStatus();
  }
  StatusOr<std::vector<float>> out() {
    std::vector<float> values(static_cast<size_t>(out_.dim[0] * kWidth), NAN);
    PONDER_RETURN_IF_ERROR(
        backend_->download(out_.data, values.data(), values.size() * sizeof(float)));
    return values;
  }
  std::vector<float> run(const Step& step, bool as_slice) {
    EXPECT_TRUE(begin(step).ok());
    EXPECT_TRUE(layer(step, as_slice).ok());
    return out().value_or(std::vector<float>());
  }

 private:
  Tensor take(std::initializer_list<int64_t> dims) {
    int64_t n = 1;
    for (int64_t d : dims) n *= d;
    const Tensor t = Tensor::make(arena_.data() + used_, DType::kF32, dims);
    used_ += static_cast<size_t>(n);
    EXPECT_LE(used_, arena_.size());
    return t;
  }

  Backend* const backend_;
  std::unique_ptr<PackedWeight> table_, qkv_;
  std::vector<float> norm_, inv_freq_ = random_floats(kHead / 2, 5), arena_;
  std::vector<std::byte> cache_;
  KvLayer layer_;
  size_t used_ = 0;
  Tensor out_;
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return !a.empty() && a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class CudaSteps : public ::testing::Test {
 protected:
  CudaSteps() {
    faults = {};
    graphs = {};
    pool_ = *make_thread_pool(1);
    context_.allocator = default_allocator();
    context_.pool = pool_.get();
    backend_ = *cuda_factory()->create(0, context_);
    plain_ = *cuda_factory()->create(0, context_);
  }

  std::unique_ptr<ThreadPool> pool_;
  BackendContext context_;
  std::unique_ptr<Backend> backend_, plain_;
};

TEST_F(CudaSteps, ReplaysGiveWhatTheCallsGive) {
  Toy toy(backend_.get()), eager(plain_.get());
  Step step, other;
  for (int32_t at = 0; at < 40; ++at) {  // past the end of a page
    toy.fill(&step, 3, at);
    eager.fill(&other, 3, at);
    ASSERT_TRUE(same(toy.run(step, true), eager.run(other, false))) << at;
  }
  // The first step also uploads the rotary angles, which cuts it in two; the second is new then.
  EXPECT_EQ(graphs.recorded, 1u);
  EXPECT_EQ(graphs.replayed, 38u);
  backend_.reset();
  EXPECT_EQ(graphs.forgotten, 1u);
}

TEST_F(CudaSteps, AnotherNumberOfRowsIsAnotherGraph) {
  Toy toy(backend_.get()), eager(plain_.get());
  Step step, other;
  int32_t at = 0;
  for (const int sequences : {3, 3, 2, 2, 2, 3, 2, 4, 3}) {
    toy.fill(&step, sequences, at);
    eager.fill(&other, sequences, at);
    ASSERT_TRUE(same(toy.run(step, true), eager.run(other, false))) << at;
    ++at;
  }
  EXPECT_EQ(graphs.recorded, 2u);  // the four came once
  EXPECT_EQ(graphs.replayed, 5u);
}

TEST_F(CudaSteps, LongStepsAreLaunchedAsTheyAreCalled) {
  Toy toy(backend_.get());
  Step step;
  toy.fill(&step, 6, 0, 48);
  const auto first = toy.run(step, true), second = toy.run(step, true);
  EXPECT_TRUE(same(first, second));
  toy.run(step, true);
  EXPECT_EQ(graphs.recorded, 0u);
}

TEST_F(CudaSteps, NothingIsAllocatedAndOnlyTheReadingWaits) {
  Toy toy(backend_.get());
  Step step;
  toy.fill(&step, 4, 0);
  toy.run(step, true);
  const int64_t made = cuda::emulation::made, waits = cuda::emulation::waits;
  for (int32_t at = 1; at < 6; ++at) {
    toy.fill(&step, at < 4 ? 4 : 2, at);
    toy.run(step, true);
  }
  EXPECT_EQ(cuda::emulation::made, made);
  EXPECT_EQ(cuda::emulation::waits, waits + 5);
}

TEST_F(CudaSteps, StepsOfSeveralModelsInTurn) {
  constexpr int kModels = 5;  // more than are remembered
  std::vector<std::unique_ptr<Toy>> toys;
  std::vector<Step> steps(kModels);
  for (int i = 0; i < kModels; ++i) toys.push_back(std::make_unique<Toy>(backend_.get()));
  Toy eager(plain_.get());
  for (int i = 0; i < kModels; ++i) {
    toys[static_cast<size_t>(i)]->fill(&steps[static_cast<size_t>(i)], 1 + i % 3, 2 * i);
    ASSERT_TRUE(toys[static_cast<size_t>(i)]->begin(steps[static_cast<size_t>(i)]).ok());
  }
  for (int i = 0; i < kModels; ++i) {
    Toy& toy = *toys[static_cast<size_t>(i)];
    ASSERT_TRUE(toy.layer(steps[static_cast<size_t>(i)], true).ok());
    const auto got = toy.out();
    ASSERT_TRUE(got.ok());
    Step other;
    Toy alone(plain_.get());
    alone.fill(&other, 1 + i % 3, 2 * i);
    EXPECT_TRUE(same(*got, alone.run(other, false))) << i;
  }
}

TEST_F(CudaSteps, ASliceThatWasBrokenOffLeavesNothing) {
  Toy toy(backend_.get()), eager(plain_.get());
  Step step, other;
  toy.fill(&step, 2, 0);
  ASSERT_TRUE(toy.begin(step).ok());
  ASSERT_TRUE(backend_->start_slice(step.batch, 1).ok());
  std::vector<float> x = {1, 2, 3, 4}, sum(4, -1.0f);
  const auto of = [](std::vector<float>& v) { return Tensor::make(v.data(), DType::kF32, {1, 4}); };
  ASSERT_TRUE(backend_->add({of(x), of(x), of(sum)}).ok());
  // No end: the step failed. The next one begins.
  eager.fill(&other, 2, 0);
  EXPECT_TRUE(same(toy.run(step, true), eager.run(other, false)));
  EXPECT_EQ(sum, std::vector<float>(4, -1.0f));
}

TEST_F(CudaSteps, WithoutGraphsItGoesOnWithLaunches) {
  faults.refuse_graphs = true;
  Toy toy(backend_.get()), eager(plain_.get());
  Step step, other;
  for (int32_t at = 0; at < 4; ++at) {
    toy.fill(&step, 2, at);
    eager.fill(&other, 2, at);
    ASSERT_TRUE(same(toy.run(step, true), eager.run(other, false)));
  }
  EXPECT_EQ(graphs.replayed, 0u);
}

TEST_F(CudaSteps, AFaultInAGraphLosesTheDeviceAndNoOther) {
  Toy toy(backend_.get()), other(plain_.get());
  Step step;
  toy.fill(&step, 2, 0);
  toy.run(step, true);
  toy.run(step, true);
  faults.lose_device = true;
  ASSERT_TRUE(toy.begin(step).ok());
  EXPECT_EQ(toy.layer(step, true).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(toy.begin(step).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(toy.out().ok());
  Step unharmed;
  other.fill(&unharmed, 2, 0);
  EXPECT_FALSE(other.run(unharmed, true).empty());
}

// ---- the queue by itself -----------------------------------------------------------------------

class CountingRunner final : public cuda::LaunchRunner {
 public:
  int64_t ran = 0, living = 0, replays = 0;
  Status run(const cuda::Launches& launches) override {
    ran += static_cast<int64_t>(launches.size());
    return OkStatus();
  }
  StatusOr<void*> record(const cuda::Launches&) override {
    ++living;
    return this;
  }
  Status replay(void*) override {
    ++replays;
    return OkStatus();
  }
  void forget(void*) override { --living; }
};

TEST(LaunchQueue, KeepsSoManyGraphsAndNoMore) {
  CountingRunner runner;
  {
    cuda::LaunchQueue queue(&runner);
    queue.gather(true);
    const auto submit = [&](int which) {
      for (int i = 0; i < 1000; ++i) {
        const cuda::Argument argument{&which, sizeof which};
        cuda::LaunchShape shape;
        shape.kernel = &runner;
        queue.add(shape, {&argument, 1});
      }
      EXPECT_TRUE(queue.submit().ok());
    };
    for (int which = 0; which < 100; ++which) {
      submit(which);
      submit(which);
    }
    EXPECT_EQ(queue.stats().recorded, 100u);
    EXPECT_EQ(runner.living, 32);  // of 1000 launches each, 32768 at the most
    const int64_t before = runner.replays;
    submit(99);
    EXPECT_EQ(runner.replays, before + 1);
    submit(0);  // long forgotten
    EXPECT_EQ(runner.replays, before + 1);
  }
  EXPECT_EQ(runner.living, 0);
}

TEST(LaunchQueue, LooksAtEveryArgumentAndShape) {
  CountingRunner runner;
  cuda::LaunchQueue queue(&runner);
  queue.gather(true);
  struct Big {
    float values[5];
  };
  const auto submit = [&](Big big, int64_t small, unsigned grid) {
    const cuda::Argument arguments[] = {{&big, sizeof big}, {&small, sizeof small}};
    cuda::LaunchShape shape;
    shape.kernel = &runner;
    shape.grid[2] = grid;
    queue.add(shape, arguments);
    EXPECT_TRUE(queue.submit().ok());
    return std::exchange(runner.replays, 0) == 1;
  };
  EXPECT_FALSE(submit({{1, 2, 3, 4, 5}}, 7, 1));
  EXPECT_TRUE(submit({{1, 2, 3, 4, 5}}, 7, 1));
  EXPECT_FALSE(submit({{1, 2, 3, 4, 6}}, 7, 1));
  EXPECT_FALSE(submit({{1, 2, 3, 4, 5}}, 8, 1));
  EXPECT_FALSE(submit({{1, 2, 3, 4, 5}}, 7, 2));
  EXPECT_TRUE(submit({{1, 2, 3, 4, 5}}, 7, 1));
}

}  // namespace
}  // namespace ponder
