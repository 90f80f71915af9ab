// What the backend needs of the CUDA runtime, in the library's own terms. runtime.cc is the real
// one; tests/backends/cuda has another that lets the same backend run on the CPU.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "backends/cuda/launch.h"
#include "lib/base/status.h"

namespace ponder::cuda {

struct DeviceProperties {
  std::string name;  // "NVIDIA H100 80GB HBM3, sm_90"
  uint64_t memory_total = 0;
  uint64_t memory_free = 0;
};

// Devices that our kernels can run on, in the driver's order; none without a driver. Any thread.
int device_count();
StatusOr<DeviceProperties> device_properties(int device);

// One device and one stream of ours on it. Memory calls may come from any thread, the others from
// one at a time. After a fault in a kernel or the loss of the device every call reports it: CUDA
// can use the device no more in this process.
class Device {
 public:
  static StatusOr<std::unique_ptr<Device>> open(int device);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Stream stream() const { return stream_; }
  bool lost() const { return lost_.load(std::memory_order_relaxed); }

  // nullptr: no memory. Aligned to 256 bytes.
  void* allocate(uint64_t bytes);
  void free(void* memory);

  // The calling thread's launches go to this device from now on.
  Status use();
  // In the order of the stream. `host` may be reused when upload returns.
  Status upload(const void* host, void* device, uint64_t bytes);
  Status copy(const void* from, void* to, uint64_t bytes);
  Status zero(void* device, uint64_t bytes);
  // Waits for all before it.
  Status download(const void* device, void* host, uint64_t bytes);
  Status wait();
  // What went wrong in the launches since the last call; does not wait.
  Status check(absl::string_view what);

 private:
  Device() = default;
  Status fail(int error, absl::string_view what);

  int device_ = 0;
  Stream stream_ = nullptr;
  std::atomic<bool> lost_{false};
};

}  // namespace ponder::cuda
