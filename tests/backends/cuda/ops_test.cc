// The CUDA backend's ops, host code and kernels, on the emulated device against the reference
// backend; rows alone against rows in a batch, bit for bit; and what failures are told as.

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "tests/backends/cuda/support.h"

namespace ponder {
namespace {

using cuda::emulation::faults;
using ::testing::HasSubstr;

class CudaOps : public EmulatedCuda {};

TEST_F(CudaOps, TablesGiveTheStoredValues) {
  for (const DType dtype : all_types()) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData w = weight_of(dtype, 130, 512);
    auto table = cuda_->pack_table(w);
    auto ref_table = ref_->pack_table(w);
    ASSERT_TRUE(table.ok()) << table.status();
    const std::vector<int32_t> tokens = {129, 0, 7, 7, 128};
    std::vector<float> got(5 * 512, NAN), wanted(5 * 512);
    ASSERT_TRUE(cuda_->embed({table->get(), tokens, view(got, {5, 512})}).ok());
    ASSERT_TRUE(ref_->embed({ref_table->get(), tokens, view(wanted, {5, 512})}).ok());
    EXPECT_TRUE(same_bits(got, wanted));
  }
}

TEST_F(CudaOps, Norms) {
  for (const int64_t width : {1, 31, 64, 1537}) {
    auto x = random_floats(static_cast<size_t>(7 * width), 1, 30.0f);
    auto weight = random_floats(static_cast<size_t>(width), 2);
    std::vector<float> got(x.size()), wanted(x.size());
    const RmsNormParams p{view(x, {7, width}), view(weight, {width}), 1e-6f, view(got, {7, width})};
    RmsNormParams q = p;
    q.out = view(wanted, {7, width});
    ASSERT_TRUE(cuda_->rms_norm(p).ok());
    ASSERT_TRUE(ref_->rms_norm(q).ok());
    for (size_t i = 0; i < x.size(); ++i) {
      // The sum's rounding is halved by the root.
      ASSERT_NEAR(got[i], wanted[i], (sum_tolerance(width / 32) + 8 * kUlp) * std::abs(wanted[i]));
    }
  }
}

TEST_F(CudaOps, NormsOfHeadsInsideAWiderMatrixInPlace) {
  const auto x = random_floats(5 * 100, 1);
  auto weight = random_floats(24, 2);
  const auto run = [&](Backend* backend) {
    auto data = x;
    Tensor heads = Tensor::make(data.data() + 10, DType::kF32, {5, 3, 24});
    heads.stride[0] = 100;
    EXPECT_TRUE(backend->rms_norm({heads, view(weight, {24}), 1e-5f, heads}).ok());
    return data;
  };
  const auto got = run(cuda_.get()), wanted = run(ref_.get());
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(got[i], wanted[i], 16 * kUlp * std::abs(wanted[i]));
}

TEST_F(CudaOps, Rotations) {
  const std::vector<float> inv_freq = {1.0f, 0.3f, 0.01f, 1e-4f};
  const std::vector<int32_t> positions = {0, 1, 77, 131071};
  for (const bool interleaved : {false, true}) {
    const auto run = [&](Backend* backend) {
      std::vector<float> table(4 * 8, NAN);
      auto x = random_floats(4 * 3 * 10, 5);
      EXPECT_TRUE(backend->rope_table({inv_freq, 1.25f, positions, view(table, {4, 8})}).ok());
      EXPECT_TRUE(backend->rope({view(x, {4, 3, 10}), view(table, {4, 8}), interleaved}).ok());
      x.insert(x.end(), table.begin(), table.end());
      return x;
    };
    const auto got = run(cuda_.get()), wanted = run(ref_.get());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 4 * kUlp * 2);
  }
}

TEST_F(CudaOps, SwigluAddAndGather) {
  auto x = random_floats(6 * 2 * 33, 1, 40.0f);
  x[0] = 200.0f;
  x[1] = -200.0f;
  x[2] = 0.0f;
  std::vector<float> got(6 * 33, NAN), wanted(6 * 33, NAN);
  ASSERT_TRUE(cuda_->swiglu({view(x, {6, 66}), view(got, {6, 33})}).ok());
  ASSERT_TRUE(ref_->swiglu({view(x, {6, 66}), view(wanted, {6, 33})}).ok());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], wanted[i], 16 * kUlp * std::abs(wanted[i]) + 1e-36);
  }
  auto b = random_floats(6 * 33, 2), sum = got;
  ASSERT_TRUE(cuda_->add({view(sum, {6, 33}), view(b, {6, 33}), view(sum, {6, 33})}).ok());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(sum[i], got[i] + b[i]);
  const std::vector<int32_t> rows = {0, 3, 5};
  std::vector<float> few(3 * 33, NAN);
  ASSERT_TRUE(cuda_->gather_rows({view(sum, {6, 33}), rows, view(few, {3, 33})}).ok());
  for (size_t i = 0; i < few.size(); ++i) {
    ASSERT_EQ(few[i], sum[static_cast<size_t>(rows[i / 33]) * 33 + i % 33]);
  }
}

TEST_F(CudaOps, BadValuesAreNamed) {
  WeightData w = weight_of(DType::kF32, 3, 8);
  const float nan = NAN;
  std::memcpy(static_cast<char*>(const_cast<void*>(w.data)) + 4 * 17, &nan, 4);
  const Status status = cuda_->pack_linear({&w, 1}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.some.weight"));
}

TEST_F(CudaOps, WithoutADeviceNoneIsListed) {
  EXPECT_EQ(cuda_factory()->devices(context_).size(), 1u);
  EXPECT_EQ(cuda_factory()->devices(context_)[0].kind, DeviceInfo::Kind::kGpu);
  faults.devices = 0;
  EXPECT_TRUE(cuda_factory()->devices(context_).empty());
  EXPECT_FALSE(cuda_factory()->create(0, context_).ok());
}

TEST_F(CudaOps, MemoryThatRunsOutIsToldAndGivenBack) {
  const int64_t before = cuda::emulation::allocations;
  faults.memory = 1000;
  const WeightData parts[] = {weight_of(DType::kF32, 1, 128), weight_of(DType::kF32, 100, 128)};
  const Status status = cuda_->pack_linear(parts, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("51712 bytes"));
  EXPECT_EQ(cuda::emulation::allocations, before);
  EXPECT_EQ(cuda_->allocator()->allocate(2000, 64), nullptr);
}

TEST_F(CudaOps, ALostDeviceSaysSoFromThenOn) {
  auto x = random_floats(8, 1);
  const AddParams p{view(x, {1, 8}), view(x, {1, 8}), view(x, {1, 8})};
  faults.lose_device = true;
  EXPECT_EQ(cuda_->add(p).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(cuda_->add(p).code(), absl::StatusCode::kDeadlineExceeded);
  const WeightData w = weight_of(DType::kF32, 1, 8);
  EXPECT_EQ(cuda_->pack_linear({&w, 1}, {}).status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace ponder
