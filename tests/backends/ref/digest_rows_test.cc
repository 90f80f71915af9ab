// What the reference backend keeps of rows of logits, against sorting them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backends/ref/ref.h"
#include "lib/base/thread_pool.h"
#include "lib/tensor/rows.h"

namespace ponder {
namespace {

TEST(RefDigestRows, KeepsTheLargestAndWhatIsAskedFor) {
  const auto pool = make_thread_pool(1).value();
  BackendContext context;
  context.allocator = default_allocator();
  context.pool = pool.get();
  const auto backend = make_ref_backend(context);
  EXPECT_FALSE(backend->digests_rows());  // the host reads the rows where they are
  std::mt19937 random(1);
  for (const size_t vocabulary : {1u, 100u, 128u, 129u, 3000u}) {
    constexpr size_t kRows = 3;
    std::vector<float> data(kRows * vocabulary);
    for (float& x : data) x = std::round(static_cast<float>(random() % 400)) / 10.0f - 20.0f;
    const size_t kept = std::min<size_t>(vocabulary, kDigestLogits);
    std::vector<int32_t> ids(kRows * kept);
    std::vector<float> logits(ids.size()), also_logits(2);
    const std::vector<int32_t> also = {static_cast<int32_t>(vocabulary) - 1, 0};
    RowDigest rows[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      rows[r].scales = {1.0f, r == 0 ? 0.0f : 1.6f};
      rows[r].ids = std::span(ids).subspan(r * kept, kept);
      rows[r].logits = std::span(logits).subspan(r * kept, kept);
    }
    rows[1].also = also;
    rows[1].also_logits = also_logits;
    const Tensor tensor =
        Tensor::make(data.data(), DType::kF32, {kRows, static_cast<int64_t>(vocabulary)});
    ASSERT_TRUE(backend->digest_rows({tensor, rows}).ok());
    for (size_t r = 0; r < kRows; ++r) {
      const std::span<const float> row(data.data() + r * vocabulary, vocabulary);
      std::vector<int32_t> order(vocabulary);
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, [row](int32_t a, int32_t b) { return row[a] > row[b]; });
      order.resize(kept);
      std::ranges::sort(order);
      EXPECT_TRUE(std::ranges::equal(rows[r].ids, order));
      for (size_t i = 0; i < kept; ++i) EXPECT_EQ(rows[r].logits[i], row[order[i]]);
      std::vector<float> block_max;
      const float max = *scan_row(row, &block_max);
      EXPECT_EQ(rows[r].sums[0], exp_sum(row, block_max, max, 1.0f));
      EXPECT_EQ(rows[r].sums[1], r == 0 ? 0.0 : exp_sum(row, block_max, max, 1.6f));
      EXPECT_EQ(rows[r].damaged, 0);
    }
    EXPECT_EQ(also_logits[0], data[2 * vocabulary - 1]);
    EXPECT_EQ(also_logits[1], data[vocabulary]);
    data[0] = NAN;
    data[vocabulary - 1] = INFINITY;
    ASSERT_TRUE(backend->digest_rows({tensor, rows}).ok());
    EXPECT_EQ(rows[0].damaged, vocabulary > 1 ? 2 : 1);
  }
}

}  // namespace
}  // namespace ponder
