// The root of everything: devices, memory, threads, and the driver that does the work.
//
// Ownership runs upwards: Generation -> Session -> Model -> Runtime, by shared_ptr, so any order of
// release is legal and the last release tears down. The driver thread owns nothing; ~Model waits
// (at most one layer of one step) until the driver has let go of it.
//
// Threads: every function may be called from any thread unless it says otherwise.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/allocator.h"
#include "lib/base/log.h"
#include "lib/base/status.h"
#include "lib/base/thread_pool.h"
#include "lib/device/registry.h"
#include "lib/engine/generation.h"

namespace ponder::engine {

class Model;

struct RuntimeOptions {
  std::shared_ptr<Allocator> allocator;  // unset: the process's own memory
  std::shared_ptr<ThreadPool> pool;      // unset: our own, of `threads`
  uint32_t threads = 0;                  // 0: one per physical core
  bool host_driven = false;              // work happens only inside poll()
  LogSink log;
};

class Runtime : public std::enable_shared_from_this<Runtime> {
 public:
  static StatusOr<std::shared_ptr<Runtime>> create(RuntimeOptions options);
  ~Runtime();

  std::span<const DeviceInfo> devices() const { return device_infos_; }
  bool host_driven() const { return options_.host_driven; }
  const LogSink& log() const { return options_.log; }
  Allocator* allocator() const { return options_.allocator.get(); }
  ThreadPool* pool() const { return options_.pool.get(); }

  // Host-driven: works for about budget_us on this thread, in slices of at most one layer of one
  // step, one slice at least. True: there is more to do. unsupported_error when the runtime drives
  // itself, busy_error when called from two threads at once or from inside a callback.
  StatusOr<bool> poll(uint64_t budget_us);
  // A generation with a handle and news that was not told here yet, round robin; nullptr: none.
  void* next_ready();
  // Called whenever poll() or next_ready() has something new to do.
  void set_waker(Waker waker);

  // ---- for Model, Session and Generation ----
  // The backend of devices()[index], made at first use.
  StatusOr<Backend*> backend(uint32_t index);
  // That of the first device that is a processor.
  StatusOr<Backend*> processor();
  void add_model(Model* model);
  void remove_model(Model* model);  // waits until the driver is not inside it
  void add_generation(Generation* generation);
  void remove_generation(Generation* generation);
  void notify();         // there is (perhaps) work for the driver; never blocks
  void wake_host() const;  // calls the waker
  bool on_driver_thread() const;
  // Until `state` has news or has ended (true), or the time is over. Drives when host-driven.
  StatusOr<bool> wait(const GenerationState& state, uint64_t timeout_us);

 private:
  explicit Runtime(RuntimeOptions options);
  void drive();             // the driver thread
  bool run_slice();         // one slice of one model; false: nothing to do

  RuntimeOptions options_;
  std::vector<DeviceInfo> device_infos_;
  struct DeviceSlot {
    const BackendFactory* factory;
    uint32_t index;
    std::unique_ptr<Backend> backend;
  };
  absl::Mutex devices_mu_;
  std::vector<DeviceSlot> devices_ ABSL_GUARDED_BY(devices_mu_);

  absl::Mutex models_mu_;
  std::vector<Model*> models_ ABSL_GUARDED_BY(models_mu_);
  Model* active_ ABSL_GUARDED_BY(models_mu_) = nullptr;  // the driver is inside this one
  size_t next_model_ ABSL_GUARDED_BY(models_mu_) = 0;

  absl::Mutex generations_mu_;
  std::vector<Generation*> generations_ ABSL_GUARDED_BY(generations_mu_);
  size_t next_generation_ ABSL_GUARDED_BY(generations_mu_) = 0;

  mutable absl::Mutex waker_mu_;
  Waker waker_ ABSL_GUARDED_BY(waker_mu_);

  std::atomic<uint32_t> work_{0};  // counts notify(); the driver sleeps on it
  std::atomic<bool> stop_{false};
  std::atomic<bool> polling_{false};
  std::atomic<std::thread::id> driver_id_{};
  std::thread driver_;
};

}  // namespace ponder::engine
