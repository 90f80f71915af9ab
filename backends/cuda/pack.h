// Weights on the device, and how they get there. Packing may run in any thread at any time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/cuda/runtime.h"
#include "lib/base/thread_pool.h"
#include "lib/device/backend.h"

namespace ponder::cuda {

// A piece of device memory, given back when it goes. Outlived by its device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : device_(std::exchange(other.device_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer moved(std::move(other));
    std::swap(device_, moved.device_);
    std::swap(data_, moved.data_);
    std::swap(bytes_, moved.bytes_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) device_->free(data_);
  }

  // `what` goes into the error: "weights of "model.norm"".
  static StatusOr<DeviceBuffer> create(Device* device, uint64_t bytes, absl::string_view what);

  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Matrices stacked by rows, each in its own type.
struct CudaWeight final : PackedWeight {
  struct Part {
    Matrix matrix;
    const uint16_t* mma = nullptr;  // bf16 as launch_linear_mma wants it; then matrix.data is null
    DeviceBuffer data, scales;
  };
  std::vector<Part> parts;
};

// `matrices`: bf16 parts go to the matrix instructions; else (tables) all stay as stored.
StatusOr<std::unique_ptr<CudaWeight>> pack(Device* device, ThreadPool* pool,
                                           std::span<const WeightData> parts, bool matrices);

}  // namespace ponder::cuda
