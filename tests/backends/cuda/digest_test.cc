// Rows of logits as the emulated device reduces them, against the reference backend: the same bits.

#include <algorithm>
#include <limits>

#include "tests/backends/cuda/cuda_target.h"

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Digested {
  std::vector<RowDigest> rows;
  std::vector<int32_t> ids;
  std::vector<float> logits, also_logits;
  std::vector<std::vector<int32_t>> also;
  Status status;
};

struct Asked {
  std::array<float, kDigestSums> scales = {};
  std::vector<int32_t> also = {};
};

Digested digest(const Machine& machine, std::vector<float> data, int64_t vocabulary, int64_t stride,
                const std::vector<Asked>& asked) {
  Digested d;
  const auto kept = static_cast<size_t>(std::min<int64_t>(vocabulary, kDigestLogits));
  d.rows.resize(asked.size());
  d.ids.assign(asked.size() * kept, -1);
  d.logits.assign(d.ids.size(), NAN);
  size_t also = 0;
  for (const Asked& a : asked) also += a.also.size();
  d.also_logits.assign(also, NAN);
  also = 0;
  for (const Asked& a : asked) d.also.push_back(a.also);
  for (size_t r = 0; r < asked.size(); ++r) {
    RowDigest& row = d.rows[r];
    row.scales = asked[r].scales;
    row.also = d.also[r];
    row.also_logits = std::span(d.also_logits).subspan(also, row.also.size());
    also += row.also.size();
    row.ids = std::span(d.ids).subspan(r * kept, kept);
    row.logits = std::span(d.logits).subspan(r * kept, kept);
  }
  Tensor logits =
      Tensor::make(data.data(), DType::kF32, {static_cast<int64_t>(asked.size()), vocabulary});
  logits.stride[0] = stride;
  d.status = machine->digest_rows({logits, d.rows});
  return d;
}

void expect_same(const Digested& got, const Digested& wanted) {
  ASSERT_TRUE(got.status.ok()) << got.status;
  ASSERT_TRUE(wanted.status.ok()) << wanted.status;
  EXPECT_EQ(got.ids, wanted.ids);
  EXPECT_TRUE(same_bits(got.logits.data(), wanted.logits.data(), got.logits.size()));
  EXPECT_TRUE(same_bits(got.also_logits.data(), wanted.also_logits.data(), got.also_logits.size()));
  for (size_t r = 0; r < got.rows.size(); ++r) {
    EXPECT_EQ(got.rows[r].damaged, wanted.rows[r].damaged);
    for (size_t s = 0; s < kDigestSums; ++s) {
      const double a = got.rows[r].sums[s], b = wanted.rows[r].sums[s];
      EXPECT_EQ(std::memcmp(&a, &b, sizeof(a)), 0) << r << ": " << a << " for " << b;
    }
  }
}

std::vector<float> noise(size_t n, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

TEST(CudaDigest, IsTheReferencesBitForBit) {
  const Machine cuda = emulated_cuda(), ref = plain_reference();
  ASSERT_TRUE(cuda->digests_rows());
  uint32_t seed = 1;
  for (const int64_t vocabulary : {1, 5, 127, 128, 129, 255, 257, 1000, 4096, 4097, 9001, 20000}) {
    SCOPED_TRACE(vocabulary);
    const int64_t stride = vocabulary + (vocabulary % 2 == 0 ? 0 : 3);
    const auto last = static_cast<int32_t>(vocabulary - 1);
    const std::vector<Asked> asked = {{{1.0f, 0.0f}, {}},
                                      {{1.0f, 1.0f / 0.6f}, {last, 0, last / 2}},
                                      {{0.0f, 0.0f}, {0}},
                                      {{5.0f, 0.01f}, {}}};
    auto data = noise(static_cast<size_t>(stride) * asked.size(), 4.0f, seed++);
    // Differences over the whole range of the exponential, equals, both zeros, minus infinity.
    for (int64_t i = 0; i < vocabulary; ++i) {
      float& x = data[static_cast<size_t>(stride + i)];
      if (i % 3 == 0) x = std::round(x);
      if (i % 7 == 0) x = -0.0f;
      if (i % 50 == 49) x = -kInf;
      data[static_cast<size_t>(3 * stride + i)] *= 10.0f;
    }
    expect_same(digest(cuda, data, vocabulary, stride, asked),
                digest(ref, data, vocabulary, stride, asked));
  }
}

TEST(CudaDigest, EqualsAreChosenByTheirIds) {
  const Machine cuda = emulated_cuda(), ref = plain_reference();
  for (const int64_t vocabulary : {300, 5000, 12345}) {
    std::vector<float> row(static_cast<size_t>(vocabulary), 1.0f);
    expect_same(digest(cuda, row, vocabulary, vocabulary, {{{1.0f, 2.0f}, {}}}),
                digest(ref, row, vocabulary, vocabulary, {{{1.0f, 2.0f}, {}}}));
    for (int64_t i = 0; i < vocabulary; i += 97) row[static_cast<size_t>(i)] = 2.0f;
    expect_same(digest(cuda, row, vocabulary, vocabulary, {{}}),
                digest(ref, row, vocabulary, vocabulary, {{}}));
    // Zeros of both signs are equals.
    for (int64_t i = 0; i < vocabulary; ++i)
      row[static_cast<size_t>(i)] = i % 3 == 0 ? -0.0f : 0.0f;
    expect_same(digest(cuda, row, vocabulary, vocabulary, {{}}),
                digest(ref, row, vocabulary, vocabulary, {{}}));
    // Nothing above minus infinity.
    std::ranges::fill(row, -kInf);
    const Digested none = digest(cuda, row, vocabulary, vocabulary, {{}});
    EXPECT_EQ(none.ids, digest(ref, row, vocabulary, vocabulary, {{}}).ids);
    EXPECT_EQ(none.rows[0].damaged, 0);
  }
}

TEST(CudaDigest, DamageIsCounted) {
  const Machine cuda = emulated_cuda();
  constexpr int64_t kV = 9000;
  auto data = noise(3 * kV, 2.0f, 8);
  data[5] = NAN;
  data[kV - 1] = kInf;
  data[4500] = -NAN;
  data[kV + 100] = -kInf;  // no damage
  const Digested d = digest(cuda, data, kV, kV, {{{1.0f, 0.0f}, {}}, {}, {}});
  ASSERT_TRUE(d.status.ok());
  EXPECT_EQ(d.rows[0].damaged, 3);
  EXPECT_EQ(d.rows[1].damaged, 0);
  EXPECT_EQ(d.rows[2].damaged, 0);
  for (const int32_t id : d.ids) EXPECT_TRUE(id >= 0 && id < kV) << id;
}

TEST(CudaDigest, ARowTooLongIsRefused) {
  const Machine cuda = emulated_cuda();
  constexpr int64_t kV = (int64_t{1} << 19) + 1;
  const Digested d = digest(cuda, std::vector<float>(kV), kV, kV, {{}});
  EXPECT_EQ(d.status.code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace ponder
