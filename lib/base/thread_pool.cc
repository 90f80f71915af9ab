#include "lib/base/thread_pool.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace ponder {
namespace {

// More threads than any machine has cores; beyond it the number is surely a mistake.
constexpr uint32_t kMaxThreads = 1024;

// How long a worker looks for the next loop before it sleeps, and a caller for its workers' last
// chunks. Within one step of a model loops follow each other within a few microseconds; waking a
// sleeping thread takes five to fifty.
constexpr std::chrono::microseconds kSpin{50};
// With fewer cores than threads a spinning thread keeps from running the very one it waits for.
constexpr std::chrono::microseconds kSpinOversubscribed{1};

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Looks at `done` until it is true or `limit` has passed; tells which.
template <typename Done>
bool spin_until(std::chrono::microseconds limit, const Done& done) {
  for (int i = 0; i < 16; ++i) {
    if (done()) return true;
    cpu_relax();
  }
  const auto deadline = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 8; ++i) {
      if (done()) return true;
      cpu_relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

// ---- how many threads -------------------------------------------------------------------------

// A small file's text; empty when it cannot be read.
std::string read_small_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[4096];
  const ssize_t size = ::read(fd, text, sizeof(text));
  ::close(fd);
  return size > 0 ? std::string(text, static_cast<size_t>(size)) : std::string();
}

// The CPUs that this process may run on, ascending; empty when the system does not tell.
std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  for (int capacity = 1024; capacity <= 65536; capacity *= 4) {
    // Before the set, which nobody frees when an exception passes.
    cpus.reserve(static_cast<size_t>(capacity));
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(capacity));
    if (set == nullptr) return cpus;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    const bool read = ::sched_getaffinity(0, bytes, set) == 0;
    if (read) {
      for (int cpu = 0; cpu < capacity; ++cpu) {
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) cpus.push_back(cpu);
      }
    }
    CPU_FREE(set);
    if (read) break;  // else the kernel has more CPUs than the set
  }
  return cpus;
}

// Whole CPUs that one cgroup's bandwidth limit allows, or 0 for no limit.
uint32_t cgroup_cpus(const std::string& folder) {
  double quota = 0;
  double period = 0;
  const std::vector<std::string> v2 =
      absl::StrSplit(read_small_file(folder + "/cpu.max"), absl::ByAnyChar(" \n"));
  if (v2.size() >= 2) {  // "max 100000" or "150000 100000"
    if (!absl::SimpleAtod(v2[0], &quota) || !absl::SimpleAtod(v2[1], &period)) return 0;
  } else if (!absl::SimpleAtod(read_small_file(folder + "/cpu.cfs_quota_us"), &quota) ||
             !absl::SimpleAtod(read_small_file(folder + "/cpu.cfs_period_us"), &period)) {
    return 0;
  }
  if (!(quota > 0) || !(period > 0)) return 0;
  // Rounded down: one thread too many makes all of them stop for the rest of every period.
  return static_cast<uint32_t>(std::clamp(quota / period, 1.0, double{kMaxThreads}));
}

