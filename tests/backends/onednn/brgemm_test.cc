#include "backends/onednn/brgemm.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "backends/onednn/kernels.h"
#include "backends/onednn/onednn.h"
#include "gtest/gtest.h"
#include "lib/tensor/half.h"

namespace ponder::cpu {
namespace {

class BrgemmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (detect_isa() < Isa::kAvx512Bf16) GTEST_SKIP() << "this processor has no AVX512_BF16";
    brgemm_ = Brgemm::create(Isa::kAvx512Bf16, LogSink{});
    if (brgemm_ == nullptr)
      GTEST_SKIP() << "built without oneDNN, or it may not generate code here";
  }
  std::unique_ptr<Brgemm> brgemm_;
};

std::vector<uint16_t> random_bf16(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(n);
  for (uint16_t& v : values) v = f32_to_bf16(normal(generator));
  return values;
}

TEST_F(BrgemmTest, GivesTheSameBitsAsOurOwnKernel) {
  for (int64_t k : {2, 16, 30, 64, 130, 1536, 1792, 2048}) {
    for (const bool accumulate : {false, true}) {
      const int64_t lda = k + 34, ldc = 100;
      const auto a = random_bf16(static_cast<size_t>(Brgemm::kRows * lda), 1);
      const auto b = random_bf16(static_cast<size_t>(k * kPanel), 2);
      std::vector<float> wanted(static_cast<size_t>(Brgemm::kRows * ldc), 0.3f);
      std::vector<float> got = wanted;
      GemmArgs g{};
      g.a = a.data();
      g.lda = lda;
      g.b = b.data();
      g.m = Brgemm::kRows;
      g.k = k;
      g.c = wanted.data();
      g.ldc = ldc;
      g.n = kPanel;
      g.accumulate = accumulate;
      kernels_avx512bf16()->gemm_bf16(g);

      const Brgemm::Kernel* kernel = brgemm_->find({k, lda, ldc, accumulate});
      ASSERT_NE(kernel, nullptr) << k;
      EXPECT_EQ(kernel, brgemm_->find({k, lda, ldc, accumulate})) << "made twice";
      ASSERT_TRUE(Brgemm::run(kernel, a.data(), b.data(), got.data()));
      ASSERT_EQ(std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)), 0)
          << "K " << k << (accumulate ? ", adding" : "");
    }
  }
}

TEST_F(BrgemmTest, EndlessShapesDoNotEndlesslyTakeMemory) {
  int made = 0;
  for (int64_t ldc = 64; ldc < 64 + 1000; ++ldc)
    made += brgemm_->find({32, 32, ldc, false}) != nullptr;
  EXPECT_GT(made, 100);
  EXPECT_LT(made, 1000);
}

TEST(Brgemm, IsNotAskedForBelowItsInstructionSet) {
  EXPECT_EQ(Brgemm::create(Isa::kAvx512, LogSink{}), nullptr);
  EXPECT_EQ(Brgemm::create(Isa::kPortable, LogSink{}), nullptr);
  EXPECT_EQ(Brgemm::create(Isa::kAmx, LogSink{}), nullptr) << "its sums have another order";
}

TEST(OnednnBackend, SaysWhatItRunsOn) {
  auto pool = make_thread_pool(2);
  ASSERT_TRUE(pool.ok());
  BackendContext context;
  context.allocator = default_allocator();
  context.pool = pool->get();
  const auto devices = onednn_factory()->devices(context);
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0].backend, "onednn");
  EXPECT_EQ(devices[0].kind, DeviceInfo::Kind::kCpu);
  EXPECT_NE(devices[0].name.find("2 threads"), std::string::npos) << devices[0].name;
  EXPECT_NE(devices[0].name.find(isa_name(detect_isa())), std::string::npos) << devices[0].name;
  EXPECT_GT(devices[0].memory_total, devices[0].memory_free);
  EXPECT_GT(devices[0].memory_free, 0u);
  const auto backend = onednn_factory()->create(0, context);
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->info().name, devices[0].name);
  EXPECT_FALSE(onednn_factory()->create(1, context).ok());
}

}  // namespace
}  // namespace ponder::cpu
