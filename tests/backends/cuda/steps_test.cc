// Whole steps on the emulated device: what is uploaded when, and graphs, which must give what the
// calls themselves give.
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/launch_queue.h"
#include "tests/backends/cuda/support.h"

namespace ponder {
namespace {

using cuda::emulation::faults;
using cuda::emulation::graphs;

constexpr int64_t kVocabulary = 40, kHeads = 2;
constexpr int32_t kPages = 12;

// The plain data of one step, as the engine holds it.
struct Step {
  std::vector<int32_t> tokens, positions, logit_rows;
  std::vector<std::vector<int32_t>> pages;
  std::vector<SequenceSlice> slices;
  Batch batch;
};

struct ToyKind {
  DType weights = DType::kBF16, cache = DType::kF16;
  int64_t width = 64;  // hidden; of two heads
  bool interleaved = false;
  int64_t turned = 0;  // of a head; 0: all
  Precision precision = Precision::kAuto;
};

// A model of one layer with a cache of its own, fed by hand.
class Toy {
 public:
  explicit Toy(Backend* backend, const ToyKind& kind = {}) : backend_(backend), kind_(kind) {
    const int64_t width = kind.width, head = width / kHeads;
    const auto pack = [&](int64_t rows, int64_t cols, uint32_t seed) {
      const WeightData w = weight_of(kind.weights, rows, cols, seed);
      return *backend->pack_linear({&w, 1}, {kind.precision});
    };
    table_ = *backend->pack_table(weight_of(DType::kBF16, kVocabulary, width, 1));
    qkv_ = pack(3 * width, width, 2);
    second_ = pack(width, width, 3);
    gate_up_ = pack(4 * width, width, 4);
    down_ = pack(width, 2 * width, 5);
    norm_ = random_floats(static_cast<size_t>(width), 6);
    inv_freq_ = random_floats(static_cast<size_t>(kind.turned > 0 ? kind.turned : head) / 2, 7);
    layer_.shape = {1, kHeads, head, head};
    layer_.layout = *backend->kv_layout(layer_.shape, kind.cache);
    cache_.resize(static_cast<size_t>(kPages) * layer_.layout.page_bytes + 64);
    layer_.base = cache_.data() + (64 - reinterpret_cast<uintptr_t>(cache_.data()) % 64) % 64;
    arena_.resize(1 << 20);
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
    const int64_t width = kind_.width, head = width / kHeads;
    used_ = 0;
    const Tensor h = take({t, width}), normed = take({t, width}), qkv = take({t, 3 * width});
    const Tensor rotations = take({t, 2 * static_cast<int64_t>(inv_freq_.size())});
    const Tensor mixed = take({t, width}), second = take({t, width}), after = take({t, width});
    const Tensor wide = take({t, 4 * width}), gated = take({t, 2 * width}), fed = take({t, width});
    out_ = take({static_cast<int64_t>(b.logit_rows.size()), width});
    const auto part = [&](int64_t i) {
      Tensor x = Tensor::make(qkv.f32() + i * width, DType::kF32, {t, kHeads, head});
      x.stride[0] = 3 * width;
      return x;
    };
    Backend& to = *backend_;
    if (as_slice) PONDER_RETURN_IF_ERROR(to.start_slice(b, 1));
    PONDER_RETURN_IF_ERROR(to.embed({table_.get(), b.tokens, h}));
    const Tensor norm = Tensor::make(norm_.data(), DType::kF32, {width});
    PONDER_RETURN_IF_ERROR(to.rms_norm({h, norm, 1e-6f, normed}));
    PONDER_RETURN_IF_ERROR(to.linear({normed, qkv_.get(), {}, qkv}));
    PONDER_RETURN_IF_ERROR(to.linear({normed, second_.get(), {}, second}));
    PONDER_RETURN_IF_ERROR(to.rope_table({inv_freq_, 1.0f, b.positions, rotations}));
    PONDER_RETURN_IF_ERROR(to.rope({part(0), rotations, kind_.interleaved}));
    PONDER_RETURN_IF_ERROR(to.rope({part(1), rotations, kind_.interleaved}));
    PONDER_RETURN_IF_ERROR(to.kv_write({layer_, part(1), part(2), &b}));
    PONDER_RETURN_IF_ERROR(to.attention({part(0), layer_, &b, 0.2f, mixed}));
    PONDER_RETURN_IF_ERROR(to.add({second, mixed, mixed}));
    PONDER_RETURN_IF_ERROR(to.add({h, mixed, mixed}));
    PONDER_RETURN_IF_ERROR(to.rms_norm({mixed, norm, 1e-6f, after}));
    PONDER_RETURN_IF_ERROR(to.linear({after, gate_up_.get(), {}, wide}));
    PONDER_RETURN_IF_ERROR(to.swiglu({wide, gated}));
    PONDER_RETURN_IF_ERROR(to.linear({gated, down_.get(), {}, fed}));
    PONDER_RETURN_IF_ERROR(to.add({mixed, fed, mixed}));
    PONDER_RETURN_IF_ERROR(to.gather_rows({mixed, b.logit_rows, out_}));
    return as_slice ? to.end_slice() : OkStatus();
  }
  StatusOr<std::vector<float>> out() {
    std::vector<float> values(static_cast<size_t>(out_.dim[0] * kind_.width), NAN);
    PONDER_RETURN_IF_ERROR(
        backend_->download(out_.data, values.data(), values.size() * sizeof(float)));
    return values;
  }
  std::vector<float> run(const Step& step, bool as_slice) {
    EXPECT_TRUE(begin(step).ok());
    EXPECT_TRUE(layer(step, as_slice).ok());
    return out().value_or(std::vector<float>());
  }
  // All intermediate results of the last step, and the cache's pages.
  std::vector<float> results() const { return {arena_.begin(), arena_.begin() + used_}; }
  std::vector<std::byte> cache() const {
    return {layer_.base, layer_.base + static_cast<size_t>(kPages) * layer_.layout.page_bytes};
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
  const ToyKind kind_;
  std::unique_ptr<PackedWeight> table_, qkv_, second_, gate_up_, down_;
  std::vector<float> norm_, inv_freq_, arena_;
  std::vector<std::byte> cache_;
  KvLayer layer_;
  size_t used_ = 0;
  Tensor out_;
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return !a.empty() && same_bits(a, b);
}

class CudaSteps : public EmulatedCuda {
 protected:
  CudaSteps() : plain_(*cuda_factory()->create(0, context_)) {}

