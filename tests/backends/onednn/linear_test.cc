// Linear where whole ops (tests/conformance) do not reach: many products in one loop, and memory.
#include "backends/onednn/linear.h"

#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/onednn/dispatch.h"
#include "gtest/gtest.h"
#include "lib/base/log.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder::cpu {
namespace {

class CountingAllocator final : public Allocator {
 public:
  void* allocate(size_t size, size_t align) override {
    ++calls;
    held += size;
    return default_allocator()->allocate(size, align);
  }
  void free(void* ptr, size_t size, size_t align) override {
    held -= size;
    default_allocator()->free(ptr, size, align);
  }

  std::atomic<uint64_t> calls{0}, held{0};
};

class LinearTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pool = make_thread_pool(4);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    linear_ =
        std::make_unique<Linear>(kernels_for(detect_isa()), quant_kernels_for(detect_isa()),
                                 Brgemm::create(detect_isa(), LogSink{}), &allocator_, pool_.get());
  }

  WeightData blocks(DType dtype, int64_t rows, int64_t cols) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(random_blocks(dtype, rows * cols));
    WeightData w;
    w.name = "w";
    w.dtype = dtype;
    w.shape = {rows, cols};
    w.data = bytes->data();
    w.owner = bytes;
    return w;
  }
  WeightData floats(int64_t rows, int64_t cols) {
    auto values = std::make_shared<std::vector<float>>(random(rows * cols));
    WeightData w;
    w.name = "w";
    w.dtype = DType::kF32;
    w.shape = {rows, cols};
    w.data = values->data();
    w.owner = values;
    return w;
  }
  static std::vector<float> random(int64_t n) {
    std::mt19937 generator(static_cast<uint32_t>(n));
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = uniform(generator);
    return values;
  }
  std::unique_ptr<PackedMatrix> pack(std::span<const WeightData> parts) {
    auto packed = linear_->pack(parts, {});
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }

  CountingAllocator allocator_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Linear> linear_;
};

TEST_F(LinearTest, ManyProductsGiveWhatEachGivesAlone) {
  // Deep enough for threads to share panels.
  constexpr int64_t kK = 8192;
  const WeightData parts_a[] = {blocks(DType::kQ4_K, 70, kK), blocks(DType::kQ6_K, 64, kK)};
  const WeightData parts_b[] = {blocks(DType::kQ8_0, 130, kK)};
  const WeightData parts_c[] = {floats(67, 512)};
  const std::unique_ptr<PackedMatrix> w[] = {pack(parts_a), pack(parts_b), pack(parts_c)};

  const std::vector<float> x = random(9 * kK), y = random(4 * 512);
  const int32_t from[] = {8, 0, 3, 3, 1};
  LinearInput inputs[3];
  inputs[0] = {x.data(), kK, 5, kK, from};
  inputs[1] = {x.data(), kK, 9, kK, nullptr};
  inputs[2] = {y.data(), 512, 4, 512, nullptr};
  struct Case {
    int32_t input, w;
    int64_t first, rows;
  };
  const Case cases[] = {{0, 0, 0, 5}, {0, 1, 2, 3}, {1, 0, 8, 1}, {1, 1, 3, 0}, {2, 2, 0, 4}};
  std::vector<std::vector<float>> outs, alone;
  std::vector<LinearProduct> products;
  for (const Case& c : cases) {
    outs.emplace_back(static_cast<size_t>(c.rows * w[c.w]->rows + 1), -7.0f);
  }
  alone = outs;
  for (size_t i = 0; i < std::size(cases); ++i) {
    const Case& c = cases[i];
    products.push_back({w[c.w].get(), c.input, c.first, c.rows, outs[i].data(), w[c.w]->rows, {}});
  }
  ASSERT_TRUE(linear_->multiply(inputs, products).ok());

  for (size_t i = 0; i < std::size(cases); ++i) {
    SCOPED_TRACE(i);
    const Case& c = cases[i];
    const int64_t n = w[c.w]->rows;
    for (int64_t r = 0; r < c.rows; ++r) {
      const LinearInput& in = inputs[c.input];
      const int64_t row = in.from != nullptr ? in.from[c.first + r] : c.first + r;
      const LinearInput one = {in.x + row * in.stride, in.stride, 1, in.cols, nullptr};
      LinearProduct product;
      product.w = w[c.w].get();
      product.rows = 1;
      product.out = alone[i].data() + r * n;
      product.out_stride = n;
      ASSERT_TRUE(linear_->multiply({&one, 1}, {&product, 1}).ok());
    }
    EXPECT_EQ(std::memcmp(outs[i].data(), alone[i].data(), outs[i].size() * sizeof(float)), 0);
    EXPECT_EQ(outs[i].back(), -7.0f) << "written beyond the last row";
  }
}

TEST_F(LinearTest, WeightsAreHeldOnceAndTakeWhatTheyTakeInTheFile) {
  for (const DType dtype : kBlockTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData part = blocks(dtype, 192, 512);
    const uint64_t before = allocator_.held;
    const auto packed = pack({&part, 1});
    EXPECT_EQ(packed->bytes, static_cast<uint64_t>(dtype_bytes(dtype, 192 * 512)));
    EXPECT_EQ(allocator_.held - before, packed->bytes);
    const auto told = linear_->packed_bytes({&part, 1}, {});
    ASSERT_TRUE(told.ok());
    EXPECT_EQ(*told, packed->bytes);
  }
}

TEST_F(LinearTest, AWarmStepAllocatesNothing) {
  constexpr int64_t kK = 4096;
  std::vector<std::unique_ptr<PackedMatrix>> weights;
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_K, DType::kQ6_K}) {
    const WeightData part = blocks(dtype, 600, kK);
    weights.push_back(pack({&part, 1}));
  }
  const std::vector<float> x = random(600 * kK);
  std::vector<float> out(600 * 600);
  const auto step = [&](int64_t rows) {
    for (const auto& w : weights) {
      const LinearInput input = {x.data(), kK, rows, kK, nullptr};
      LinearProduct product;
      product.w = w.get();
      product.rows = rows;
      product.out = out.data();
      product.out_stride = 600;
      ASSERT_TRUE(linear_->multiply({&input, 1}, {&product, 1}).ok());
    }
  };
  step(600);
  step(16);  // the most rows whose panels are shared along K
  const uint64_t before = allocator_.calls;
  for (const int64_t rows : {1, 600, 7, 130, 16, 1}) step(rows);
  EXPECT_EQ(allocator_.calls, before);
}

}  // namespace
}  // namespace ponder::cpu
