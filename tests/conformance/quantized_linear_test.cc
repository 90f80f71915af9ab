// Products with block-quantised and f8 weights. In float32 precision a backend multiplies the
// values that dequantize.h defines; otherwise it may round activations: to int8, as many to a scale
// as a block has elements, where weights are blocks, and to bf16 where they are f8.
#include <gmock/gmock.h>

#include "lib/tensor/dequantize.h"
#include "tests/conformance/product_support.h"
#include "tests/lib/tensor/random_blocks.h"

namespace ponder {
namespace {

using ::testing::HasSubstr;

struct Shape {
  int64_t m, k, n;
};
const Shape kShapes[] = {{1, 256, 64},   {2, 512, 17},  {3, 768, 130},  {4, 256, 65},
                         {5, 1536, 63},  {7, 512, 128}, {13, 2304, 66}, {64, 512, 96},
                         {70, 256, 129}, {520, 512, 70}};
// Rows that end within a block of 256: for types whose blocks are shorter.
const Shape kOddShapes[] = {{1, 32, 64}, {3, 288, 70}, {66, 480, 64}, {9, 1440, 65}};
// And within anything: for f8, which has no blocks in a row.
const Shape kRaggedShapes[] = {
    {1, 1, 1}, {2, 127, 129}, {3, 129, 64}, {65, 387, 200}, {5, 1029, 63}};

class QuantizedLinearConformance : public ProductConformance {
 protected:
  static WeightData make_blocks(const std::string& name, DType dtype, int64_t rows, int64_t cols) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(1);  // an odd address
    if (dtype == DType::kF8_E4M3) {
      std::mt19937 random(static_cast<uint32_t>(rows * cols));
      for (int64_t i = 0; i < rows * cols; ++i) {
        uint8_t code = static_cast<uint8_t>(random());
        if ((code & 0x7f) == 0x7f) code ^= 1;
        bytes->push_back(code);
      }
    } else {
      const auto blocks = random_blocks(dtype, rows * cols);
      bytes->insert(bytes->end(), blocks.begin(), blocks.end());
    }
    WeightData w;
    w.name = name;
    w.dtype = dtype;
    w.shape = {rows, cols};
    w.data = bytes->data() + 1;
    w.owner = bytes;
    if (dtype == DType::kF8_E4M3) {
      const int64_t tiles = (rows + 127) / 128 * ((cols + 127) / 128);
      std::shared_ptr<float[]> scales(new float[static_cast<size_t>(tiles)]);
      const auto values = random_floats(static_cast<size_t>(tiles), 3, 0.01f);
      std::copy(values.begin(), values.end(), scales.get());
      w.scales = scales;
    }
    return w;
  }
  static std::vector<float> values_of(const WeightData& w) {
    std::vector<float> values(static_cast<size_t>(w.elements()));
    if (w.dtype == DType::kF8_E4M3) {
      dequantize_f8_rows({w.data, w.scales.get(), w.shape[0], w.shape[1]}, 0, w.shape[0],
                         values.data());
    } else {
      EXPECT_TRUE(dequantize(w.dtype, w.data, w.elements(), values.data()).ok());
    }
    return values;
  }

  // The activations that a product with weights of this type sees.
  std::vector<float> seen(const std::vector<float>& x, DType dtype, int64_t k,
                          Precision precision) const {
    if (GetParam().name == "ref" || precision == Precision::kF32) return x;
    if (dtype == DType::kF8_E4M3) return rounds_activations() ? rounded(x, DType::kBF16) : x;
    const int64_t group = dtype_info(dtype).block;
    std::vector<float> out = x;
    for (size_t row = 0; row < x.size(); row += static_cast<size_t>(k)) {
      for (int64_t g = 0; g < k; g += group) {
        float* first = out.data() + row + g;
        float largest = 0;
        for (int64_t i = 0; i < group; ++i) largest = std::max(largest, std::abs(first[i]));
        const float scale = largest / 127.0f, factor = 127.0f / largest;
        for (int64_t i = 0; i < group; ++i) first[i] = scale * std::nearbyint(first[i] * factor);
      }
    }
    return out;
  }

