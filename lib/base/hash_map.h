// absl::flat_hash_map for code in which an allocation may fail.
//
// Abseil's tables do not survive a std::bad_alloc while they grow: destroyed afterwards they give
// back what they never got. So this one grows only into a fresh table, which is left alone when its
// allocation fails (it owns nothing then), and changes nothing in that case. Values are made before
// there is a place for them, for the same reason. Threads as for any container.
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace ponder {

template <typename Key, typename Value>
class HashMap {
  using Map = absl::flat_hash_map<Key, Value>;

 public:
  using iterator = typename Map::iterator;
  using const_iterator = typename Map::const_iterator;

  // Room for that many in all.
  void reserve(size_t count) {
    if (count <= room_) return;
    Fresh fresh;
    ::new (static_cast<void*>(&fresh.map)) Map();
    fresh.map.reserve(count);  // may throw; ~Fresh does not touch the map
    fresh.map.merge(map_);
    map_.swap(fresh.map);
    fresh.map.~Map();
    room_ = count;
  }

  template <typename... Args>
  std::pair<iterator, bool> try_emplace(Key key, Args&&... args) {
    Value value{std::forward<Args>(args)...};
    if (map_.size() >= room_) reserve(std::max<size_t>(16, 2 * room_));
    return map_.try_emplace(std::move(key), std::move(value));
  }
  Value& operator[](Key key) { return try_emplace(std::move(key)).first->second; }

  template <typename Lookup>
  const_iterator find(const Lookup& key) const {
    return map_.find(key);
  }
  const_iterator begin() const { return map_.begin(); }
  const_iterator end() const { return map_.end(); }
  size_t size() const { return map_.size(); }
  bool empty() const { return map_.empty(); }
  void clear() {
    map_.clear();
    if (map_.capacity() < room_) room_ = 0;  // a large table is given back
  }

 private:
  union Fresh {
    Fresh() {}
    ~Fresh() {}
    Map map;
  };

  Map map_;
  size_t room_ = 0;  // insertions up to this size do not grow map_
};

}  // namespace ponder
