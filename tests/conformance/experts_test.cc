// Routing, and mixtures of experts in all weight types: against the reference backend, against the
// products of each expert alone, and against themselves bit for bit, all in memory or on demand.
#include <gmock/gmock.h>

#include <atomic>
#include <numeric>
#include <set>

#include "backends/ref/weights.h"
#include "tests/conformance/support.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder {
namespace {

using ::testing::HasSubstr;

// ---- routing ------------------------------------------------------------------------------------

class RouteConformance : public Conformance {
 protected:
  struct Result {
    Status status;
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  static Result run(const Machine& machine, std::vector<float> logits, int64_t rows,
                    std::vector<float> bias, const RouterParams& router) {
    const auto experts = static_cast<int64_t>(logits.size()) / rows;
    Result r;
    r.ids.assign(static_cast<size_t>(rows * router.top_k), -1);
    r.weights.assign(static_cast<size_t>(rows * router.top_k), NAN);
    RouteParams p{};
    p.logits = view(logits, {rows, experts});
    if (!bias.empty()) p.bias = view(bias, {experts});
    p.router = router;
    p.ids = Tensor::make(r.ids.data(), DType::kI32, {rows, router.top_k});
    p.weights = view(r.weights, {rows, router.top_k});
    r.status = machine->route(p);
    return r;
  }
};

TEST_P(RouteConformance, ChoosesAndWeighsExactlyAsTheReference) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  const auto router = [](int32_t k, int32_t groups, int32_t kept, bool sigmoid, bool top2,
                         bool normalize, float scale) {
    RouterParams p;
    p.top_k = k;
    p.groups = groups;
    p.groups_kept = kept;
    p.sigmoid = sigmoid;
    p.group_by_top2 = top2;
    p.normalize = normalize;
    p.scale = scale;
    return p;
  };
  struct Case {
    int64_t experts;
    RouterParams params;
  };
  const Case cases[] = {
      {256, router(8, 8, 4, true, true, true, 2.5f)},   // DeepSeek-V3
      {160, router(6, 8, 3, false, false, false, 16)},  // DeepSeek-V2
      {128, router(8, 1, 1, false, false, true, 1)},    // Qwen3
      {64, router(6, 1, 1, false, false, false, 1)},    // DeepSeek-V2-Lite
      {7, router(7, 1, 1, true, false, true, 1)},       // all
      {6, router(1, 6, 1, true, true, true, 1)},        // groups of one
      {12, router(4, 4, 1, false, true, true, 1)},      // fewer in the groups than are chosen
  };
  for (const Case& c : cases) {
    for (const bool coarse : {false, true}) {  // coarse: full of ties
      for (const bool biased : {false, true}) {
        SCOPED_TRACE(absl::StrCat(c.experts, " experts, coarse ", coarse, ", biased ", biased));
        constexpr int64_t kRows = 67;
        auto logits = random_floats(static_cast<size_t>(kRows * c.experts), 3, 6.0f);
        auto bias = random_floats(static_cast<size_t>(c.experts), 4, 0.2f);
        if (coarse) {
          for (float& v : logits) v = std::round(v / 3);
          for (float& v : bias) v = std::round(v * 5);
        }
        if (!biased) bias.clear();
        const Result got = run(machine, logits, kRows, bias, c.params);
        const Result wanted = run(ref, logits, kRows, bias, c.params);
        ASSERT_TRUE(got.status.ok() && wanted.status.ok()) << got.status << wanted.status;
        EXPECT_EQ(got.ids, wanted.ids);
        EXPECT_TRUE(same_bits(got.weights.data(), wanted.weights.data(), wanted.weights.size()));
      }
    }
  }
}

TEST_P(RouteConformance, ScoresThatAreNotFiniteAreCorruptAndNamed) {
  const Machine machine(GetParam(), 2);
  for (const float bad :
       {static_cast<float>(NAN), static_cast<float>(INFINITY), -static_cast<float>(INFINITY)}) {
    auto logits = random_floats(40 * 16, 3);
    logits[17 * 16 + 5] = bad;
    logits[30 * 16 + 1] = bad;
    const Result r = run(machine, logits, 40, {}, RouterParams{});
    ASSERT_EQ(r.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(r.status.message()), HasSubstr("expert 5 for row 17"));
  }
}

// ---- experts ------------------------------------------------------------------------------------

// A checkpoint's tensor of any type, random.
WeightData random_weight(const std::string& name, DType dtype, int64_t rows, int64_t cols,
                         uint32_t seed) {
  if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16) {
    return make_weight(name, dtype, {rows, cols},
                       random_floats(static_cast<size_t>(rows * cols), seed, 0.2f));
  }
  std::mt19937 random(seed);
  auto bytes = std::make_shared<std::vector<uint8_t>>(1);  // an odd address
  if (dtype == DType::kF8_E4M3) {
    for (int64_t i = 0; i < rows * cols; ++i) {
      auto code = static_cast<uint8_t>(random());
      if ((code & 0x7f) == 0x7f) code ^= 1;
      bytes->push_back(code);
    }
  } else {
    auto blocks = random_blocks(dtype, rows * cols);
    // Whole blocks in another order for every seed.
    const auto size = static_cast<size_t>(dtype_info(dtype).bytes);
    const size_t count = blocks.size() / size;
    std::rotate(blocks.begin(),
                blocks.begin() + static_cast<std::ptrdiff_t>(random() % count * size),
                blocks.end());
    bytes->insert(bytes->end(), blocks.begin(), blocks.end());
  }
  WeightData w;
  w.name = name;
  w.dtype = dtype;
  w.shape = {rows, cols};
  w.data = bytes->data() + 1;
  w.owner = bytes;
  if (dtype == DType::kF8_E4M3) {
    const auto tiles = static_cast<size_t>((rows + 127) / 128 * ((cols + 127) / 128));
    std::shared_ptr<float[]> scales(new float[tiles]);
    for (size_t i = 0; i < tiles; ++i) scales[i] = 0.0005f + 0.0001f * static_cast<float>(i);
    w.scales = scales;
  }
  return w;
}

