#include "tests/backends/cuda/emulate.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "tests/backends/cuda/emulated_runtime.h"

#undef threadIdx
#undef blockIdx

namespace ponder::cuda::emulation {

Place place;

namespace {

constexpr size_t kStack = size_t{64} << 10;
constexpr unsigned kMostThreads = 1024;

// A barrier counts arrivals; who comes last lets all pass.
struct Barrier {
  unsigned arrived = 0;
  uint64_t passed = 0;
};

// A copy under way: the thread's, not yet done.
struct Copy {
  void* to;
  const void* from;
  size_t group;
};

// Lives as long as the program and runs one thread of one block after the other. Switching by
// _longjmp takes no system call, as swapcontext does.
struct Fiber {
  jmp_buf place;
  std::unique_ptr<char[]> stack;
  bool started = false;
  bool done = false;
  std::vector<Copy> copies;
  size_t groups = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  unsigned threads = 0, current = 0;
  jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
  Barrier all;
  Barrier warps[kMostThreads / 32];
  uint64_t slots[kMostThreads];
  uint32_t registers[kMostThreads][8];
  uint64_t steps_without_news = 0;
  std::vector<uint4> shared;
};
Block block;
std::map<const void*, Invoke> kernels;

// From the running fiber to run_block, and from there to a fiber.
[[gnu::noinline]] void leave_fiber() {
  if (_setjmp(block.fibers[block.current].place) == 0) _longjmp(block.scheduler, 1);
}
void enter() {
  for (;;) {
    (*block.body)();
    block.fibers[block.current].done = true;
    block.steps_without_news = 0;
    leave_fiber();
  }
}
[[gnu::noinline]] void go_on_in_fiber() {
  Fiber& fiber = block.fibers[block.current];
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  fiber.stack = std::make_unique<char[]>(kStack);
  ucontext_t first;
  getcontext(&first);
  first.uc_stack.ss_sp = fiber.stack.get();
  first.uc_stack.ss_size = kStack;
  first.uc_link = nullptr;
  makecontext(&first, enter, 0);
  setcontext(&first);
}

void wait(Barrier& barrier, unsigned members) {
  const uint64_t before = barrier.passed;
  block.steps_without_news = 0;
  if (++barrier.arrived == members) {
    barrier.arrived = 0;
    ++barrier.passed;
    return;
  }
  while (barrier.passed == before) {
    ++block.steps_without_news;
    leave_fiber();
  }
  block.steps_without_news = 0;
}

void wait_warp() {
  const unsigned warp = block.current / 32;
  const unsigned members = std::min(32u, block.threads - warp * 32);
  wait(block.warps[warp], members);
}

void run_block() {
  for (unsigned i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.done = false;
    fiber.copies.clear();
  }
  block.steps_without_news = 0;
  std::fill(block.shared.begin(), block.shared.end(), uint4{~0u, ~0u, ~0u, ~0u});
  for (bool left = true; left;) {
    left = false;
    for (unsigned i = 0; i < block.threads; ++i) {
      if (block.fibers[i].done) continue;
      left = true;
      block.current = i;
      place.thread = dim3(i);
      go_on_in_fiber();
    }
    if (block.steps_without_news > 4 * uint64_t{kMostThreads}) {
      std::fprintf(stderr, "emulated kernel: threads of a block wait for different things\n");
      std::abort();
    }
  }
}

}  // namespace

void know(const void* kernel, Invoke invoke) { kernels[kernel] = invoke; }
Invoke invoke_of(const void* kernel) { return kernels.at(kernel); }
char* dynamic_shared() { return reinterpret_cast<char*>(block.shared.data()); }

void run(dim3 grid, unsigned threads, int64_t shared_bytes, const std::function<void()>& body) {
  if (shared_bytes > faults.shared_memory) {
    std::fprintf(stderr, "emulated kernel: %lld bytes of shared memory for a block\n",
                 static_cast<long long>(shared_bytes));
    std::abort();
  }
  if (block.fibers.empty()) block.fibers = std::vector<Fiber>(kMostThreads);
  block.threads = threads;
  block.body = &body;
  block.shared.resize(static_cast<size_t>(shared_bytes + 15) / 16);
  place.block_size = dim3(threads);
  place.grid_size = grid;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      place.block = dim3(x, y);
      run_block();
    }
  }
}

void copy_later(void* to, const void* from) {
  Fiber& self = block.fibers[block.current];
  self.copies.push_back({to, from, self.groups});
}
void commit_copies() { ++block.fibers[block.current].groups; }
void finish_copies(size_t but_groups) {
  Fiber& self = block.fibers[block.current];
  std::erase_if(self.copies, [&](const Copy& copy) {
    if (copy.group + but_groups >= self.groups) return false;
    if (copy.from != nullptr) {
      std::memcpy(copy.to, copy.from, 16);
    } else {
      std::memset(copy.to, 0, 16);
    }
    return true;
  });
}

void block_barrier() { wait(block.all, block.threads); }

uint64_t exchange(uint64_t mine, unsigned from) {
  const unsigned self = block.current;
  block.slots[self] = mine;
  wait_warp();
  const uint64_t got = block.slots[self / 32 * 32 + from];
  wait_warp();
  return got;
}

void gather(const uint32_t* mine, int n, uint32_t* out) {
  const unsigned self = block.current;
  std::memcpy(block.registers[self], mine, static_cast<size_t>(n) * 4);
  wait_warp();
  for (unsigned i = 0; i < 32; ++i) {
    std::memcpy(out + i * static_cast<unsigned>(n), block.registers[self / 32 * 32 + i],
                static_cast<size_t>(n) * 4);
  }
  wait_warp();
}

}  // namespace ponder::cuda::emulation
