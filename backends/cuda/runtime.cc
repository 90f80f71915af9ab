#include "backends/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include "lib/base/status.h"

namespace ponder::cuda {
namespace {

cudaStream_t native(Stream s) { return static_cast<cudaStream_t>(s); }

// After these the process's context on the device is gone; nothing but a new process gets it back.
bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

int device_count() {
  int count = 0;
  // No driver, a driver too old or no device: the same to a list of devices.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return count;
}

StatusOr<DeviceProperties> device_properties(int device) {
  cudaDeviceProp found;
  if (const cudaError_t error = cudaGetDeviceProperties(&found, device); error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return device_error("cuda:", device, " cannot be asked what it is: ", cudaGetErrorString(error),
                        "; see whether nvidia-smi lists it");
  }
  DeviceProperties properties;
  properties.name = absl::StrCat(found.name, ", sm_", found.major, found.minor);
  properties.memory_total = found.totalGlobalMem;
  // What is free is known only to a context on the device, and making one takes memory and time:
  // Device::open does, a list of devices does not.
  properties.memory_free = found.totalGlobalMem;
  return properties;
}

StatusOr<std::unique_ptr<Device>> Device::open(int device) {
  std::unique_ptr<Device> made(new Device);
  made->device_ = device;
  PONDER_RETURN_IF_ERROR(made->use());
  int least = 0, greatest = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  cudaStream_t stream = nullptr;
  if (error == cudaSuccess) {
    error = cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest);
  }
  if (error != cudaSuccess) return made->fail(error, "making a stream");
  made->stream_ = stream;
  return made;
}

Device::~Device() {
  if (stream_ == nullptr || cudaSetDevice(device_) != cudaSuccess) return;
  static_cast<void>(cudaStreamSynchronize(native(stream_)));
  static_cast<void>(cudaStreamDestroy(native(stream_)));
}

Status Device::fail(int code, absl::string_view what) {
  const auto error = static_cast<cudaError_t>(code);
  if (error == cudaSuccess) return OkStatus();
  static_cast<void>(cudaGetLastError());
  if (error == cudaErrorMemoryAllocation) {
    return out_of_memory_error("memory of cuda:", device_, " ran out in ", what,
                               "; use a smaller context or KV type, or another device");
  }
  if (error == cudaErrorInsufficientDriver) {
    return unsupported_error("the NVIDIA driver is too old for this build (CUDA ", CUDART_VERSION,
                             "); update it or run on the CPU");
  }
  if (error == cudaErrorNoKernelImageForDevice) {
    return unsupported_error("this build has no code for cuda:", device_,
                             "; build with its architecture in PONDER_CUDA_ARCHITECTURES");
  }
  if (is_sticky(error)) {
    lost_.store(true, std::memory_order_relaxed);
    return device_error("cuda:", device_, " was lost in ", what, ": ", cudaGetErrorString(error),
                        "; start the program again, or load the model on another device");
  }
  return device_error("cuda:", device_, " failed in ", what, ": ", cudaGetErrorString(error));
}

Status Device::use() {
  if (lost()) {
    return device_error("cuda:", device_,
                        " was lost before; start the program again, or use another device");
  }
  return fail(cudaSetDevice(device_), "choosing the device");
}

void* Device::allocate(uint64_t bytes) {
  void* memory = nullptr;
  if (!use().ok()) return nullptr;
  if (const cudaError_t error = cudaMalloc(&memory, bytes); error != cudaSuccess) {
    static_cast<void>(fail(error, "an allocation"));
    return nullptr;
  }
  return memory;
}

void Device::free(void* memory) {
  // cudaFree waits for the kernels that may still use it.
  if (memory != nullptr && cudaSetDevice(device_) == cudaSuccess) {
    static_cast<void>(cudaFree(memory));
  }
}

Status Device::upload(const void* host, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  return fail(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, native(stream_)),
              "a copy to the device");
}

Status Device::copy(const void* from, void* to, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  return fail(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream_)),
              "a copy on the device");
}

Status Device::zero(void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  return fail(cudaMemsetAsync(device, 0, bytes, native(stream_)), "clearing memory");
}

Status Device::download(const void* device, void* host, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  PONDER_RETURN_IF_ERROR(
      fail(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, native(stream_)),
           "a copy from the device"));
  return wait();
}

Status Device::wait() {
  PONDER_RETURN_IF_ERROR(use());
  return fail(cudaStreamSynchronize(native(stream_)), "kernels under way");
}

Status Device::check(absl::string_view what) { return fail(cudaGetLastError(), what); }

}  // namespace ponder::cuda
