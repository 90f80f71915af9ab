// Memory for the vectors of JSON values, which must not fail in a destructor.
//
// nlohmann::json takes a value apart by way of a std::vector of its children, inside a destructor
// that may not throw: where the heap has nothing left, the process would end. So the allocators of
// these vectors fall back on memory from outside the heap, enough to take a value apart. Included
// wherever nlohmann/json.hpp is, before it. Any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "nlohmann/json_fwd.hpp"

namespace ponder {

// Throws std::bad_alloc only when both the heap and the fallback have nothing.
void* allocate_json_values(size_t count);
void free_json_values(void* values) noexcept;

template <typename Value>
struct JsonAllocator {
  using value_type = Value;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;
  using propagate_on_container_move_assignment = std::true_type;
  using is_always_equal = std::true_type;
  Value* allocate(std::size_t n) { return static_cast<Value*>(allocate_json_values(n)); }
  void deallocate(Value* values, std::size_t) noexcept { free_json_values(values); }
};

}  // namespace ponder

template <>
class std::allocator<nlohmann::json> : public ponder::JsonAllocator<nlohmann::json> {
 public:
  allocator() noexcept = default;
  template <typename Other>
  allocator(const allocator<Other>&) noexcept {}
  friend bool operator==(const allocator&, const allocator&) noexcept { return true; }
};

template <>
class std::allocator<nlohmann::ordered_json>
    : public ponder::JsonAllocator<nlohmann::ordered_json> {
 public:
  allocator() noexcept = default;
  template <typename Other>
  allocator(const allocator<Other>&) noexcept {}
  friend bool operator==(const allocator&, const allocator&) noexcept { return true; }
};
