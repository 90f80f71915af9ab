// A stable sort whose comparison may fail half-way; the items are worthless then.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "lib/text/jinja_context.h"

namespace ponder::jinja {

// Merge sort from the bottom up. `before(a, b)` is asked only "is b really before a". False after a
// failure of the context.
template <typename T, typename Before>
bool stable_sort(Context& c, std::vector<T>& items, Before before) {
  if (!c.room(items.size() * sizeof(T))) return false;
  std::vector<T> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t low = 0; low < items.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, items.size());
      const size_t high = std::min(low + 2 * width, items.size());
      size_t left = low, right = middle;
      for (size_t to = low; to < high; ++to) {
        bool take_right = left == middle;
        if (!take_right && right < high) {
          take_right = before(items[right], items[left]);
          if (!c.ok() || !c.work(1)) return false;
        }
        merged[to] = std::move(take_right ? items[right++] : items[left++]);
      }
    }
    std::swap(items, merged);
  }
  return true;
}

}  // namespace ponder::jinja
