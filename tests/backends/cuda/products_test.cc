// Matrix products and mixtures of experts of the CUDA backend on the emulated device: against the
// reference backend with the inputs rounded as the kernels round them; rows alone against rows in a
// batch, whichever kernel a number of rows is given to, bit for bit.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/products.h"
#include "lib/tensor/dequantize.h"
#include "tests/backends/cuda/support.h"
#include "tests/backends/cuda/to_f8.h"

namespace ponder {
namespace {

using cuda::Form;
using ::testing::HasSubstr;

// One row as the values that it is multiplied as.
void round_row(Form form, float* x, int64_t cols) {
  const auto largest = [&](int64_t from, int64_t to) {
    float high = 0;
    for (int64_t k = from; k < to; ++k) high = std::max(high, std::abs(x[k]));
    return high;
  };
  if (form == Form::kBF16) {
    for (int64_t k = 0; k < cols; ++k) x[k] = bf16_to_f32(f32_to_bf16(x[k]));
  } else if (cuda::is_bytes(form)) {
    const int64_t group = form == Form::kBytes32 ? 32 : 256;
    for (int64_t from = 0; from < cols; from += group) {
      const float high = largest(from, std::min(cols, from + group));
      for (int64_t k = from; k < std::min(cols, from + group); ++k) {
        x[k] = high == 0 ? 0.0f : std::rint(x[k] * (127.0f / high)) * (high / 127.0f);
      }
    }
  } else if (form == Form::kF8Codes) {
    for (int64_t from = 0; from < cols; from += 128) {
      const float high = largest(from, std::min(cols, from + 128));
      for (int64_t k = from; k < std::min(cols, from + 128); ++k) {
        x[k] = high == 0 ? 0.0f : to_f8(x[k] * (448.0f / high)) * (high / 448.0f);
      }
    }
  } else if (form != Form::kFloats) {
    int exponent;
    std::frexp(largest(0, cols), &exponent);
    for (int64_t k = 0; k < cols; ++k) {
      x[k] = std::ldexp(f16_to_f32(f32_to_f16(std::ldexp(x[k], 15 - exponent))), exponent - 15);
    }
  }
}

class CudaProducts : public EmulatedCuda {
 protected:
  Form form_of(DType dtype, Precision precision) const {
    return cuda::form_of(dtype, precision, *device_);
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

  // `parts` against the reference with `rows` rows, and then fewer of them against those.
  void compare_linear(std::span<const WeightData> parts, int64_t rows, Precision precision) {
    auto packed = cuda_->pack_linear(parts, PackOptions{precision});
    ASSERT_TRUE(packed.ok()) << packed.status();
    const int64_t n = (*packed)->rows, k = (*packed)->cols;
    const auto x = random_floats(static_cast<size_t>(rows * k), 2);
    auto bias = random_floats(static_cast<size_t>(n), 3);
    const auto got = linear(cuda_.get(), packed->get(), x, rows, &bias);
    int64_t first = 0;
    for (const WeightData& part : parts) {
      auto rounded = x;
      const Form form = form_of(part.dtype, precision);
      for (int64_t r = 0; r < rows; ++r) round_row(form, &rounded[static_cast<size_t>(r * k)], k);
      compare_part(part, first, rounded, rows, n, bias, got);
      first += part.shape[0];
    }
    for (const int64_t few : {1, 2, 7, 8, 9, 32, 33, 65, 129}) {
      for (const int64_t begin : {int64_t{0}, rows - few}) {
        if (few >= rows || (begin > 0 && few % 2 == 0)) continue;
        const std::vector<float> some(x.begin() + begin * k, x.begin() + (begin + few) * k);
        ASSERT_TRUE(
            same_bits(linear(cuda_.get(), packed->get(), some, few, &bias),
                      std::vector<float>(got.begin() + begin * n, got.begin() + (begin + few) * n)))
            << few << " rows from " << begin;
      }
    }
  }

  // f() with a device of each kind that multiplies codes.
  template <typename F>
  void on_f8_devices(const F& f) {
    for (const auto operands : {cuda::F8Operands::kRegisters, cuda::F8Operands::kSharedMemory}) {
      SCOPED_TRACE(operands == cuda::F8Operands::kRegisters ? "from registers" : "from shared");
      cuda::emulation::faults.f8_operands = operands;
      cuda_ = *cuda_factory()->create(0, context_);
      f();
    }
  }
  void compare_codes(std::span<const WeightData> parts, int64_t rows) {
    on_f8_devices([&] { compare_linear(parts, rows, Precision::kF8); });
  }

  // Columns [first, first + part's rows) of `got` [rows, n].
  void compare_part(const WeightData& part, int64_t first, const std::vector<float>& x,
                    int64_t rows, int64_t n, const std::vector<float>& bias,
                    const std::vector<float>& got) {
    const int64_t k = part.shape[1], own = part.shape[0];
    auto packed = ref_->pack_linear({&part, 1}, PackOptions{Precision::kF32});
    ASSERT_TRUE(packed.ok());
    std::vector<float> own_bias(bias.begin() + first, bias.begin() + first + own);
    const auto wanted = linear(ref_.get(), packed->get(), x, rows, &own_bias);
    std::vector<float> values(static_cast<size_t>(part.elements()));
    if (part.dtype == DType::kF8_E4M3) {
      dequantize_f8_rows({part.data, part.scales.get(), own, k}, 0, own, values.data());
    } else {
      ASSERT_TRUE(dequantize(part.dtype, part.data, part.elements(), values.data()).ok());
    }
    const auto length = [k](const float* v) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += double{v[i]} * double{v[i]};
      return std::sqrt(sum);
    };
    for (int64_t r = 0; r < rows; ++r) {
      const double size = length(&x[static_cast<size_t>(r * k)]);
      for (int64_t c = 0; c < own; ++c) {
        // Magnitudes of the terms, by Cauchy and Schwarz: |x| |w|, at least the sum of |x w|.
        const double most = size * length(&values[static_cast<size_t>(c * k)]) + 1.0;
        const float is = got[static_cast<size_t>(r * n + first + c)];
        const float should = wanted[static_cast<size_t>(r * own + c)];
        ASSERT_LE(std::abs(double{is} - double{should}), sum_tolerance(k) * most)
            << dtype_name(part.dtype) << " row " << r << " column " << c << ": " << is
            << " instead of " << should;
      }
    }
  }

