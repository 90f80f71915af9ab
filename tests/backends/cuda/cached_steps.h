// What attention and latent attention are tested for alike, over the caches of
// tests/conformance/attention_support.h and mla_support.h: `make(pages)` makes one.
#pragma once

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/conformance/support.h"

namespace ponder {

// A sequence's share of a step: so many rows behind so many that are cached.
struct Part {
  int64_t cached, rows;
};

// One step of all parts, of a timeline each.
template <typename Cache, typename Timeline>
std::vector<float> step_of(Cache& cache, const std::vector<Timeline>& timelines,
                           const std::vector<Part>& parts) {
  std::vector<std::vector<int32_t>> pages(parts.size());
  std::vector<typename Cache::Piece> cached, step;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].cached > 0) cached.push_back({&timelines[i], &pages[i], 0, parts[i].cached});
    step.push_back({&timelines[i], &pages[i], parts[i].cached, parts[i].rows});
  }
  if (!cached.empty()) cache.step(cached, false);
  return cache.step(step);
}

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