std::vector<float> values_of(const WeightData& w) {
  std::vector<float> values(static_cast<size_t>(w.elements()));
  ref::widen_rows(w, 0, w.shape[0], values.data());
  return values;
}

// What a test sees of its source while a backend owns it.
struct Diary {
  std::atomic<int> found{0}, announced{0}, dropped{0};
  std::atomic<int64_t> broken{-1};
};

struct Shape {
  int64_t experts, hidden, width;
};

std::vector<ExpertWeights> random_experts(const Shape& s, DType wide, DType narrow) {
  std::vector<ExpertWeights> all;
  for (int64_t e = 0; e < s.experts; ++e) {
    const auto seed = static_cast<uint32_t>(3 * e + 1);
    all.push_back(
        {random_weight(absl::StrCat("expert.", e, ".gate"), wide, s.width, s.hidden, seed),
         random_weight(absl::StrCat("expert.", e, ".up"), wide, s.width, s.hidden, seed + 1),
         random_weight(absl::StrCat("expert.", e, ".down"), narrow, s.hidden, s.width, seed + 2)});
  }
  return all;
}

class Source final : public ExpertSource {
 public:
  Source(Shape shape, std::vector<ExpertWeights> experts, Diary* diary)
      : shape_(shape), experts_(std::move(experts)), diary_(diary) {}
  int64_t experts() const override { return shape_.experts; }
  int64_t hidden() const override { return shape_.hidden; }
  int64_t width() const override { return shape_.width; }
  StatusOr<ExpertWeights> find(int64_t e) const override {
    ++diary_->found;
    if (e == diary_->broken) return io_error("expert ", e, " cannot be read");
    return experts_[static_cast<size_t>(e)];
  }
  StatusOr<ExpertWeights> describe(int64_t e) const override {
    ExpertWeights w = experts_[static_cast<size_t>(e)];
    for (WeightData* part : {&w.gate, &w.up, &w.down}) {
      part->data = nullptr;
      part->owner = nullptr;
      part->scales = nullptr;
    }
    return w;
  }
  void prefetch(int64_t) const override { ++diary_->announced; }
  void drop(const ExpertWeights&) const override { ++diary_->dropped; }