  std::unique_ptr<cuda::Device> device_ = *cuda::Device::open(0);
};

TEST_F(CudaProducts, WeightsOfAllTypesInFloat32) {
  for (const DType dtype : all_types()) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData w = weight_of(dtype, 19, 512);
    compare_linear({&w, 1}, 5, Precision::kF32);
  }
}

TEST_F(CudaProducts, RaggedShapesInFloat32) {
  for (const auto& [n, k, rows] : {std::array<int64_t, 3>{1, 1, 1}, {130, 129, 3}, {3, 387, 9}}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8_E4M3}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(dtype), " ", n, " x ", k));
      const WeightData w = weight_of(dtype, n, k);
      compare_linear({&w, 1}, rows, Precision::kF32);
    }
  }
}

TEST_F(CudaProducts, WeightsOfAllTypes) {
  for (const DType dtype : all_types()) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData w = weight_of(dtype, 40, 512);
    compare_linear({&w, 1}, 66, Precision::kAuto);
  }
}

TEST_F(CudaProducts, RaggedShapesOfPlainTypes) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF8_E4M3}) {
    for (const auto& [n, k, rows] :
         {std::array<int64_t, 3>{1, 1, 1}, {17, 129, 10}, {130, 300, 34}, {260, 1100, 3}}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(dtype), " ", n, " x ", k, ", ", rows, " rows"));
      const WeightData w = weight_of(dtype, n, k);
      compare_linear({&w, 1}, rows, Precision::kAuto);
      if (dtype == DType::kF8_E4M3) compare_codes({&w, 1}, rows);
    }
  }
}

