// What the backend needs of a GPU, in the library's own terms. runtime.cc is the real one, on the
// driver's own interface; tests/backends/cuda has another that lets the same backend run on the
// CPU.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "backends/cuda/launch.h"
#include "backends/cuda/launch_linear.h"
#include "backends/cuda/launch_queue.h"
#include "lib/base/status.h"

namespace ponder::cuda {

struct DeviceProperties {
  std::string name;  // "NVIDIA H100 80GB HBM3, sm_90"
  uint64_t memory_total = 0;
};

// Devices that the driver lists, in its order; none without a driver. Any thread.
int device_count();
StatusOr<DeviceProperties> device_properties(int device);

// One device, with two streams of ours on it: the steps' own, of the highest priority, and one that
// weights are loaded on beside them. After a fault in a kernel or the loss of the device every call
// reports it: CUDA can use the device no more in this process. Other devices are not touched by it.
//
// The host's own use of CUDA goes on undisturbed: no call changes the calling thread's context.
class Device final : private LaunchRunner {
 public:
  // unsupported_error: the driver, or the device, is too old, or this build has no code for it.
  static StatusOr<std::unique_ptr<Device>> open(int device);
  ~Device() override;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // ---- any thread ----
  bool lost() const { return lost_.load(std::memory_order_relaxed); }
  // device_error when the device is lost.
  Status use();
  // nullptr: no memory. Aligned to 256 bytes. free waits for kernels that may still use it.
  void* allocate(uint64_t bytes);
  void free(void* memory);
  uint64_t memory_free();
  // Memory of the host that the device reads and writes while the host goes on. nullptr: none.
  void* allocate_staging(uint64_t bytes);
  void free_staging(void* memory);
  // Called by the steps' thread: in the order of its launches. By others: in the order of their
  // calls, beside the steps. `host` may be reused when upload returns.
  Status upload(const void* host, void* device, uint64_t bytes);
  Status zero(void* device, uint64_t bytes);
  // What was uploaded and cleared so far is there for all launches and copies from now on. Does not
  // wait itself.
  Status settle();

  // ---- the driver's thread, in the order of the calls ----
  // The calling thread is the one whose uploads keep the order of launches.
  void begin_steps() { steps_thread_.store(std::this_thread::get_id(), std::memory_order_relaxed); }
  // What launches are told to run on.
  Stream stream() { return this; }
  // Launches gathered from now on or run at once: launch_queue.h.
  LaunchQueue& queue() { return queue_; }
  // `staging` (allocate_staging) is read until a mark behind this has passed.
  Status upload_staged(const void* staging, void* device, uint64_t bytes);
  Status copy(const void* from, void* to, uint64_t bytes);
  // Submits what is gathered and waits for all before it.
  Status download(const void* device, void* host, uint64_t bytes);
  // Waits for all launches and copies.
  Status drain();
  // Remembers the place in the stream under a number below kMarks; pass waits until the device got
  // there, and does not for a mark never made.
  static constexpr int kMarks = 10;
  Status mark(int i);
  Status pass(int i);
  // What went wrong in the launches since the last call; does not wait.
  Status check(absl::string_view what);
  // The most shared memory that a block can have.
  int64_t shared_memory_limit() const { return shared_limit_; }
  // Which kernels of Form::kF8Codes can run.
  F8Operands f8_operands() const { return f8_operands_; }

 private:
  struct Native;
  explicit Device(int number);
  Status fail(int error, absl::string_view what);
  Status run(const Launches& launches) override;
  StatusOr<void*> record(const Launches& launches) override;
  Status replay(void* graph) override;
  void forget(void* graph) override;

  const int number_;
  bool on_steps_thread() const {
    return steps_thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }

  std::atomic<bool> lost_{false};
  std::atomic<std::thread::id> steps_thread_{};
  int64_t shared_limit_ = 48 << 10;
  F8Operands f8_operands_ = F8Operands::kNone;
  std::unique_ptr<Native> native_;
  LaunchQueue queue_;  // after native_: its graphs go first
};

}  // namespace ponder::cuda