 private:
  const Shape shape_;
  const std::vector<ExpertWeights> experts_;
  Diary* const diary_;
};

// Rows of a step with their experts, `k` distinct ones each.
struct Rows {
  int64_t count, k;
  std::vector<float> x, weights;
  std::vector<int32_t> ids;

  Rows(const Shape& s, int64_t rows, int64_t top_k, uint32_t seed)
      : count(rows),
        k(top_k),
        x(random_floats(static_cast<size_t>(rows * s.hidden), seed)),
        weights(random_floats(static_cast<size_t>(rows * top_k), seed + 1)) {
    std::mt19937 random(seed);
    for (int64_t t = 0; t < rows; ++t) {
      std::set<int32_t> chosen;
      while (chosen.size() < static_cast<size_t>(top_k)) {
        chosen.insert(static_cast<int32_t>(random() % static_cast<uint32_t>(s.experts)));
      }
      ids.insert(ids.end(), chosen.begin(), chosen.end());
    }
  }
  Rows part(int64_t first, int64_t n) const {
    Rows rows = *this;
    rows.count = n;
    const auto cut = [&](auto& v) {
      const auto width = static_cast<std::ptrdiff_t>(v.size()) / count;
      v = {v.begin() + first * width, v.begin() + (first + n) * width};
    };
    cut(rows.x);
    cut(rows.weights);
    cut(rows.ids);
    return rows;
  }
};

class ExpertsConformance : public Conformance {
 protected:
  static StatusOr<std::vector<float>> run(const Machine& machine, PackedExperts* experts,
                                          Rows rows) {
    std::vector<float> out(rows.x.size(), NAN);
    ExpertsParams p{};
    p.x = view(rows.x, {rows.count, experts->hidden});
    p.ids = Tensor::make(rows.ids.data(), DType::kI32, {rows.count, rows.k});
    p.weights = view(rows.weights, {rows.count, rows.k});
    p.experts = experts;
    p.out = view(out, {rows.count, experts->hidden});
    PONDER_RETURN_IF_ERROR(machine->experts(p));
    return out;
  }
  static std::unique_ptr<PackedExperts> pack(const Machine& machine, const Shape& s,
                                             const std::vector<ExpertWeights>& weights,
                                             Diary* diary, Precision precision,
                                             ExpertCache* cache = nullptr) {
    auto packed = machine->pack_experts(std::make_unique<Source>(s, weights, diary),
                                        PackOptions{precision, cache});
    EXPECT_TRUE(packed.ok()) << packed.status();
    return packed.ok() ? *std::move(packed) : nullptr;
  }
  bool is_ref() const { return GetParam().name == "ref"; }
};

