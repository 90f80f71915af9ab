// How the CPU backend spreads an op over the runtime's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "lib/base/allocator.h"
#include "lib/base/thread_pool.h"

namespace ponder::cpu {

// The floating-point mode our results are defined in: round to nearest, subnormals kept, no traps.
// A host may have set its own on the threads it lends us; it finds them again afterwards.
class FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : before_(_mm_getcsr()) {
    if (before_ != kDefault) _mm_setcsr(kDefault);
  }
  ~FloatMode() {
    if (before_ != kDefault) _mm_setcsr(before_);
  }

 private:
  static constexpr unsigned kDefault = 0x1f80;
  const unsigned before_;
#else
  FloatMode() {}
  ~FloatMode() {}
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
};

class Workers {
 public:
  explicit Workers(ThreadPool* pool) : pool_(pool) {}

  // Lanes are what scratch memory is counted in: two calls of fn with one lane never overlap.
  uint32_t lanes() const { return pool_->concurrency(); }

  // Calls fn(task, lane) once per task. Tasks are handed out in order, to whoever is free: some in a
  // row while there are many, for neighbours share caches. `work` is about how many nanoseconds one
  // takes: small wholes stay on the calling thread.
  template <typename Fn>
  void tasks(int64_t n, double work, const Fn& fn) const {
    const auto useful =
        static_cast<int64_t>(std::min(static_cast<double>(n) * work / kWorthWaking, 1e6));
    const auto used = static_cast<uint32_t>(std::min<int64_t>({n, useful, lanes()}));
    if (used <= 1) {
      const FloatMode mode;
      for (int64_t task = 0; task < n; ++task) fn(task, 0u);
      return;
    }
    alignas(64) std::atomic<int64_t> next{0};
    pool_->parallel_for(used, [&](uint32_t lane) {
      const FloatMode mode;
      for (;;) {
        const int64_t left = n - next.load(std::memory_order_relaxed);
        const int64_t run = std::clamp<int64_t>(left / (8 * int64_t{used}), 1, kLongestRun);
        const int64_t first = next.fetch_add(run, std::memory_order_relaxed);
        if (first >= n) return;
        for (int64_t task = first; task < std::min(first + run, n); ++task) fn(task, lane);
      }
    });
  }

  // Calls fn(first, last) on pieces that together are [0, n).
  template <typename Fn>
  void ranges(int64_t n, double work, const Fn& fn) const {
    if (n <= 0) return;
    const int64_t pieces = std::min<int64_t>(n, int64_t{lanes()} * 4);
    tasks(pieces, static_cast<double>(n) * work / static_cast<double>(pieces),
          [&](int64_t piece, uint32_t) { fn(n * piece / pieces, n * (piece + 1) / pieces); });
  }

 private:
  // Nanoseconds of work that pay for one more thread: half a microsecond to start one that still
  // spins, several for one that sleeps.
  static constexpr double kWorthWaking = 8000;
  static constexpr int64_t kLongestRun = 8;

  ThreadPool* pool_;
};

// Memory that an op needs while it runs: kept from step to step, grown when it must be. Fresh pages
// are slow on many machines, so nothing large is allocated twice.
class Scratch {
 public:
  Scratch(Allocator* allocator, absl::string_view what) : allocator_(allocator), what_(what) {}

  // Contents are not kept. Aligned to 64.
  StatusOr<std::byte*> reserve(int64_t bytes) {
    if (static_cast<size_t>(bytes) > buffer_.size()) {
      buffer_ = Buffer();  // first: the two must not exist at once
      PONDER_ASSIGN_OR_RETURN(buffer_,
                              Buffer::create(allocator_, static_cast<size_t>(bytes), what_));
    }
    return buffer_.as<std::byte>();
  }

 private:
  Allocator* allocator_;
  absl::string_view what_;
  Buffer buffer_;
};

}  // namespace ponder::cpu
