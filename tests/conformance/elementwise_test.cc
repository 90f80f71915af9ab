#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "tests/conformance/support.h"

namespace ponder {
namespace {

using ElementwiseConformance = Conformance;

constexpr int64_t kWidths[] = {1, 3, 8, 15, 16, 17, 32, 48, 64, 100, 128, 576, 1536, 1537};
constexpr int64_t kRows[] = {1, 2, 7, 130};

TEST_P(ElementwiseConformance, RmsNorm) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  for (int64_t width : kWidths) {
    for (int64_t rows : kRows) {
      auto x = random_floats(static_cast<size_t>(rows * width), 1, 30.0f);
      auto weight = random_floats(static_cast<size_t>(width), 2);
      std::vector<float> wanted(x.size()), got(x.size());
      const RmsNormParams p{view(x, {rows, width}), view(weight, {width}), 1e-6f,
                            view(wanted, {rows, width})};
      ASSERT_TRUE(ref->rms_norm(p).ok());
      RmsNormParams q = p;
      q.out = view(got, {rows, width});
      ASSERT_TRUE(machine->rms_norm(q).ok());
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(got[i], wanted[i], kNormTolerance * std::abs(wanted[i])) << i;
      }
      // Row by row and in place: the same bits.
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<float> row(x.begin() + r * width, x.begin() + (r + 1) * width);
        ASSERT_TRUE(machine
                        ->rms_norm({view(row, {1, width}), view(weight, {width}), 1e-6f,
                                    view(row, {1, width})})
                        .ok());
        ASSERT_TRUE(same_bits(row.data(), got.data() + r * width, row.size()));
      }
    }
  }
}

TEST_P(ElementwiseConformance, RmsNormOfHeadsInsideAWiderMatrix) {
  const Machine machine(GetParam(), 2);
  const Machine ref = reference();
  constexpr int64_t kT = 5, kHeads = 3, kE = 24, kWide = 100;
  const auto x = random_floats(kT * kWide, 1);
  auto weight = random_floats(kE, 2);
  const auto run = [&](const Machine& m) {
    auto data = x;
    Tensor heads = Tensor::make(data.data() + 10, DType::kF32, {kT, kHeads, kE});
    heads.stride[0] = kWide;
    EXPECT_TRUE(m->rms_norm({heads, view(weight, {kE}), 1e-5f, heads}).ok());
    return data;
  };
  const auto wanted = run(ref), got = run(machine);
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % kWide;
    if (column < 10 || column >= 10 + kHeads * kE) {
      ASSERT_EQ(got[i], x[i]) << "wrote beside its columns";
    } else {
      ASSERT_NEAR(got[i], wanted[i], kNormTolerance * std::abs(wanted[i]));
    }
  }
}

TEST_P(ElementwiseConformance, Swiglu) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  for (int64_t width : kWidths) {
    for (int64_t rows : kRows) {
      auto x = random_floats(static_cast<size_t>(rows * 2 * width), 1, 40.0f);
      x[0] = 0.0f;
      if (width > 8) {  // far beyond what exp can hold
        x[1] = 200.0f;
        x[2] = -200.0f;
        x[3] = 1e-20f;
        x[4] = -87.5f;
        x[5] = 88.6f;
      }
      std::vector<float> wanted(static_cast<size_t>(rows * width)), got(wanted.size());
      ASSERT_TRUE(ref->swiglu({view(x, {rows, 2 * width}), view(wanted, {rows, width})}).ok());
      ASSERT_TRUE(machine->swiglu({view(x, {rows, 2 * width}), view(got, {rows, width})}).ok());
      for (size_t i = 0; i < got.size(); ++i) {
        // Below 1e-36 both are nothing.
        ASSERT_NEAR(got[i], wanted[i], kSwigluTolerance * std::abs(wanted[i]) + 1e-34) << i;
      }
      std::vector<float> last(static_cast<size_t>(width));
      std::vector<float> row(x.end() - 2 * width, x.end());
      ASSERT_TRUE(machine->swiglu({view(row, {1, 2 * width}), view(last, {1, width})}).ok());
      ASSERT_TRUE(same_bits(last.data(), got.data() + (rows - 1) * width, last.size()));
    }
  }
}

TEST_P(ElementwiseConformance, NanComesThroughInsteadOfANumber) {
  const Machine machine(GetParam(), 1);
  std::vector<float> x(64, 1.0f);
  x[5] = NAN;
  std::vector<float> out(32);
  ASSERT_TRUE(machine->swiglu({view(x, {1, 64}), view(out, {1, 32})}).ok());
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_FALSE(std::isnan(out[6]));
}

TEST_P(ElementwiseConformance, AddIsExact) {
  const Machine machine(GetParam(), 3);
  for (int64_t width : kWidths) {
    auto a = random_floats(static_cast<size_t>(130 * width), 1);
    auto b = random_floats(static_cast<size_t>(130 * width), 2);
    std::vector<float> out = a;
    ASSERT_TRUE(
        machine->add({view(out, {130, width}), view(b, {130, width}), view(out, {130, width})})
            .ok());
    for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(out[i], a[i] + b[i]);
  }
}

