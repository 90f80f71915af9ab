#include <atomic>

#include "tests/conformance/product_support.h"

namespace ponder {
namespace {

struct Shape {
  int64_t m, k, n;
};

// Every M that picks another tile, K that is odd, short or spans blocks, N around panel borders.
const Shape kShapes[] = {
    {1, 1, 1},      {1, 64, 64},    {2, 33, 17},    {3, 172, 64},    {4, 144, 65},
    {5, 200, 127},  {6, 512, 63},   {7, 513, 128},  {8, 511, 100},   {9, 1536, 130},
    {11, 96, 601},  {12, 2048, 64}, {13, 2049, 66}, {16, 1024, 192}, {17, 2500, 31},
    {31, 64, 320},  {48, 288, 70},  {64, 1025, 64}, {100, 128, 96},  {257, 160, 129},
    {600, 576, 65}, {1, 8960, 70},  {6, 4100, 64},  {513, 67, 200},  {1, 2, 640},
};
const DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

class LinearConformance : public ProductConformance {};

TEST_P(LinearConformance, AgreesWithTheReferenceForAllShapesAndTypes) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  for (const Shape& s : kShapes) {
    for (DType dtype : kTypes) {
      for (Precision precision : {Precision::kAuto, Precision::kF32}) {
        SCOPED_TRACE(absl::StrCat("M ", s.m, " K ", s.k, " N ", s.n, " ", dtype_name(dtype),
                                  precision == Precision::kAuto ? " auto" : " f32"));
        const auto values = random_floats(static_cast<size_t>(s.n * s.k), 1, 0.5f);
        const auto x = random_floats(static_cast<size_t>(s.m * s.k), 2);
        auto bias = random_floats(static_cast<size_t>(s.n), 3);
        const WeightData weight = make_weight("w", dtype, {s.n, s.k}, values);
        const auto packed = pack(machine, {&weight, 1}, precision);
        ASSERT_NE(packed, nullptr);
        EXPECT_EQ(packed->rows, s.n);
        EXPECT_EQ(packed->cols, s.k);
        const bool rounds =
            rounds_activations() && dtype == DType::kBF16 && precision == Precision::kAuto;
        const auto seen = rounds ? rounded(x, DType::kBF16) : x;

        const auto ref_weight = pack(ref, {&weight, 1}, precision);
        const auto wanted = run(ref, ref_weight.get(), seen, s.m, &bias);
        const WeightData absolute = make_weight("w", dtype, {s.n, s.k}, magnitudes(values));
        auto absolute_bias = magnitudes(bias);
        const auto scale = run(ref, pack(ref, {&absolute, 1}, precision).get(), magnitudes(seen),
                               s.m, &absolute_bias);

        const auto got = run(machine, packed.get(), x, s.m, &bias);
        const double tolerance = sum_tolerance(s.k);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_LE(std::abs(double{got[i]} - wanted[i]), tolerance * scale[i])
              << "row " << i / static_cast<size_t>(s.n) << " column "
              << i % static_cast<size_t>(s.n) << ": " << got[i] << " instead of " << wanted[i];
        }
      }
    }
  }
}

TEST_P(LinearConformance, RowsDependOnNothingButThemselvesBitForBit) {
  const Machine one(GetParam(), 1);
  const Machine four(GetParam(), 4);
  constexpr int64_t kRows = 131;
  for (const auto& [k, n] : std::vector<std::pair<int64_t, int64_t>>{
           {64, 64}, {171, 130}, {1536, 70}, {2600, 65}, {5000, 64}}) {
    for (DType dtype : kTypes) {
      for (Precision precision : {Precision::kAuto, Precision::kF32}) {
        SCOPED_TRACE(absl::StrCat("K ", k, " N ", n, " ", dtype_name(dtype)));
        const auto x = random_floats(static_cast<size_t>(kRows * k), 5);
        const WeightData weight =
            make_weight("w", dtype, {n, k}, random_floats(static_cast<size_t>(n * k), 6));
        auto bias = random_floats(static_cast<size_t>(n), 7);
        const auto packed_four = pack(four, {&weight, 1}, precision);
        const auto packed_one = pack(one, {&weight, 1}, precision);
        const auto whole = run(four, packed_four.get(), x, kRows, &bias);
        for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 24, 48, 49, 64, 100, 130}) {
          for (int64_t first : {int64_t{0}, int64_t{1}, kRows - m}) {
            const std::vector<float> some(x.begin() + first * k, x.begin() + (first + m) * k);
            for (const bool threads : {false, true}) {
              const auto part = run(threads ? four : one,
                                    threads ? packed_four.get() : packed_one.get(), some, m, &bias);
              ASSERT_TRUE(same_bits(part.data(), whole.data() + first * n, part.size()))
                  << m << " rows from row " << first << (threads ? ", 4 threads" : ", 1 thread");
            }
          }
        }
      }
    }
  }
}