TEST_P(ExpertsConformance, AgreesWithTheReference) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  const Shape kShapes[] = {{5, 70, 33}, {12, 256, 128}, {3, 9, 200}};
  for (const Shape& s : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(
          absl::StrCat(s.experts, " of ", s.hidden, " x ", s.width, " ", dtype_name(dtype)));
      const auto weights = random_experts(s, dtype, dtype);
      Diary diary;
      const auto packed = pack(machine, s, weights, &diary, Precision::kF32);
      EXPECT_EQ(diary.found, s.experts);
      const auto packed_ref = pack(ref, s, weights, &diary, Precision::kF32);
      for (const int64_t rows : {1, 4, 90}) {
        const Rows batch(s, rows, 3, static_cast<uint32_t>(rows));
        const auto got = run(machine, packed.get(), batch).value();
        const auto wanted = run(ref, packed_ref.get(), batch).value();
        // Of all products' magnitudes: gate and up each have one sum's error, whose product down
        // sums up with its own; silu's slope is at most 1.1.
        const double error = 2.1 * sum_tolerance(s.hidden) + sum_tolerance(s.width) + 20 * kUlp;
        for (int64_t t = 0; t < rows; ++t) {
          std::vector<double> size(static_cast<size_t>(s.hidden));
          for (int64_t i = 0; i < batch.k; ++i) {
            const auto& w =
                weights[static_cast<size_t>(batch.ids[static_cast<size_t>(t * batch.k + i)])];
            const auto gate = values_of(w.gate), up = values_of(w.up), down = values_of(w.down);
            for (int64_t f = 0; f < s.width; ++f) {
              double g = 0, u = 0;
              for (int64_t d = 0; d < s.hidden; ++d) {
                const double x = batch.x[static_cast<size_t>(t * s.hidden + d)];
                g += std::abs(x * double{gate[static_cast<size_t>(f * s.hidden + d)]});
                u += std::abs(x * double{up[static_cast<size_t>(f * s.hidden + d)]});
              }
              for (int64_t d = 0; d < s.hidden; ++d) {
                size[static_cast<size_t>(d)] +=
                    std::abs(double{batch.weights[static_cast<size_t>(t * batch.k + i)]} * g * u *
                             double{down[static_cast<size_t>(d * s.width + f)]});
              }
            }
          }
          for (int64_t d = 0; d < s.hidden; ++d) {
            const auto i = static_cast<size_t>(t * s.hidden + d);
            ASSERT_NEAR(got[i], wanted[i], error * size[static_cast<size_t>(d)])
                << "row " << t << " column " << d;
          }
        }
      }
    }
  }
}

// The linear layers of a backend are compared with the reference for all types elsewhere; here,
// that experts are exactly those, but for the order in which the reference sums.
TEST_P(ExpertsConformance, AnExpertOfAnyTypeIsItsThreeLinearLayers) {
  const Machine machine(GetParam(), 3);
  const Shape s{6, 512, 256};
  struct Types {
    DType wide, narrow;
  };
  std::vector<Types> types = {{DType::kF32, DType::kF32},   {DType::kF16, DType::kF16},
                              {DType::kBF16, DType::kBF16}, {DType::kF8_E4M3, DType::kF8_E4M3},
                              {DType::kQ4_K, DType::kQ6_K}, {DType::kIQ2_XXS, DType::kQ8_0}};
  for (const DType dtype : kBlockTypes) types.push_back({dtype, dtype});
  for (const Types& type : types) {
    for (const Precision precision : {Precision::kAuto, Precision::kF32, Precision::kF8}) {
      if (precision == Precision::kF8 && (type.wide != DType::kF8_E4M3 || !on_gpu())) continue;
      SCOPED_TRACE(absl::StrCat(dtype_name(type.wide), " ", dtype_name(type.narrow), " precision ",
                                static_cast<int>(precision)));
      const auto weights = random_experts(s, type.wide, type.narrow);
      Diary diary;
      const auto packed = pack(machine, s, weights, &diary, precision);
      ASSERT_NE(packed, nullptr);
      const Rows batch(s, 7, 2, 5);
      const auto got = run(machine, packed.get(), batch).value();
      std::vector<float> wanted(got.size());
      std::vector<double> sizes(got.size());
      for (int64_t e = 0; e < s.experts; ++e) {
        const ExpertWeights& w = weights[static_cast<size_t>(e)];
        const WeightData parts[] = {w.gate, w.up};
        const auto wide = machine->pack_linear(parts, PackOptions{precision}).value();
        const auto narrow = machine->pack_linear({&w.down, 1}, PackOptions{precision}).value();
        std::vector<float> x = batch.x, gate_up(static_cast<size_t>(batch.count * 2 * s.width)),
                           inner(gate_up.size() / 2), out(x.size());
        LinearParams p{};
        p.x = view(x, {batch.count, s.hidden});
        p.w = wide.get();
        p.out = view(gate_up, {batch.count, 2 * s.width});
        ASSERT_TRUE(machine->linear(p).ok());
        ASSERT_TRUE(machine->swiglu({p.out, view(inner, {batch.count, s.width})}).ok());
        p.x = view(inner, {batch.count, s.width});
        p.w = narrow.get();
        p.out = view(out, {batch.count, s.hidden});
        ASSERT_TRUE(machine->linear(p).ok());
        for (size_t i = 0; i < batch.ids.size(); ++i) {
          if (batch.ids[i] != e) continue;
          const size_t row = i / static_cast<size_t>(batch.k) * static_cast<size_t>(s.hidden);
          for (size_t d = 0; d < static_cast<size_t>(s.hidden); ++d) {
            wanted[row + d] = std::fma(batch.weights[i], out[row + d], wanted[row + d]);
            sizes[row + d] += std::abs(double{batch.weights[i]} * double{out[row + d]});
          }
        }
      }
      // Without instructions for it, fma is a product and a sum.
      const bool exact = !is_ref() && GetParam().name != "onednn_portable";
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], wanted[i], exact ? 0.0 : 4 * kUlp * sizes[i]) << i;
      }
    }
  }
}

