// What the conformance tests share: the backends under test, random data, and the tolerances.
//
// Every backend is compared with the reference backend (backends/ref), and, for the promise that a
// row's result depends on nothing but that row (lib/device/backend.h), with itself, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#if defined(PONDER_HAVE_CUDA)
#include "backends/cuda/cuda.h"
#endif
#include "backends/onednn/onednn.h"
#include "backends/ref/ref.h"
#include "gtest/gtest.h"
#include "lib/device/backend.h"
#include "lib/tensor/half.h"
#include "tests/conformance/staging_backend.h"

namespace ponder {

// ---- tolerances
// ----------------------------------------------------------------------------------- One unit is
// 2^-24, float32's rounding. Inputs of both sides are the same numbers (where a backend rounds
// activations to bf16, the reference is given rounded ones), so all that differs is the order and
// precision of sums.

constexpr double kUlp = 0x1p-24;

// A sum of n products, relative to the sum of their magnitudes: n roundings in the worst case,
// which random signs never come near; sqrt(n) with room for the largest of a million samples.
inline double sum_tolerance(int64_t n) {
  return kUlp * (4.0 + 4.0 * std::sqrt(static_cast<double>(n)));
}
// x times a factor that holds a square root and a division.
constexpr double kNormTolerance = 16 * kUlp;
// Our exp is good to 1e-7 and stands in a division.
constexpr double kSwigluTolerance = 16 * kUlp;
// Two products and a sum, relative to the pair's length.
constexpr double kRopeTolerance = 4 * kUlp;
// Scores are sums over E with error sum_tolerance(E) * |q||k|, and exp turns their absolute error
// into relative error of the weights; the weighted mean adds little. Relative to the largest
// |value|.
inline double attention_tolerance(int64_t e) { return 8 * sum_tolerance(e) + 32 * kUlp; }

// ---- backends
// -------------------------------------------------------------------------------------

struct Target {
  std::string name;
  bool available;
  std::function<StatusOr<std::unique_ptr<Backend>>(const BackendContext&)> make;
};

// For gtest, which would print bytes.
inline void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }

inline std::vector<Target> targets() {
  std::vector<Target> all;
  all.push_back({"ref", true, [](const BackendContext& c) -> StatusOr<std::unique_ptr<Backend>> {
                   return make_ref_backend(c);
                 }});
  for (cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512,
                       cpu::Isa::kAvx512Bf16, cpu::Isa::kAmx}) {
    all.push_back({absl::StrCat("onednn_", cpu::isa_name(isa)), isa <= cpu::detect_isa(),
                   [isa](const BackendContext& c) { return make_onednn_backend(c, isa); }});
  }
#if defined(PONDER_HAVE_CUDA)
  all.push_back({"cuda", !cuda_factory()->devices({default_allocator(), nullptr, {}}).empty(),
                 [](const BackendContext& c) { return cuda_factory()->create(0, c); }});
#endif
  return all;
}

// A backend with its pool; threads as given.
struct Machine {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Backend> backend;

  Machine(const Target& target, uint32_t threads) {
    auto made_pool = make_thread_pool(threads);
    EXPECT_TRUE(made_pool.ok()) << made_pool.status();
    pool = *std::move(made_pool);
    BackendContext context;
    context.allocator = default_allocator();
    context.pool = pool.get();
    auto made = target.make(context);
    EXPECT_TRUE(made.ok()) << made.status();
    backend = *std::move(made);
    if (backend->info().kind == DeviceInfo::Kind::kGpu) {
      backend = std::make_unique<StagingBackend>(std::move(backend));
    }
  }
  Backend* operator->() const { return backend.get(); }
  // The device's memory in which every number is a NaN.
  Buffer unwritten(uint64_t bytes) const {
    auto memory = Buffer::create(backend->allocator(), bytes, "a test's cache");
    EXPECT_TRUE(memory.ok()) << memory.status();
    const std::vector<std::byte> nan(bytes, std::byte{0xff});
    EXPECT_TRUE(backend->upload(nan.data(), memory->data(), bytes).ok());
    return *std::move(memory);
  }
};

inline Machine reference(uint32_t threads = 4) { return Machine(targets()[0], threads); }

// Tests run once per target; those the machine cannot run are skipped with their name.
class Conformance : public ::testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (GetParam().available) return;
    if (GetParam().name == "cuda") GTEST_SKIP() << "no CUDA device";
    GTEST_SKIP() << "this processor cannot run " << GetParam().name;
  }
  static bool on_gpu() { return GetParam().name == "cuda"; }
  bool rounds_activations() const {
    const std::string& name = GetParam().name;
    return name == "onednn_avx512_bf16" || name == "onednn_amx" || on_gpu();
  }
};

inline std::string target_name(const ::testing::TestParamInfo<Target>& info) {
  return info.param.name;
}

// ---- data
// -----------------------------------------------------------------------------------------

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

inline float to_type(float v, DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return f16_to_f32(f32_to_f16(v));
    case DType::kBF16:
      return bf16_to_f32(f32_to_bf16(v));
    default:
      return v;
  }
}

inline std::vector<float> rounded(std::vector<float> values, DType dtype) {
  for (float& v : values) v = to_type(v, dtype);
  return values;
}

inline std::vector<float> magnitudes(std::vector<float> values) {
  for (float& v : values) v = std::abs(v);
  return values;
}

// A checkpoint's tensor. Its bytes start at an odd address: files promise no alignment.
inline WeightData make_weight(const std::string& name, DType dtype, std::vector<int64_t> shape,
                              const std::vector<float>& values) {
  const size_t width = static_cast<size_t>(dtype_info(dtype).bytes);
  auto bytes = std::make_shared<std::vector<char>>(values.size() * width + 1);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    std::memcpy(bytes->data() + 1 + i * width,
                dtype == DType::kF32 ? static_cast<const void*>(&values[i]) : &half, width);
  }
  WeightData weight;
  weight.name = name;
  weight.dtype = dtype;
  weight.shape = std::move(shape);
  weight.data = bytes->data() + 1;
  weight.owner = bytes;
  return weight;
}

inline Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  return Tensor::make(data.data(), DType::kF32, dims);
}

// Bits, so that -0 is not 0 and a NaN equals itself.
inline bool same_bits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

}  // namespace ponder
