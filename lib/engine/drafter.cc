#include "lib/engine/drafter.h"

#include <algorithm>
#include <bit>

namespace ponder::engine {

size_t NgramDrafter::bucket(int32_t first, int32_t second) const {
  const uint64_t pair = uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  return (pair * 0x9e3779b97f4a7c15u) >> (64 - std::countr_zero(buckets_.size()));
}

void NgramDrafter::index(std::span<const int32_t> text) {
  if (text.size() > buckets_.size()) {  // chains stay short: all is entered again, rarely
    buckets_.assign(std::bit_ceil(std::max<size_t>(2 * text.size(), 256)), kNone);
    before_.clear();
  }
  if (before_.empty()) before_.push_back(kNone);
  for (size_t i = before_.size(); i < text.size(); ++i) {
    int32_t& head = buckets_[bucket(text[i - 1], text[i])];
    before_.push_back(head);
    head = static_cast<int32_t>(i);
  }
}

int32_t NgramDrafter::propose(std::span<const int32_t> text, int32_t most,
                              std::vector<int32_t>* draft) {
  draft->clear();
  if (text.size() < 3 || text.size() > INT32_MAX || most < 1) return 0;
  index(text);
  const auto last = static_cast<int32_t>(text.size()) - 1;
  int32_t place = kNone, longest = 1;
  int tries = 0;
  for (int32_t i = before_[static_cast<size_t>(last)]; i != kNone && tries < kTries;
       i = before_[static_cast<size_t>(i)], ++tries) {
    int32_t length = 0;
    while (length < kMaxMatch && length <= i &&
           text[static_cast<size_t>(i - length)] == text[static_cast<size_t>(last - length)]) {
      ++length;
    }
    if (length <= longest) continue;
    longest = length;
    place = i;
    if (length == kMaxMatch) break;
  }
  if (place == kNone) return 0;
  for (int32_t i = 0; i < most; ++i) {
    const size_t from = static_cast<size_t>(place) + 1 + static_cast<size_t>(i);
    draft->push_back(from < text.size() ? text[from] : (*draft)[from - text.size()]);
  }
  return longest < 4 ? 0 : longest < 8 ? 1 : 2;
}

}  // namespace ponder::engine
