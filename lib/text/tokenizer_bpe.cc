#include "lib/text/tokenizer_bpe.h"

#include <algorithm>
#include <cstddef>

namespace ponder {
namespace {

constexpr uint32_t kNoMerge = UINT32_MAX;
// Up to here looking at all ranks beats keeping a heap.
constexpr size_t kShort = 48;

}  // namespace

void BpeMerges::apply(std::vector<int32_t>& symbols, Scratch& scratch) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kShort) {
    apply_short(symbols, scratch);
  } else {
    apply_long(symbols, scratch);
  }
}

void BpeMerges::apply_short(std::vector<int32_t>& symbols, Scratch& scratch) const {
  std::vector<uint32_t>& ranks = scratch.ranks;     // of the pair that starts at i
  std::vector<int32_t>& results = scratch.results;  // what it would become
  const auto look = [&](size_t i) {
    const Merge* merge = find(symbols[i], symbols[i + 1]);
    ranks[i] = merge == nullptr ? kNoMerge : merge->rank;
    if (merge != nullptr) results[i] = merge->id;
  };
  ranks.resize(symbols.size());
  results.resize(symbols.size());
  for (size_t i = 0; i + 1 < symbols.size(); ++i) look(i);
  size_t pairs = symbols.size() - 1;
  while (pairs > 0) {
    const auto best =
        std::min_element(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(pairs));
    if (*best == kNoMerge) break;
    const size_t i = static_cast<size_t>(best - ranks.begin());
    symbols[i] = results[i];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
    // Pair i + 1 is gone with its left symbol; pairs i - 1 and i have a new one.
    if (i + 1 < pairs) {
      std::copy(ranks.begin() + static_cast<ptrdiff_t>(i) + 2,
                ranks.begin() + static_cast<ptrdiff_t>(pairs),
                ranks.begin() + static_cast<ptrdiff_t>(i) + 1);
      std::copy(results.begin() + static_cast<ptrdiff_t>(i) + 2,
                results.begin() + static_cast<ptrdiff_t>(pairs),
                results.begin() + static_cast<ptrdiff_t>(i) + 1);
    }
    --pairs;
    if (i < pairs) look(i);
    if (i > 0) look(i - 1);
  }
}

void BpeMerges::apply_long(std::vector<int32_t>& symbols, Scratch& scratch) const {
  using Candidate = Scratch::Candidate;
  constexpr int32_t kGone = -1;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  std::vector<Scratch::Link>& links = scratch.links;
  std::vector<Candidate>& heap = scratch.heap;
  const int32_t size = static_cast<int32_t>(symbols.size());
  links.resize(symbols.size());
  heap.clear();
  for (int32_t i = 0; i < size; ++i) {
    links[static_cast<size_t>(i)] = {i - 1, i + 1 < size ? i + 1 : -1};
    if (i + 1 == size) break;
    const Merge* merge = find(symbols[static_cast<size_t>(i)], symbols[static_cast<size_t>(i) + 1]);
    if (merge != nullptr) heap.push_back({merge->rank, static_cast<uint32_t>(i), merge->id});
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto offer = [&](int32_t left, int32_t right) {
    const Merge* merge =
        find(symbols[static_cast<size_t>(left)], symbols[static_cast<size_t>(right)]);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, static_cast<uint32_t>(left), merge->id});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    const size_t left = top.position;
    if (symbols[left] == kGone || links[left].next < 0) continue;
    const size_t right = static_cast<size_t>(links[left].next);
    // A candidate from before its symbols changed says nothing any more.
    const Merge* merge = find(symbols[left], symbols[right]);
    if (merge == nullptr || merge->id != top.id) continue;
    symbols[left] = top.id;
    symbols[right] = kGone;
    const int32_t next = links[right].next;
    links[left].next = next;
    if (next >= 0) links[static_cast<size_t>(next)].previous = static_cast<int32_t>(left);
    if (links[left].previous >= 0) offer(links[left].previous, static_cast<int32_t>(left));
    if (next >= 0) offer(static_cast<int32_t>(left), next);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kGone), symbols.end());
}

}  // namespace ponder
