// The kernels of block-quantised products: expanding against the reference dequantisers bit for
// bit, products against the order of operations that quant.h states, bit for bit.
#include "backends/onednn/quant.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/onednn/isa.h"
#include "gtest/gtest.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/half.h"

namespace ponder::cpu {
namespace {

constexpr DType kTypes[kQuantTypes] = {
    DType::kQ4_0,    DType::kQ4_1,  DType::kQ5_0,  DType::kQ5_1,    DType::kQ8_0,   DType::kQ2_K,
    DType::kQ3_K,    DType::kQ4_K,  DType::kQ5_K,  DType::kQ6_K,    DType::kIQ4_NL, DType::kIQ4_XS,
    DType::kMXFP4,   DType::kIQ1_S, DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS, DType::kIQ2_S,
    DType::kIQ3_XXS, DType::kIQ3_S, DType::kTQ1_0, DType::kTQ2_0};

struct Table {
  ByteIsa isa;
  const QuantKernels* (*get)();
};
constexpr Table kTables[] = {{ByteIsa::kPortable, quant_kernels_portable},
                             {ByteIsa::kAvx2, quant_kernels_avx2},
                             {ByteIsa::kAvxVnni, quant_kernels_avxvnni},
                             {ByteIsa::kAvx512Vnni, quant_kernels_avx512vnni},
                             {ByteIsa::kAmx, quant_kernels_amx}};

uint32_t bits(float v) { return std::bit_cast<uint32_t>(v); }

// Where 16-bit floats lie in a stored block of this type, in bytes.
std::vector<size_t> halves_of(QuantType type) {
  const auto end = static_cast<size_t>(kQuantFormats[type].bytes);
  switch (type) {
    case kQuantQ4_1:
    case kQuantQ5_1:
    case kQuantQ4_K:
    case kQuantQ5_K:
      return {0, 2};
    case kQuantQ2_K:
      return {end - 4, end - 2};
    case kQuantQ3_K:
    case kQuantQ6_K:
    case kQuantTQ1_0:
    case kQuantTQ2_0:
      return {end - 2};
    case kQuantMXFP4:
    case kQuantIQ1_M:
      return {};
    default:
      return {0};
  }
}

// [64] columns of k inputs: any codes, and scales that are finite: of a size that weights have, or,
// when `extreme`, whatever 16 bits can hold.
class Columns {
 public:
  Columns(QuantType type, int64_t k, int count, bool extreme, unsigned seed) : type_(type), k_(k) {
    const QuantFormat& format = kQuantFormats[type];
    const auto bytes = static_cast<size_t>(k / format.unit * format.bytes);
    std::mt19937 random(seed);
    for (int c = 0; c < kPanel; ++c) {
      std::vector<std::byte> column(bytes);
      for (std::byte& b : column) b = static_cast<std::byte>(random());
      for (size_t at = 0; at < bytes; at += static_cast<size_t>(format.bytes)) {
        for (size_t half : halves_of(type)) {
          uint16_t v = static_cast<uint16_t>(random());
          if (!extreme) v = (v & 0x83ff) | static_cast<uint16_t>((8 + random() % 6) << 10);
          if ((v & 0x7c00) == 0x7c00) v ^= 0x4000;
          std::memcpy(&column[at + half], &v, 2);
        }
        if (type == kQuantMXFP4) {
          column[at] = static_cast<std::byte>(extreme ? random() % 253 : 110 + random() % 20);
        }
        if (type == kQuantIQ1_M) {  // d's top four bits are those of the last scale
          const uint8_t exponent = extreme ? static_cast<uint8_t>(random() % 8) : 2;
          column[at + 55] = (column[at + 55] & std::byte{0x0f}) |
                            static_cast<std::byte>((random() % 2 * 8 + exponent % 7) << 4);
        }
      }
      data_.push_back(std::move(column));
      pointers_.push_back(c < count ? data_.back().data() : nullptr);
    }
  }

  std::vector<std::byte> pack(bool* bad) const {
    std::vector<std::byte> out(
        static_cast<size_t>(kPanel * k_ / kQuantFormats[type_].unit * kQuantFormats[type_].bytes) +
        64);
    *bad = kQuantPack[type_](pointers_.data(), k_, out.data());
    return out;
  }
  // Column c as floats; zeros when it does not exist.
  std::vector<float> floats(int c) const {
    std::vector<float> out(static_cast<size_t>(k_));
    if (pointers_[static_cast<size_t>(c)] != nullptr) {
      EXPECT_TRUE(
          dequantize(kTypes[type_], pointers_[static_cast<size_t>(c)], k_, out.data()).ok());
    }
    return out;
  }
  bool exists(int c) const { return pointers_[static_cast<size_t>(c)] != nullptr; }
  std::byte* column(int c) { return data_[static_cast<size_t>(c)].data(); }

