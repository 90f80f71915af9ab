// Block-quantised and f8 weights in the reference backend: read as lib/tensor's dequantisers say,
// whatever stands beside them, and refused by name where their scales are no numbers.
#include "backends/ref/weights.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "backends/ref/ref.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/tensor/dequantize.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RefWeightsTest : public ::testing::Test {
 protected:
  RefWeightsTest() {
    pool_ = std::move(make_thread_pool(2)).value();
    BackendContext context;
    context.allocator = default_allocator();
    context.pool = pool_.get();
    backend_ = make_ref_backend(context);
  }

  static WeightData weight(const void* data, DType dtype, int64_t rows, int64_t cols) {
    WeightData w;
    w.name = "w";
    w.dtype = dtype;
    w.shape = {rows, cols};
    w.data = data;
    return w;
  }
  Status pack(const WeightData& w) { return backend_->pack_linear({&w, 1}, {}).status(); }

  // Rows of the packed weight, read as products with unit vectors.
  std::vector<float> rows_of(const PackedWeight& packed) {
    std::vector<float> x(static_cast<size_t>(packed.cols * packed.cols));
    for (int64_t i = 0; i < packed.cols; ++i) x[static_cast<size_t>(i * packed.cols + i)] = 1;
    std::vector<float> out(static_cast<size_t>(packed.cols * packed.rows));
    LinearParams p{};
    p.x = Tensor::make(x.data(), DType::kF32, {packed.cols, packed.cols});
    p.w = &packed;
    p.out = Tensor::make(out.data(), DType::kF32, {packed.cols, packed.rows});
    EXPECT_TRUE(backend_->linear(p).ok());
    std::vector<float> rows(out.size());
    for (int64_t k = 0; k < packed.cols; ++k) {
      for (int64_t n = 0; n < packed.rows; ++n) {
        rows[static_cast<size_t>(n * packed.cols + k)] =
            out[static_cast<size_t>(k * packed.rows + n)];
      }
    }
    return rows;
  }

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(RefWeightsTest, LinearAndTableReadBlocksOfEveryType) {
  constexpr int64_t kRows = 3, kCols = 256;
  for (const DType dtype : kBlockTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const auto blocks = random_blocks(dtype, kRows * kCols);
    std::vector<float> expected(kRows * kCols);
    ASSERT_TRUE(dequantize(dtype, blocks.data(), kRows * kCols, expected.data()).ok());

    const WeightData w = weight(blocks.data(), dtype, kRows, kCols);
    const auto linear = backend_->pack_linear({&w, 1}, {});
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_EQ(rows_of(**linear), expected);

    const auto table = backend_->pack_table(w);
    ASSERT_TRUE(table.ok()) << table.status();
    const std::vector<int32_t> tokens = {2, 0};
    std::vector<float> out(2 * kCols);
    ASSERT_TRUE(
        backend_->embed({table->get(), tokens, Tensor::make(out.data(), DType::kF32, {2, kCols})})
            .ok());
    EXPECT_TRUE(std::equal(out.begin(), out.begin() + kCols, expected.begin() + 2 * kCols));
    EXPECT_TRUE(std::equal(out.begin() + kCols, out.end(), expected.begin()));
  }
}

TEST_F(RefWeightsTest, PartsOfDifferentTypesStackAndMayLieAnywhere) {
  const auto a = random_blocks(DType::kQ4_K, 2 * 256);
  const auto b = random_blocks(DType::kQ6_K, 256);
  std::vector<uint8_t> odd(b.size() + 1);
  std::copy(b.begin(), b.end(), odd.begin() + 1);
  std::vector<float> expected(3 * 256);
  ASSERT_TRUE(dequantize(DType::kQ4_K, a.data(), 2 * 256, expected.data()).ok());
  ASSERT_TRUE(dequantize(DType::kQ6_K, b.data(), 256, expected.data() + 2 * 256).ok());
  const WeightData parts[] = {weight(a.data(), DType::kQ4_K, 2, 256),
                              weight(odd.data() + 1, DType::kQ6_K, 1, 256)};
  const auto packed = backend_->pack_linear(parts, {});
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(rows_of(**packed), expected);
}

TEST_F(RefWeightsTest, RowsThatAreNotWholeBlocksAreRefused) {
  const auto blocks = random_blocks(DType::kQ4_K, 3 * 256);
  const Status status = pack(weight(blocks.data(), DType::kQ4_K, 6, 128));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("its rows of 128 elements are not whole blocks of 256"));
}

TEST_F(RefWeightsTest, IntegersAreNoWeights) {
  const int32_t values[4] = {};
  EXPECT_TRUE(absl::IsUnimplemented(pack(weight(values, DType::kI32, 2, 2))));
}

TEST_F(RefWeightsTest, ScalesThatAreNoNumbersAreNamed) {
  constexpr int64_t kRows = 3, kCols = 512;
  for (const ScaleField& scale : kScales) {
    for (const auto& [bits, what] : {std::pair{0x7e01, "not a number"}, {0xfc00, "infinite"}}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(scale.dtype), " ", scale.name, " ", what));
      auto blocks = random_blocks(scale.dtype, kRows * kCols);
      const DTypeInfo info = dtype_info(scale.dtype);
      const int64_t bad = 2 * (kCols / info.block) + 1;  // row 2, block 1
      const auto d = static_cast<uint16_t>(bits);
      std::memcpy(&blocks[static_cast<size_t>(bad * info.bytes) + scale.offset], &d, sizeof(d));
      const Status status = pack(weight(blocks.data(), scale.dtype, kRows, kCols));
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("tensor \"w\" ", info.name)));
      EXPECT_THAT(status.message(),
                  HasSubstr(absl::StrCat(scale.name, " of block 1 of row 2 is ", what)));
    }
  }
}