  void compare(const Machine& machine, const Machine& ref, DType dtype, const Shape& s,
               Precision precision) {
    SCOPED_TRACE(absl::StrCat("M ", s.m, " K ", s.k, " N ", s.n, " ", dtype_name(dtype),
                              precision == Precision::kAuto ? " auto" : " f32"));
    const WeightData weight = make_blocks("w", dtype, s.n, s.k);
    const auto x = random_floats(static_cast<size_t>(s.m * s.k), 2);
    auto bias = random_floats(static_cast<size_t>(s.n), 3);
    const auto packed = pack(machine, {&weight, 1}, precision);
    ASSERT_NE(packed, nullptr);
    const auto got = run(machine, packed.get(), x, s.m, &bias);

    const auto inputs = seen(x, dtype, s.k, precision);
    const auto wanted = run(ref, pack(ref, {&weight, 1}, precision).get(), inputs, s.m, &bias);
    const auto values = values_of(weight);
    // Minima are summed on their own: what cancels in a value does not in a product.
    auto sizes = magnitudes(values);
    if (dtype_is_blocked(dtype)) {
      const auto block = static_cast<size_t>(dtype_info(dtype).block);
      for (size_t b = 0; b < sizes.size(); b += block) {
        const auto first = sizes.begin() + static_cast<std::ptrdiff_t>(b);
        const float largest = *std::max_element(first, first + static_cast<std::ptrdiff_t>(block));
        std::fill_n(first, block, largest);
      }
    }
    const WeightData absolute = make_weight("w", DType::kF32, {s.n, s.k}, sizes);
    auto absolute_bias = magnitudes(bias);
    const auto scale = run(ref, pack(ref, {&absolute, 1}, precision).get(), magnitudes(inputs), s.m,
                           &absolute_bias);
    const double tolerance = sum_tolerance(s.k);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::abs(double{got[i]} - wanted[i]), tolerance * scale[i])
          << "row " << i / static_cast<size_t>(s.n) << " column " << i % static_cast<size_t>(s.n)
          << ": " << got[i] << " instead of " << wanted[i];
    }
  }
};

TEST_P(QuantizedLinearConformance, AgreesWithTheReferenceForAllTypes) {
  const Machine machine(GetParam(), 3);
  const Machine ref = reference();
  for (const Precision precision : {Precision::kAuto, Precision::kF32}) {
    for (const DType dtype : kBlockTypes) {
      for (const Shape& s : kShapes) compare(machine, ref, dtype, s, precision);
      if (dtype_info(dtype).block > 32) continue;
      for (const Shape& s : kOddShapes) compare(machine, ref, dtype, s, precision);
    }
    for (const Shape& s : kShapes) compare(machine, ref, DType::kF8_E4M3, s, precision);
    for (const Shape& s : kRaggedShapes) compare(machine, ref, DType::kF8_E4M3, s, precision);
  }
}

TEST_P(QuantizedLinearConformance, RowsDependOnNothingButThemselvesBitForBit) {
  const Machine one(GetParam(), 1);
  const Machine four(GetParam(), 4);
  constexpr int64_t kRows = 131, kK = 768, kN = 130;
  std::vector<DType> types(std::begin(kBlockTypes), std::end(kBlockTypes));
  types.push_back(DType::kF8_E4M3);
  for (const DType dtype : types) {
    for (const Precision precision : {Precision::kAuto, Precision::kF32, Precision::kF8}) {
      // The next test says what is left to see.
      if (precision == Precision::kF8 && (dtype != DType::kF8_E4M3 || !on_gpu())) continue;
      SCOPED_TRACE(dtype_name(dtype));
      const auto x = random_floats(static_cast<size_t>(kRows * kK), 5);
      const WeightData weight = make_blocks("w", dtype, kN, kK);
      auto bias = random_floats(static_cast<size_t>(kN), 7);
      const auto packed_four = pack(four, {&weight, 1}, precision);
      const auto packed_one = pack(one, {&weight, 1}, precision);
      const auto whole = run(four, packed_four.get(), x, kRows, &bias);
      for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 64, 100, 130}) {
        for (const int64_t first : {int64_t{0}, kRows - m}) {
          const std::vector<float> some(x.begin() + first * kK, x.begin() + (first + m) * kK);
          const auto part = run(m % 2 != 0 ? four : one,
                                m % 2 != 0 ? packed_four.get() : packed_one.get(), some, m, &bias);
          ASSERT_TRUE(same_bits(part.data(), whole.data() + first * kN, part.size()))
              << m << " rows from row " << first;
        }
      }
    }
  }
}

