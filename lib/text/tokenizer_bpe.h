// Byte pair encoding proper: a sequence of symbols, merged by rank until no merge is left.
//
// Immutable once made; any number of threads, each with its own Scratch.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/hash_map.h"

namespace ponder {

class BpeMerges {
 public:
  // Buffers of one caller, kept between words.
  struct Scratch {
    struct Link {
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t position;
      int32_t id;
    };
    std::vector<uint32_t> ranks;
    std::vector<int32_t> results;
    std::vector<Link> links;
    std::vector<Candidate> heap;
  };

  void reserve(size_t count) { merges_.reserve(count); }
  // A pair given twice keeps the later rank, as in the reference.
  void add(int32_t left, int32_t right, uint32_t rank, int32_t result) {
    merges_[key(left, right)] = {rank, result};
  }

  // Merges `symbols` in place: always the pair of the lowest rank, the leftmost of equal ones.
  // n log n in the number of symbols.
  void apply(std::vector<int32_t>& symbols, Scratch& scratch) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  const Merge* find(int32_t left, int32_t right) const {
    const auto it = merges_.find(key(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }

  void apply_short(std::vector<int32_t>& symbols, Scratch& scratch) const;
  void apply_long(std::vector<int32_t>& symbols, Scratch& scratch) const;

  HashMap<uint64_t, Merge> merges_;
};

}  // namespace ponder