 private:
  QuantType type_;
  int64_t k_;
  std::vector<std::vector<std::byte>> data_;
  std::vector<const std::byte*> pointers_;
};

std::vector<int64_t> lengths_of(QuantType type) {
  if (kQuantFormats[type].unit == 256) return {256};
  return {32, 96, 256};
}

struct Case {
  Table table;
  QuantType type;
};

class QuantKernelsTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Table& table = GetParam().table;
    if (table.get() == nullptr || !has_byte_isa(table.isa)) {
      GTEST_SKIP() << "this processor cannot run " << byte_isa_name(table.isa);
    }
    kernels_ = table.get();
  }
  QuantType type() const { return GetParam().type; }
  const QuantFormat& format() const { return kQuantFormats[type()]; }

  const QuantKernels* kernels_ = nullptr;
};

TEST_P(QuantKernelsTest, ExpandedBlocksAreTheReferenceValuesBitForBit) {
  for (const bool extreme : {false, true}) {
    for (const int64_t k : lengths_of(type())) {
      for (const int count : {64, 37}) {
        SCOPED_TRACE(testing::Message()
                     << "k " << k << ", " << count << " columns, extreme " << extreme);
        const Columns columns(type(), k, count, extreme, static_cast<unsigned>(k + count));
        bool bad = true;
        const std::vector<std::byte> packed = columns.pack(&bad);
        EXPECT_FALSE(bad);
        auto room = std::make_unique<ExpandRoom>();
        const ExpandedBlock block = kernels_->expand[type()]({packed.data(), 0}, k, room.get());
        ASSERT_EQ(block.min != nullptr, format().has_min);
        std::vector<float> out(static_cast<size_t>(k * kPanel));
        kernels_->to_floats(block, format(), k, out.data());
        for (int c = 0; c < kPanel; ++c) {
          const std::vector<float> wanted = columns.floats(c);
          for (int64_t i = 0; i < k; ++i) {
            const int64_t q_at = (i / 4 * kPanel + c) * 4 + i % 4;
            const int64_t s_at = i / format().sub * kPanel + c;
            EXPECT_LE(block.q[q_at], block.highest);
            float v = block.scale[s_at] * static_cast<float>(block.q[q_at] - format().offset);
            if (block.min != nullptr) {
              const float min = block.min[s_at];
              v = v - (block.min_scale != nullptr ? block.min_scale[c] * min : min);
            }
            if (!columns.exists(c)) {
              ASSERT_EQ(v, 0.0f) << "column " << c << " input " << i;
              continue;
            }
            ASSERT_EQ(bits(v), bits(wanted[static_cast<size_t>(i)]))
                << "column " << c << " input " << i << ": " << v << " for "
                << wanted[static_cast<size_t>(i)];
          }
        }
        // The same values in the order of this instruction set's gemm_f32: runs of `width` columns.
        bool found = false;
        for (const int64_t width : {8, 16, 32, 64}) {
          bool all = true;
          for (int c = 0; c < kPanel && all; ++c) {
            const std::vector<float> wanted = columns.floats(c);
            for (int64_t i = 0; i < k && all; ++i) {
              const int64_t at = c / width * k * width + i * width + c % width;
              const float v = out[static_cast<size_t>(at)];
              all = columns.exists(c) ? bits(v) == bits(wanted[static_cast<size_t>(i)]) : v == 0;
            }
          }
          found = found || all;
        }
        EXPECT_TRUE(found) << "to_floats has the reference's values in no order of gemm_f32";
      }
    }
  }
}

TEST_P(QuantKernelsTest, ScalesThatAreNoNumbersAreFoundWhilePacking) {
  const int64_t k = 256;
  for (const size_t half : halves_of(type())) {
    for (const uint16_t value : {0x7c00, 0xfc00, 0x7e01}) {
      Columns columns(type(), k, 64, false, 5);
      const auto last = static_cast<size_t>((k / format().unit - 1) * format().bytes);
      std::memcpy(columns.column(63) + last + half, &value, 2);
      bool bad = false;
      columns.pack(&bad);
      EXPECT_TRUE(bad) << "half at " << half;
    }
  }
  if (type() == kQuantMXFP4) {
    Columns columns(type(), k, 64, false, 5);
    columns.column(7)[17] = std::byte{255};
    bool bad = false;
    columns.pack(&bad);
    EXPECT_TRUE(bad);
  }
  if (type() == kQuantIQ1_M) {
    Columns columns(type(), k, 64, false, 5);
    columns.column(7)[55] |= std::byte{0x70};
    columns.column(7)[53] |= std::byte{0xc0};
    bool bad = false;
    columns.pack(&bad);
    EXPECT_TRUE(bad);
  }
}