TEST_F(CudaProducts, RaggedShapesOfBlockTypes) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                            DType::kIQ4_NL, DType::kMXFP4}) {
    for (const auto& [n, k, rows] : {std::array<int64_t, 3>{1, 32, 2}, {130, 352, 34}}) {
      SCOPED_TRACE(absl::StrCat(dtype_name(dtype), " ", n, " x ", k, ", ", rows, " rows"));
      const WeightData w = weight_of(dtype, n, k);
      compare_linear({&w, 1}, rows, Precision::kAuto);
    }
  }
}

// More super-blocks than slices, tiles of 128 rows.
TEST_F(CudaProducts, ManyRowsAndLongRows) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF8_E4M3, DType::kQ8_0, DType::kQ4_K,
                            DType::kQ2_K, DType::kQ6_K}) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData wide = weight_of(dtype, 130, 256);
    compare_linear({&wide, 1}, 257, Precision::kAuto);
    const WeightData deep = weight_of(dtype, 3, 256 * 19);
    compare_linear({&deep, 1}, 34, Precision::kAuto);
    if (dtype != DType::kF8_E4M3) continue;
    compare_codes({&wide, 1}, 257);
    compare_codes({&deep, 1}, 34);
  }
}

TEST_F(CudaProducts, StackedPartsOfDifferentTypes) {
  const WeightData parts[] = {
      weight_of(DType::kQ4_K, 7, 256),      weight_of(DType::kQ4_K, 30, 256),
      weight_of(DType::kF16, 3, 256),       weight_of(DType::kQ6_K, 1, 256),
      weight_of(DType::kBF16, 5, 256),      weight_of(DType::kBF16, 20, 256),
      weight_of(DType::kF8_E4M3, 128, 256), weight_of(DType::kF8_E4M3, 130, 256),
      weight_of(DType::kF8_E4M3, 1, 256)};
  compare_linear(parts, 3, Precision::kF32);
  compare_linear(parts, 3, Precision::kAuto);
  compare_linear(parts, 40, Precision::kAuto);
  compare_codes(parts, 3);
  compare_codes(parts, 40);
}

// Codes times codes in double, and the largest error that float32's roundings can add: of a unit's
// sum four, of its scale and of the bias one each, and one for every unit that is added.
TEST_F(CudaProducts, CodesOfBothSidesAgainstDoubles) {
  for (const auto& [n, k, rows] :
       {std::array<int64_t, 3>{1, 1, 1}, {17, 129, 10}, {130, 300, 34}, {33, 1100, 130}}) {
    SCOPED_TRACE(absl::StrCat(n, " x ", k, ", ", rows, " rows"));
    WeightData w = weight_of(DType::kF8_E4M3, n, k);
    if (n == 17) w.scales = nullptr;  // all are 1
    auto x = random_floats(static_cast<size_t>(rows * k), 4);
    // Numbers of very different size, so that some groups reach down to codes below 2^-6.
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], -static_cast<int>(i % 13));
    auto bias = random_floats(static_cast<size_t>(n), 3);
    std::vector<std::vector<float>> results;
    on_f8_devices([&] {
      auto packed = cuda_->pack_linear({&w, 1}, PackOptions{Precision::kF8});
      ASSERT_TRUE(packed.ok()) << packed.status();
      results.push_back(linear(cuda_.get(), packed->get(), x, rows, &bias));
    });
    const auto* codes = static_cast<const uint8_t*>(w.data);
    const int64_t units = (k + 127) / 128;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = &x[static_cast<size_t>(r * k)];
      for (int64_t c = 0; c < n; ++c) {
        double wanted = bias[static_cast<size_t>(c)], size = std::abs(wanted);
        for (int64_t u = 0; u < units; ++u) {
          const int64_t first = u * 128, last = std::min(k, first + 128);
          float high = 0;
          for (int64_t i = first; i < last; ++i) high = std::max(high, std::abs(row[i]));
          const float tile = w.scales == nullptr ? 1.0f : w.scales[c / 128 * units + u];
          const double scale = double{high / 448.0f} * double{tile};
          for (int64_t i = first; i < last; ++i) {
            const double term = double{to_f8(row[i] * (448.0f / high))} *
                                double{f8_e4m3_to_f32(codes[c * k + i])} * scale;
            wanted += term;
            size += std::abs(term);
          }
        }
        for (const auto& got : results) {
          ASSERT_NEAR(got[static_cast<size_t>(r * n + c)], wanted,
                      static_cast<double>(units + 6) * kUlp * size)
              << "row " << r << " column " << c;
        }
      }
    }
  }
}