TEST_P(LinearConformance, StacksPartsOfAnyTypeByRows) {
  const Machine machine(GetParam(), 2);
  const Machine ref = reference();
  for (const bool mixed : {false, true}) {
    std::vector<WeightData> parts;
    constexpr int64_t kCols = 75;
    const int64_t rows[] = {70, 3, 1, 130};
    for (size_t i = 0; i < 4; ++i) {
      const DType dtype = mixed ? kTypes[i % 3] : DType::kF16;
      parts.push_back(make_weight(
          absl::StrCat("part", i), dtype, {rows[i], kCols},
          random_floats(static_cast<size_t>(rows[i] * kCols), static_cast<uint32_t>(i))));
    }
    const auto x = random_floats(9 * kCols, 20);
    const auto got = run(machine, pack(machine, parts, Precision::kF32).get(), x, 9);
    const auto wanted = run(ref, pack(ref, parts, Precision::kF32).get(), x, 9);
    ASSERT_EQ(got.size(), 9u * 204);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 1e-4) << i;
  }
}

TEST_P(LinearConformance, ReadsAndWritesColumnsOfWiderMatrices) {
  const Machine machine(GetParam(), 2);
  constexpr int64_t kM = 7, kK = 40, kN = 70;
  const WeightData weight = make_weight("w", DType::kBF16, {kN, kK}, random_floats(kN * kK, 1));
  const auto packed = pack(machine, {&weight, 1}, Precision::kAuto);
  auto x = random_floats(kM * kK, 2);
  const auto plain = run(machine, packed.get(), x, kM);

  std::vector<float> wide_x(kM * (kK + 11), NAN), wide_out(kM * (kN + 5), 123.0f);
  for (int64_t r = 0; r < kM; ++r) {
    std::copy_n(x.begin() + r * kK, kK, wide_x.begin() + r * (kK + 11) + 3);
  }
  LinearParams p{};
  p.x = Tensor::make(wide_x.data() + 3, DType::kF32, {kM, kK});
  p.x.stride[0] = kK + 11;
  p.w = packed.get();
  p.out = Tensor::make(wide_out.data() + 2, DType::kF32, {kM, kN});
  p.out.stride[0] = kN + 5;
  ASSERT_TRUE(machine->linear(p).ok());
  for (int64_t r = 0; r < kM; ++r) {
    const float* row = wide_out.data() + r * (kN + 5);
    EXPECT_TRUE(same_bits(row + 2, plain.data() + r * kN, kN));
    for (int64_t i : {int64_t{0}, int64_t{1}, kN + 2, kN + 3, kN + 4}) EXPECT_EQ(row[i], 123.0f);
  }
}

TEST_P(LinearConformance, NoRowsIsNoWork) {
  const Machine machine(GetParam(), 2);
  const WeightData weight = make_weight("w", DType::kF32, {8, 8}, random_floats(64, 1));
  EXPECT_TRUE(run(machine, pack(machine, {&weight, 1}, Precision::kAuto).get(), {}, 0).empty());
}

