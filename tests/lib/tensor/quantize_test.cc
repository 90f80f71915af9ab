#include "lib/tensor/quantize.h"

#include <cmath>
#include <cstring>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/half.h"

namespace ponder {
namespace {

using Values = std::vector<float>;

// What the types may cost on normally distributed weights: root mean square of the error, relative
// to that of the weights. Somewhat above what was measured, and below what ggml's reference
// quantisers leave (quantize_oracle_test.cc compares with those directly).
struct Quality {
  DType type;
  double error;
};
constexpr Quality kQualities[] = {
    {DType::kQ8_0, 0.0056}, {DType::kQ4_0, 0.084},   {DType::kQ4_1, 0.072},
    {DType::kQ5_0, 0.042},  {DType::kQ5_1, 0.035},   {DType::kQ2_K, 0.275},
    {DType::kQ3_K, 0.150},  {DType::kQ4_K, 0.072},   {DType::kQ5_K, 0.036},
    {DType::kQ6_K, 0.018},  {DType::kIQ4_NL, 0.077}, {DType::kIQ4_XS, 0.077}};

std::string name_of(const ::testing::TestParamInfo<Quality>& tested) {
  return std::string(dtype_name(tested.param.type));
}

Values normal(size_t count, float sigma, unsigned seed) {
  std::mt19937 random(seed);
  // A sum of uniform numbers: the same values with every standard library.
  Values values(count);
  for (float& v : values) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random() * 0x1p-32;
    v = static_cast<float>(sum) * sigma;
  }
  return values;
}

class Quantize : public ::testing::TestWithParam<Quality> {
 protected:
  DType type() const { return GetParam().type; }

  std::string blocks_of(const Values& x, int64_t cols, std::span<const float> importance = {}) {
    const auto elements = static_cast<int64_t>(x.size());
    std::string blocks(static_cast<size_t>(dtype_bytes(type(), elements)), '\x5a');
    const Status status =
        quantize(type(), x.data(), elements / cols, cols, importance, blocks.data());
    EXPECT_TRUE(status.ok()) << status;
    return blocks;
  }
  Values values_of(const std::string& blocks) {
    const auto info = dtype_info(type());
    Values y(blocks.size() / static_cast<size_t>(info.bytes) * static_cast<size_t>(info.block));
    EXPECT_TRUE(dequantize(type(), blocks.data(), static_cast<int64_t>(y.size()), y.data()).ok());
    return y;
  }
  Values round_trip(const Values& x, int64_t cols, std::span<const float> importance = {}) {
    return values_of(blocks_of(x, cols, importance));
  }
};

INSTANTIATE_TEST_SUITE_P(Types, Quantize, ::testing::ValuesIn(kQualities), name_of);

double rms(const Values& x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return std::sqrt(sum / static_cast<double>(x.size()));
}

double rms_difference(const Values& a, const Values& b) {
  Values d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return rms(d);
}

TEST_P(Quantize, ErrorOnNormalWeightsIsWithinTheKnownBound) {
  for (const float sigma : {0.02f, 1e-3f, 40.0f}) {
    const Values x = normal(16 * 1024, sigma, 1);
    EXPECT_LE(rms_difference(x, round_trip(x, 1024)), GetParam().error * rms(x)) << sigma;
  }
}

// ggml's own acceptance test of its quantisers (tests/test-quantize-fns.cpp): this signal, and
// these limits on the root of the summed squares over the number of values.
TEST_P(Quantize, PassesTheReferencesAcceptanceTest) {
  Values x(32 * 128);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = 0.1f + 2 * std::cos(static_cast<float>(i));
  }
  const double limit = type() == DType::kQ2_K ? 0.0075 : type() == DType::kQ3_K ? 0.004 : 0.002;
  const double n = static_cast<double>(x.size());
  EXPECT_LT(rms_difference(x, round_trip(x, 4096)) / std::sqrt(n), limit);
}

// Heavy tails: single large weights must not ruin what lies beside them more than the type's
// levels make unavoidable.
TEST_P(Quantize, NoElementIsOffByMoreThanAStepOfItsBlock) {
  Values x = normal(8 * 512, 0.02f, 2);
  for (size_t i = 7; i < x.size(); i += 97) x[i] *= 15;
  const Values y = round_trip(x, 512);
  const auto block = static_cast<size_t>(dtype_info(type()).block);
  for (size_t i = 0; i < x.size(); i += block) {
    float largest = 0;
    for (size_t j = 0; j < block; ++j) largest = std::max(largest, std::abs(x[i + j]));
    // Four steps of two bits span twice the largest; finer types do better.
    const float step = type() == DType::kQ2_K || type() == DType::kQ3_K ? 0.67f : 0.25f;
    for (size_t j = 0; j < block; ++j) {
      ASSERT_LE(std::abs(x[i + j] - y[i + j]), step * largest) << i + j;
    }
  }
}

