#include "tests/backends/cuda/emulated_runtime.h"

#include <cstdlib>
#include <cstring>

#include "backends/cuda/runtime.h"

namespace ponder::cuda {

namespace emulation {
Faults faults;
int64_t allocations = 0;
}  // namespace emulation

int device_count() { return emulation::faults.devices; }

StatusOr<DeviceProperties> device_properties(int) {
  return DeviceProperties{"emulated, sm_90", emulation::faults.memory, emulation::faults.memory};
}

StatusOr<std::unique_ptr<Device>> Device::open(int device) {
  std::unique_ptr<Device> made(new Device);
  made->device_ = device;
  return made;
}
Device::~Device() = default;

Status Device::fail(int, absl::string_view what) {
  lost_.store(true);
  return device_error("cuda:", device_, " was lost in ", what);
}
Status Device::use() {
  return lost() ? device_error("cuda:", device_, " was lost before") : OkStatus();
}
void* Device::allocate(uint64_t bytes) {
  if (lost() || bytes > emulation::faults.memory) return nullptr;
  ++emulation::allocations;
  // What nobody wrote is no number.
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(memory, 0xff, bytes);
  return memory;
}
void Device::free(void* memory) {
  if (memory != nullptr) --emulation::allocations;
  std::free(memory);
}
Status Device::upload(const void* host, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  std::memcpy(device, host, bytes);
  return OkStatus();
}
Status Device::copy(const void* from, void* to, uint64_t bytes) { return upload(from, to, bytes); }
Status Device::zero(void* device, uint64_t bytes) {
  std::memset(device, 0, bytes);
  return OkStatus();
}
Status Device::download(const void* device, void* host, uint64_t bytes) {
  return upload(device, host, bytes);
}
Status Device::wait() { return use(); }
Status Device::check(absl::string_view what) {
  if (std::exchange(emulation::faults.lose_device, false)) return fail(0, what);
  return OkStatus();
}

}  // namespace ponder::cuda
