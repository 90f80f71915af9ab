#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "backends/cuda/cuda.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/runtime.h"
#include "gtest/gtest.h"

namespace ponder::cuda {
namespace {

// That this links says that nvcc's host code wants no function that kernels.cc lacks.
TEST(CudaKernels, AreListedWithTheirNamesAndCode) {
  ASSERT_FALSE(kernels_overflow());
  const auto all = kernels();
  const auto images = kernel_images();
  EXPECT_GE(images.size(), 4u);  // a .cu file each
  EXPECT_GE(all.size(), 60u);
  std::set<std::string> names;
  for (size_t i = 0; i < all.size(); ++i) {
    names.insert(all[i].name);
    EXPECT_NE(std::find(images.begin(), images.end(), all[i].image), images.end()) << all[i].name;
    if (i > 0) {
      EXPECT_TRUE(std::less<const void*>()(all[i - 1].call, all[i].call));
    }
  }
  EXPECT_EQ(names.size(), all.size());
  const auto has = [&](const char* part) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& n) { return n.find(part) != std::string::npos; });
  };
  EXPECT_TRUE(has("rms_norm"));
  EXPECT_TRUE(has("swiglu"));
  EXPECT_FALSE(has("no_such_kernel"));
}

TEST(CudaDriver, ItsAbsenceIsToldWithARemedy) {
  if (device_count() > 0) GTEST_SKIP() << "there is a device";
  const Status status = Device::open(0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_NE(status.message().find("driver"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("run on the CPU"), absl::string_view::npos) << status;
  EXPECT_TRUE(cuda_factory()->devices({}).empty());
}

TEST(CudaDriver, OpensTheFirstDevice) {
  if (device_count() == 0) GTEST_SKIP() << "no CUDA device";
  const auto device = Device::open(0);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_GT((*device)->memory_free(), 0u);
}

}  // namespace
}  // namespace ponder::cuda
