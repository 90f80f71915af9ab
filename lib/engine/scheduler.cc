#include "lib/engine/scheduler.h"

#include <algorithm>

namespace ponder::engine {

std::vector<int32_t> plan_rows(std::span<const int64_t> pending, int64_t budget) {
  std::vector<int32_t> rows(pending.size(), 0);
  auto give = [&](size_t i) {
    const int64_t n = std::clamp<int64_t>(pending[i], 0, budget);
    rows[i] = static_cast<int32_t>(n);
    budget -= n;
  };
  for (size_t i = 0; i < pending.size(); ++i) {
    if (pending[i] == 1) give(i);
  }
  for (size_t i = 0; i < pending.size(); ++i) {
    if (pending[i] > 1) give(i);
  }
  return rows;
}

}  // namespace ponder::engine