// Rows of activations and their rounded form.
struct Rows {
  Rows(const QuantKernels* kernels, const QuantFormat& format, int64_t m, int64_t k, unsigned seed)
      : subs(k / format.sub), groups((k + format.group - 1) / format.group) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    x.resize(static_cast<size_t>(m * k));
    for (float& v : x) v = normal(random);
    q.resize(x.size());
    scale.resize(static_cast<size_t>(m * groups));
    start.resize(static_cast<size_t>(m * subs));
    sum.resize(start.size());
    view = {q.data(), k, scale.data(), groups, start.data(), sum.data(), subs};
    for (int64_t r = 0; r < m; ++r) {
      kernels->quantize_row(x.data() + r * k, k, format, row(r));
    }
  }
  QuantRows row(int64_t r) const {
    QuantRows v = view;
    v.q += r * v.ldq;
    v.scale += r * v.ld_group;
    v.start += r * v.ld_sub;
    v.sum += r * v.ld_sub;
    return v;
  }
  int64_t subs, groups;
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale, sum;
  std::vector<int32_t> start;
  QuantRows view;
};

TEST_P(QuantKernelsTest, ActivationsAreRoundedToTheNearestOf255Steps) {
  const int64_t k = 512;
  const Rows rows(kernels_, format(), 3, k, 11);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t g = 0; g < rows.groups; ++g) {
      float largest = 0;
      for (int64_t i = 0; i < format().group; ++i) {
        largest = std::max(largest,
                           std::fabs(rows.x[static_cast<size_t>(r * k + g * format().group + i)]));
      }
      const float scale = rows.scale[static_cast<size_t>(r * rows.groups + g)];
      EXPECT_EQ(bits(scale), bits(largest / 127.0f));
      for (int64_t i = 0; i < format().group; ++i) {
        const auto at = static_cast<size_t>(r * k + g * format().group + i);
        EXPECT_NEAR(static_cast<float>(rows.q[at]), rows.x[at] / scale, 0.501f);
      }
    }
    for (int64_t j = 0; j < rows.subs; ++j) {
      int32_t sum = 0;
      for (int64_t i = 0; i < format().sub; ++i) {
        sum += rows.q[static_cast<size_t>(r * k + j * format().sub + i)];
      }
      EXPECT_EQ(rows.sum[static_cast<size_t>(r * rows.subs + j)], static_cast<float>(sum));
      EXPECT_EQ(rows.start[static_cast<size_t>(r * rows.subs + j)], -format().offset * sum);
    }
  }
}

TEST_P(QuantKernelsTest, ActivationsThatAreNoNumbersSpoilTheirGroupAndNothingElse) {
  const int64_t k = 512;
  for (const float v :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    Rows rows(kernels_, format(), 1, k, 12);
    rows.x[300] = v;
    kernels_->quantize_row(rows.x.data(), k, format(), rows.view);
    for (int64_t g = 0; g < rows.groups; ++g) {
      EXPECT_EQ(std::isfinite(rows.scale[static_cast<size_t>(g)]), g != 300 / format().group) << g;
    }
  }
  // Nothing, and next to nothing, are zeros; the largest floats are none of these.
  for (const float v : {0.0f, -0.0f, 1e-40f, 1e-38f}) {
    Rows rows(kernels_, format(), 1, k, 13);
    std::fill(rows.x.begin(), rows.x.end(), v);
    kernels_->quantize_row(rows.x.data(), k, format(), rows.view);
    for (const float s : rows.scale) EXPECT_EQ(s, 0.0f);
    for (const int8_t q : rows.q) EXPECT_EQ(q, 0);
  }
  Rows rows(kernels_, format(), 1, k, 14);
  std::fill(rows.x.begin(), rows.x.end(), -3.4e38f);
  kernels_->quantize_row(rows.x.data(), k, format(), rows.view);
  for (const int8_t q : rows.q) EXPECT_EQ(q, -127);
}

