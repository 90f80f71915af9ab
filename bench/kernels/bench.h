// What the kernel benchmarks share: the threads they all use, and bytes that no cache holds.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/thread_pool.h"

namespace ponder::bench {

// --pool_threads, default 2. Lives as long as the program.
ThreadPool* pool();

// Random bf16 values around zero.
std::vector<uint16_t> random_bf16(size_t n);

}  // namespace ponder::bench
