#include "lib/base/thread_pool.h"

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace ponder {
namespace {

std::unique_ptr<ThreadPool> pool_of(uint32_t threads) {
  auto pool = make_thread_pool(threads);
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

TEST(ThreadPool, CallsEveryIndexExactlyOnce) {
  for (uint32_t threads : {1u, 2u, 3u, 8u}) {
    auto pool = pool_of(threads);
    EXPECT_EQ(pool->concurrency(), threads);
    for (uint32_t n : {0u, 1u, 2u, 3u, 7u, 64u, 1000u}) {
      std::vector<std::atomic<int>> calls(n);
      pool->parallel_for(n, [&](uint32_t i) { calls[i].fetch_add(1); });
      for (uint32_t i = 0; i < n; ++i) ASSERT_EQ(calls[i].load(), 1) << i << " of " << n;
    }
  }
}

TEST(ThreadPool, ResultsAreVisibleToTheCallerWithoutFurtherSynchronisation) {
  auto pool = pool_of(4);
  std::vector<uint64_t> plain(257);
  for (uint64_t round = 1; round <= 2000; ++round) {
    pool->parallel_for(257, [&](uint32_t i) { plain[i] += round * i; });
    ASSERT_EQ(plain[256], 256 * round * (round + 1) / 2);
  }
  for (uint64_t i = 0; i < plain.size(); ++i) ASSERT_EQ(plain[i], i * 2000 * 2001 / 2);
}

TEST(ThreadPool, UsesSeveralThreadsAtOnce) {
  auto pool = pool_of(2);
  // Two chunks that wait for each other: only two threads at once get through.
  std::atomic<int> inside{0};
  std::atomic<bool> met{false};
  pool->parallel_for(2, [&](uint32_t) {
    inside.fetch_add(1);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (inside.load() < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    if (inside.load() == 2) met.store(true);
  });
  EXPECT_TRUE(met.load());
}

TEST(ThreadPool, WorksAfterItsWorkersFellAsleep) {
  auto pool = pool_of(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> sum{0};
    pool->parallel_for(10, [&](uint32_t i) { sum.fetch_add(static_cast<int>(i)); });
    EXPECT_EQ(sum.load(), 45);
  }
}

TEST(ThreadPool, IdlePoolUsesNoProcessorTime) {
  auto pool = pool_of(4);
  pool->parallel_for(4, [](uint32_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto used_us = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec * 1000000L + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_sec * 1000000L + usage.ru_stime.tv_usec;
  };
  const long before = used_us();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(used_us() - before, 50000) << "three spinning workers would have used 600000";
}

TEST(ThreadPool, ConcurrentLoopsFromManyThreadsAllFinish) {
  auto pool = pool_of(4);
  std::vector<std::thread> callers;
  std::atomic<uint64_t> total{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        std::atomic<uint64_t> mine{0};
        pool->parallel_for(33, [&](uint32_t i) { mine.fetch_add(i); });
        ASSERT_EQ(mine.load(), 33u * 32 / 2);
        total.fetch_add(mine.load());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 4u * 500 * 33 * 32 / 2);
}

TEST(ThreadPool, LoopThatFindsTheThreadsTakenRunsOnItsCaller) {
  auto pool = pool_of(2);
  std::atomic<bool> started{false}, release{false};
  std::thread other([&] {
    pool->parallel_for(2, [&](uint32_t) {
      started.store(true);
      while (!release.load()) std::this_thread::yield();
    });
  });
  while (!started.load()) std::this_thread::yield();
  std::set<std::thread::id> ids;
  pool->parallel_for(50, [&](uint32_t) { ids.insert(std::this_thread::get_id()); });
  EXPECT_EQ(ids, std::set<std::thread::id>{std::this_thread::get_id()});
  release.store(true);
  other.join();
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 50; ++i) {
    auto pool = pool_of(3);
    if (i % 2 == 0) {
      std::atomic<int> calls{0};
      pool->parallel_for(5, [&](uint32_t) { calls.fetch_add(1); });
      EXPECT_EQ(calls.load(), 5);
    }
  }
}

TEST(ThreadPool, DefaultIsAtMostTheCpusWeMayUse) {
  auto pool = pool_of(0);
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_GE(pool->concurrency(), 1u);
  EXPECT_LE(pool->concurrency(), static_cast<uint32_t>(CPU_COUNT(&set)));
}

TEST(ThreadPool, DefaultRespectsTheAffinityMask) {
  uint32_t concurrency = 0;
  std::thread pinned([&] {
    cpu_set_t set, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) {
        CPU_SET(cpu, &one);
        break;
      }
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    concurrency = pool_of(0)->concurrency();
  });
  pinned.join();
  EXPECT_EQ(concurrency, 1u);
}

TEST(ThreadPool, AbsurdThreadCountIsRefusedByName) {
  auto pool = make_thread_pool(1u << 20);
  ASSERT_FALSE(pool.ok());
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(pool.status().message().find("1048576 threads"), std::string::npos);
}

TEST(ThreadPool, RefusedThreadIsAStatusAndLeaksNothing) {
  // In a child process: the limit counts all threads of the user, and root may ignore it.
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &limit), 0);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that this test takes away";
#endif
  const auto in_child = [] {
    // 1023 stacks of 8 MiB of address space do not fit into 2 GiB.
    const rlimit small{2ull << 30, 2ull << 30};
    if (setrlimit(RLIMIT_AS, &small) != 0) _exit(10);
    auto pool = make_thread_pool(1024);
    if (pool.ok()) _exit(11);
    if (pool.status().code() != absl::StatusCode::kResourceExhausted) _exit(12);
    if (pool.status().message().find("ask for fewer threads") == std::string::npos) _exit(13);
    auto smaller = make_thread_pool(2);  // the threads that were made are gone again
    _exit(smaller.ok() ? 0 : 14);
  };
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(in_child(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace ponder