// kF8 is kAuto but for f8 weights on some GPUs, whose inputs are then rounded to f8_e4m3: to 2^-4 of
// a number, or to 2^-10 / 448 of its group's largest; and sums to 14 bits of their largest term.
TEST_P(QuantizedLinearConformance, Fp8InputsAreOnlyForF8WeightsAndOnlyOnGpus) {
  const Machine machine(GetParam(), 2);
  constexpr int64_t kM = 40, kK = 1280, kN = 130;
  const auto x = random_floats(kM * kK, 20);
  const WeightData weights[] = {
      make_weight("a", DType::kBF16, {kN, kK}, random_floats(kN * kK, 1)),
      make_blocks("b", DType::kQ4_K, kN, kK), make_blocks("c", DType::kF8_E4M3, kN, kK)};
  for (const WeightData& weight : weights) {
    SCOPED_TRACE(dtype_name(weight.dtype));
    const auto product = [&](Precision precision) {
      return run(machine, pack(machine, {&weight, 1}, precision).get(), x, kM);
    };
    const auto got = product(Precision::kF8), by_auto = product(Precision::kAuto);
    if (weight.dtype != DType::kF8_E4M3 || !on_gpu()) {
      EXPECT_TRUE(same_bits(got.data(), by_auto.data(), got.size()));
      continue;
    }
    const auto wanted = product(Precision::kF32), values = values_of(weight);
    for (size_t i = 0; i < got.size(); ++i) {
      const float* row = &x[i / kN * kK];
      const float* column = &values[i % kN * kK];
      double size = 0;
      for (size_t k = 0; k < kK; ++k) size += std::abs(double{row[k]} * double{column[k]});
      ASSERT_NEAR(got[i], wanted[i], (0x1p-4 + 0x1p-10) * size) << i;
    }
  }
}

// Panels that are few and deep are shared by threads, along K or by rows.
TEST_P(QuantizedLinearConformance, ThreadsThatShareAPanelGiveTheSameBits) {
  const Machine one(GetParam(), 1);
  std::vector<DType> types(std::begin(kBlockTypes), std::end(kBlockTypes));
  for (const DType dtype : {DType::kF8_E4M3, DType::kBF16, DType::kF16, DType::kF32}) {
    types.push_back(dtype);
  }
  for (const DType dtype : types) {
    const int64_t n = 150, k = dtype_info(dtype).block > 32 ? 8192 : 8192 + 96;
    const bool plain = !dtype_is_blocked(dtype) && dtype != DType::kF8_E4M3;
    const WeightData weight =
        plain ? make_weight("w", dtype, {n, k}, random_floats(static_cast<size_t>(n * k), 4))
              : make_blocks("w", dtype, n, k);
    auto bias = random_floats(static_cast<size_t>(n), 7);
    for (const Precision precision : {Precision::kAuto, Precision::kF32}) {
      const auto packed_one = pack(one, {&weight, 1}, precision);
      for (const uint32_t threads : {2u, 5u}) {
        const Machine some(GetParam(), threads);
        const auto packed = pack(some, {&weight, 1}, precision);
        for (const int64_t m : {1, 5, 16, 130}) {
          // Slow, and no news.
          if (m > 5 && (threads == 2 || precision == Precision::kF32)) continue;
          if (m > 1 && GetParam().name == "ref") continue;
          SCOPED_TRACE(absl::StrCat(dtype_name(dtype), ", ", m, " rows, ", threads, " threads"));
          const auto x = random_floats(static_cast<size_t>(m * k), 5);
          const auto alone = run(one, packed_one.get(), x, m, &bias);
          const auto shared = run(some, packed.get(), x, m, &bias);
          ASSERT_TRUE(same_bits(alone.data(), shared.data(), alone.size()));
        }
      }
    }
  }
}

