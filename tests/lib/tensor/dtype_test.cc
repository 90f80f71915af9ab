#include "lib/tensor/dtype.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "lib/tensor/float8.h"

namespace ponder {
namespace {

TEST(DType, BytesOfBlocks) {
  EXPECT_EQ(dtype_bytes(DType::kF32, 3), 12);
  EXPECT_EQ(dtype_bytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(dtype_bytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(dtype_bytes(DType::kF8_E4M3, 7), 7);
  EXPECT_EQ(dtype_name(DType::kIQ2_XXS), "iq2_xxs");
  EXPECT_TRUE(dtype_is_blocked(DType::kMXFP4));
  EXPECT_FALSE(dtype_is_blocked(DType::kF8_E4M3));
}

// The definition: sign, four exponent bits with bias 7, three mantissa bits, 0x7f is NaN.
TEST(Float8, EveryE4M3ValueIsItsDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float value = f8_e4m3_to_f32(static_cast<uint8_t>(code));
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(std::abs(value), magnitude) << code;
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
  }
  EXPECT_EQ(f8_e4m3_to_f32(0x7e), 448.0f);
}

TEST(Float8, HalvedPowersOfTwo) {
  for (int e = 0; e < 256; ++e) {
    EXPECT_EQ(e8m0_half_to_f32(static_cast<uint8_t>(e)), std::ldexp(1.0, e - 128)) << e;
  }
}

}  // namespace
}  // namespace ponder