// A choice, and where a device does not multiply codes, none.
TEST_F(CudaProducts, CodesAreMultipliedOnlyWhereAskedForAndPossible) {
  for (const DType dtype : all_types()) {
    SCOPED_TRACE(dtype_name(dtype));
    const bool f8 = dtype == DType::kF8_E4M3;
    EXPECT_EQ(form_of(dtype, Precision::kAuto), cuda::form_of(dtype));
    EXPECT_EQ(form_of(dtype, Precision::kF8), f8 ? Form::kF8Codes : cuda::form_of(dtype));
    EXPECT_EQ(form_of(dtype, Precision::kF32), Form::kFloats);
  }
  cuda::emulation::faults.f8_operands = cuda::F8Operands::kNone;
  auto older = *cuda_factory()->create(0, context_);
  const WeightData w = weight_of(DType::kF8_E4M3, 20, 300);
  const auto x = random_floats(3 * 300, 2);
  const auto run = [&](Backend* backend, Precision precision) {
    auto packed = backend->pack_linear({&w, 1}, PackOptions{precision});
    return linear(backend, packed->get(), x, 3, nullptr);
  };
  const auto by_auto = run(cuda_.get(), Precision::kAuto);
  EXPECT_TRUE(same_bits(run(older.get(), Precision::kAuto), by_auto));
  EXPECT_TRUE(same_bits(run(older.get(), Precision::kF8), by_auto));
  EXPECT_FALSE(same_bits(run(cuda_.get(), Precision::kF8), by_auto));
  for (const int architecture : {75, 80, 86, 100, 103, 110}) {
    EXPECT_EQ(cuda::f8_operands(architecture), cuda::F8Operands::kNone) << architecture;
  }
  for (const int architecture : {89, 120, 121}) {
    EXPECT_EQ(cuda::f8_operands(architecture), cuda::F8Operands::kRegisters) << architecture;
  }
  EXPECT_EQ(cuda::f8_operands(90), cuda::F8Operands::kSharedMemory);
}

class CudaMagnitudes : public CudaProducts {
 protected:
  void compare(DType dtype, Precision precision) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData w = weight_of(dtype, 16, 256);
    auto packed = cuda_->pack_linear({&w, 1}, {precision});
    ASSERT_TRUE(packed.ok());
    const auto x = random_floats(256, 4);
    const auto base = linear(cuda_.get(), packed->get(), x, 1, nullptr);
    for (const int power : {-60, -20, 20, 60}) {  // powers of two change no digits
      auto scaled = x;
      for (float& v : scaled) v = std::ldexp(v, power);
      const auto got = linear(cuda_.get(), packed->get(), scaled, 1, nullptr);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], std::ldexp(base[i], power));
    }
    EXPECT_TRUE(same_bits(linear(cuda_.get(), packed->get(), std::vector<float>(256), 1, nullptr),
                          std::vector<float>(16, 0.0f)));
    for (const float bad : {NAN, INFINITY}) {
      auto poisoned = x;
      poisoned[77] = bad;
      for (const float v : linear(cuda_.get(), packed->get(), poisoned, 1, nullptr)) {
        ASSERT_FALSE(std::isfinite(v));
      }
      // The row beside it does not notice, whichever kernel runs.
      for (const size_t rows : {2, 40}) {
        std::vector<float> many = x;
        while (many.size() < rows * 256) many.insert(many.end(), poisoned.begin(), poisoned.end());
        const auto got =
            linear(cuda_.get(), packed->get(), many, static_cast<int64_t>(rows), nullptr);
        EXPECT_TRUE(same_bits({got.begin(), got.begin() + 16}, base));
        for (size_t i = 16; i < got.size(); ++i) ASSERT_FALSE(std::isfinite(got[i]));
      }
    }
  }
};