TEST_P(Quantize, TheSameAgainAndRowByRow) {
  const int64_t cols = 768;
  const Values x = normal(5 * 768, 0.1f, 3), importance = [] {
    Values v = normal(768, 1, 4);
    for (float& i : v) i = i * i;
    return v;
  }();
  const std::string once = blocks_of(x, cols, importance);
  EXPECT_EQ(once, blocks_of(x, cols, importance));
  std::string rows;
  for (size_t row = 0; row < 5; ++row) {
    rows +=
        blocks_of(Values(x.begin() + row * cols, x.begin() + (row + 1) * cols), cols, importance);
  }
  EXPECT_EQ(once, rows);
  // At an odd address.
  std::string shifted(once.size() + 1, 'x');
  ASSERT_TRUE(quantize(type(), x.data(), 5, cols, importance, shifted.data() + 1).ok());
  EXPECT_EQ(once, shifted.substr(1));
}

TEST_P(Quantize, ImportantColumnsGetTheSmallerError) {
  const size_t cols = 512, rows = 32;
  const Values x = normal(rows * cols, 0.02f, 5);
  Values importance(cols, 1.0f);
  for (size_t i = 0; i < cols; i += 8) importance[i] = 200;
  const Values plain = round_trip(x, 512), weighed = round_trip(x, 512, importance);
  if (type() == DType::kQ8_0) {  // rounds to nearest, whatever the importance
    EXPECT_EQ(plain, weighed);
    return;
  }
  double plain_important = 0, weighed_important = 0, plain_all = 0, weighed_all = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = (x[i] - plain[i]) * (x[i] - plain[i]);
    const double b = (x[i] - weighed[i]) * (x[i] - weighed[i]);
    (i % 8 == 0 ? plain_important : plain_all) += a;
    (i % 8 == 0 ? weighed_important : weighed_all) += b;
  }
  EXPECT_LT(weighed_important, 0.8 * plain_important);
  EXPECT_LT(weighed_important * 200 + weighed_all, plain_important * 200 + plain_all);
  // Only proportions count, however large or small.
  for (float& v : importance) v *= 1e30f;
  EXPECT_EQ(weighed, round_trip(x, 512, importance));
}

TEST_P(Quantize, ASecondPassChangesLittleOrNothing) {
  const Values x = normal(16 * 1024, 0.02f, 6);
  const Values once = round_trip(x, 1024), twice = round_trip(once, 1024);
  if (dtype_info(type()).block == kBlock) {
    EXPECT_EQ(once, twice);
  } else {
    EXPECT_LT(rms_difference(once, twice), 0.15 * rms_difference(x, once));
  }
}

TEST_P(Quantize, ZerosStayZeros) {
  const Values zeros(1024, 0.0f);
  EXPECT_EQ(zeros, round_trip(zeros, 512));
  // A block of zeros beside one that is not.
  Values half(1024, 0.0f);
  for (size_t i = 512; i < 1024; ++i) half[i] = static_cast<float>(i % 7) - 3;
  const Values y = round_trip(half, 1024);
  for (size_t i = 0; i < 512; ++i) ASSERT_EQ(y[i], 0) << i;
}

TEST_P(Quantize, ConstantsStayConstant) {
  for (const float c : {1.0f, -1.0f, 0.3f, -0.71f, 123.4f}) {
    for (const float v : round_trip(Values(512, c), 512)) ASSERT_NEAR(v, c, std::abs(c) * 0.004f);
  }
}

TEST_P(Quantize, TinyValuesAreRoundedToWhatTheScalesCanSay) {
  for (const float sigma :
       {1e-42f, 1e-39f, 1e-30f, 1e-20f, 1e-13f, 1e-12f, 1e-9f, 1e-8f, 1e-7f, 1e-6f}) {
    const Values x = normal(1024, sigma, 8);
    const Values y = round_trip(x, 512);
    // Nowhere worse than zeros would be, or than half a step of the smallest binary16; and good
    // where that is a small step.
    const double error = rms_difference(x, y);
    EXPECT_LE(error, std::max(rms(x), 0x1p-25)) << sigma;
    if (sigma >= 1e-6f) {
      EXPECT_LE(error, 0.3 * rms(x)) << sigma;
    }
  }
}

