// Inputs for the tests of the CUDA backend, how far results may be off, and the backends.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "backends/cuda/cuda.h"
#include "backends/ref/ref.h"
#include "gtest/gtest.h"
#include "lib/device/backend.h"
#include "lib/tensor/half.h"
#include "tests/backends/cuda/emulated_runtime.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder {

inline constexpr double kUlp = 0x1p-24;
// A sum of n products in float32, relative to the sum of their magnitudes, as tests/conformance.
inline double sum_tolerance(int64_t n) {
  return kUlp * (4.0 + 4.0 * std::sqrt(static_cast<double>(n)));
}

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

inline Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  return Tensor::make(data.data(), DType::kF32, dims);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline WeightData weight_of(DType dtype, int64_t rows, int64_t cols, uint32_t seed = 1) {
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

inline std::vector<DType> all_types() {
  std::vector<DType> types = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8_E4M3};
  for (auto t = DType::kQ4_0; t <= DType::kMXFP4;
       t = static_cast<DType>(static_cast<uint8_t>(t) + 1)) {
    types.push_back(t);
  }
  return types;
}

// One device without faults, and the reference beside it.
class EmulatedCuda : public ::testing::Test {
 protected:
  EmulatedCuda() {
    cuda::emulation::faults = {};
    cuda::emulation::graphs = {};
    pool_ = *make_thread_pool(1);
    context_.allocator = default_allocator();
    context_.pool = pool_.get();
    ref_ = make_ref_backend(context_);
    cuda_ = *cuda_factory()->create(0, context_);
  }

  std::unique_ptr<ThreadPool> pool_;
  BackendContext context_;
  std::unique_ptr<Backend> ref_, cuda_;
};

}  // namespace ponder
