// BlockTable: the pages of one timeline of tokens, in order, and how many tokens are in them.
//
// The life of a step, as the engine drives it (all under the engine's lock, as for BlockCache):
//
//   plan     reserve(n) before n tokens are written: all or nothing. It also makes the page under
//            the next token this table's own; where that takes a copy it says which, and the copy
//            must be carried out, in the order reported and before anything else is written
//   run      writes K and V at positions [size, size + n), into pages()[position / block_size]
//   commit   advance(n), then publish(all tokens so far): full blocks become findable by others
//
// A run that fails needs no undoing: size() has not moved, and room that was reserved stays.
// A table owns its share of each page: moving moves it, destruction gives it back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/kv/block_cache.h"

namespace ponder {

struct PageCopy {
  int32_t from = -1;
  int32_t to = -1;  // -1: nothing to copy
  bool needed() const { return to >= 0; }
};

class BlockTable {
 public:
  // `cache` must outlive the table.
  explicit BlockTable(BlockCache* cache) : cache_(cache) {}
  BlockTable(BlockTable&& other) noexcept { swap(other); }
  BlockTable& operator=(BlockTable&& other) noexcept;
  ~BlockTable() { clear(); }

  // Tokens whose keys and values are in the pages.
  int32_t size() const { return size_; }
  // Tokens that fit in the pages held.
  int64_t capacity() const { return static_cast<int64_t>(pages_.size()) * cache_->block_size(); }
  std::span<const int32_t> pages() const { return pages_; }

  // Takes the longest computed prefix of `tokens` that the cache knows, in full blocks; an empty
  // table only, others are left as they are. Returns size(). To have a token left to compute (its
  // logits are wanted), leave the last one out of `tokens`.
  int32_t adopt_prefix(std::span<const int32_t> tokens);

  struct Room {
    int32_t missing_pages = 0;  // nonzero: nothing was changed; so many more pages must come free
    PageCopy copy;
  };
  // Makes room for n tokens after size(), n >= 1, and the first page of that room this table's own.
  // Asking again for the same or less room changes nothing. n < 1 does nothing.
  Room reserve(int32_t n);

  // n tokens after size() have been computed. False, and nothing happens, if n is negative or they
  // do not fit in capacity().
  bool advance(int32_t n);

  // Makes the full blocks findable. `tokens` is the whole text from its first token; those beyond
  // size() are ignored. A block that another table published first is replaced by that one, so
  // equal texts end up sharing pages. Cheap when there is nothing new.
  void publish(std::span<const int32_t> tokens);

  // Keeps the first n tokens (n >= size(): all; n < 0 counts as 0), gives the other pages back,
  // and reserved room too.
  void truncate(int32_t n);
  void clear() { truncate(0); }

  // A second timeline with the same past; shares every page, the last partial one included.
  // Between steps only: whatever either wants to write next goes through reserve().
  BlockTable fork() const;

 private:
  void swap(BlockTable& other) noexcept;

  BlockCache* cache_ = nullptr;
  std::vector<int32_t> pages_;
  int32_t size_ = 0;
  int32_t published_ = 0;  // leading blocks that can be found
};

}  // namespace ponder