// The tightest limit of our cgroup and those above it, or 0.
uint32_t cgroup_cpus() {
  uint32_t limit = 0;
  const auto apply = [&limit](const std::string& folder) {
    const uint32_t cpus = cgroup_cpus(folder);
    if (cpus > 0 && (limit == 0 || cpus < limit)) limit = cpus;
  };
  for (absl::string_view line : absl::StrSplit(read_small_file("/proc/self/cgroup"), '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    std::string root = "/sys/fs/cgroup";  // version 2: "0::/user.slice/..."
    if (!parts[1].empty()) {              // version 1: "4:cpu,cpuacct:/docker/..."
      const std::vector<std::string> names = absl::StrSplit(parts[1], ',');
      if (std::find(names.begin(), names.end(), "cpu") == names.end()) continue;
      root += "/cpu";
    }
    std::string path = parts[2];
    // Inside a container the path may name a folder that only the host sees; then the root is ours.
    apply(root);
    while (path.size() > 1) {
      apply(root + path);
      path.resize(path.rfind('/'));
    }
  }
  return limit;
}

// One per physical core that we may use: two threads of a core share what our loops are bound by.
uint32_t default_threads() {
  const std::vector<int> cpus = allowed_cpus();
  std::vector<std::string> cores;
  for (int cpu : cpus) {
    std::string siblings = read_small_file(
        absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    if (siblings.empty()) siblings = absl::StrCat(cpu);
    cores.push_back(std::move(siblings));
  }
  std::sort(cores.begin(), cores.end());
  cores.erase(std::unique(cores.begin(), cores.end()), cores.end());
  size_t threads = cores.empty() ? std::thread::hardware_concurrency() : cores.size();
  if (const uint32_t limit = cgroup_cpus(); limit > 0) threads = std::min<size_t>(threads, limit);
  return static_cast<uint32_t>(std::clamp<size_t>(threads, 1, kMaxThreads));
}

// ---- the pool ---------------------------------------------------------------------------------

// One loop at a time. The caller writes what the loop is, opens the gate, takes chunks like every
// worker, shuts the gate when no chunk is left, and waits for the workers inside. A worker that
// never came (its core is busy with something else) is not waited for.
//
// gate_ holds the number of workers inside, and kOpen. Entering is a compare-and-swap that fails on
// a shut gate, so the loop's description is never read while the caller may change it.
class SpinThenSleepPool final : public ThreadPool {
 public:
  SpinThenSleepPool(uint32_t threads, bool oversubscribed)
      : concurrency_(threads), spin_(oversubscribed ? kSpinOversubscribed : kSpin) {
    workers_.reserve(threads - 1);
  }

  ~SpinThenSleepPool() override {
    stop_.store(true, std::memory_order_relaxed);
    signal_.fetch_add(1);
    signal_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // Called once, before the pool is used.
  Status start() {
    // The host's signal handlers stay on the host's threads.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    Status status;
    try {
      while (workers_.size() + 1 < concurrency_) {
        workers_.emplace_back([this] { work(); });
        ::pthread_setname_np(workers_.back().native_handle(), "ponder");
      }
    } catch (const std::system_error& e) {
      status =
          out_of_memory_error("the system refused to make thread ", workers_.size() + 2, " of ",
                              concurrency_, " (", e.what(), "); ask for fewer threads");
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return status;
  }

  uint32_t concurrency() const override { return concurrency_; }

  void parallel_for(uint32_t n, absl::FunctionRef<void(uint32_t)> fn) override {
    if (n == 0) return;
    if (n == 1 || concurrency_ == 1 || busy_.exchange(true, std::memory_order_acquire)) {
      for (uint32_t i = 0; i < n; ++i) fn(i);
      return;
    }
    fn_ = &fn;
    n_ = n;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen, std::memory_order_release);
    signal_.fetch_add(1);  // sequentially consistent: a worker about to sleep sees it
    if (n > workers_.size()) {
      signal_.notify_all();
    } else {
      for (uint32_t i = 1; i < n; ++i) signal_.notify_one();
    }

    run_chunks(n, fn);

    uint32_t inside = gate_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
    if (inside != 0 &&
        !spin_until(spin_, [&] { return gate_.load(std::memory_order_acquire) == 0; })) {
      while ((inside = gate_.load(std::memory_order_acquire)) != 0) gate_.wait(inside);
    }
    busy_.store(false, std::memory_order_release);
  }

 private:
  static constexpr uint32_t kOpen = 1u << 31;

  void run_chunks(uint32_t n, absl::FunctionRef<void(uint32_t)> fn) {
    // One claim costs less than a tenth of a microsecond, so chunks are taken one by one: whoever
    // is fastest takes most.
    for (;;) {
      const uint32_t i = next_.fetch_add(1, std::memory_order_relaxed);
      // At most one failed claim per thread and loop: the counter cannot wrap for n up to
      // 2^32-1025.
      if (i >= n) return;
      fn(i);
    }
  }

  void work() {
    uint32_t seen = 0;
    for (;;) {
      uint32_t signal = seen;
      if (!spin_until(spin_, [&] {
            signal = signal_.load(std::memory_order_acquire);
            return signal != seen;
          })) {
        signal_.wait(seen);
        signal = signal_.load(std::memory_order_acquire);
        if (signal == seen) continue;
      }
      seen = signal;
      if (stop_.load(std::memory_order_relaxed)) return;

      uint32_t gate = gate_.load(std::memory_order_relaxed);
      bool entered = false;
      while ((gate & kOpen) != 0 && !entered) {
        entered = gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire,
                                              std::memory_order_relaxed);
      }
      if (!entered) continue;
      run_chunks(n_, *fn_);
      if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_one();  // shut, we last
    }
  }

  const uint32_t concurrency_;
  const std::chrono::microseconds spin_;

  // What the loop is: written before the gate opens, read only by those inside.
  const absl::FunctionRef<void(uint32_t)>* fn_ = nullptr;
  uint32_t n_ = 0;

  // Each on a cache line of its own: workers poll the first while others claim from the second.
  alignas(64) std::atomic<uint32_t> signal_{0};
  alignas(64) std::atomic<uint32_t> next_{0};
  alignas(64) std::atomic<uint32_t> gate_{0};
  alignas(64) std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};

  std::vector<std::thread> workers_;  // last: its threads use all of the above
};

}  // namespace

StatusOr<std::unique_ptr<ThreadPool>> make_thread_pool(uint32_t threads) {
  if (threads > kMaxThreads) {
    return invalid_argument_error(threads, " threads were asked for; the most is ", kMaxThreads,
                                  " (0: one per physical core)");
  }
  const size_t cpus = std::max<size_t>(allowed_cpus().size(), 1);
  if (threads == 0) threads = default_threads();
  auto pool = std::make_unique<SpinThenSleepPool>(threads, threads > cpus);
  PONDER_RETURN_IF_ERROR(pool->start());
  return pool;
}

}  // namespace ponder