TEST_F(RefWeightsTest, TheScaleInFourPartsIsPutTogether) {
  auto blocks = random_blocks(DType::kIQ1_M, 512);
  ASSERT_TRUE(pack(weight(blocks.data(), DType::kIQ1_M, 1, 512)).ok());
  auto* block = reinterpret_cast<BlockIQ1_M*>(blocks.data()) + 1;
  for (int part = 0; part < 4; ++part) {  // 0x7c00 is infinity, lowest quarter first
    const uint16_t quarter = static_cast<uint16_t>(0x7c00 >> (4 * part) & 15);
    block->scales[part] = static_cast<uint16_t>((block->scales[part] & 0xfff) | quarter << 12);
  }
  EXPECT_THAT(pack(weight(blocks.data(), DType::kIQ1_M, 1, 512)).message(),
              HasSubstr("the scale of block 1 of row 0 is infinite"));
}

TEST_F(RefWeightsTest, PowersOfTwoThatOverflowWithTheirValuesAreRefused) {
  BlockMXFP4 blocks[2] = {};
  blocks[1].e = 253;
  for (uint8_t& q : blocks[1].qs) q = 0x55;  // 6 * 2^125 fits, 8 * 2^125 does not
  EXPECT_TRUE(pack(weight(blocks, DType::kMXFP4, 1, 64)).ok());
  blocks[1].qs[15] = 0xe5;  // minus eight
  EXPECT_THAT(pack(weight(blocks, DType::kMXFP4, 1, 64)).message(),
              HasSubstr("the scale of block 1 of row 0 is too large for its values"));
  blocks[1].e = 252;
  EXPECT_TRUE(pack(weight(blocks, DType::kMXFP4, 1, 64)).ok());
}

class RefF8Test : public RefWeightsTest {
 protected:
  static constexpr int64_t kRows = 130, kCols = 300;  // tiles cut off at both edges: 2 x 3

  RefF8Test() : codes_(kRows * kCols), scales_(std::make_shared<float[]>(6)) {
    std::mt19937 random(1);
    for (uint8_t& code : codes_) code = static_cast<uint8_t>(random() % 0x7f);
    for (int i = 0; i < 6; ++i) scales_[i] = 0.5f + static_cast<float>(i);
  }
  WeightData f8() {
    WeightData w = weight(codes_.data(), DType::kF8_E4M3, kRows, kCols);
    w.scales = scales_;
    return w;
  }

  std::vector<uint8_t> codes_;
  std::shared_ptr<float[]> scales_;
};

TEST_F(RefF8Test, ValuesAreMultipliedByTheirTilesScale) {
  std::vector<float> bare(kRows * kCols);
  ASSERT_TRUE(dequantize(DType::kF8_E4M3, codes_.data(), kRows * kCols, bare.data()).ok());
  const WeightData w = f8();
  const auto packed = backend_->pack_linear({&w, 1}, {});
  ASSERT_TRUE(packed.ok()) << packed.status();
  const std::vector<float> rows = rows_of(**packed);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) {
      const size_t i = static_cast<size_t>(r * kCols + c);
      ASSERT_EQ(rows[i], bare[i] * scales_[r / 128 * 3 + c / 128]) << r << ", " << c;
    }
  }
}

TEST_F(RefF8Test, WithoutScalesTheValuesAreBare) {
  std::vector<float> bare(kRows * kCols);
  ASSERT_TRUE(dequantize(DType::kF8_E4M3, codes_.data(), kRows * kCols, bare.data()).ok());
  scales_ = nullptr;
  const WeightData w = f8();
  const auto table = backend_->pack_table(w);
  ASSERT_TRUE(table.ok()) << table.status();
  std::vector<float> out(kCols);
  const int32_t last = kRows - 1;
  ASSERT_TRUE(
      backend_->embed({table->get(), {&last, 1}, Tensor::make(out.data(), DType::kF32, {1, kCols})})
          .ok());
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bare.end() - kCols));
}

TEST_F(RefF8Test, CodesAndScalesThatAreNoNumbersAreNamed) {
  codes_[129 * kCols + 257] = 0xff;
  EXPECT_THAT(pack(f8()).message(),
              HasSubstr("tensor \"w\" f8_e4m3[130, 300]: element [129, 257] is not a number"));
  codes_[129 * kCols + 257] = 0x7e;
  EXPECT_TRUE(pack(f8()).ok());
  const std::pair<float, const char*> cases[] = {
      {std::numeric_limits<float>::quiet_NaN(), "is not a number"},
      {-std::numeric_limits<float>::infinity(), "is infinite"},
      {1e37f, "is too large"}};
  for (const auto& [scale, what] : cases) {
    scales_[5] = scale;  // the corner tile: 2 rows, 44 columns
    const Status status = pack(f8());
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("of block [1, 2]"), HasSubstr(what)));
  }
}

TEST_F(RefF8Test, EveryTilesScaleIsSeenWhateverTheCutIntoRanges) {
  for (int tile = 0; tile < 6; ++tile) {
    scales_ = std::make_shared<float[]>(6);
    scales_[tile] = std::numeric_limits<float>::infinity();
    const WeightData w = f8();
    for (const int64_t chunk : {int64_t{1}, int64_t{77}, kCols, 64 * kCols, kRows * kCols}) {
      int64_t found = -1;
      for (int64_t i = 0; i < kRows * kCols && found < 0; i += chunk) {
        found = ref::find_non_finite(w, i, std::min(kRows * kCols, i + chunk));
      }
      EXPECT_EQ(found, tile / 3 * 128 * kCols + tile % 3 * 128) << tile << " by " << chunk;
    }
  }
}

}  // namespace
}  // namespace ponder