// quant.h's formula, one operation at a time.
float product(const ExpandedBlock& w, const QuantRows& x, const QuantFormat& f, int64_t k, int c,
              float before, bool fused) {
  const auto fma = [fused](float a, float b, float d) {
    if (fused) return std::fma(a, b, d);
    volatile float p = a * b;
    return p + d;
  };
  const auto minima = [&](int64_t j) { return w.min[j * kPanel + c]; };
  float part = 0;
  if (f.group == kQuantBlock && w.min != nullptr) {
    double low = 0;
    for (int64_t j = 0; j < k / f.sub; ++j) {
      EXPECT_EQ(minima(j), std::trunc(minima(j)));
      for (int64_t i = j * f.sub; i < (j + 1) * f.sub; ++i) low += double{minima(j)} * x.q[i];
    }
    part = -w.min_scale[c] * static_cast<float>(low);
  }
  for (int64_t j = 0; j < k / f.sub; ++j) {
    int64_t isum = 0, xsum = 0;
    for (int64_t i = j * f.sub; i < (j + 1) * f.sub; ++i) {
      isum += int64_t{x.q[i]} * (w.q[(i / 4 * kPanel + c) * 4 + i % 4] - f.offset);
      xsum += x.q[i];
    }
    const float scale = w.scale[j * kPanel + c];
    if (f.group == kQuantBlock) {
      part = fma(static_cast<float>(isum), scale, part);
    } else {
      float t = static_cast<float>(isum) * scale;
      if (w.min != nullptr) t = fma(-minima(j), static_cast<float>(xsum), t);
      part = fma(t, x.scale[j], part);
    }
  }
  return f.group == kQuantBlock ? fma(part, x.scale[0], before) : before + part;
}

TEST_P(QuantKernelsTest, ProductsFollowTheStatedOrderBitForBit) {
  const bool fused = GetParam().table.isa != ByteIsa::kPortable;
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  for (const int64_t k : lengths_of(type())) {
    const Columns columns(type(), k, 64, false, static_cast<unsigned>(k));
    bool bad = true;
    const std::vector<std::byte> packed = columns.pack(&bad);
    auto room = std::make_unique<ExpandRoom>(), other_room = std::make_unique<ExpandRoom>();
    const auto one_row = kernels_->one_row[type()];
    const ExpandedBlock block = kernels_->expand[type()]({packed.data(), 0}, k, room.get());
    for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 47, 48, 51, 61}) {
      const Rows rows(kernels_, format(), m, k, static_cast<unsigned>(m));
      for (const int32_t n : {64, 63, 33, 16, 5, 1}) {
        for (const bool later : {false, true}) {
          for (const bool at_once : {false, true}) {
            if (at_once && (m > 1 || one_row == nullptr)) continue;
            std::vector<float> bias(64), c(static_cast<size_t>(m * 70)), before;
            for (float& v : bias) v = normal(random);
            for (float& v : c) v = normal(random);
            before = c;
            QuantGemmArgs g;
            g.w = block;
            g.x = rows.view;
            g.sub = format().sub;
            g.group = format().group;
            g.offset = format().offset;
            g.m = m;
            g.k = k;
            g.c = c.data();
            g.ldc = 70;
            g.n = n;
            g.before = later ? c.data() : nullptr;
            g.ld_before = 70;
            g.bias = later ? bias.data() : nullptr;
            if (at_once) {
              g.w = {};
              g.next = packed.data();
              g.next_bytes = static_cast<int64_t>(packed.size());
              one_row(packed.data(), g, other_room.get());
            } else {
              kernels_->gemm(g);
            }
            for (int64_t r = 0; r < m; ++r) {
              for (int col = 0; col < 70; ++col) {
                const auto at = static_cast<size_t>(r * 70 + col);
                float wanted = before[at];
                if (col < n) {
                  wanted =
                      product(block, rows.row(r), format(), k, col, later ? before[at] : 0, fused);
                  if (later) wanted += bias[static_cast<size_t>(col)];
                }
                ASSERT_EQ(bits(c[at]), bits(wanted))
                    << "k " << k << " m " << m << " n " << n << " row " << r << " column " << col
                    << ": " << c[at] << " for " << wanted;
              }
            }
          }
        }
      }
    }
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Table& table : kTables) {
    for (int t = 0; t < kQuantTypes; ++t) cases.push_back({table, static_cast<QuantType>(t)});
  }
  return cases;
}

std::string name_of(const ::testing::TestParamInfo<Case>& tested) {
  return std::string(byte_isa_name(tested.param.table.isa)) + "_" +
         std::string(dtype_name(kTypes[tested.param.type]));
}

INSTANTIATE_TEST_SUITE_P(All, QuantKernelsTest, ::testing::ValuesIn(all_cases()), name_of);

}  // namespace
}  // namespace ponder::cpu
