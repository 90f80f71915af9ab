// The reference backend against numbers worked out by hand: it is the oracle of all other backends,
// so nothing else can check it.
#include "backends/ref/ref.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "lib/tensor/half.h"

namespace ponder {
namespace {

class RefTest : public ::testing::Test {
 protected:
  RefTest() {
    pool_ = std::move(make_thread_pool(2)).value();
    BackendContext context;
    context.allocator = default_allocator();
    context.pool = pool_.get();
    backend_ = make_ref_backend(context);
  }

  static Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
    return Tensor::make(data.data(), DType::kF32, dims);
  }
  static WeightData weight(const void* data, DType dtype, int64_t rows, int64_t cols) {
    WeightData w;
    w.name = "w";
    w.dtype = dtype;
    w.shape = {rows, cols};
    w.data = data;
    return w;
  }

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(RefTest, LinearMultipliesByTheTransposeAndAddsTheBias) {
  const float rows[] = {1, 2, 3, -1, 0, 0.5f};  // [2, 3]
  const uint16_t third[] = {f32_to_bf16(10), f32_to_bf16(0), f32_to_bf16(-1)};
  const WeightData parts[] = {weight(rows, DType::kF32, 2, 3), weight(third, DType::kBF16, 1, 3)};
  const auto packed = std::move(backend_->pack_linear(parts, {})).value();
  EXPECT_EQ(packed->rows, 3);
  EXPECT_EQ(packed->cols, 3);
  std::vector<float> x = {1, 1, 1, 2, -1, 4}, bias = {0, 100, 0}, out(6);
  LinearParams p{};
  p.x = view(x, {2, 3});
  p.w = packed.get();
  p.bias = view(bias, {3});
  p.out = view(out, {2, 3});
  ASSERT_TRUE(backend_->linear(p).ok());
  EXPECT_EQ(out, (std::vector<float>{6, 99.5f, 9, 12, 100, 16}));
}

TEST_F(RefTest, EmbedTakesRowsOfTheTable) {
  const uint16_t table[] = {f32_to_f16(1), f32_to_f16(2), f32_to_f16(3), f32_to_f16(-4)};
  const auto packed = std::move(backend_->pack_table(weight(table, DType::kF16, 2, 2))).value();
  const std::vector<int32_t> tokens = {1, 0, 1};
  std::vector<float> out(6);
  ASSERT_TRUE(backend_->embed({packed.get(), tokens, view(out, {3, 2})}).ok());
  EXPECT_EQ(out, (std::vector<float>{3, -4, 1, 2, 3, -4}));
}

TEST_F(RefTest, RmsNormDividesByTheRootOfTheMeanSquare) {
  std::vector<float> x = {3, 4, 0, 0}, w = {1, 1, 2, 2}, out(4);
  ASSERT_TRUE(backend_->rms_norm({view(x, {1, 4}), view(w, {4}), 0.0f, view(out, {1, 4})}).ok());
  EXPECT_FLOAT_EQ(out[0], 3 / 2.5f);  // mean square 25/4
  EXPECT_FLOAT_EQ(out[1], 4 / 2.5f);
  EXPECT_EQ(out[2], 0);
}

TEST_F(RefTest, RmsNormAddsEpsilonUnderTheRoot) {
  std::vector<float> x = {0, 0}, w = {1, 1}, out(2);
  ASSERT_TRUE(backend_->rms_norm({view(x, {1, 2}), view(w, {2}), 1e-6f, view(out, {1, 2})}).ok());
  EXPECT_EQ(out[0], 0);
  x = {1, 1};
  ASSERT_TRUE(backend_->rms_norm({view(x, {1, 2}), view(w, {2}), 3.0f, view(out, {1, 2})}).ok());
  EXPECT_FLOAT_EQ(out[0], 0.5f);
}

TEST_F(RefTest, SwigluGatesTheSecondHalf) {
  std::vector<float> x = {0, std::log(3.0f), 5, 2}, out(2);  // gates, then ups
  ASSERT_TRUE(backend_->swiglu({view(x, {1, 4}), view(out, {1, 2})}).ok());
  EXPECT_EQ(out[0], 0);
  EXPECT_FLOAT_EQ(out[1], std::log(3.0f) * 0.75f * 2);  // sigmoid(ln 3) = 3/4
}

TEST_F(RefTest, RopeTurnsHalvesOrNeighbours) {
  const float quarter = std::acos(0.0f);  // a quarter turn per position
  const std::vector<float> frequencies = {quarter, 0};
  const std::vector<int32_t> positions = {1};
  std::vector<float> table(4);
  ASSERT_TRUE(backend_->rope_table({frequencies, 1.0f, positions, view(table, {1, 4})}).ok());
  std::vector<float> halves = {1, 2, 3, 4};  // pairs (1, 3) and (2, 4)
  ASSERT_TRUE(backend_->rope({view(halves, {1, 1, 4}), view(table, {1, 4}), false}).ok());
  EXPECT_NEAR(halves[0], -3, 1e-6);
  EXPECT_EQ(halves[1], 2);
  EXPECT_NEAR(halves[2], 1, 1e-6);
  EXPECT_EQ(halves[3], 4);
  std::vector<float> neighbours = {1, 2, 3, 4};  // pairs (1, 2) and (3, 4)
  ASSERT_TRUE(backend_->rope({view(neighbours, {1, 1, 4}), view(table, {1, 4}), true}).ok());
  EXPECT_NEAR(neighbours[0], -2, 1e-6);
  EXPECT_NEAR(neighbours[1], 1, 1e-6);
  EXPECT_EQ(neighbours[2], 3);
  EXPECT_EQ(neighbours[3], 4);
}

TEST_F(RefTest, AttentionWeighsValuesBySoftmaxOfScores) {
  // One key/value head for two query heads, two tokens, keys and values of different widths.
  KvLayer cache;
  cache.shape = {1, 1, 2, 1};
  cache.layout = std::move(backend_->kv_layout(cache.shape, DType::kF32)).value();
  std::vector<std::byte> memory(2 * cache.layout.page_bytes);
  cache.base = memory.data();
  const std::vector<int32_t> pages = {1};
  SequenceSlice slice;
  slice.rows = 2;
  slice.pages = pages;
  Batch batch;
  batch.sequences = {&slice, 1};
  std::vector<float> k = {1, 0, 0, 1}, v = {10, 20};
  ASSERT_TRUE(backend_->kv_write({cache, view(k, {2, 1, 2}), view(v, {2, 1, 1}), &batch}).ok());
  const float ln3 = std::log(3.0f);
  std::vector<float> q = {
      7,       7, -7, 7,         // token 0 sees itself only, whatever it asks
      2 * ln3, 0, 0,  2 * ln3};  // token 1: 3 to 1 for the first, then the second
  std::vector<float> out(4);
  AttentionParams p{};
  p.q = view(q, {2, 2, 2});
  p.cache = cache;
  p.batch = &batch;
  p.scale = 0.5f;
  p.out = view(out, {2, 2});
  ASSERT_TRUE(backend_->attention(p).ok());
  EXPECT_FLOAT_EQ(out[0], 10);
  EXPECT_FLOAT_EQ(out[1], 10);
  EXPECT_FLOAT_EQ(out[2], 12.5f);
  EXPECT_FLOAT_EQ(out[3], 17.5f);
}

TEST_F(RefTest, GatherAndAdd) {
  std::vector<float> x = {1, 2, 3, 4}, y = {10, 20, 30, 40}, out(2);
  const std::vector<int32_t> rows = {1};
  ASSERT_TRUE(backend_->gather_rows({view(x, {2, 2}), rows, view(out, {1, 2})}).ok());
  EXPECT_EQ(out, (std::vector<float>{3, 4}));
  ASSERT_TRUE(backend_->add({view(x, {2, 2}), view(y, {2, 2}), view(y, {2, 2})}).ok());
  EXPECT_EQ(y, (std::vector<float>{11, 22, 33, 44}));
}

TEST_F(RefTest, UploadAndDownloadCopy) {
  const int from = 42;
  int device = 0, to = 0;
  ASSERT_TRUE(backend_->upload(&from, &device, sizeof(from)).ok());
  ASSERT_TRUE(backend_->download(&device, &to, sizeof(to)).ok());
  EXPECT_EQ(to, 42);
}

}  // namespace
}  // namespace ponder
