// The kernel tables against plain arithmetic, where conformance tests (whole ops against the
// reference backend) would not see a difference.
#include "backends/onednn/kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/onednn/isa.h"
#include "gtest/gtest.h"
#include "lib/tensor/float8.h"
#include "lib/tensor/half.h"

namespace ponder::cpu {
namespace {

struct Table {
  Isa isa;
  const Kernels* (*get)();
};

class KernelsTest : public ::testing::TestWithParam<Table> {
 protected:
  void SetUp() override {
    if (GetParam().isa > detect_isa() || GetParam().get() == nullptr) {
      GTEST_SKIP() << "this processor cannot run " << isa_name(GetParam().isa);
    }
    k_ = GetParam().get();
  }
  const Kernels* k_ = nullptr;
};

TEST_P(KernelsTest, SixteenBitTypesWidenExactlyForAllValues) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> out(all.size());
  for (const Storage s : {kStoreF16, kStoreBF16}) {
    k_->widen[s](all.data(), 65536, out.data());
    for (size_t i = 0; i < all.size(); ++i) {
      const float wanted = s == kStoreF16 ? f16_to_f32(all[i]) : bf16_to_f32(all[i]);
      if (std::isnan(wanted)) {
        ASSERT_TRUE(std::isnan(out[i])) << i;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(wanted)) << i;
      }
    }
  }
}

TEST_P(KernelsTest, RoundingToBf16IsNearestEven) {
  std::mt19937 generator(1);
  std::vector<float> x = {0.0f,    -0.0f,    1.0f,     1.00390625f, 1.01171875f,
                          3.4e38f, -3.4e38f, INFINITY, -INFINITY};
  while (x.size() < 1000) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(generator()));
    if (std::isnormal(v)) x.push_back(v);
  }
  for (int64_t n : {1, 15, 16, 17, 999, 1000}) {
    std::vector<uint16_t> out(1008, 0xabcd);
    k_->round_bf16(x.data(), n, n + 3, out.data());
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(out[static_cast<size_t>(i)], f32_to_bf16(x[static_cast<size_t>(i)])) << i;
    }
    for (int64_t i = n; i < n + 3; ++i) ASSERT_EQ(out[static_cast<size_t>(i)], 0);
    ASSERT_EQ(out[static_cast<size_t>(n + 3)], 0xabcd) << "wrote too far";
  }
  float nan = NAN;
  uint16_t rounded = 0;
  k_->round_bf16(&nan, 1, 1, &rounded);
  EXPECT_TRUE(std::isnan(bf16_to_f32(rounded)));
}

TEST_P(KernelsTest, PanelsHoldTheLayoutThatTheHeaderStates) {
  for (int64_t k : {1, 2, 7, 8, 9, 15, 16, 17, 31, 100}) {
    for (int64_t n : {1, 8, 63, 64}) {
      std::vector<std::vector<uint32_t>> words(64,
                                               std::vector<uint32_t>(static_cast<size_t>(k) + 1));
      for (size_t r = 0; r < 64; ++r) {
        for (size_t i = 0; i < words[r].size(); ++i) {
          words[r][i] = static_cast<uint32_t>(0x3f000000 + r * 0x10000 + i * 7);
        }
      }
      std::vector<std::vector<uint16_t>> halves(64,
                                                std::vector<uint16_t>(static_cast<size_t>(k) + 1));
      for (size_t r = 0; r < 64; ++r) {
        for (size_t i = 0; i < halves[r].size(); ++i)
          halves[r][i] = static_cast<uint16_t>(0x3000 + r * 16 + i);
      }
      const void* word_rows[64] = {};
      const void* half_rows[64] = {};
      for (int64_t r = 0; r < n; ++r) {
        word_rows[r] = words[static_cast<size_t>(r)].data();
        half_rows[r] = halves[static_cast<size_t>(r)].data();
      }
      const int64_t depth = (k + 1) / 2 * 2;
      std::vector<uint32_t> f32(static_cast<size_t>(depth * 64), 0xffffffff);
      std::vector<uint16_t> f16(static_cast<size_t>(depth * 64), 0xffff), bf16 = f16;
      EXPECT_FALSE(k_->pack_panel[kStoreF32](word_rows, k, f32.data()));
      EXPECT_FALSE(k_->pack_panel[kStoreF16](half_rows, k, f16.data()));
      EXPECT_FALSE(k_->pack_panel[kStoreBF16](half_rows, k, bf16.data()));
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t r = 0; r < 64; ++r) {
          const auto ui = static_cast<size_t>(i), ur = static_cast<size_t>(r);
          ASSERT_EQ(f32[ui * 64 + ur], r < n ? words[ur][ui] : 0u);
          ASSERT_EQ(f16[ui * 64 + ur], r < n ? halves[ur][ui] : 0u);
          ASSERT_EQ(bf16[ui / 2 * 128 + ur * 2 + ui % 2], r < n ? halves[ur][ui] : 0u);
        }
      }
      if (k % 2 != 0) {
        for (size_t r = 0; r < 64; ++r)
          ASSERT_EQ(bf16[static_cast<size_t>(k / 2 * 128) + r * 2 + 1], 0);
      }
    }
  }
}

