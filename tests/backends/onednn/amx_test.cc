// Products of bf16 at the level of AMX: single rows, which take no tiles, against tiles bit for
// bit, and both against sums in double.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "backends/onednn/dispatch.h"
#include "backends/onednn/kernels.h"
#include "gtest/gtest.h"
#include "lib/tensor/half.h"

namespace ponder::cpu {
namespace {

class AmxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (detect_isa() < Isa::kAmx) GTEST_SKIP() << "this processor or system has no AMX";
    kernels_ = kernels_for(Isa::kAmx);
  }
  const Kernels* kernels_ = nullptr;
};

// Of magnitudes around 2^exponent.
std::vector<uint16_t> random_bf16(size_t n, int exponent, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(n);
  for (uint16_t& v : values) v = f32_to_bf16(std::ldexp(normal(generator), exponent));
  return values;
}

TEST_F(AmxTest, ARowsBitsDoNotDependOnTheTile) {
  // Products of 2^-75 and smaller lie below the normal numbers, or not, by chance.
  for (const int exponent : {0, -62}) {
    for (const int64_t k : {2, 30, 32, 62, 64, 130, 512}) {
      for (const int64_t m : {2, 15, 16, 17, 31, 32, 33, 70}) {
        const int64_t lda = k + 6, ldc = 70;
        const auto a = random_bf16(static_cast<size_t>(m * lda), exponent, 1);
        const auto b = random_bf16(static_cast<size_t>(k * kPanel), exponent, 2);
        std::vector<float> bias(kPanel, 0.25f);
        for (const int32_t n : {64, 50, 17, 1}) {
          for (const bool later : {false, true}) {
            std::vector<float> all(static_cast<size_t>(m * ldc), std::ldexp(0.3f, 2 * exponent));
            std::vector<float> alone = all;
            GemmArgs g{};
            g.a = a.data();
            g.lda = lda;
            g.b = b.data();
            g.m = m;
            g.k = k;
            g.c = all.data();
            g.ldc = ldc;
            g.n = n;
            g.accumulate = later;
            g.bias = later ? bias.data() : nullptr;
            kernels_->gemm_bf16(g);
            g.m = 1;
            for (int64_t r = 0; r < m; ++r) {
              g.a = a.data() + r * lda;
              g.c = alone.data() + r * ldc;
              kernels_->gemm_bf16(g);
            }
            ASSERT_EQ(std::memcmp(all.data(), alone.data(), all.size() * sizeof(float)), 0)
                << "M " << m << " K " << k << " N " << n << " 2^" << exponent;
            if (exponent != 0 || later) continue;
            for (int32_t c = 0; c < n; ++c) {
              double wanted = 0, size = 0;
              for (int64_t i = 0; i < k; ++i) {
                const auto at = static_cast<size_t>((i / 2 * kPanel + c) * 2 + i % 2);
                const double p =
                    double{bf16_to_f32(a[static_cast<size_t>(i)])} * bf16_to_f32(b[at]);
                wanted += p;
                size += std::abs(p);
              }
              // As many roundings as there are additions.
              ASSERT_NEAR(all[static_cast<size_t>(c)], wanted,
                          size * static_cast<double>(k) * 0x1p-24);
            }
          }
        }
      }
    }
  }
}

TEST_F(AmxTest, ARowOfF8HasTheBitsOfItsCodesAsBf16) {
  if (kernels_->f8_row_bf16 == nullptr) GTEST_SKIP() << "this processor has no AVX512_VBMI";
  std::mt19937 random(3);
  for (const int64_t k : {4, 28, 32, 64, 100, 128}) {
    const auto a = random_bf16(static_cast<size_t>(k), 0, 4);
    std::vector<uint8_t> codes(static_cast<size_t>(k * kPanel));
    for (uint8_t& code : codes) {
      do code = static_cast<uint8_t>(random());
      while ((code & 0x7f) == 0x7f);  // NaN
    }
    std::vector<uint16_t> pairs(codes.size());
    kernels_->f8_to_bf16(codes.data(), k, nullptr, pairs.data());
    for (const int32_t n : {64, 33}) {
      std::vector<float> wanted(kPanel, 7.0f), got = wanted;
      GemmArgs g{};
      g.a = a.data();
      g.lda = k;
      g.b = pairs.data();
      g.m = 1;
      g.k = k;
      g.c = wanted.data();
      g.ldc = kPanel;
      g.n = n;
      kernels_->gemm_bf16(g);
      g.b = codes.data();
      g.c = got.data();
      kernels_->f8_row_bf16(g);
      ASSERT_EQ(std::memcmp(got.data(), wanted.data(), sizeof(float) * kPanel), 0)
          << "K " << k << " N " << n;
    }
  }
}

}  // namespace
}  // namespace ponder::cpu