TEST_P(ExpertsConformance, RowsDependOnNothingButThemselvesBitForBit) {
  const Machine one(GetParam(), 1);
  const Machine four(GetParam(), 4);
  const Shape s{9, 256, 320};
  constexpr int64_t kRows = 700;  // several rounds
  std::vector<std::pair<DType, Precision>> kinds;
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF8_E4M3, DType::kQ5_0}) {
    kinds.emplace_back(dtype, Precision::kAuto);
  }
  if (on_gpu()) kinds.emplace_back(DType::kF8_E4M3, Precision::kF8);
  for (const auto& [dtype, precision] : kinds) {
    SCOPED_TRACE(dtype_name(dtype));
    const auto weights = random_experts(s, dtype, dtype);
    Diary diary;
    const auto packed_four = pack(four, s, weights, &diary, precision);
    const auto packed_one = pack(one, s, weights, &diary, precision);
    const Rows batch(s, is_ref() ? 100 : kRows, 4, 5);
    const auto whole = run(four, packed_four.get(), batch).value();
    for (const int64_t n : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{64}, int64_t{90}}) {
      for (const int64_t first : {int64_t{0}, batch.count - n}) {
        for (const bool alone : {false, true}) {
          const auto part = run(alone ? one : four, (alone ? packed_one : packed_four).get(),
                                batch.part(first, n))
                                .value();
          ASSERT_TRUE(same_bits(part.data(), whole.data() + first * s.hidden, part.size()))
              << n << " rows from row " << first;
        }
      }
    }
  }
}

// ---- on demand ----------------------------------------------------------------------------------