TEST_P(KernelsTest, PackingFindsNonFiniteValuesAnywhere) {
  constexpr int64_t kCols = 19;
  for (int64_t row : {0, 5, 63}) {
    for (int64_t column : {0, 7, 8, 15, 16, 17, 18}) {
      std::vector<uint16_t> data(64 * kCols, 0x3c00);
      const void* rows[64];
      for (int64_t r = 0; r < 64; ++r) rows[r] = data.data() + r * kCols;
      std::vector<uint16_t> panel(64 * 20);
      EXPECT_FALSE(k_->pack_panel[kStoreF16](rows, kCols, panel.data()));
      EXPECT_FALSE(k_->pack_panel[kStoreBF16](rows, kCols, panel.data()));
      data[static_cast<size_t>(row * kCols + column)] = 0xfc00;
      EXPECT_TRUE(k_->pack_panel[kStoreF16](rows, kCols, panel.data()));
      data[static_cast<size_t>(row * kCols + column)] = 0x7fc1;
      EXPECT_TRUE(k_->pack_panel[kStoreBF16](rows, kCols, panel.data()));
    }
  }
}

TEST_P(KernelsTest, SwigluIsAccurateOverTheWholeRange) {
  double worst = 0;
  for (float g = -80.0f; g < 80.0f; g += 0.00731f) {
    float up = 1.0f, out = 0;
    k_->swiglu(&g, &up, 1, &out);
    const double wanted = double{g} / (1.0 + std::exp(-double{g}));
    worst = std::max(worst, std::abs(out - wanted) / std::abs(wanted));
  }
  EXPECT_LT(worst, 4e-7);
}

TEST_P(KernelsTest, HeadsOfAnyWidthTurnInsideTheirBounds) {
  for (int64_t half = 1; half < 40; ++half) {
    std::vector<float> x(static_cast<size_t>(2 * half + 1)), cosines(static_cast<size_t>(half)),
        sines = cosines;
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
    for (size_t i = 0; i < cosines.size(); ++i) {
      cosines[i] = std::cos(static_cast<float>(i));
      sines[i] = std::sin(static_cast<float>(i));
    }
    const auto before = x;
    k_->rope(x.data(), cosines.data(), sines.data(), half, false);
    for (size_t i = 0; i < cosines.size(); ++i) {
      const float a = before[i], b = before[i + cosines.size()];
      ASSERT_NEAR(x[i], a * cosines[i] - b * sines[i], 1e-5);
      ASSERT_NEAR(x[i + cosines.size()], b * cosines[i] + a * sines[i], 1e-5);
    }
    ASSERT_EQ(x.back(), before.back());
  }
}