TEST_F(CudaMagnitudes, OfInputsAreAllMultiplied) {
  for (const DType dtype : {DType::kF16, DType::kF8_E4M3, DType::kQ4_0, DType::kQ4_K}) {
    compare(dtype, Precision::kAuto);
  }
  on_f8_devices([this] { compare(DType::kF8_E4M3, Precision::kF8); });
}

// ---- mixtures of experts -----------------------------------------------------------------------

class Source final : public ExpertSource {
 public:
  Source(std::vector<ExpertWeights> experts, int64_t* dropped)
      : experts_(std::move(experts)), dropped_(dropped) {}
  int64_t experts() const override { return static_cast<int64_t>(experts_.size()); }
  int64_t hidden() const override { return experts_[0].gate.shape[1]; }
  int64_t width() const override { return experts_[0].gate.shape[0]; }
  StatusOr<ExpertWeights> find(int64_t e) const override {
    return experts_[static_cast<size_t>(e)];
  }
  void drop(const ExpertWeights&) const override { ++*dropped_; }

 private:
  std::vector<ExpertWeights> experts_;
  int64_t* dropped_;
};

struct Choices {
  int64_t rows, top_k;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// Ascending experts of each row; none chooses expert 1, all choose the last.
Choices choose(int64_t rows, int64_t experts, int64_t top_k) {
  Choices c{rows, top_k, {}, random_floats(static_cast<size_t>(rows * top_k), 9)};
  std::mt19937 random(5);
  for (int64_t t = 0; t < rows; ++t) {
    std::vector<int32_t> own = {static_cast<int32_t>(experts - 1)};
    while (static_cast<int64_t>(own.size()) < top_k) {
      const auto e = static_cast<int32_t>(random() % static_cast<uint32_t>(experts));
      if (e != 1 && std::find(own.begin(), own.end(), e) == own.end()) own.push_back(e);
    }
    std::sort(own.begin(), own.end());
    c.ids.insert(c.ids.end(), own.begin(), own.end());
  }
  return c;
}

class CudaExpertsTest : public CudaProducts {
 protected:
  struct Types {
    DType gate, up, down;
  };

  static std::vector<ExpertWeights> make_experts(const Types& types, int64_t experts,
                                                 int64_t hidden, int64_t width) {
    std::vector<ExpertWeights> all;
    for (int64_t e = 0; e < experts; ++e) {
      const auto seed = static_cast<uint32_t>(10 + 3 * e);
      ExpertWeights& w = all.emplace_back();
      w.gate = weight_of(types.gate, width, hidden, seed);
      w.up = weight_of(types.up, width, hidden, seed + 1);
      w.down = weight_of(types.down, hidden, width, seed + 2);
      // Blocks are the same for every seed: another first row tells experts apart.
      for (WeightData* part : {&w.gate, &w.up, &w.down}) {
        if (!dtype_is_blocked(part->dtype)) continue;
        auto bytes = std::make_shared<std::vector<uint8_t>>(
            static_cast<const uint8_t*>(part->data),
            static_cast<const uint8_t*>(part->data) + dtype_bytes(part->dtype, part->elements()));
        const auto row = static_cast<size_t>(dtype_bytes(part->dtype, part->shape[1]));
        std::rotate(bytes->begin(),
                    bytes->begin() +
                        static_cast<std::ptrdiff_t>(static_cast<size_t>(e % part->shape[0]) * row),
                    bytes->end());
        part->data = bytes->data();
        part->owner = bytes;
      }
    }
    return all;
  }

