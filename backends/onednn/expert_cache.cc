#include "backends/onednn/expert_cache.h"

#include <algorithm>
#include <utility>

namespace ponder::cpu {
namespace {

// More uses than this do not buy more turns: what was popular once must go some day.
constexpr uint64_t kMostUses = 15;

}  // namespace

ExpertCacheStats LruExpertCache::stats() const {
  ExpertCacheStats stats;
  stats.budget_bytes = budget_;
  stats.held_bytes = held_.load(std::memory_order_relaxed);
  stats.hits = hits_.load(std::memory_order_relaxed);
  stats.misses = misses_.load(std::memory_order_relaxed);
  stats.bytes_read = read_.load(std::memory_order_relaxed);
  return stats;
}

void LruExpertCache::want(ExpertEntry* entry) {
  entry->round = round_;
  if (!entry->held()) {
    misses_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  hits_.fetch_add(1, std::memory_order_relaxed);
  entry->uses = std::min(entry->uses + 1, kMostUses);
  unlink(entry);
  link(entry);
}

ExpertMatrices LruExpertCache::make_room(uint64_t bytes) {
  ExpertMatrices last;
  while (held_.load(std::memory_order_relaxed) + bytes > budget_ && oldest_ != nullptr) {
    ExpertEntry* const entry = oldest_;
    if (entry->round == round_ || entry->uses > 0) {
      entry->uses /= 2;
      unlink(entry);
      link(entry);
      continue;
    }
    last = take_out(entry);
  }
  return last;
}

void LruExpertCache::put(ExpertEntry* entry, ExpertMatrices matrices, uint64_t bytes_read) {
  entry->matrices = std::move(matrices);
  entry->uses = 0;
  held_.fetch_add(entry->bytes, std::memory_order_relaxed);
  read_.fetch_add(bytes_read, std::memory_order_relaxed);
  link(entry);
}

void LruExpertCache::forget(ExpertEntry* entry) {
  if (entry->held()) take_out(entry);
}

ExpertMatrices LruExpertCache::take_out(ExpertEntry* entry) {
  unlink(entry);
  held_.fetch_sub(entry->bytes, std::memory_order_relaxed);
  return std::exchange(entry->matrices, ExpertMatrices());
}

void LruExpertCache::link(ExpertEntry* entry) {
  entry->older = newest_;
  entry->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = entry;
  newest_ = entry;
}

void LruExpertCache::unlink(ExpertEntry* entry) {
  (entry->newer != nullptr ? entry->newer->older : newest_) = entry->older;
  (entry->older != nullptr ? entry->older->newer : oldest_) = entry->newer;
  entry->newer = entry->older = nullptr;
}

}  // namespace ponder::cpu
