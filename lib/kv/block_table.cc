#include "lib/kv/block_table.h"

#include <algorithm>
#include <utility>

namespace ponder {

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  BlockTable moved(std::move(other));
  swap(moved);
  return *this;
}

void BlockTable::swap(BlockTable& other) noexcept {
  std::swap(cache_, other.cache_);
  std::swap(pages_, other.pages_);
  std::swap(size_, other.size_);
  std::swap(published_, other.published_);
}

int32_t BlockTable::adopt_prefix(std::span<const int32_t> tokens) {
  if (!pages_.empty()) return size_;
  const size_t block = static_cast<size_t>(cache_->block_size());
  // Positions are 32 bits wide, whatever the pool could hold.
  tokens = tokens.first(std::min<size_t>(tokens.size(), INT32_MAX));
  pages_.reserve(tokens.size() / block);  // the one thing that can fail, before anything is held
  uint64_t parent = 0;
  for (size_t n = 0; tokens.size() - n >= block; n += block) {
    const int32_t page = cache_->find(parent, tokens.subspan(n, block));
    if (page == BlockCache::kNone) break;
    cache_->retain(page);
    pages_.push_back(page);
    parent = cache_->pages_[page].identity;
  }
  published_ = static_cast<int32_t>(pages_.size());
  size_ = published_ * cache_->block_size();
  return size_;
}

BlockTable::Room BlockTable::reserve(int32_t n) {
  Room room;
  if (n < 1) return room;
  const int32_t block = cache_->block_size();
  const int64_t wanted = (static_cast<int64_t>(size_) + n + block - 1) / block;
  const int64_t extra = std::max<int64_t>(wanted - static_cast<int64_t>(pages_.size()), 0);
  // Room reserved earlier is this table's own; only the page under the next token may be shared,
  // with a fork or with the cache.
  const size_t next = static_cast<size_t>(size_ / block);
  const bool copies = next < pages_.size() && cache_->pages_[pages_[next]].refs > 1;
  const int64_t needed = extra + (copies ? 1 : 0);
  if (needed > cache_->free_pages()) {
    room.missing_pages =
        static_cast<int32_t>(std::min<int64_t>(needed - cache_->free_pages(), INT32_MAX));
    return room;
  }
  pages_.reserve(static_cast<size_t>(std::max<int64_t>(wanted, std::ssize(pages_))));
  if (copies) {
    room.copy = {.from = pages_[next], .to = cache_->allocate()};
    pages_[next] = room.copy.to;
    cache_->release(room.copy.from);
  } else if (next < pages_.size()) {
    // Ours alone, but perhaps findable by what it held before a truncation.
    cache_->forget(pages_[next]);
  }
  for (int64_t i = 0; i < extra; ++i) pages_.push_back(cache_->allocate());
  return room;
}

bool BlockTable::advance(int32_t n) {
  if (n < 0 || static_cast<int64_t>(size_) + n > std::min<int64_t>(capacity(), INT32_MAX)) {
    return false;
  }
  size_ += n;
  return true;
}

void BlockTable::publish(std::span<const int32_t> tokens) {
  const int32_t block = cache_->block_size();
  const int64_t known = std::min<int64_t>(size_, std::ssize(tokens));
  for (; (static_cast<int64_t>(published_) + 1) * block <= known; ++published_) {
    int32_t& page = pages_[published_];
    uint64_t parent = 0;
    if (published_ > 0) {
      parent = cache_->pages_[pages_[published_ - 1]].identity;
      if (parent == 0) return;  // never taken for a first block
    }
    const int32_t canonical = cache_->publish(
        page, parent, tokens.subspan(static_cast<size_t>(published_) * block, block));
    if (canonical != page) {
      cache_->retain(canonical);
      cache_->release(page);
      page = canonical;
    }
  }
}

void BlockTable::truncate(int32_t n) {
  if (cache_ == nullptr) return;  // moved from
  size_ = std::clamp(n, 0, size_);
  const int32_t block = cache_->block_size();
  const size_t keep = (static_cast<size_t>(size_) + block - 1) / block;
  // From the tail: what is evicted first is then the end of a text and not its beginning, without
  // which the rest could not be found.
  while (pages_.size() > keep) {
    cache_->release(pages_.back());
    pages_.pop_back();
  }
  published_ = std::min(published_, size_ / block);
}

BlockTable BlockTable::fork() const {
  BlockTable copy(cache_);
  const int32_t block = cache_->block_size();
  const size_t used = (static_cast<size_t>(size_) + block - 1) / block;
  copy.pages_.assign(pages_.begin(), pages_.begin() + static_cast<ptrdiff_t>(used));
  for (const int32_t page : copy.pages_) cache_->retain(page);
  copy.size_ = size_;
  copy.published_ = published_;
  return copy;
}

}  // namespace ponder