  std::vector<float> run(Backend* backend, PackedExperts* packed, std::vector<float> x, Choices c) {
    std::vector<float> out(x.size(), NAN);
    const ExpertsParams p{view(x, {c.rows, packed->hidden}),
                          Tensor::make(c.ids.data(), DType::kI32, {c.rows, c.top_k}),
                          view(c.weights, {c.rows, c.top_k}), packed,
                          view(out, {c.rows, packed->hidden})};
    const Status status = backend->experts(p);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  // The same by the op linear, one row and choice after the other.
  std::vector<float> by_products(const std::vector<ExpertWeights>& experts, Precision precision,
                                 const std::vector<float>& x, const Choices& c) {
    const int64_t hidden = experts[0].gate.shape[1], width = experts[0].gate.shape[0];
    std::vector<float> out(x.size(), 0.0f);
    for (size_t e = 0; e < experts.size(); ++e) {
      const WeightData parts[] = {experts[e].gate, experts[e].up};
      auto wide = cuda_->pack_linear(parts, {precision});
      auto down = cuda_->pack_linear({&experts[e].down, 1}, {precision});
      for (int64_t i = 0; i < c.rows * c.top_k; ++i) {
        if (c.ids[static_cast<size_t>(i)] != static_cast<int32_t>(e)) continue;
        const int64_t t = i / c.top_k;
        auto both = linear(cuda_.get(), wide->get(),
                           {x.begin() + t * hidden, x.begin() + (t + 1) * hidden}, 1, nullptr);
        std::vector<float> between(static_cast<size_t>(width));
        EXPECT_TRUE(cuda_->swiglu({view(both, {1, 2 * width}), view(between, {1, width})}).ok());
        const auto one = linear(cuda_.get(), down->get(), between, 1, nullptr);
        for (int64_t d = 0; d < hidden; ++d) {
          float& sum = out[static_cast<size_t>(t * hidden + d)];
          sum = std::fma(c.weights[static_cast<size_t>(i)], one[static_cast<size_t>(d)], sum);
        }
      }
    }
    return out;
  }

  void compare_experts(const Types& types, int64_t count, int64_t hidden, int64_t width,
                       int64_t top_k, std::span<const int64_t> rows, Precision precision) {
    SCOPED_TRACE(absl::StrCat(dtype_name(types.gate), ", ", dtype_name(types.up), ", ",
                              dtype_name(types.down)));
    const auto experts = make_experts(types, count, hidden, width);
    int64_t dropped = 0;
    auto packed = cuda_->pack_experts(std::make_unique<Source>(experts, &dropped), {precision});
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(dropped, count);
    auto ref_packed = ref_->pack_experts(std::make_unique<Source>(experts, &dropped), {precision});
    const int64_t most = *std::max_element(rows.begin(), rows.end());
    const auto x = random_floats(static_cast<size_t>(most * hidden), 6);
    const Choices all = choose(most, count, top_k);
    const auto wanted = by_products(experts, precision, x, all);
    for (const int64_t n : rows) {
      const auto k = static_cast<std::ptrdiff_t>(n * top_k);
      const Choices some{n,
                         top_k,
                         {all.ids.begin(), all.ids.begin() + k},
                         {all.weights.begin(), all.weights.begin() + k}};
      const auto got = run(cuda_.get(), packed->get(), {x.begin(), x.begin() + n * hidden}, some);
      ASSERT_TRUE(same_bits(got, {wanted.begin(), wanted.begin() + n * hidden})) << n << " rows";
    }
    // The reference does not round what goes into the matrices.
    const auto reference = run(ref_.get(), ref_packed->get(), x, all);
    double worst = 0, size = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      worst = std::max(worst, std::abs(double{wanted[i]} - double{reference[i]}));
      size = std::max(size, std::abs(double{reference[i]}));
    }
    // Of float32, int8 or, with sixteen times bf16's rounding, f8_e4m3 inputs; else bf16 or finer.
    const Form form = form_of(types.down, precision);
    const double bound = form == Form::kFloats    ? 1e-5
                         : cuda::is_bytes(form)   ? 0.05
                         : form == Form::kF8Codes ? 0.16
                                                  : 0.01;
    EXPECT_LE(worst, bound * size);
  }
};

TEST_F(CudaExpertsTest, EqualTheirProductsOneByOne) {
  constexpr int64_t kRows[] = {1, 2, 5, 8, 9, 40};
  compare_experts({DType::kF32, DType::kF32, DType::kF32}, 6, 40, 24, 2, kRows, Precision::kAuto);
  compare_experts({DType::kBF16, DType::kBF16, DType::kBF16}, 6, 40, 24, 2, kRows,
                  Precision::kAuto);
  compare_experts({DType::kF16, DType::kF16, DType::kF16}, 6, 40, 24, 2, kRows, Precision::kAuto);
  compare_experts({DType::kF8_E4M3, DType::kF8_E4M3, DType::kF8_E4M3}, 5, 140, 128, 3, kRows,
                  Precision::kAuto);
  compare_experts({DType::kF8_E4M3, DType::kF8_E4M3, DType::kF8_E4M3}, 5, 140, 96, 3, kRows,
                  Precision::kAuto);
  on_f8_devices([&] {
    compare_experts({DType::kF8_E4M3, DType::kF8_E4M3, DType::kF8_E4M3}, 5, 140, 128, 3, kRows,
                    Precision::kF8);
    compare_experts({DType::kF8_E4M3, DType::kF8_E4M3, DType::kF8_E4M3}, 5, 300, 96, 3, kRows,
                    Precision::kF8);
  });
  compare_experts({DType::kQ4_K, DType::kQ4_K, DType::kQ6_K}, 4, 256, 256, 2, kRows,
                  Precision::kAuto);
  compare_experts({DType::kQ4_0, DType::kQ8_0, DType::kBF16}, 4, 96, 64, 2, kRows,
                  Precision::kAuto);
}

TEST_F(CudaExpertsTest, OfAllBlockTypes) {
  constexpr int64_t kRows[] = {1, 3, 9};
  for (const DType dtype : kBlockTypes) {
    compare_experts({dtype, dtype, dtype}, 3, 256, 256, 1, kRows, Precision::kAuto);
  }
}

TEST_F(CudaExpertsTest, InFloat32) {
  constexpr int64_t kRows[] = {1, 5, 12};
  for (const DType dtype : {DType::kBF16, DType::kF8_E4M3, DType::kQ4_0}) {
    compare_experts({dtype, dtype, dtype}, 4, 160, 96, 2, kRows, Precision::kF32);
  }
}

TEST_F(CudaExpertsTest, WithManyRowsEach) {
  constexpr int64_t kRows[] = {1, 130};
  for (const DType dtype : {DType::kBF16, DType::kF8_E4M3, DType::kQ8_0}) {
    compare_experts({dtype, dtype, dtype}, 2, 32, 32, 1, kRows, Precision::kAuto);
  }
  constexpr DType kF8 = DType::kF8_E4M3;
  on_f8_devices([&] { compare_experts({kF8, kF8, kF8}, 2, 160, 144, 1, kRows, Precision::kF8); });
}

TEST_F(CudaExpertsTest, InSeveralRounds) {
  const auto experts = make_experts({DType::kBF16, DType::kBF16, DType::kBF16}, 4, 40, 24);
  int64_t dropped = 0;
  auto device = *cuda::Device::open(0);
  auto packed = cuda::pack_experts(device.get(), pool_.get(),
                                   std::make_unique<Source>(experts, &dropped), Precision::kAuto);
  ASSERT_TRUE(packed.ok());
  auto x = random_floats(20 * 40, 6);
  Choices c = choose(20, 4, 2);
  cuda::FormedRows formed(device.get());
  std::vector<float> whole;
  for (const int64_t most : {int64_t{40}, int64_t{6}, int64_t{1}}) {
    const uint64_t bytes = cuda::experts_scratch_bytes(**packed, 20, 2, most);
    EXPECT_LE(bytes, cuda::experts_scratch_bytes(**packed, 20, 2));
    auto scratch = *cuda::DeviceBuffer::create(device.get(), bytes, "a test");
    std::vector<float> out(x.size(), NAN);
    ASSERT_TRUE(run_experts(device->stream(), **packed, {x.data(), 40, 0},
                            {c.ids.data(), 2, {c.weights.data(), 2, 0}, 2}, {out.data(), 40, 0}, 20,
                            formed, scratch.as<char>(), most)
                    .ok());
    if (whole.empty()) whole = out;
    EXPECT_TRUE(same_bits(out, whole)) << most;
  }
}

TEST_F(CudaExpertsTest, WhatAStepWantedIsKnownForOtherNumbersOfRows) {
  const auto experts = make_experts({DType::kQ4_K, DType::kBF16, DType::kBF16}, 4, 256, 24);
  int64_t dropped = 0;
  auto device = *cuda::Device::open(0);
  auto packed = cuda::pack_experts(device.get(), pool_.get(),
                                   std::make_unique<Source>(experts, &dropped), Precision::kAuto);
  ASSERT_TRUE(packed.ok()) << packed.status();
  const WeightData parts[] = {weight_of(DType::kBF16, 3, 512), weight_of(DType::kQ8_0, 3, 512)};
  auto weight = cuda::pack(device.get(), pool_.get(), parts, Precision::kAuto);
  ASSERT_TRUE(weight.ok()) << weight.status();
  cuda::ProductNeeds needs;
  EXPECT_EQ(needs.formed_bytes(7), 0u);
  EXPECT_EQ(needs.scratch_bytes(7), 0u);
  needs.note(**weight);
  for (const int64_t rows : {1, 7, 9000}) {
    EXPECT_EQ(needs.formed_bytes(rows), cuda::form_bytes(Form::kBF16, rows, 512));
    EXPECT_EQ(needs.scratch_bytes(rows), 0u);
  }
  needs.note(**packed, 2);
  needs.note(**packed, 1);
  for (const int64_t rows : {1, 7, 9000}) {  // the last in rounds
    EXPECT_EQ(needs.formed_bytes(rows), cuda::form_bytes(Form::kBF16, rows, 512));
    EXPECT_EQ(needs.scratch_bytes(rows), cuda::experts_scratch_bytes(**packed, rows, 2));
  }
  packed->reset();  // another model's step may be next
  EXPECT_GT(needs.scratch_bytes(7), 0u);
  needs.clear();
  EXPECT_EQ(needs.formed_bytes(7), 0u);
  EXPECT_EQ(needs.scratch_bytes(7), 0u);
}

TEST_F(CudaExpertsTest, RefusesWhatItCannotDo) {
  int64_t dropped = 0;
  auto experts = make_experts({DType::kF32, DType::kF32, DType::kF32}, 2, 8, 4);
  auto cache = ref_->make_expert_cache(1 << 20);
  PackOptions options;
  options.expert_cache = cache->get();
  auto refused = cuda_->pack_experts(std::make_unique<Source>(experts, &dropped), options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented);

  const int64_t before = cuda::emulation::allocations;
  experts[1].up = weight_of(DType::kBF16, 4, 8);
  refused = cuda_->pack_experts(std::make_unique<Source>(experts, &dropped), {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("expert 1"));

  experts[1].up = weight_of(DType::kF32, 4, 9);
  refused = cuda_->pack_experts(std::make_unique<Source>(experts, &dropped), {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDataLoss);

  experts[1].up = weight_of(DType::kF32, 4, 8);
  static_cast<float*>(const_cast<void*>(experts[1].up.data))[5] = INFINITY;
  refused = cuda_->pack_experts(std::make_unique<Source>(experts, &dropped), {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(cuda::emulation::allocations, before);
}

}  // namespace
}  // namespace ponder