// Every code of f8_e4m3 but the NaNs, which packing refuses, as panels hold them: [k/4][64][4].
std::vector<uint8_t> codes_of(int64_t k) {
  std::vector<uint8_t> codes;
  for (int64_t i = 0; i < (k + 3) / 4 * 4 * kPanel; ++i) {
    const auto code = static_cast<uint8_t>(i * 7 + i / 256);
    codes.push_back((code & 0x7f) == 0x7f ? 0x01 : code);
  }
  return codes;
}
constexpr float kScales[] = {1.0f, 3e-4f, -0.37f, 300.0f, 1e-40f, 3e35f, -3e35f};

TEST_P(KernelsTest, CodesBecomeFloatsTimesTheScale) {
  for (const int64_t k : {4, 7, 16, 128}) {
    const std::vector<uint8_t> codes = codes_of(k);
    for (const float scale : kScales) {
      std::vector<float> out(static_cast<size_t>(k * kPanel));
      k_->unpack_f8(codes.data(), k, scale, out.data());
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t n = 0; n < kPanel; ++n) {
          const int64_t width = k_->gemm_columns;
          const auto at = static_cast<size_t>(n / width * k * width + i * width + n % width);
          const uint8_t code = codes[static_cast<size_t>(i / 4 * kPanel * 4 + n * 4 + i % 4)];
          const float wanted = f8_e4m3_to_f32(code) * scale;
          ASSERT_EQ(std::bit_cast<uint32_t>(out[at]), std::bit_cast<uint32_t>(wanted))
              << "code " << int{code} << " scale " << scale << " k " << k;
        }
      }
    }
  }
}

TEST_P(KernelsTest, ARowOfCodesIsTheProductOfTheirFloats) {
  if (k_->f8_row == nullptr) GTEST_SKIP() << "there is none";
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  int done = 0;
  for (const int64_t k : {4, 7, 16, 128}) {
    const std::vector<uint8_t> codes = codes_of(k);
    std::vector<float> a(static_cast<size_t>(k)), bias(kPanel), before(kPanel);
    for (auto* values : {&a, &bias, &before}) {
      for (float& v : *values) v = normal(generator);
    }
    for (const float scale : kScales) {
      std::vector<float> floats(static_cast<size_t>(k * kPanel));
      k_->unpack_f8(codes.data(), k, scale, floats.data());
      for (const int32_t n : {64, 63, 9}) {
        GemmArgs g{};
        g.a = a.data();
        g.lda = k;
        g.b = floats.data();
        g.m = 1;
        g.n = n;
        g.k = k;
        g.ldc = kPanel;
        g.accumulate = n < 64;
        g.bias = n < 64 ? bias.data() : nullptr;
        std::vector<float> wanted = before, got = before;
        g.c = wanted.data();
        k_->gemm_f32(g);
        g.b = codes.data();
        g.c = got.data();
        const bool can = k_->f8_row(g, scale);
        EXPECT_EQ(can, std::abs(scale) < 256.0f) << scale;
        if (!can) continue;
        ++done;
        for (size_t i = 0; i < wanted.size(); ++i) {
          ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(wanted[i]))
              << "scale " << scale << " k " << k << " column " << i;
        }
      }
    }
  }
  EXPECT_EQ(done, 4 * 4 * 3);
}

INSTANTIATE_TEST_SUITE_P(Tables, KernelsTest,
                         ::testing::Values(Table{Isa::kPortable, kernels_portable},
                                           Table{Isa::kAvx2, kernels_avx2},
                                           Table{Isa::kAvx512, kernels_avx512},
                                           Table{Isa::kAvx512Bf16, kernels_avx512bf16},
                                           Table{Isa::kAmx, kernels_amx}),
                         [](const auto& test) { return std::string(isa_name(test.param.isa)); });

}  // namespace
}  // namespace ponder::cpu
