// Blocks made by hand, one field at a time, against the numbers that the format's text gives them.
// The reference files (dequantize_oracle_test.cc) show the rest.

#include "lib/tensor/dequantize.h"

#include <cmath>
#include <cstring>

#include <array>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/half.h"
#include "lib/tensor/iq_grids.h"

namespace ponder {
namespace {

constexpr uint16_t kOne = 0x3c00, kTwo = 0x4000, kHalf = 0x3800;  // binary16
constexpr uint16_t kInfinity = 0x7c00, kNaN = 0x7e00;

template <typename Block>
std::vector<float> values(DType type, const Block& block) {
  EXPECT_EQ(static_cast<int64_t>(sizeof(block)), dtype_info(type).bytes);
  std::vector<float> out(static_cast<size_t>(dtype_info(type).block));
  const Status status = dequantize(type, &block, dtype_info(type).block, out.data());
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

TEST(DequantizeQ4_0, LowHalvesFirstThenHighOnesAroundEight) {
  BlockQ4_0 b = {.d = kTwo, .qs = {}};
  b.qs[0] = 0xf0;
  b.qs[15] = 0x19;
  const auto y = values(DType::kQ4_0, b);
  EXPECT_EQ(y[0], -16);
  EXPECT_EQ(y[16], 14);
  EXPECT_EQ(y[15], 2);
  EXPECT_EQ(y[31], -14);
  EXPECT_EQ(y[1], -16);
}

TEST(DequantizeQ4_1, AddsTheMinimum) {
  BlockQ4_1 b = {.d = kTwo, .m = kHalf, .qs = {}};
  b.qs[3] = 0xa5;
  const auto y = values(DType::kQ4_1, b);
  EXPECT_EQ(y[3], 10.5f);
  EXPECT_EQ(y[19], 20.5f);
  EXPECT_EQ(y[0], 0.5f);
}

TEST(DequantizeQ5_0, FifthBitsAreInElementOrder) {
  BlockQ5_0 b = {.d = kOne, .qh = {}, .qs = {}};
  b.qh[0] = 0x02;  // element 1
  b.qh[3] = 0x80;  // element 31
  b.qs[1] = 0x03;
  b.qs[15] = 0xf0;
  const auto y = values(DType::kQ5_0, b);
  EXPECT_EQ(y[0], -16);
  EXPECT_EQ(y[1], 3);
  EXPECT_EQ(y[31], 15);
  EXPECT_EQ(y[17], -16);
}

TEST(DequantizeQ5_1, FifthBitsAndMinimum) {
  BlockQ5_1 b = {.d = kTwo, .m = 0xbc00, .qh = {}, .qs = {}};  // m = -1
  b.qh[2] = 0x01;                                              // element 16
  b.qs[0] = 0x21;
  const auto y = values(DType::kQ5_1, b);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[16], 35);
  EXPECT_EQ(y[5], -1);
}

TEST(DequantizeQ8_0, SignedBytes) {
  BlockQ8_0 b = {.d = kHalf, .qs = {}};
  b.qs[0] = -128;
  b.qs[31] = 127;
  const auto y = values(DType::kQ8_0, b);
  EXPECT_EQ(y[0], -64);
  EXPECT_EQ(y[31], 63.5f);
}

TEST(DequantizeIQ4_NL, IndexesTheListOfValues) {
  BlockIQ4_NL b = {.d = kTwo, .qs = {}};
  b.qs[2] = 0xf8;
  const auto y = values(DType::kIQ4_NL, b);
  EXPECT_EQ(y[2], 2);
  EXPECT_EQ(y[18], 226);
  EXPECT_EQ(y[0], -254);
}

TEST(DequantizeMXFP4, FloatsOfFourBitsTimesAPowerOfTwo) {
  BlockMXFP4 b = {.e = 127, .qs = {}};  // 2^0
  b.qs[0] = 0x71;
  b.qs[1] = 0xf9;
  auto y = values(DType::kMXFP4, b);
  EXPECT_EQ(y[0], 0.5f);
  EXPECT_EQ(y[16], 6);
  EXPECT_EQ(y[1], -0.5f);
  EXPECT_EQ(y[17], -6);
  b.e = 0;
  EXPECT_EQ(values(DType::kMXFP4, b)[16], std::ldexp(12.0f, -128));
  b.e = 254;
  EXPECT_EQ(values(DType::kMXFP4, b)[16], std::numeric_limits<float>::infinity());
}

TEST(DequantizeQ2_K, SixteenScalesAndMinima) {
  BlockQ2_K b = {.scales = {}, .qs = {}, .d = kTwo, .dmin = kHalf};
  b.scales[0] = 0x21;             // elements 0 to 15: scale 1, minimum 2
  b.scales[11] = 0x0f;            // 176 to 191
  b.qs[1] = 0x03;                 // element 1
  b.qs[32 + 16 + 2] = 0x02 << 2;  // 128 + 32 + 18 = 178
  b.qs[0] = 0x01 << 6;            // 96
  b.scales[6] = 0x10;
  const auto y = values(DType::kQ2_K, b);
  EXPECT_EQ(y[0], -1);
  EXPECT_EQ(y[1], 5);
  EXPECT_EQ(y[178], 60);
  EXPECT_EQ(y[96], -0.5f);
  EXPECT_EQ(y[97], -0.5f);
}

TEST(DequantizeQ3_K, ScalesAroundThirtyTwoAndAThirdBit) {
  BlockQ3_K b = {.hmask = {}, .qs = {}, .scales = {}, .d = kOne};
  auto y = values(DType::kQ3_K, b);
  EXPECT_EQ(y[0], 128);          // (0 - 32) * (0 - 4)
  b.scales[0] = 0x31;            // scale 0: 1; scale 8: 3
  b.scales[8] = 0x2 | 0x1 << 4;  // high bits: scale 0: 2, scale 8: 1
  b.hmask[5] = 0x01 | 0x10;      // elements 5 and 128 + 5
  b.qs[5] = 0x03;
  b.qs[32 + 5] = 0x02;
  y = values(DType::kQ3_K, b);
  EXPECT_EQ(y[5], 1 * 3);
  EXPECT_EQ(y[133], (19 - 32) * 2);
  EXPECT_EQ(y[134], (19 - 32) * -4);
}

TEST(DequantizeQ4_K, SixBitScalesAndMinima) {
  BlockQ4_K b = {.d = kTwo, .dmin = kOne, .scales = {}, .qs = {}};
  b.scales[0] = 5 | 3 << 6;      // scale 0: 5; two high bits of scale 4
  b.scales[4] = 7 | 1 << 6;      // minimum 0: 7; high bits of minimum 4
  b.scales[8] = 0x9 | 0x4 << 4;  // low halves of scale 4 and minimum 4
  b.qs[2] = 0x0f;                // element 2
  b.qs[64 + 3] = 0x0c;           // 128 + 3, of sub-block 4
  b.qs[96 + 31] = 0xf0;          // 255, of sub-block 7 with scale 0
  const auto y = values(DType::kQ4_K, b);
  EXPECT_EQ(y[2], 2 * 5 * 15 - 7);
  EXPECT_EQ(y[3], -7);
  EXPECT_EQ(y[131], 2 * (48 + 9) * 12 - (16 + 4));
  EXPECT_EQ(y[255], 0);
}

TEST(DequantizeQ5_K, FifthBitsBySubBlock) {
  BlockQ5_K b = {.d = kOne, .dmin = kOne, .scales = {}, .qh = {}, .qs = {}};
  b.scales[1] = 2;
  b.scales[5] = 3;
  b.qh[4] = 0x02;  // element 36
  b.qs[4] = 0x51;  // elements 4 and 36
  const auto y = values(DType::kQ5_K, b);
  EXPECT_EQ(y[36], 2 * 21 - 3);
  EXPECT_EQ(y[4], 0);
}

TEST(DequantizeQ6_K, QuartersShareBytes) {
  BlockQ6_K b = {.ql = {}, .qh = {}, .scales = {}, .d = kHalf};
  for (int i = 0; i < 16; ++i) b.scales[i] = static_cast<int8_t>(i - 8);
  b.ql[64 + 32 + 20] = 0xf3;  // 128 + 32 + 20 = 180 low, 128 + 96 + 20 = 244 high
  b.qh[32 + 20] = static_cast<uint8_t>(3 << 2 | 1 << 6);
  const auto y = values(DType::kQ6_K, b);
  EXPECT_EQ(y[180], 0.5f * 3 * (3 + 48 - 32));
  EXPECT_EQ(y[244], 0.5f * 7 * (15 + 16 - 32));
  EXPECT_EQ(y[0], 0.5f * -8 * -32);
}

TEST(DequantizeIQ4_XS, ScalesInTwoPieces) {
  BlockIQ4_XS b = {.d = kOne, .scales_h = 0, .scales_l = {}, .qs = {}};
  b.scales_l[1] = 0x70;  // low half of scale 3
  b.scales_h = 3 << 6;   // its high bits
  b.qs[3 * 16 + 1] = 0x8f;
  const auto y = values(DType::kIQ4_XS, b);
  EXPECT_EQ(y[96 + 1], (55 - 32) * 113);
  EXPECT_EQ(y[96 + 17], 55 - 32);
  EXPECT_EQ(y[0], 32 * 127);
}

TEST(DequantizeIQ2_XXS, EntrySignsAndScale) {
  BlockIQ2_XXS b = {.d = kOne, .qs = {}};
  b.qs[4] = 0x0100;  // sub-block 1: groups 0 and 1
  b.qs[6] = 1 << 7;  // group 1: first sign, and with it the eighth
  b.qs[7] = 0x3000;  // scale 3
  const auto y = values(DType::kIQ2_XXS, b);
  const float scale = 3.5f * 0.25f;
  EXPECT_EQ(y[32 + 0], scale * 8);
  EXPECT_EQ(y[32 + 8], -scale * 43);  // entry 1 is 43 8 8 8 8 8 8 8
  EXPECT_EQ(y[32 + 9], scale * 8);
  EXPECT_EQ(y[32 + 15], -scale * 8);
  EXPECT_EQ(y[0], 0.125f * 8);
}

TEST(DequantizeIQ2_XS, NineBitsOfIndexSevenOfSigns) {
  BlockIQ2_XS b = {.d = kOne, .qs = {}, .scales = {}};
  b.qs[6] = 511 | 3 << 9;  // group 6: the last entry, two signs
  b.scales[1] = 0x40;      // second half of sub-block 1: 4
  const auto y = values(DType::kIQ2_XS, b);
  for (int j = 0; j < 8; ++j) {
    const float level = kIQ2Levels[kIQ2_XSGrid[511] >> (2 * j) & 3];
    EXPECT_EQ(y[static_cast<size_t>(48 + j)], (j < 2 ? -1.0f : 1.0f) * 4.5f * 0.25f * level) << j;
  }
}

TEST(DequantizeIQ2_S, TenBitsOfIndexAllSigns) {
  BlockIQ2_S b = {.d = kOne, .qs = {}, .signs = {}, .qh = {}, .scales = {}};
  b.qs[31] = 0xff;
  b.qh[7] = 3 << 6;
  b.signs[31] = 0x80;
  b.scales[7] = 0x10;
  const auto y = values(DType::kIQ2_S, b);
  for (int j = 0; j < 8; ++j) {
    const float level = kIQ2Levels[kIQ2_SGrid[1023] >> (2 * j) & 3];
    EXPECT_EQ(y[static_cast<size_t>(248 + j)], (j == 7 ? -1.0f : 1.0f) * 1.5f * 0.25f * level) << j;
  }
}

TEST(DequantizeIQ3_XXS, TwoEntriesToAGroup) {
  BlockIQ3_XXS b = {.d = kOne, .qs = {}, .scales = {}};
  b.qs[1] = 255;
  b.scales[0] = 0x40;  // sign of element 6, and with it element 7's
  b.scales[3] = 0x20;  // scale 2
  const auto y = values(DType::kIQ3_XXS, b);
  EXPECT_EQ(y[0], 2.5f * 0.5f * 4);
  for (int j = 0; j < 4; ++j) {
    const float level = kIQ3_XXSLevels[kIQ3_XXSGrid[255] >> (3 * j) & 7];
    EXPECT_EQ(y[static_cast<size_t>(4 + j)], (j >= 2 ? -1.0f : 1.0f) * 2.5f * 0.5f * level) << j;
  }
}

TEST(DequantizeIQ3_S, NinthBitOfTheIndex) {
  BlockIQ3_S b = {.d = kTwo, .qs = {}, .qh = {}, .signs = {}, .scales = {}};
  b.qs[9] = 0xff;      // elements 36 to 39
  b.qh[1] = 1 << 1;    // its ninth bit
  b.signs[4] = 0x10;   // element 36
  b.scales[0] = 0x20;  // sub-block 1: 2
  const auto y = values(DType::kIQ3_S, b);
  for (int j = 0; j < 4; ++j) {
    const float level = kIQ3_SLevels[kIQ3_SGrid[511] >> (3 * j) & 7];
    EXPECT_EQ(y[static_cast<size_t>(36 + j)], (j == 0 ? -1.0f : 1.0f) * 10 * level) << j;
  }
  EXPECT_EQ(y[0], 2);
}

TEST(DequantizeIQ1_S, ElevenBitsOfIndexAndAShift) {
  BlockIQ1_S b = {.d = kOne, .qs = {}, .qh = {}};
  b.qs[5] = 0xff;  // group 1 of sub-block 1
  b.qh[1] = static_cast<uint16_t>(7 << 3 | 2 << 12 | 1 << 15);
  const auto y = values(DType::kIQ1_S, b);
  for (int j = 0; j < 8; ++j) {
    const float level = kIQ1Levels[kIQ1Grid[2047] >> (2 * j) & 3];
    EXPECT_EQ(y[static_cast<size_t>(40 + j)], 5 * (level - 0.125f)) << j;
  }
  EXPECT_EQ(y[0], -0.875f);  // entry 0 is all -1
}

TEST(DequantizeIQ1_M, ScaleInQuarters) {
  BlockIQ1_M b = {.qs = {}, .qh = {}, .scales = {0x0000, 0x0000, 0xc000, 0x3000}};  // d = 1
  b.scales[0] = static_cast<uint16_t>(3 << 3);  // elements 16 to 31
  b.qs[3] = 0xff;
  b.qh[1] = 0xf0;  // group 3: high bits 7, negative shift
  const auto y = values(DType::kIQ1_M, b);
  for (int j = 0; j < 8; ++j) {
    const float level = kIQ1Levels[kIQ1Grid[2047] >> (2 * j) & 3];
    EXPECT_EQ(y[static_cast<size_t>(24 + j)], 7 * (level - 0.125f)) << j;
  }
  EXPECT_EQ(y[16], 7 * -0.875f);
  EXPECT_EQ(y[0], -0.875f);
}

TEST(DequantizeTQ1_0, FiveDigitsToAByte) {
  BlockTQ1_0 b = {.qs = {}, .qh = {}, .d = kTwo};
  // Digits 2 0 1 2 0 as a number of base 3, stored as its fraction of 243, rounded up.
  const int number = ((((2 * 3 + 0) * 3 + 1) * 3 + 2) * 3) + 0;
  b.qs[1] = static_cast<uint8_t>((number * 256 + 242) / 243);
  b.qs[33] = b.qs[1];
  b.qh[2] = b.qs[1];
  const auto y = values(DType::kTQ1_0, b);
  const float digits[5] = {2, -2, 0, 2, -2};
  for (size_t n = 0; n < 5; ++n) {
    EXPECT_EQ(y[32 * n + 1], digits[n]) << n;
    EXPECT_EQ(y[160 + 16 * n + 1], digits[n]) << n;
  }
  for (size_t n = 0; n < 4; ++n) EXPECT_EQ(y[240 + 4 * n + 2], digits[n]) << n;
  EXPECT_EQ(y[0], -2);
}

TEST(DequantizeTQ2_0, TwoBitsLessOne) {
  BlockTQ2_0 b = {.qs = {}, .d = kTwo};
  b.qs[33] = 2 << 4;  // 128 + 64 + 1
  const auto y = values(DType::kTQ2_0, b);
  EXPECT_EQ(y[193], 2);
  EXPECT_EQ(y[0], -2);
}

TEST(DequantizePlain, WhateverTheAlignment) {
  char bytes[9] = {0};
  const float f = -1.25f;
  std::memcpy(bytes + 1, &f, 4);
  float out[2];
  ASSERT_TRUE(dequantize(DType::kF32, bytes + 1, 1, out).ok());
  EXPECT_EQ(out[0], f);
  const uint16_t h[2] = {kTwo, kInfinity};
  std::memcpy(bytes + 1, h, 4);
  ASSERT_TRUE(dequantize(DType::kF16, bytes + 1, 2, out).ok());
  EXPECT_EQ(out[0], 2);
  EXPECT_EQ(out[1], std::numeric_limits<float>::infinity());
  const uint16_t b = 0xc040;
  std::memcpy(bytes + 1, &b, 2);
  ASSERT_TRUE(dequantize(DType::kBF16, bytes + 1, 1, out).ok());
  EXPECT_EQ(out[0], -3);
  bytes[1] = 0x38;
  ASSERT_TRUE(dequantize(DType::kF8_E4M3, bytes + 1, 1, out).ok());
  EXPECT_EQ(out[0], 1);
}

TEST(Dequantize, ScalesThatAreNoNumbersAreJustComputed) {
  BlockQ4_0 b = {.d = kInfinity, .qs = {}};
  b.qs[0] = 0x98;
  auto y = values(DType::kQ4_0, b);
  EXPECT_TRUE(std::isnan(y[0]));  // infinity times zero
  EXPECT_EQ(y[16], std::numeric_limits<float>::infinity());
  b.d = kNaN;
  for (const float v : values(DType::kQ4_0, b)) EXPECT_TRUE(std::isnan(v));
}

TEST(Dequantize, OtherTypesAndRaggedBlocksAreErrors) {
  float out[32];
  const char bytes[64] = {0};
  EXPECT_EQ(dequantize(DType::kI32, bytes, 1, out).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(find_dequantize(DType::kI32), nullptr);
  const Status ragged = dequantize(DType::kQ8_0, bytes, 31, out);
  EXPECT_EQ(ragged.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ragged.message().find("31 elements of type q8_0"), std::string::npos) << ragged;
  EXPECT_FALSE(dequantize(DType::kQ8_0, bytes, -32, out).ok());
  EXPECT_TRUE(dequantize(DType::kQ8_0, bytes, 0, out).ok());
}

// Any bytes at any address: nothing is read or written out of bounds (the sanitizers look), every
// value is written, and the result depends on nothing else.
TEST(Dequantize, AnyBytesAtAnyAddress) {
  std::mt19937 random(7);
  for (int t = 0; t <= static_cast<int>(DType::kMXFP4); ++t) {
    const auto type = static_cast<DType>(t);
    if (type == DType::kI32) continue;
    const int64_t elements = 4 * dtype_info(type).block;
    const auto bytes = static_cast<size_t>(dtype_bytes(type, elements));
    for (int round = 0; round < 50; ++round) {
      std::vector<char> data(bytes);
      for (char& c : data) c = static_cast<char>(round == 0 ? 0xff : random());
      std::vector<char> shifted(bytes + 1);
      std::memcpy(shifted.data() + 1, data.data(), bytes);
      std::vector<float> a(static_cast<size_t>(elements), 12345.678f);
      std::vector<float> b(static_cast<size_t>(elements), -2.5e-30f);
      ASSERT_TRUE(dequantize(type, data.data(), elements, a.data()).ok());
      ASSERT_TRUE(dequantize(type, shifted.data() + 1, elements, b.data()).ok());
      ASSERT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float))) << dtype_name(type);
    }
  }
}

