// What the kernel benchmarks share: the threads they all use, and bytes that no cache holds.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/thread_pool.h"

namespace ponder::bench {

// --pool_threads, default 2. Lives as long as the program.
ThreadPool* pool();

// --r1_experts, default 32: how many of DeepSeek-R1's 256 experts per layer are held in memory.
int64_t r1_experts();

// Random bf16 values around zero.
std::vector<uint16_t> random_bf16(size_t n);

}  // namespace ponder::bench
