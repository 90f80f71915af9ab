#include "lib/kv/block_cache.h"

#include <algorithm>
#include <bit>

namespace ponder {
namespace {

// A bijection that spreads every input bit (the finaliser of splitmix64).
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

BlockCache::BlockCache(int32_t pages, int32_t block_size, uint64_t hash_mask)
    : block_size_(std::max(block_size, 1)),
      pages_(static_cast<size_t>(std::max(pages, 1))),
      hash_mask_(hash_mask) {
  tokens_.resize(pages_.size() * static_cast<size_t>(block_size_));
  buckets_.assign(std::bit_ceil(pages_.size()), kNone);
  // Where the heap put us is as good as a random number here: nobody outside can aim at a bucket,
  // and nothing but the length of a bucket's chain depends on it.
  seed_ = mix(reinterpret_cast<uintptr_t>(pages_.data()));
  // The lowest page comes first, which keeps a nearly empty pool compact.
  for (int32_t page = total_pages() - 1; page >= 0; --page) {
    pages_[page].list_next = free_head_;
    free_head_ = page;
  }
  free_count_ = total_pages();
}

int32_t BlockCache::ref_count(int32_t page) const {
  return page >= 0 && page < total_pages() ? pages_[page].refs : 0;
}

int32_t BlockCache::cached_prefix(std::span<const int32_t> tokens) const {
  const size_t block = static_cast<size_t>(block_size_);
  uint64_t parent = 0;
  size_t n = 0;
  for (; tokens.size() - n >= block; n += block) {
    const int32_t page = find(parent, tokens.subspan(n, block));
    if (page == kNone) break;
    parent = pages_[page].identity;
  }
  return static_cast<int32_t>(n);
}

void BlockCache::drop_cached() {
  while (cached_head_ != kNone) {
    const int32_t page = cached_head_;
    forget(page);
    cached_remove(page);
    pages_[page].list_next = free_head_;
    free_head_ = page;
    ++free_count_;
  }
}

int32_t BlockCache::allocate() {
  int32_t page = free_head_;
  if (page != kNone) {
    free_head_ = pages_[page].list_next;
    pages_[page].list_next = kNone;
    --free_count_;
  } else if (cached_head_ != kNone) {
    page = cached_head_;
    cached_remove(page);
    forget(page);
  } else {
    return kNone;
  }
  pages_[page].refs = 1;
  return page;
}

void BlockCache::retain(int32_t page) {
  if (pages_[page].refs++ == 0) cached_remove(page);
}

void BlockCache::release(int32_t page) {
  Page& p = pages_[page];
  if (--p.refs > 0) return;
  if (p.identity != 0) {
    cached_push_back(page);
    return;
  }
  p.list_next = free_head_;
  free_head_ = page;
  ++free_count_;
}

int32_t BlockCache::find(uint64_t parent, std::span<const int32_t> tokens) const {
  const uint64_t hash = hash_block(parent, tokens);
  int32_t page = buckets_[hash & (buckets_.size() - 1)];
  for (; page != kNone; page = pages_[page].bucket_next) {
    const Page& p = pages_[page];
    if (p.hash == hash && p.parent == parent && std::ranges::equal(tokens_of(page), tokens)) break;
  }
  return page;
}

int32_t BlockCache::publish(int32_t page, uint64_t parent, std::span<const int32_t> tokens) {
  const int32_t existing = find(parent, tokens);
  if (existing != kNone) return existing;
  forget(page);  // a page answers for one block only
  Page& p = pages_[page];
  p.identity = next_identity_++;
  p.parent = parent;
  p.hash = hash_block(parent, tokens);
  int32_t& bucket = buckets_[p.hash & (buckets_.size() - 1)];
  p.bucket_next = bucket;
  bucket = page;
  std::ranges::copy(tokens, tokens_.begin() + static_cast<ptrdiff_t>(page) * block_size_);
  return page;
}

void BlockCache::forget(int32_t page) {
  Page& p = pages_[page];
  if (p.identity == 0) return;
  int32_t* link = &buckets_[p.hash & (buckets_.size() - 1)];
  while (*link != page) link = &pages_[*link].bucket_next;
  *link = p.bucket_next;
  p.bucket_next = kNone;
  p.identity = 0;
}

uint64_t BlockCache::hash_block(uint64_t parent, std::span<const int32_t> tokens) const {
  uint64_t hash = mix(seed_ ^ parent);
  for (const int32_t token : tokens) {
    hash = mix(hash + static_cast<uint32_t>(token) + 0x9e3779b97f4a7c15u);
  }
  return hash & hash_mask_;
}

std::span<const int32_t> BlockCache::tokens_of(int32_t page) const {
  const size_t block = static_cast<size_t>(block_size_);
  return {tokens_.data() + static_cast<size_t>(page) * block, block};
}

void BlockCache::cached_push_back(int32_t page) {
  Page& p = pages_[page];
  p.list_prev = cached_tail_;
  p.list_next = kNone;
  (cached_tail_ == kNone ? cached_head_ : pages_[cached_tail_].list_next) = page;
  cached_tail_ = page;
  ++cached_count_;
}

void BlockCache::cached_remove(int32_t page) {
  Page& p = pages_[page];
  (p.list_prev == kNone ? cached_head_ : pages_[p.list_prev].list_next) = p.list_next;
  (p.list_next == kNone ? cached_tail_ : pages_[p.list_next].list_prev) = p.list_prev;
  p.list_prev = kNone;
  p.list_next = kNone;
  --cached_count_;
}

}  // namespace ponder
