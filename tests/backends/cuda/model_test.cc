// A whole model on the emulated device: DeepSeek-V3's layers with weights in f8_e4m3.
#include <cmath>

#include "backends/cuda/cuda.h"
#include "tests/backends/cuda/emulated_runtime.h"
#include "tests/golden/rig.h"

namespace ponder {
namespace {

using Logits = std::vector<std::vector<float>>;

// The mean square of a row's distances over that of its own spread, over all rows.
double distance(const Logits& a, const Logits& b) {
  double far = 0, spread = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    double mean = 0;
    for (const float v : b[t]) mean += double{v} / static_cast<double>(b[t].size());
    for (size_t i = 0; i < a[t].size(); ++i) {
      far += std::pow(double{a[t][i]} - double{b[t][i]}, 2);
      spread += std::pow(double{b[t][i]} - mean, 2);
    }
  }
  return std::sqrt(far / spread);
}

TEST(CudaModel, InputsInFp8MoveItsLogitsLittleAndDoNotDependOnTheBatch) {
  const fs::path folder = kOracle / "A" / "dsv3-fp8";
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  cuda::emulation::faults = {};
  const auto pool = make_thread_pool(1).value();
  const BackendContext context{default_allocator(), pool.get(), {}};
  const std::vector<int32_t> ids = {5, 17, 230, 9, 88, 411, 3, 77, 500, 123, 6};
  const auto logits = [&](Precision precision, int rows) {
    Rig rig(open_model_path(folder.string(), {}).value(),
            cuda_factory()->create(0, context).value(), precision);
    EXPECT_TRUE(rig.ok()) << rig.status();
    return rig.feed(ids, rows, nullptr);
  };
  const Logits exact = logits(Precision::kF32, 11);
  const Logits by_auto = logits(Precision::kAuto, 11), by_fp8 = logits(Precision::kF8, 11);
  ASSERT_EQ(by_fp8.size(), ids.size());
  const double far_auto = distance(by_auto, exact), far_fp8 = distance(by_fp8, exact);
  // 0.002 and 0.17 were found: three layers of random weights, and another expert for one row.
  EXPECT_LT(far_auto, 0.005);
  EXPECT_GT(far_fp8, far_auto);
  EXPECT_LT(far_fp8, 0.3);
  EXPECT_EQ(logits(Precision::kF8, 1), by_fp8);
}

}  // namespace
}  // namespace ponder