  std::unique_ptr<Backend> plain_;
};

TEST_F(CudaSteps, ReplaysGiveWhatTheCallsGive) {
  Toy toy(cuda_.get()), eager(plain_.get());
  Step step, other;
  for (int32_t at = 0; at < 40; ++at) {  // past the end of a page
    toy.fill(&step, 3, at);
    eager.fill(&other, 3, at);
    ASSERT_TRUE(same(toy.run(step, true), eager.run(other, false))) << at;
  }
  // The first step also uploads the rotary angles, which cuts it in two; the second is new then.
  EXPECT_EQ(graphs.recorded, 1u);
  EXPECT_EQ(graphs.replayed, 38u);
  cuda_.reset();
  EXPECT_EQ(graphs.forgotten, 1u);
}

TEST_F(CudaSteps, AnotherNumberOfRowsIsAnotherGraph) {
  Toy toy(cuda_.get()), eager(plain_.get());
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
  Toy toy(cuda_.get());
  Step step;
  toy.fill(&step, 6, 0, 48);
  const auto first = toy.run(step, true), second = toy.run(step, true);
  EXPECT_TRUE(same(first, second));
  toy.run(step, true);
  EXPECT_EQ(graphs.recorded, 0u);
}

TEST_F(CudaSteps, NothingIsAllocatedAndOnlyTheReadingWaits) {
  Toy toy(cuda_.get());
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
  for (int i = 0; i < kModels; ++i) toys.push_back(std::make_unique<Toy>(cuda_.get()));
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
  Toy toy(cuda_.get()), eager(plain_.get());
  Step step, other;
  toy.fill(&step, 2, 0);
  ASSERT_TRUE(toy.begin(step).ok());
  ASSERT_TRUE(cuda_->start_slice(step.batch, 1).ok());
  std::vector<float> x = {1, 2, 3, 4}, sum(4, -1.0f);
  const auto of = [](std::vector<float>& v) { return Tensor::make(v.data(), DType::kF32, {1, 4}); };
  ASSERT_TRUE(cuda_->add({of(x), of(x), of(sum)}).ok());
  // No end: the step failed. The next one begins.
  eager.fill(&other, 2, 0);
  EXPECT_TRUE(same(toy.run(step, true), eager.run(other, false)));
  EXPECT_EQ(sum, std::vector<float>(4, -1.0f));
}

TEST_F(CudaSteps, WithoutGraphsItGoesOnWithLaunches) {
  faults.refuse_graphs = true;
  Toy toy(cuda_.get()), eager(plain_.get());
  Step step, other;
  for (int32_t at = 0; at < 4; ++at) {
    toy.fill(&step, 2, at);
    eager.fill(&other, 2, at);
    ASSERT_TRUE(same(toy.run(step, true), eager.run(other, false)));
  }
  EXPECT_EQ(graphs.replayed, 0u);
}

TEST_F(CudaSteps, AFaultInAGraphLosesTheDeviceAndNoOther) {
  Toy toy(cuda_.get()), other(plain_.get());
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

// ---- several ops in one launch -----------------------------------------------------------------

TEST_F(CudaSteps, ASliceFusesOpsAndGivesTheSameBits) {
  struct Case {
    ToyKind kind;
    uint64_t saved;  // launches
  };
  const ToyKind partly{DType::kBF16, DType::kF16, 64, true, 8};
  const ToyKind codes{DType::kF8_E4M3, DType::kF16, 160, false, 0, Precision::kF8};
  // Twice norm and rounding, swiglu and rounding, rounding once for two products, two rotations.
  const Case cases[] = {{{DType::kBF16, DType::kF16}, 6},
                        {{DType::kF16, DType::kBF16}, 6},
                        {{DType::kF8_E4M3, DType::kF8_E4M3, 128}, 6},
                        {{DType::kQ4_0, DType::kQ8_0}, 6},
                        {{DType::kQ4_K, DType::kF32, 256, true}, 6},
                        {partly, 6},
                        {codes, 6},
                        {{DType::kF32, DType::kF16}, 2}};  // nothing is rounded
  for (const auto& [kind, saved] : cases) {
    for (const auto& [sequences, rows] : {std::array{1, 1}, {3, 1}, {2, 7}}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(kind.weights), " ", dtype_name(kind.cache), ", ",
                                sequences, " times ", rows, " rows"));
      Toy fused(cuda_.get(), kind), plain(plain_.get(), kind);
      Step step, other;
      fused.fill(&step, sequences, 20, rows);
      plain.fill(&other, sequences, 20, rows);
      const uint64_t before = graphs.launched;
      plain.run(other, false);
      const uint64_t of_plain = graphs.launched - before;
      fused.run(step, true);
      EXPECT_EQ(graphs.launched - before, 2 * of_plain - saved);
      EXPECT_TRUE(same(fused.results(), plain.results()));
      EXPECT_TRUE(fused.cache() == plain.cache());
    }
  }
}

TEST_F(CudaSteps, LatentsAreWrittenWithTheirKeysTurned) {
  constexpr int64_t kRank = 40, kRope = 12, kRows = 5;
  for (const bool interleaved : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const auto write = [&](Backend* backend, bool as_slice) {
        KvLayer layer;
        layer.shape = {1, 1, kRank + kRope, 0};
        layer.layout = *backend->kv_layout(layer.shape, dtype);
        std::vector<std::byte> pages(layer.layout.page_bytes);
        layer.base = pages.data();
        auto both = random_floats(kRows * (kRank + kRope), 1);
        const auto angles = random_floats(kRows * 8, 2);  // the last four of a key do not turn
        Tensor key = Tensor::make(both.data() + kRank, DType::kF32, {kRows, kRope});
        key.stride[0] = kRank + kRope;
        Tensor latent = Tensor::make(both.data(), DType::kF32, {kRows, kRank});
        latent.stride[0] = kRank + kRope;
        Tensor head = key;
        head.rank = 3, head.dim[1] = 1, head.dim[2] = kRope, head.stride[2] = 1;
        Tensor table = Tensor::make(const_cast<float*>(angles.data()), DType::kF32, {kRows, 8});
        const std::vector<int32_t> positions = {3, 4, 5, 6, 7}, list = {0};
        const SequenceSlice slices[] = {{0, kRows, 3, list}};
        Batch batch;
        batch.positions = positions;
        batch.sequences = slices;
        EXPECT_TRUE(backend->begin_step(batch).ok());
        EXPECT_TRUE(!as_slice || backend->start_slice(batch, 1).ok());
        EXPECT_TRUE(backend->rope({head, table, interleaved}).ok());
        EXPECT_TRUE(backend->mla_write({layer, latent, key, &batch}).ok());
        EXPECT_TRUE(!as_slice || backend->end_slice().ok());
        return std::pair(both, pages);
      };
      const uint64_t before = graphs.launched;
      const auto plain = write(plain_.get(), false);
      EXPECT_EQ(graphs.launched - before, 2u);
      EXPECT_EQ(write(cuda_.get(), true), plain);
      EXPECT_EQ(graphs.launched - before, 3u);
    }
  }
}

TEST_F(CudaSteps, WhatWasRoundedIsForgottenWhenItsSourceIsWritten) {
  const WeightData w = weight_of(DType::kBF16, 8, 64);
  auto packed = *cuda_->pack_linear({&w, 1}, {});
  const auto run = [&](bool as_slice) {
    auto x = random_floats(64, 1), weight = random_floats(64, 2), wide = random_floats(128, 3);
    std::vector<float> one(8), two(8), three(8), four(8), other(64);
    const auto row = [](std::vector<float>& v) {
      return view(v, {1, static_cast<int64_t>(v.size())});
    };
    const auto product = [&](std::vector<float>& out) {
      EXPECT_TRUE(cuda_->linear({row(x), packed.get(), {}, row(out)}).ok());
    };
    Batch batch;
    EXPECT_TRUE(cuda_->begin_step(batch).ok());
    EXPECT_TRUE(!as_slice || cuda_->start_slice(batch, 1).ok());
    product(one);
    EXPECT_TRUE(cuda_->add({row(x), row(x), row(x)}).ok());
    product(two);
    EXPECT_TRUE(cuda_->rms_norm({row(x), view(weight, {64}), 1e-6f, row(x)}).ok());
    product(three);
    EXPECT_TRUE(cuda_->swiglu({row(wide), row(x)}).ok());
    EXPECT_TRUE(cuda_->add({row(x), row(x), row(other)}).ok());  // not a product: it must be there
    const auto host = random_floats(64, 4);
    EXPECT_TRUE(cuda_->upload_between(host.data(), x.data(), 64 * sizeof(float)).ok());
    product(four);
    EXPECT_TRUE(!as_slice || cuda_->end_slice().ok());
    std::vector<float> all;
    for (const auto* v : {&one, &two, &three, &four, &other, &x}) {
      all.insert(all.end(), v->begin(), v->end());
    }
    return all;
  };
  EXPECT_TRUE(same(run(true), run(false)));
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