TEST_P(LinearConformance, NanAndInfinityInAWeightAreNamed) {
  const Machine machine(GetParam(), 2);
  for (DType dtype : kTypes) {
    for (float bad : {NAN, -INFINITY, INFINITY}) {
      for (int64_t where : {0, 1, 7, 39, 40, 64 * 41 + 40, 99 * 41 + 40}) {
        auto values = random_floats(100 * 41, 1);
        values[static_cast<size_t>(where)] = bad;
        const WeightData good =
            make_weight("good.weight", dtype, {5, 41}, random_floats(5 * 41, 2));
        const WeightData weight = make_weight("model.bad.weight", dtype, {100, 41}, values);
        const WeightData parts[] = {good, weight};
        for (const Status& status :
             {machine->pack_linear(parts, {}).status(), machine->pack_table(weight).status()}) {
          ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
          EXPECT_NE(status.message().find("\"model.bad.weight\""), std::string::npos) << status;
          EXPECT_NE(status.message().find(absl::StrCat("[", where / 41, ", ", where % 41, "]")),
                    std::string::npos)
              << status;
        }
      }
    }
  }
}

TEST_P(LinearConformance, WrongShapesAndTypesAreErrors) {
  const Machine machine(GetParam(), 2);
  const WeightData vector = make_weight("v", DType::kF32, {8}, random_floats(8, 1));
  EXPECT_EQ(machine->pack_linear({&vector, 1}, {}).status().code(), absl::StatusCode::kDataLoss);
  WeightData ints = make_weight("i", DType::kF32, {2, 4}, random_floats(8, 1));
  ints.dtype = DType::kI32;
  EXPECT_EQ(machine->pack_linear({&ints, 1}, {}).status().code(), absl::StatusCode::kUnimplemented);
  const WeightData uneven[] = {make_weight("a", DType::kF32, {2, 4}, random_floats(8, 1)),
                               make_weight("b", DType::kF32, {2, 3}, random_floats(6, 1))};
  EXPECT_EQ(machine->pack_linear(uneven, {}).status().code(), absl::StatusCode::kDataLoss);
}

// Fails from the n-th allocation on, and counts what is out.
class FailingAllocator final : public Allocator {
 public:
  explicit FailingAllocator(int allowed) : allowed_(allowed) {}
  void* allocate(size_t size, size_t align) override {
    if (allowed_.fetch_sub(1) <= 0) return nullptr;
    ++out;
    return default_allocator()->allocate(size, align);
  }
  void free(void* ptr, size_t size, size_t align) override {
    --out;
    default_allocator()->free(ptr, size, align);
  }
  std::atomic<int> out{0};

 private:
  std::atomic<int> allowed_;
};

TEST_P(LinearConformance, FailingAllocatorIsAStatusAndLeaksNothing) {
  auto pool = make_thread_pool(2);
  ASSERT_TRUE(pool.ok());
  bool succeeded = false;
  for (int allowed = 0; allowed < 10 && !succeeded; ++allowed) {
    FailingAllocator allocator(allowed);
    {
      BackendContext context;
      context.allocator = &allocator;
      context.pool = pool->get();
      auto backend = GetParam().make(context);
      Status status = backend.status();
      std::unique_ptr<PackedWeight> packed;
      if (status.ok()) {
        const WeightData weight = make_weight("w", DType::kBF16, {100, 50}, random_floats(5000, 1));
        auto made = (*backend)->pack_linear({&weight, 1}, {});
        status = made.status();
        if (made.ok()) packed = *std::move(made);
      }
      if (status.ok()) {
        auto x = random_floats(20 * 50, 2);
        std::vector<float> out(20 * 100);
        LinearParams p{};
        p.x = view(x, {20, 50});
        p.w = packed.get();
        p.out = view(out, {20, 100});
        status = (*backend)->linear(p);
      }
      succeeded = status.ok();
      if (!succeeded) {
        EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
        EXPECT_NE(status.message().find("bytes"), std::string::npos) << status;
      }
      EXPECT_TRUE(succeeded || allowed < 5);
    }
    EXPECT_EQ(allocator.out.load(), 0);
  }
  EXPECT_TRUE(succeeded);
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearConformance, ::testing::ValuesIn(targets()), target_name);

}  // namespace
}  // namespace ponder
