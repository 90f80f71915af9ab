#include "tests/backends/cuda/emulate.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#undef threadIdx
#undef blockIdx

namespace ponder::cuda::emulation {

Place place;

namespace {

// ucontext asks the kernel for the signal mask at every switch. Where that matters and we know how,
// the registers that a call preserves are exchanged by hand.
#ifdef __x86_64__
extern "C" void ponder_emulate_switch(void** save, void* load);
asm(R"(
.text
.type ponder_emulate_switch, @function
ponder_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ponder_emulate_switch, .-ponder_emulate_switch
)");

struct Context {
  void* top = nullptr;  // of the stack, where the registers lie
};
void prepare(Context* context, char* stack, size_t bytes, void (*entry)()) {
  // `entry` begins as if called: eight bytes off an aligned stack. It never returns.
  auto* top = reinterpret_cast<void**>(stack + bytes / 16 * 16) - 2;
  *top = reinterpret_cast<void*>(entry);
  top -= 6;
  std::fill(top, top + 6, nullptr);
  context->top = top;
}
void change(Context* from, Context* to) { ponder_emulate_switch(&from->top, to->top); }
#else
struct Context {
  ucontext_t registers;
};
void prepare(Context* context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context->registers);
  context->registers.uc_stack.ss_sp = stack;
  context->registers.uc_stack.ss_size = bytes;
  context->registers.uc_link = nullptr;
  makecontext(&context->registers, entry, 0);
}
void change(Context* from, Context* to) { swapcontext(&from->registers, &to->registers); }
#endif

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

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  std::vector<Copy> copies;
  size_t groups = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  unsigned threads = 0, current = 0;
  Context scheduler;
  const std::function<void()>* body = nullptr;
  Barrier all;
  Barrier warps[kMostThreads / 32];
  uint64_t slots[kMostThreads];
  uint32_t registers[kMostThreads][8];
  uint64_t steps_without_news = 0;
  std::vector<std::max_align_t> shared;
  size_t shared_bytes = 0;
};
Block block;

void enter() {
  (*block.body)();
  Fiber& self = block.fibers[block.current];
  self.done = true;
  block.steps_without_news = 0;
  change(&self.context, &block.scheduler);
}

void wait(Barrier& barrier, unsigned members) {
  const uint64_t before = barrier.passed;
  block.steps_without_news = 0;
  if (++barrier.arrived == members) {
    barrier.arrived = 0;
    ++barrier.passed;
    return;
  }
  const unsigned self = block.current;
  while (barrier.passed == before) {
    ++block.steps_without_news;
    change(&block.fibers[self].context, &block.scheduler);
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
    prepare(&fiber.context, fiber.stack.get(), kStack, enter);
  }
  std::memset(block.shared.data(), 0xff, block.shared_bytes);
  block.steps_without_news = 0;
  for (bool left = true; left;) {
    left = false;
    for (unsigned i = 0; i < block.threads; ++i) {
      if (block.fibers[i].done) continue;
      left = true;
      block.current = i;
      place.thread = dim3(i);
      change(&block.scheduler, &block.fibers[i].context);
    }
    if (block.steps_without_news > 4 * uint64_t{kMostThreads}) {
      std::fprintf(stderr, "emulated kernel: threads of a block wait for different things\n");
      std::abort();
    }
  }
}

}  // namespace

void run(dim3 grid, unsigned threads, int64_t shared_bytes, const std::function<void()>& body) {
  if (shared_bytes > faults.shared_memory) {
    std::fprintf(stderr, "emulated kernel: %lld bytes of shared memory for a block\n",
                 static_cast<long long>(shared_bytes));
    std::abort();
  }
  block.shared_bytes = static_cast<size_t>(shared_bytes);
  block.shared.resize(block.shared_bytes / sizeof(std::max_align_t) + 1);
  while (block.fibers.size() < threads) {
    block.fibers.emplace_back().stack = std::make_unique<char[]>(kStack);
  }
  block.threads = threads;
  block.body = &body;
  place.block_size = dim3(threads);
  place.grid_size = grid;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      place.block = dim3(x, y);
      run_block();
    }
  }
}

char* dynamic_shared() { return reinterpret_cast<char*>(block.shared.data()); }

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
