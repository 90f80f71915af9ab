// BlockCache: which KV pages are free, shared, or kept because they may be wanted again.
//
// A page holds the keys and values of `block_size` consecutive tokens in every layer; here it is a
// number. A page is in exactly one of three states:
//
//   free        nobody holds it and nothing of worth is in it
//   in use      some BlockTables hold it, counted
//   cached      nobody holds it, but its full block can still be found by its tokens and its place
//               in the text; handed out for new content, least recently used first, when no free
//               page is left
//
// A full block is found again by (parent block, its tokens): the stored tokens and the parent's
// identity are compared, so two texts share a page only if they are equal from their first token.
// The hash only picks a bucket, and differs from cache to cache.
//
// Integers only: no device, no clock, no lock. The engine owns the one BlockCache of a model's KV
// pool, holds its own lock around every call, and keeps it alive longer than any BlockTable.
// Pages are taken and given back by BlockTable alone. After the constructor nothing here allocates.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ponder {

class BlockCache {
 public:
  // Pages are numbered [0, pages). Both numbers must be positive (smaller ones count as 1).
  // `hash_mask` says which bits of the hash count: tests clear them all to make every block
  // collide, which must change nothing but speed.
  BlockCache(int32_t pages, int32_t block_size, uint64_t hash_mask = ~uint64_t{0});
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  int32_t block_size() const { return block_size_; }
  int32_t total_pages() const { return static_cast<int32_t>(pages_.size()); }
  // Pages that a table can have now: free ones and cached ones.
  int32_t free_pages() const { return free_count_ + cached_count_; }
  // Pages that tables hold.
  int32_t used_pages() const { return total_pages() - free_pages(); }
  // Of the free_pages(), those that still hold findable content.
  int32_t cached_pages() const { return cached_count_; }
  // How many tables hold `page`; 0 for a page that does not exist.
  int32_t ref_count(int32_t page) const;

  // How many leading tokens a new table would find computed: a multiple of block_size().
  int32_t cached_prefix(std::span<const int32_t> tokens) const;

  // Makes free pages of all cached ones. Pages in use stay in use and findable.
  void drop_cached();

 private:
  friend class BlockTable;

  static constexpr int32_t kNone = -1;

  struct Page {
    int32_t refs = 0;
    uint64_t identity = 0;  // of the full block in it; 0: cannot be found. Never used twice
    uint64_t parent = 0;    // identity of the block before it; 0: this is the first block
    uint64_t hash = 0;
    int32_t bucket_next = kNone;
    int32_t list_prev = kNone;  // in the cached list, or (next only) in the free list
    int32_t list_next = kNone;
  };

  // A page for one holder, or kNone when every page is in use. Evicts if it must.
  int32_t allocate();
  void retain(int32_t page);
  void release(int32_t page);

  // The page that holds `tokens` (one block) right after the block `parent`, or kNone.
  int32_t find(uint64_t parent, std::span<const int32_t> tokens) const;
  // Makes `page` findable as the block `tokens` after `parent`. Where such a block exists already,
  // nothing changes. Returns the page that now answers for the block.
  int32_t publish(int32_t page, uint64_t parent, std::span<const int32_t> tokens);
  // `page` is about to be written: its content can no longer be found.
  void forget(int32_t page);

  uint64_t hash_block(uint64_t parent, std::span<const int32_t> tokens) const;
  std::span<const int32_t> tokens_of(int32_t page) const;
  void cached_push_back(int32_t page);
  void cached_remove(int32_t page);

  int32_t block_size_;
  std::vector<Page> pages_;
  std::vector<int32_t> tokens_;   // [pages, block_size]; valid where identity != 0
  std::vector<int32_t> buckets_;  // hash to first page; a power of two of them
  int32_t free_head_ = kNone;
  int32_t free_count_ = 0;
  int32_t cached_head_ = kNone;  // least recently used
  int32_t cached_tail_ = kNone;
  int32_t cached_count_ = 0;
  uint64_t next_identity_ = 1;
  uint64_t hash_mask_;
  uint64_t seed_;
};

}  // namespace ponder