TEST_P(ElementwiseConformance, EmbedIsExactForEveryType) {
  const Machine machine(GetParam(), 3);
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t width : {1, 7, 64, 100, 1537}) {
      const auto values = random_floats(static_cast<size_t>(50 * width), 3);
      const WeightData table = make_weight("embed", dtype, {50, width}, values);
      auto packed = machine->pack_table(table);
      ASSERT_TRUE(packed.ok()) << packed.status();
      std::vector<int32_t> tokens;
      for (int32_t t = 0; t < 200; ++t) tokens.push_back(t * 7 % 50);
      std::vector<float> out(200 * static_cast<size_t>(width));
      ASSERT_TRUE(machine->embed({packed->get(), tokens, view(out, {200, width})}).ok());
      for (int64_t t = 0; t < 200; ++t) {
        for (int64_t d = 0; d < width; ++d) {
          ASSERT_EQ(out[static_cast<size_t>(t * width + d)],
                    to_type(values[static_cast<size_t>(tokens[static_cast<size_t>(t)] * width + d)],
                            dtype));
        }
      }
    }
  }
}

TEST_P(ElementwiseConformance, GatherRowsCopies) {
  const Machine machine(GetParam(), 2);
  auto x = random_floats(10 * 33, 1);
  const std::vector<int32_t> rows = {0, 3, 9};
  std::vector<float> out(3 * 33);
  ASSERT_TRUE(machine->gather_rows({view(x, {10, 33}), rows, view(out, {3, 33})}).ok());
  for (size_t r = 0; r < 3; ++r)
    EXPECT_TRUE(same_bits(&out[r * 33], &x[static_cast<size_t>(rows[r]) * 33], 33));
}

TEST_P(ElementwiseConformance, RopeTurnsPairs) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  for (int64_t e : {2, 8, 24, 32, 48, 64, 80, 128, 256}) {
    for (const bool interleaved : {false, true}) {
      for (const int64_t extra : {0, 6}) {  // columns of a head that do not turn
        constexpr int64_t kHeads = 3;
        std::vector<float> frequencies;
        for (int64_t i = 0; i < e / 2; ++i) {
          frequencies.push_back(
              std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(e)));
        }
        const std::vector<int32_t> positions = {0, 1, 2, 77, 4096, 131071, 5};
        const auto rows = static_cast<int64_t>(positions.size());
        const auto x = random_floats(static_cast<size_t>(rows * kHeads * (e + extra)), 4);
        const auto run = [&](const Machine& m, std::vector<float>& table) {
          table.assign(static_cast<size_t>(rows * e), NAN);
          EXPECT_TRUE(m->rope_table({frequencies, 1.1f, positions, view(table, {rows, e})}).ok());
          auto data = x;
          EXPECT_TRUE(
              m->rope({view(data, {rows, kHeads, e + extra}), view(table, {rows, e}), interleaved})
                  .ok());
          return data;
        };
        std::vector<float> ref_table, table;
        const auto wanted = run(ref, ref_table), got = run(machine, table);
        for (size_t i = 0; i < table.size(); ++i)
          ASSERT_NEAR(table[i], ref_table[i], 2 * kUlp * 1.1);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], wanted[i], kRopeTolerance * 2.0) << "E " << e << " element " << i;
        }
      }
    }
  }
}

#if defined(__x86_64__)
// Audio and game threads often flush subnormals; that must not reach into results.
TEST_P(ElementwiseConformance, HostsFloatingPointModeChangesNothing) {
  if (GetParam().name == "ref") return;  // computes in double, where these are not subnormal
  const Machine machine(GetParam(), 2);
  constexpr int64_t kT = 3, kK = 96, kN = 80;
  auto x = random_floats(kT * kK, 1, 1e-20f);
  const WeightData weight =
      make_weight("w", DType::kF32, {kN, kK}, random_floats(kN * kK, 2, 1e-20f));
  auto packed = machine->pack_linear({&weight, 1}, PackOptions{Precision::kF32});
  ASSERT_TRUE(packed.ok());
  const auto run = [&] {
    std::vector<float> out(kT * kN);
    LinearParams p{};
    p.x = view(x, {kT, kK});
    p.w = packed->get();
    p.out = view(out, {kT, kN});
    EXPECT_TRUE(machine->linear(p).ok());
    return out;
  };
  const auto wanted = run();
  EXPECT_NE(wanted[0], 0.0f) << "a subnormal was expected";
  const unsigned before = _mm_getcsr();
  constexpr unsigned kFlushAndTruncate = 0x8040 | 0x6000;
  _mm_setcsr(before | kFlushAndTruncate);
  const auto got = run();
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after, before | kFlushAndTruncate) << "the host's own mode must be left as it was";
  EXPECT_TRUE(same_bits(got.data(), wanted.data(), got.size()));
}
#endif

INSTANTIATE_TEST_SUITE_P(Backends, ElementwiseConformance, ::testing::ValuesIn(targets()),
                         target_name);

}  // namespace
}  // namespace ponder