TEST_P(ExpertsConformance, ACacheOfAnySizeChangesNothingButTheStatistics) {
  const Machine machine(GetParam(), 3);
  const Shape s{10, 256, 256};
  const auto weights = random_experts(s, DType::kQ4_K, DType::kQ6_K);
  Diary diary;
  const auto all = pack(machine, s, weights, &diary, Precision::kAuto);
  const uint64_t expert = (2 * 144 + 210) * 256;
  if (!is_ref()) {
    ASSERT_EQ(all->bytes, 10 * expert);
  }
  const Rows batch(s, 40, 3, 1);
  const auto wanted = run(machine, all.get(), batch).value();
  for (const uint64_t places : {1, 2, 3, 5, 9, 10, 25}) {
    SCOPED_TRACE(absl::StrCat(places, " places"));
    auto cache = machine->make_expert_cache(places * expert).value();
    diary.found = 0;
    const auto packed = pack(machine, s, weights, &diary, Precision::kAuto, cache.get());
    ASSERT_NE(packed, nullptr);
    EXPECT_EQ(diary.found, 0) << "nothing is read before it is wanted";
    EXPECT_EQ(packed->bytes, 0u);
    for (int64_t t = 0; t < batch.count; ++t) {
      const auto got = run(machine, packed.get(), batch.part(t, 1));
      ASSERT_TRUE(got.ok()) << got.status();
      ASSERT_TRUE(same_bits(got->data(), wanted.data() + t * s.hidden, got->size())) << t;
      EXPECT_LE(cache->stats().held_bytes, places * expert);
    }
    const auto got = run(machine, packed.get(), batch).value();
    EXPECT_TRUE(same_bits(got.data(), wanted.data(), got.size()));
    const ExpertCacheStats stats = cache->stats();
    EXPECT_EQ(stats.budget_bytes, places * expert);
    EXPECT_LE(stats.held_bytes, places * expert);
    EXPECT_EQ(stats.bytes_read, stats.misses * expert);
    EXPECT_EQ(static_cast<uint64_t>(diary.found), stats.misses);
    if (is_ref()) continue;
    EXPECT_EQ(stats.hits + stats.misses, 40u * 3 + 10);
    if (places >= 10) {
      EXPECT_EQ(stats.misses, 10u);
    }
    if (places == 1) {
      EXPECT_GT(stats.misses, 100u);
    }
    EXPECT_EQ(diary.dropped, diary.found + 10);  // those of `all`
    diary.dropped = 10;
  }
}

TEST_P(ExpertsConformance, OftenUsedExpertsOutliveWhatALongStepTouchesOnce) {
  if (is_ref()) GTEST_SKIP() << "the reference holds nothing";
  const Machine machine(GetParam(), 2);
  const Shape s{32, 32, 32};
  const auto weights = random_experts(s, DType::kF32, DType::kF32);
  Diary diary;
  auto cache = machine->make_expert_cache(8 * 3 * 64 * 32 * 4).value();  // panels of 64 columns
  const auto packed = pack(machine, s, weights, &diary, Precision::kAuto, cache.get());
  ASSERT_NE(packed, nullptr);
  Rows row(s, 1, 1, 1);
  const auto use = [&](int32_t e) {
    row.ids = {e};
    ASSERT_TRUE(run(machine, packed.get(), row).ok());
  };
  for (int i = 0; i < 4; ++i) {
    use(0);
    use(1);
  }
  for (int32_t e = 2; e < 32; ++e) use(e);
  const uint64_t misses = cache->stats().misses;
  EXPECT_EQ(misses, 32u);
  use(0);
  use(1);
  EXPECT_EQ(cache->stats().misses, misses);
  // And they go when they are no longer used.
  for (int round = 0; round < 6; ++round) {
    for (int32_t e = 2; e < 32; ++e) use(e);
  }
  const uint64_t later = cache->stats().misses;
  use(0);
  EXPECT_EQ(cache->stats().misses, later + 1);
}