TEST_P(Quantize, LargeValuesUpToTheLimitAndNoFurther) {
  Values x = normal(1024, 1, 9);
  // One of the row is as large as is accepted; found by halving.
  double good = 1, bad = 1e12;
  std::string blocks(static_cast<size_t>(dtype_bytes(type(), 1024)), '\0');
  while (bad / good > 1.0001) {
    const double middle = std::sqrt(good * bad);
    x[700] = static_cast<float>(-middle);
    (quantize(type(), x.data(), 1, 1024, {}, blocks.data()).ok() ? good : bad) = middle;
  }
  x[700] = static_cast<float>(-good);
  const Values y = round_trip(x, 1024);
  for (const float v : y) ASSERT_TRUE(std::isfinite(v));
  EXPECT_NEAR(y[700], x[700], 0.1 * good);
  x[700] = static_cast<float>(bad);
  const Status status = quantize(type(), x.data(), 2, 512, {}, blocks.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("row 1, column 188 is"), std::string::npos) << status;
  EXPECT_NE(status.message().find("reaches to"), std::string::npos) << status;
}

TEST_P(Quantize, WhatIsNotANumberIsRefusedByPlace) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Values x = normal(1024, 1, 10);
    x[513] = bad;
    std::string blocks(static_cast<size_t>(dtype_bytes(type(), 1024)), '\0');
    const Status status = quantize(type(), x.data(), 2, 512, {}, blocks.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("row 1, column 1 is"), std::string::npos) << status;
  }
}

TEST_P(Quantize, AnyFiniteBlockGivesFiniteValues) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    Values x(512);
    for (float& v : x) {
      // Any exponent that is accepted, many of them subnormal or zero.
      const uint32_t exponent = random() % (127 + 15);
      const uint32_t bits = (random() & 0x807fffffu) | (random() % 4 == 0 ? 0 : exponent << 23);
      v = std::bit_cast<float>(bits);
    }
    Values importance(512);
    for (float& v : importance) {
      v = random() % 3 == 0 ? 0.0f
                            : std::bit_cast<float>(static_cast<uint32_t>(random() % 0x7f800000u));
    }
    const Values y = round_trip(x, 512, importance);
    for (const float v : y) ASSERT_TRUE(std::isfinite(v)) << round;
  }
}

TEST_P(Quantize, ImportancesAreChecked) {
  const Values x = normal(512, 1, 12);
  std::string blocks(static_cast<size_t>(dtype_bytes(type(), 512)), '\0');
  Values importance(511, 1.0f);
  EXPECT_EQ(quantize(type(), x.data(), 1, 512, importance, blocks.data()).code(),
            absl::StatusCode::kInvalidArgument);
  importance.push_back(-1);
  const Status negative = quantize(type(), x.data(), 1, 512, importance, blocks.data());
  EXPECT_NE(negative.message().find("column 511 is -1"), std::string::npos) << negative;
  importance[511] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(quantize(type(), x.data(), 1, 512, importance, blocks.data()).ok());
  // All zero is as good as none.
  EXPECT_EQ(round_trip(x, 512), round_trip(x, 512, Values(512, 0.0f)));
}

TEST_P(Quantize, RowsMustBeWholeBlocks) {
  float x[8] = {};
  char blocks[512];
  const Status status = quantize(type(), x, 1, 8, {}, blocks);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("rows of 8 values"), std::string::npos) << status;
}

TEST(QuantizeTypes, OthersAreUnsupported) {
  Values x(256, 1.0f);
  char blocks[2048];
  for (const DType type : {DType::kI32, DType::kIQ2_XXS, DType::kIQ1_S, DType::kMXFP4}) {
    EXPECT_FALSE(can_quantize(type));
    EXPECT_EQ(quantize(type, x.data(), 1, 256, {}, blocks).code(),
              absl::StatusCode::kUnimplemented);
  }
}

TEST(QuantizeTypes, PlainTypesAreRoundedToNearest) {
  const Values x = {1.0f, -2.5f, 65504.0f, 1e-8f};
  uint16_t half[4];
  ASSERT_TRUE(quantize(DType::kF16, x.data(), 2, 2, {}, half).ok());
  uint16_t brain[4];
  ASSERT_TRUE(quantize(DType::kBF16, x.data(), 2, 2, {}, brain).ok());
  float full[4];
  ASSERT_TRUE(quantize(DType::kF32, x.data(), 2, 2, {}, full).ok());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(half[i], f32_to_f16(x[i]));
    EXPECT_EQ(brain[i], f32_to_bf16(x[i]));
    EXPECT_EQ(full[i], x[i]);
  }
  const Values large = {1e5f, 0.0f};
  EXPECT_FALSE(quantize(DType::kF16, large.data(), 1, 2, {}, half).ok());
}

// ---- blocks that use their whole range come back as they were ----------------------------------

