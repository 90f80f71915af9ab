// Weights on the device, and how they get there. Packing may run in any thread at any time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/cuda/launch_linear.h"
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

// Consecutive matrices of one type, stacked by rows into one on the device.
struct Stack {
  std::vector<const WeightData*> parts;
  Weights shape;  // without memory
  uint64_t scale_bytes() const { return static_cast<uint64_t>(shape.scale_count) * sizeof(float); }
};

// A stack on the device: of one matrix, or of that of each expert.
struct DeviceStack {
  Weights weights;
  DeviceBuffer data, scales;
  // As a table; weights.form is kFloats.
  Matrix matrix() const {
    return {weights.data, weights.scales, weights.dtype, weights.rows, weights.cols};
  }
};

// Matrices stacked by rows, neighbours of one type together.
struct CudaWeight final : PackedWeight {
  std::vector<DeviceStack> stacks;
};

struct CudaExperts final : PackedExperts {
  std::vector<DeviceStack> gate_up;  // one, or gate and up where their types differ
  DeviceStack down;
};

// The form of products with a type on a device. kF8: Form::kF8Codes where the device has it.
Form form_of(DType dtype, Precision precision, const Device& device);

// kF32 and tables: everything as stored, else in the forms of launch_linear.h.
StatusOr<std::unique_ptr<CudaWeight>> pack(Device* device, ThreadPool* pool,
                                           std::span<const WeightData> parts, Precision precision);
// All experts stay on the device; those of a layer have the same types.
StatusOr<std::unique_ptr<CudaExperts>> pack_experts(Device* device, ThreadPool* pool,
                                                    std::unique_ptr<ExpertSource> source,
                                                    Precision precision);

}  // namespace ponder::cuda
