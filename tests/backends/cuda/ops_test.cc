// The CUDA backend's ops, host code and kernels, on the emulated device against the reference
// backend; rows alone against rows in a batch, bit for bit; and what failures are told as.

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cuda/cuda.h"
#include "backends/ref/ref.h"
#include "gtest/gtest.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/half.h"
#include "tests/backends/cuda/emulated_runtime.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder {
namespace {

using cuda::emulation::faults;
using ::testing::HasSubstr;

constexpr double kUlp = 0x1p-24;
// A sum of n products in float32, relative to the sum of their magnitudes, as tests/conformance.
double sum_tolerance(int64_t n) { return kUlp * (4.0 + 4.0 * std::sqrt(static_cast<double>(n))); }

std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  return Tensor::make(data.data(), DType::kF32, dims);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

WeightData weight_of(DType dtype, int64_t rows, int64_t cols, uint32_t seed = 1) {
  auto bytes = std::make_shared<std::vector<uint8_t>>();
  WeightData w;
  if (dtype_is_blocked(dtype)) {
    const auto blocks = random_blocks(dtype, rows * cols);
    bytes->assign(blocks.begin(), blocks.end());
  } else if (dtype == DType::kF8_E4M3) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < rows * cols; ++i) {
      auto code = static_cast<uint8_t>(random());
      if ((code & 0x7f) == 0x7f) code ^= 1;
      bytes->push_back(code);
    }
    const auto tiles = static_cast<size_t>((rows + 127) / 128 * ((cols + 127) / 128));
    std::shared_ptr<float[]> scales(new float[tiles]);
    const auto values = random_floats(tiles, 3, 0.01f);
    std::copy(values.begin(), values.end(), scales.get());
    w.scales = scales;
  } else {
    const auto values = random_floats(static_cast<size_t>(rows * cols), seed, 0.5f);
    const auto width = static_cast<size_t>(dtype_info(dtype).bytes);
    bytes->resize(values.size() * width);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      const void* from = &half;
      if (dtype == DType::kF32) from = &values[i];
      std::memcpy(bytes->data() + i * width, from, width);
    }
  }
  w.name = "model.some.weight";
  w.dtype = dtype;
  w.shape = {rows, cols};
  w.data = bytes->data();
  w.owner = bytes;
  return w;
}

std::vector<DType> all_types() {
  std::vector<DType> types = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8_E4M3};
  for (auto t = DType::kQ4_0; t <= DType::kMXFP4;
       t = static_cast<DType>(static_cast<uint8_t>(t) + 1)) {
    types.push_back(t);
  }
  return types;
}

class CudaOps : public ::testing::Test {
 protected:
  CudaOps() {
    faults = {};
    pool_ = *make_thread_pool(1);
    context_.allocator = default_allocator();
    context_.pool = pool_.get();
    ref_ = make_ref_backend(context_);
    cuda_ = *cuda_factory()->create(0, context_);
  }

  std::vector<float> linear(Backend* backend, const PackedWeight* w, std::vector<float> x,
                            int64_t rows, std::vector<float>* bias) {
    std::vector<float> out(static_cast<size_t>(rows * w->rows), NAN);
    LinearParams p{};
    p.x = view(x, {rows, w->cols});
    p.w = w;
    if (bias != nullptr) p.bias = view(*bias, {w->rows});
    p.out = view(out, {rows, w->rows});
    EXPECT_TRUE(backend->linear(p).ok());
    return out;
  }