// q4_k_m files stack q, k and v of different types.
TEST_P(QuantizedLinearConformance, StackedPartsGiveWhatEachGivesAlone) {
  const Machine machine(GetParam(), 2);
  constexpr int64_t kCols = 512, kM = 9;
  const WeightData parts[] = {
      make_blocks("a", DType::kQ4_K, 70, kCols),
      make_weight("b", DType::kBF16, {3, kCols}, random_floats(3 * kCols, 1)),
      make_blocks("c", DType::kQ6_K, 1, kCols),
      make_blocks("d", DType::kF8_E4M3, 70, kCols),
      make_blocks("e", DType::kF8_E4M3, 130, kCols),
      make_blocks("f", DType::kQ8_0, 64, kCols),
      make_blocks("g", DType::kQ8_0, 66, kCols),
  };
  for (const Precision precision : {Precision::kAuto, Precision::kF32}) {
    const auto x = random_floats(kM * kCols, 20);
    const auto packed = pack(machine, parts, precision);
    ASSERT_EQ(packed->rows, 404);
    auto bias = random_floats(404, 5);
    const auto got = run(machine, packed.get(), x, kM, &bias);
    int64_t first = 0;
    for (const WeightData& part : parts) {
      std::vector<float> own_bias(bias.begin() + first, bias.begin() + first + part.shape[0]);
      const auto own = run(machine, pack(machine, {&part, 1}, precision).get(), x, kM, &own_bias);
      for (int64_t r = 0; r < kM; ++r) {
        ASSERT_TRUE(same_bits(got.data() + r * 404 + first, own.data() + r * part.shape[0],
                              static_cast<size_t>(part.shape[0])))
            << part.name << " row " << r;
      }
      first += part.shape[0];
    }
  }
}

TEST_P(QuantizedLinearConformance, TablesGiveTheStoredValues) {
  const Machine machine(GetParam(), 2);
  std::vector<DType> types(std::begin(kBlockTypes), std::end(kBlockTypes));
  types.push_back(DType::kF8_E4M3);
  for (const DType dtype : types) {
    SCOPED_TRACE(dtype_name(dtype));
    const WeightData weight = make_blocks("w", dtype, 140, 512);
    auto table = machine->pack_table(weight);
    ASSERT_TRUE(table.ok()) << table.status();
    const std::vector<int32_t> tokens = {139, 0, 7, 7, 128};
    std::vector<float> out(tokens.size() * 512, NAN);
    EmbedParams p{};
    p.table = table->get();
    p.tokens = tokens;
    p.out = view(out, {5, 512});
    ASSERT_TRUE(machine->embed(p).ok());
    const auto values = values_of(weight);
    for (size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_TRUE(same_bits(out.data() + i * 512, values.data() + tokens[i] * 512, 512)) << i;
    }
  }
}

TEST_P(QuantizedLinearConformance, ScalesThatAreNoNumbersAreNamed) {
  const Machine machine(GetParam(), 2);
  for (const ScaleField& field : kScales) {
    SCOPED_TRACE(dtype_name(field.dtype));
    const WeightData weight = make_blocks("model.bad.weight", field.dtype, 70, 512);
    const auto block = static_cast<size_t>(dtype_info(field.dtype).bytes);
    auto* bytes = static_cast<uint8_t*>(const_cast<void*>(weight.data));
    const auto blocks = static_cast<size_t>(dtype_bytes(field.dtype, 512)) / block;
    const uint16_t nan = 0x7e00;
    std::memcpy(bytes + (69 * blocks + 1) * block + field.offset, &nan, 2);
    for (const Status& status :
         {machine->pack_linear({&weight, 1}, {}).status(), machine->pack_table(weight).status()}) {
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("\"model.bad.weight\""));
      EXPECT_THAT(std::string(status.message()), HasSubstr("69"));
    }
  }
}

TEST_P(QuantizedLinearConformance, F8CodesAndScalesThatAreNoNumbersAreNamed) {
  const Machine machine(GetParam(), 2);
  for (const bool code : {true, false}) {
    const WeightData weight = make_blocks("model.bad.weight", DType::kF8_E4M3, 300, 200);
    if (code) {
      static_cast<uint8_t*>(const_cast<void*>(weight.data))[299 * 200 + 199] = 0xff;
    } else {
      const_cast<float*>(weight.scales.get())[5] = INFINITY;
    }
    for (const Status& status :
         {machine->pack_linear({&weight, 1}, {}).status(), machine->pack_table(weight).status()}) {
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("\"model.bad.weight\""));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, QuantizedLinearConformance, ::testing::ValuesIn(targets()),
                         target_name);

}  // namespace
}  // namespace ponder
