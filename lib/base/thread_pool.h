// Data-parallel loops over a fixed set of threads: the host's pool or our own.
//
// Any thread may call parallel_for at any time. The threads serve one loop at a time; a loop that
// finds them taken (a model loading while another one runs) runs on its calling thread alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "lib/base/status.h"

namespace ponder {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // How many calls of fn run at once at the most, the calling thread included. At least 1.
  virtual uint32_t concurrency() const = 0;
  // Calls fn(i) once for each i in [0, n), in any order and on any thread, and returns when all are
  // done. fn must not throw and must not call parallel_for.
  virtual void parallel_for(uint32_t n, absl::FunctionRef<void(uint32_t)> fn) = 0;
};

// Our own pool: `threads` in all, the caller of parallel_for being one of them. Workers wake and
// join in microseconds: they spin briefly after a loop and then sleep, so an idle pool costs nothing.
// threads == 0: one per physical core. Fails when the system refuses to make a thread.
StatusOr<std::unique_ptr<ThreadPool>> make_thread_pool(uint32_t threads);

}  // namespace ponder