TEST_P(ExpertsConformance, AllOfAStepsExpertsAreAnnouncedBeforeTheFirstIsRead) {
  if (is_ref()) GTEST_SKIP() << "the reference reads one after the other";
  const Machine machine(GetParam(), 1);
  const Shape s{12, 64, 64};
  const auto weights = random_experts(s, DType::kBF16, DType::kBF16);
  Diary diary;
  diary.broken = 0;
  auto cache = machine->make_expert_cache(uint64_t{1} << 20).value();
  const auto packed = pack(machine, s, weights, &diary, Precision::kAuto, cache.get());
  Rows row(s, 1, 10, 1);
  std::iota(row.ids.begin(), row.ids.end(), 0);
  EXPECT_EQ(run(machine, packed.get(), row).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(diary.announced, 10);
}

TEST_P(ExpertsConformance, LayersShareOneBudgetAndGiveBackWhatTheyHeld) {
  const Machine machine(GetParam(), 2);
  const Shape s{6, 64, 64};
  const uint64_t expert = 3 * 64 * 64 * 2;
  Diary diary;
  auto cache = machine->make_expert_cache(7 * expert).value();
  std::vector<std::unique_ptr<PackedExperts>> layers;
  for (int layer = 0; layer < 3; ++layer) {
    const auto weights = random_experts(s, DType::kF16, DType::kF16);
    layers.push_back(pack(machine, s, weights, &diary, Precision::kAuto, cache.get()));
  }
  for (int i = 0; i < 5; ++i) {
    for (const auto& layer : layers) {
      ASSERT_TRUE(run(machine, layer.get(), Rows(s, 2, 2, static_cast<uint32_t>(i))).ok());
      EXPECT_LE(cache->stats().held_bytes, 7 * expert);
    }
  }
  layers.clear();
  EXPECT_EQ(cache->stats().held_bytes, 0u);
}

TEST_P(ExpertsConformance, WhatCannotBeReadOrIsDamagedFailsItsStepOnly) {
  const Machine machine(GetParam(), 4);
  const Shape s{8, 64, 64};
  auto weights = random_experts(s, DType::kBF16, DType::kBF16);
  Diary diary;
  const auto all = pack(machine, s, weights, &diary, Precision::kAuto);
  const uint16_t nan = 0x7fc0;
  ExpertWeights& bad = weights[6];
  bad = {random_weight("bad.gate", DType::kBF16, 64, 64, 1), bad.up, bad.down};
  std::memcpy(const_cast<void*>(bad.gate.data), &nan, sizeof(nan));
  auto cache = machine->make_expert_cache(uint64_t{1} << 20).value();
  const auto packed = pack(machine, s, weights, &diary, Precision::kAuto, cache.get());
  Rows rows(s, 1, 3, 1);
  const auto with = [&](std::vector<int32_t> ids) {
    rows.ids = std::move(ids);
    return run(machine, packed.get(), rows);
  };
  diary.broken = 2;
  EXPECT_EQ(with({1, 2, 3}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(with({1, 3, 4}).ok());
  diary.broken = -1;
  const auto read = with({1, 2, 3});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(same_bits(read->data(), run(machine, all.get(), rows).value().data(), read->size()));
  const Status damaged = with({5, 6, 7}).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(damaged.message()), HasSubstr("bad.gate"));
  EXPECT_TRUE(with({4, 5, 7}).ok());
}

TEST_P(ExpertsConformance, ABudgetBelowOneExpertSaysWhatIsNeeded) {
  if (is_ref()) GTEST_SKIP() << "the reference holds nothing";
  const Machine machine(GetParam(), 1);
  const Shape s{4, 64, 64};
  Diary diary;
  auto cache = machine->make_expert_cache(1000).value();
  const auto packed = machine->pack_experts(
      std::make_unique<Source>(s, random_experts(s, DType::kF32, DType::kF32), &diary),
      PackOptions{Precision::kAuto, cache.get()});
  ASSERT_EQ(packed.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(packed.status().message()), HasSubstr("49152"));
}

TEST_P(ExpertsConformance, MatricesThatDoNotFitTogetherAreCorrupt) {
  const Machine machine(GetParam(), 1);
  const Shape s{2, 64, 32};
  Diary diary;
  auto weights = random_experts(s, DType::kF32, DType::kF32);
  weights[1].down = random_weight("odd", DType::kF32, 64, 64, 1);
  EXPECT_EQ(machine->pack_experts(std::make_unique<Source>(s, weights, &diary), {}).status().code(),
            absl::StatusCode::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(Backends, RouteConformance, ::testing::ValuesIn(targets()), target_name);
INSTANTIATE_TEST_SUITE_P(Backends, ExpertsConformance, ::testing::ValuesIn(targets()), target_name);

}  // namespace
}  // namespace ponder
