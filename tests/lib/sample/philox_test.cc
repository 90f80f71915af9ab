#include "lib/sample/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>

namespace ponder {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformNumbersLieInZeroToOneAndAreEven) {
  constexpr int kDraws = 100000, kBins = 20;
  std::array<int, kBins> bins{};
  for (uint64_t i = 0; i < kDraws; ++i) {
    const double u = uniform_at(7, i);
    ASSERT_GT(u, 0.0);
    ASSERT_LE(u, 1.0);
    ++bins[static_cast<size_t>(std::min(kBins - 1, static_cast<int>(u * kBins)))];
  }
  double chi2 = 0;
  for (const int n : bins) chi2 += std::pow(n - kDraws / kBins, 2) / (kDraws / kBins);
  EXPECT_LT(chi2, 43.8);  // 19 degrees of freedom, one in a thousand
}

TEST(Philox, EveryBitOfSeedAndPositionCounts) {
  const double base = uniform_at(0, 0);
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(uniform_at(uint64_t{1} << bit, 0), base) << bit;
    EXPECT_NE(uniform_at(0, uint64_t{1} << bit), base) << bit;
  }
}

}  // namespace
}  // namespace ponder
