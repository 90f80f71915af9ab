#include "lib/capi/host.h"

#include <atomic>
#include <thread>
#include <utility>

#include "lib/capi/guard.h"

namespace ponder::capi {
namespace {

class HostAllocator final : public Allocator {
 public:
  explicit HostAllocator(const ponder_allocator& table) : table_(table) {}
  void* allocate(size_t size, size_t align) override {
    return table_.alloc(table_.user, size, align);
  }
  void free(void* ptr, size_t size, size_t align) override {
    table_.free(table_.user, ptr, size, align);
  }
  absl::string_view name() const override { return "memory of the host's allocator"; }

 private:
  const ponder_allocator table_;
};

// One loop, pulled by whoever comes: an index that the host runs twice or forgets does no harm.
struct Loop {
  absl::FunctionRef<void(uint32_t)> fn;
  const uint32_t n;
  std::atomic<uint32_t> next{0};
  std::atomic<uint32_t> done{0};

  void run_one() {
    const uint32_t i = next.fetch_add(1, std::memory_order_relaxed);
    // A counter that others have driven past n stays below 2^32: the host has n calls, and we one
    // more each, see run_rest.
    if (i >= n) return;
    fn(i);
    done.fetch_add(1, std::memory_order_release);
  }
  void run_rest() {
    while (next.load(std::memory_order_relaxed) < n) run_one();
    // A host that returns before its threads are done still has ours in their hands.
    while (done.load(std::memory_order_acquire) < n) std::this_thread::yield();
  }
};

class HostThreadPool final : public ThreadPool {
 public:
  explicit HostThreadPool(const ponder_thread_pool& table) : table_(table) {}
  uint32_t concurrency() const override { return table_.concurrency; }
  void parallel_for(uint32_t n, absl::FunctionRef<void(uint32_t)> fn) override {
    if (n == 0) return;
    Loop loop{fn, n};
    if (n > 1) {
      table_.parallel_for(
          table_.user, n, [](void* arg, uint32_t) { static_cast<Loop*>(arg)->run_one(); }, &loop);
    }
    loop.run_rest();
  }

 private:
  const ponder_thread_pool table_;
};

}  // namespace

StatusOr<std::shared_ptr<Allocator>> host_allocator(const ponder_allocator& table) {
  if (table.alloc == nullptr || table.free == nullptr) {
    return invalid_argument_error("ponder_allocator: alloc and free are both required");
  }
  return std::make_shared<HostAllocator>(table);
}

StatusOr<std::shared_ptr<ThreadPool>> host_thread_pool(const ponder_thread_pool& table) {
  if (table.parallel_for == nullptr) {
    return invalid_argument_error("ponder_thread_pool: parallel_for is required");
  }
  if (table.concurrency == 0 || table.concurrency > 1024) {
    return invalid_argument_error("ponder_thread_pool: concurrency is ", table.concurrency,
                                  "; it must be 1 to 1024");
  }
  if (table.reserved != 0) {
    return unsupported_error("ponder_thread_pool: reserved must be 0");
  }
  return std::make_shared<HostThreadPool>(table);
}

// ---- files ------------------------------------------------------------------------------------

struct HostFiles::Table {
  explicit Table(const ponder_io& table) : io(table) {}
  ~Table() {
    if (io.close != nullptr) io.close(io.user);
  }

  // Remembers the first failure for restore(). Only PONDER_OK is success: "pending" has filled
  // nothing.
  int32_t seen(ponder_status status) {
    if (status > 0) return PONDER_ERR_IO;
    if (status != PONDER_OK && status != PONDER_ERR_NOT_FOUND) {
      ponder_status none = PONDER_OK;
      failure.compare_exchange_strong(none, status);
    }
    return status;
  }

  const ponder_io io;
  std::atomic<ponder_status> failure{PONDER_OK};
};

HostFiles::HostFiles(const ponder_io& table) : table_(std::make_shared<Table>(table)) {}

StatusOr<std::shared_ptr<const FileSource>> HostFiles::open() {
  // The source holds one owner of the table by way of `user`, and lets go of it in close.
  struct Owner {
    std::shared_ptr<Table> table;
  };
  auto owner = std::make_unique<Owner>(Owner{table_});
  const ponder_io& io = table_->io;
  IoCallbacks callbacks;
  callbacks.user = owner.get();
  if (io.size != nullptr) {
    callbacks.size = [](void* user, const char* name, uint64_t* size) {
      Table& table = *static_cast<Owner*>(user)->table;
      return table.seen(table.io.size(table.io.user, name, size));
    };
  }
  if (io.read != nullptr) {
    callbacks.read = [](void* user, const char* name, uint64_t offset, void* dst, size_t n) {
      Table& table = *static_cast<Owner*>(user)->table;
      return table.seen(table.io.read(table.io.user, name, offset, dst, n));
    };
  }
  if (io.map != nullptr) {
    callbacks.map = [](void* user, const char* name) {
      Table& table = *static_cast<Owner*>(user)->table;
      return table.io.map(table.io.user, name);
    };
  }
  callbacks.close = [](void* user) { delete static_cast<Owner*>(user); };
  PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const FileSource> source, open_callbacks(callbacks));
  static_cast<void>(owner.release());  // the source deletes it, by close
  return source;
}

Status HostFiles::restore(const Status& status) const {
  const ponder_status failure = table_->failure.load();
  const bool ours =
      failure < 0 && failure >= PONDER_ERR_INTERNAL && failure != PONDER_ERR_BUFFER_TOO_SMALL;
  if (!ours || status_code(status) != PONDER_ERR_IO) return status;
  return status_of(failure, status.message());
}

}  // namespace ponder::capi
