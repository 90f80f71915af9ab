#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/ref/ops.h"
#include "lib/tensor/rows.h"

namespace ponder::ref {

void digest_rows(const DigestRowsParams& p) {
  const auto vocabulary = static_cast<size_t>(p.logits.dim[1]);
  std::vector<int32_t> order(vocabulary);
  std::vector<float> block_max;
  for (size_t r = 0; r < p.rows.size(); ++r) {
    RowDigest& digest = p.rows[r];
    const std::span<const float> row(p.logits.f32() + static_cast<int64_t>(r) * p.logits.stride[0],
                                     vocabulary);
    digest.damaged =
        static_cast<int32_t>(std::ranges::count_if(row, [](float x) { return !(x < INFINITY); }));
    for (size_t i = 0; i < vocabulary; ++i) order[i] = static_cast<int32_t>(i);
    const size_t kept = digest.ids.size();
    if (digest.damaged == 0) {  // else there is no order
      std::ranges::partial_sort(
          order, order.begin() + static_cast<ptrdiff_t>(kept),
          [row](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    }
    std::copy_n(order.begin(), kept, digest.ids.begin());
    std::ranges::sort(digest.ids);
    for (size_t i = 0; i < kept; ++i) digest.logits[i] = row[digest.ids[i]];
    for (size_t i = 0; i < digest.also.size(); ++i) digest.also_logits[i] = row[digest.also[i]];
    const float max = rescan_row(row, &block_max);
    for (size_t i = 0; i < kDigestSums; ++i) {
      const float scale = digest.scales[i];
      digest.sums[i] = scale == 0.0f ? 0.0 : exp_sum(row, block_max, max, scale);
    }
  }
}

}  // namespace ponder::ref