  void compare_linear(std::span<const WeightData> parts, int64_t rows, Precision precision) {
    auto packed = cuda_->pack_linear(parts, PackOptions{precision});
    ASSERT_TRUE(packed.ok()) << packed.status();
    auto ref_packed = ref_->pack_linear(parts, PackOptions{precision});
    const int64_t n = (*packed)->rows, k = (*packed)->cols;
    ASSERT_EQ(n, (*ref_packed)->rows);
    auto x = random_floats(static_cast<size_t>(rows * k), 2);
    auto bias = random_floats(static_cast<size_t>(n), 3);
    if (precision == Precision::kAuto && parts[0].dtype == DType::kBF16) {
      for (float& v : x) v = bf16_to_f32(f32_to_bf16(v));  // what the op does to its inputs
    }
    const auto got = linear(cuda_.get(), packed->get(), x, rows, &bias);
    const auto wanted = linear(ref_.get(), ref_packed->get(), x, rows, &bias);
    // Magnitudes of the terms, by Cauchy and Schwarz: |x| |w|, at least the sum of |x w|.
    std::vector<double> norms;
    for (const WeightData& part : parts) {
      std::vector<float> values(static_cast<size_t>(part.elements()));
      if (part.dtype == DType::kF8_E4M3) {
        dequantize_f8_rows({part.data, part.scales.get(), part.shape[0], k}, 0, part.shape[0],
                           values.data());
      } else {
        ASSERT_TRUE(dequantize(part.dtype, part.data, part.elements(), values.data()).ok());
      }
      for (int64_t r = 0; r < part.shape[0]; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          const double v = double{values[static_cast<size_t>(r * k + i)]};
          sum += v * v;
        }
        norms.push_back(std::sqrt(sum));
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      double length = 0;
      for (int64_t i = 0; i < k; ++i) {
        length +=
            double{x[static_cast<size_t>(r * k + i)]} * double{x[static_cast<size_t>(r * k + i)]};
      }
      for (int64_t c = 0; c < n; ++c) {
        const auto i = static_cast<size_t>(r * n + c);
        const double size = std::sqrt(length) * norms[static_cast<size_t>(c)] + 1.0;
        ASSERT_LE(std::abs(double{got[i]} - double{wanted[i]}), sum_tolerance(k) * size)
            << "row " << r << " column " << c << ": " << got[i] << " instead of " << wanted[i];
      }
    }
    // Every row alone and some in the company of others: the same bits.
    for (const int64_t few : {int64_t{1}, int64_t{3}, int64_t{9}}) {
      for (const int64_t first : {int64_t{0}, rows - few}) {
        if (few > rows) continue;
        const std::vector<float> some(x.begin() + first * k, x.begin() + (first + few) * k);
        const auto part = linear(cuda_.get(), packed->get(), some, few, &bias);
        ASSERT_TRUE(same_bits(
            part, std::vector<float>(got.begin() + first * n, got.begin() + (first + few) * n)))
            << few << " rows from " << first;
      }
    }
  }

  std::unique_ptr<ThreadPool> pool_;
  BackendContext context_;
  std::unique_ptr<Backend> ref_, cuda_;
};

TEST_F(CudaOps, ProductsWithWeightsOfAllTypesInFloat32) {
  for (const DType dtype : all_types()) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData w = weight_of(dtype, 19, 512);
    compare_linear({&w, 1}, 5, Precision::kF32);
  }
}

TEST_F(CudaOps, ProductsOfRaggedShapesInFloat32) {
  for (const auto& [n, k, rows] : {std::array<int64_t, 3>{1, 1, 1}, {130, 129, 3}, {3, 387, 9}}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8_E4M3}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(dtype), " ", n, " x ", k));
      const WeightData w = weight_of(dtype, n, k);
      compare_linear({&w, 1}, rows, Precision::kF32);
    }
  }
}

TEST_F(CudaOps, ProductsOnTheMatrixInstructions) {
  for (const auto& [n, k, rows] : {std::array<int64_t, 3>{1, 1, 1},
                                   {16, 128, 8},
                                   {17, 129, 9},
                                   {40, 1000, 33},
                                   {64, 384, 130}}) {
    SCOPED_TRACE(absl::StrCat(n, " x ", k, ", ", rows, " rows"));
    const WeightData w = weight_of(DType::kBF16, n, k);
    compare_linear({&w, 1}, rows, Precision::kAuto);
  }
}

TEST_F(CudaOps, MatrixInstructionsRoundTheirInputs) {
  const WeightData w = weight_of(DType::kBF16, 16, 128);
  auto packed = cuda_->pack_linear({&w, 1}, {});
  ASSERT_TRUE(packed.ok());
  auto x = random_floats(128, 4), rounded = x;
  for (float& v : rounded) v = bf16_to_f32(f32_to_bf16(v));
  EXPECT_TRUE(same_bits(linear(cuda_.get(), packed->get(), x, 1, nullptr),
                        linear(cuda_.get(), packed->get(), rounded, 1, nullptr)));
}

TEST_F(CudaOps, StackedPartsOfDifferentTypes) {
  const WeightData parts[] = {weight_of(DType::kQ4_K, 7, 256), weight_of(DType::kF16, 3, 256),
                              weight_of(DType::kQ6_K, 1, 256),
                              weight_of(DType::kF8_E4M3, 130, 256)};
  compare_linear(parts, 3, Precision::kF32);
}

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
  EXPECT_THAT(std::string(status.message()), HasSubstr("51200 bytes"));
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