TEST(DequantizeF8, ScalesBy128x128TilesWithCutEdges) {
  const int64_t rows = 130, cols = 257;  // 2 x 3 tiles
  std::vector<uint8_t> one(static_cast<size_t>(rows * cols), 0x38);
  std::string scales(1, 'x');  // the floats begin at an odd address
  for (const float s : {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}) {
    scales.append(reinterpret_cast<const char*>(&s), sizeof(s));
  }
  std::vector<float> out(one.size());
  dequantize_f8_rows({one.data(), scales.data() + 1, rows, cols}, 0, rows, out.data());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t tile = r / 128 * 3 + c / 128;
      ASSERT_EQ(out[static_cast<size_t>(r * cols + c)], static_cast<float>(1 + tile));
    }
  }
}

TEST(IqGrids, SignsAreEvenInNumber) {
  EXPECT_EQ(iq_signs(0), 0u);
  EXPECT_EQ(iq_signs(1), 0x81u);
  EXPECT_EQ(iq_signs(3), 3u);
  EXPECT_EQ(iq_signs(127), 0xffu);
}

TEST(IqGrids, EntriesUseTheLevelsThatExistAndDiffer) {
  const auto check = [](const uint16_t* grid, size_t count, int bits, int width, int levels) {
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(grid[i] >> (bits * width), 0);
      for (int j = 0; j < width; ++j) {
        EXPECT_LT(grid[i] >> (bits * j) & ((1 << bits) - 1), levels);
      }
      for (size_t k = 0; k < i; ++k) ASSERT_NE(grid[i], grid[k]);
    }
  };
  check(kIQ1Grid, std::size(kIQ1Grid), 2, 8, 3);
  check(kIQ2_XXSGrid, std::size(kIQ2_XXSGrid), 2, 8, 3);
  check(kIQ2_XSGrid, std::size(kIQ2_XSGrid), 2, 8, 3);
  check(kIQ2_SGrid, std::size(kIQ2_SGrid), 2, 8, 3);
  check(kIQ3_XXSGrid, std::size(kIQ3_XXSGrid), 3, 4, 8);
  check(kIQ3_SGrid, std::size(kIQ3_SGrid), 3, 4, 8);
}

}  // namespace
}  // namespace ponder
