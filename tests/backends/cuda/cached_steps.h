// What attention and latent attention of CUDA are tested for alike, over the caches of
// tests/conformance/attention_support.h and mla_support.h: `make(pages)` makes one.
#pragma once

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/conformance/paged_cache.h"

namespace ponder {

// Rows [before, ...) in steps of `rows`, and one at a time: the same numbers, or none in both. All
// are finite before position `spoilt`.
template <typename Make, typename Timeline>
std::vector<float> expect_spoilt_from(const Make& make, const Timeline& timeline, int64_t before,
                                      int64_t rows, int64_t spoilt, size_t width) {
  auto cache = make(20), alone_cache = make(20);
  std::vector<int32_t> pages, alone_pages;
  cache.step({{&timeline, &pages, 0, before}}, false);
  alone_cache.step({{&timeline, &alone_pages, 0, before}}, false);
  std::vector<float> all;
  for (int64_t at = before; at < timeline.tokens; at += rows) {
    const auto together = cache.step({{&timeline, &pages, at, rows}});
    all.insert(all.end(), together.begin(), together.end());
  }
  for (int64_t at = before; at < timeline.tokens; ++at) {
    const auto alone = alone_cache.step({{&timeline, &alone_pages, at, 1}});
    for (size_t i = 0; i < width; ++i) {
      const float got = all[static_cast<size_t>(at - before) * width + i];
      EXPECT_TRUE(at >= spoilt || std::isfinite(got)) << at << " " << i;
      EXPECT_TRUE(std::isnan(got) ? std::isnan(alone[i]) : got == alone[i])
          << at << " " << i << ": " << got << ", alone " << alone[i];
    }
  }
  return all;
}

}  // namespace ponder