template <typename Block>
void expect_kept(DType type, const Block& block) {
  Values x(kSuperBlock), y(kSuperBlock);
  ASSERT_TRUE(dequantize(type, &block, kSuperBlock, x.data()).ok());
  Block again;
  ASSERT_TRUE(quantize(type, x.data(), 1, kSuperBlock, {}, &again).ok());
  ASSERT_TRUE(dequantize(type, &again, kSuperBlock, y.data()).ok());
  EXPECT_EQ(x, y);
}

TEST(QuantizeRepresentable, Q2_K) {
  std::mt19937 random(21);
  for (int round = 0; round < 100; ++round) {
    BlockQ2_K b = {.scales = {}, .qs = {}, .d = 0x2c00, .dmin = 0x2d55};
    for (uint8_t& v : b.scales) v = static_cast<uint8_t>(random());
    b.scales[round % 16] = 0xff;
    for (uint8_t& v : b.qs) v = static_cast<uint8_t>(random());
    // Element 0 of every sub-block is 0, element 1 is 3.
    for (int i = 0; i < 64; i += 16) b.qs[i] = 0, b.qs[i + 1] = 0xff;
    expect_kept(DType::kQ2_K, b);
  }
}

TEST(QuantizeRepresentable, Q3_K) {
  std::mt19937 random(22);
  for (int round = 0; round < 100; ++round) {
    BlockQ3_K b = {.hmask = {}, .qs = {}, .scales = {}, .d = 0x1234};
    for (uint8_t& v : b.hmask) v = static_cast<uint8_t>(random());
    for (uint8_t& v : b.qs) v = static_cast<uint8_t>(random());
    for (uint8_t& v : b.scales) v = static_cast<uint8_t>(random());
    b.scales[0] &= 0xf0;  // scale 0 is -32
    b.scales[8] &= 0xfc;
    for (int i = 0; i < 64; i += 16) b.qs[i] = 0;  // element 0 of every sub-block is -4
    for (int i = 0; i < 32; i += 16) b.hmask[i] = 0;
    expect_kept(DType::kQ3_K, b);
  }
}

template <typename Block>
void check_k_pair(DType type, unsigned seed) {
  std::mt19937 random(seed);
  for (int round = 0; round < 100; ++round) {
    Block b = {};
    b.d = 0x1e66;
    b.dmin = 0x1a17;
    for (uint8_t& v : b.qs) v = static_cast<uint8_t>(random());
    for (uint8_t& v : b.scales) v = static_cast<uint8_t>(random());
    b.scales[round % 4] |= 63;
    b.scales[round % 4 + 4] |= 63;
    for (int i = 0; i < 128; i += 32) b.qs[i] = 0, b.qs[i + 1] = 0xff;
    if constexpr (requires { b.qh; }) {
      for (uint8_t& v : b.qh) v = static_cast<uint8_t>(random());
      b.qh[0] = 0;
      b.qh[1] = 0xff;
    }
    expect_kept(type, b);
  }
}

TEST(QuantizeRepresentable, Q4_K) { check_k_pair<BlockQ4_K>(DType::kQ4_K, 23); }
TEST(QuantizeRepresentable, Q5_K) { check_k_pair<BlockQ5_K>(DType::kQ5_K, 24); }

TEST(QuantizeRepresentable, Q6_K) {
  std::mt19937 random(25);
  for (int round = 0; round < 100; ++round) {
    BlockQ6_K b = {.ql = {}, .qh = {}, .scales = {}, .d = 0x0e66};
    for (uint8_t& v : b.ql) v = static_cast<uint8_t>(random());
    for (uint8_t& v : b.qh) v = static_cast<uint8_t>(random());
    for (int8_t& v : b.scales) v = static_cast<int8_t>(random());
    b.scales[round % 16] = -128;
    for (int i = 0; i < 128; i += 16) b.ql[i] = 0;  // element 0 of every sub-block is -32
    for (int i = 0; i < 64; i += 16) b.qh[i] = 0;
    expect_kept(DType::kQ6_K, b);
  }
}

TEST(QuantizeRepresentable, IQ4_XS) {
  std::mt19937 random(26);
  for (int round = 0; round < 100; ++round) {
    BlockIQ4_XS b = {.d = 0x1e66, .scales_h = 0, .scales_l = {}, .qs = {}};
    b.scales_h = static_cast<uint16_t>(random() & 0xfffc);
    for (uint8_t& v : b.scales_l) v = static_cast<uint8_t>(random());
    b.scales_l[0] &= 0xf0;  // scale 0 is -32
    for (uint8_t& v : b.qs) v = static_cast<uint8_t>(random());
    for (int i = 0; i < 128; i += 16) b.qs[i] = 0;  // elements 0 and 16 of every sub-block: -127
    expect_kept(DType::kIQ4_XS, b);
  }
}

}  // namespace
}  // namespace ponder
