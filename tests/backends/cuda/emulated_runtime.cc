#include "tests/backends/cuda/emulated_runtime.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/backends/cuda/emulate.h"

#include "backends/cuda/runtime.h"

namespace ponder::cuda {

namespace emulation {
Faults faults;
int64_t allocations = 0;
int64_t made = 0;
int64_t waits = 0;
Graphs graphs;
}  // namespace emulation

namespace {

void* allocate_memory(uint64_t bytes) {
  ++emulation::allocations;
  ++emulation::made;
  // What nobody wrote is no number.
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(memory, 0xff, bytes);
  return memory;
}

void run_all(const Launches& launches) {
  std::vector<void*> arguments;
  for (size_t i = 0; i < launches.size(); ++i) {
    const LaunchShape& shape = launches.shape(i);
    launches.arguments(i, &arguments);
    const emulation::Invoke invoke = emulation::invoke_of(shape.kernel);
    emulation::run(dim3(shape.grid[0], shape.grid[1], shape.grid[2]), shape.threads,
                   shape.shared_bytes, [&] { invoke(shape.kernel, arguments.data()); });
  }
}

}  // namespace

struct Device::Native {};

int device_count() { return emulation::faults.devices; }

StatusOr<DeviceProperties> device_properties(int) {
  return DeviceProperties{"emulated", emulation::faults.memory};
}

Device::Device(int number) : number_(number), queue_(this) {}
StatusOr<std::unique_ptr<Device>> Device::open(int device) {
  std::unique_ptr<Device> made(new Device(device));
  made->f8_operands_ = emulation::faults.f8_operands;
  return made;
}
Device::~Device() = default;

Status Device::fail(int, absl::string_view what) {
  lost_.store(true);
  return device_error("cuda:", number_, " was lost in ", what);
}
Status Device::use() {
  return lost() ? device_error("cuda:", number_, " was lost before") : OkStatus();
}
void* Device::allocate(uint64_t bytes) {
  if (lost() || bytes > emulation::faults.memory) return nullptr;
  return allocate_memory(bytes);
}
void Device::free(void* memory) {
  if (memory != nullptr) --emulation::allocations;
  std::free(memory);
}
uint64_t Device::memory_free() { return emulation::faults.memory; }
void* Device::allocate_staging(uint64_t bytes) { return lost() ? nullptr : allocate_memory(bytes); }
void Device::free_staging(void* memory) { free(memory); }
Status Device::upload(const void* host, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  if (on_steps_thread()) PONDER_RETURN_IF_ERROR(queue_.submit());
  std::memcpy(device, host, bytes);
  return OkStatus();
}
Status Device::zero(void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  if (on_steps_thread()) PONDER_RETURN_IF_ERROR(queue_.submit());
  std::memset(device, 0, bytes);
  return OkStatus();
}
Status Device::settle() { return use(); }

Status Device::run(const Launches& launches) {
  PONDER_RETURN_IF_ERROR(use());
  if (std::exchange(emulation::faults.lose_device, false)) return fail(0, "a launch");
  emulation::graphs.launched += launches.size();
  run_all(launches);
  return OkStatus();
}
StatusOr<void*> Device::record(const Launches& launches) {
  PONDER_RETURN_IF_ERROR(use());
  if (emulation::faults.refuse_graphs) return out_of_memory_error("no graphs today");
  ++emulation::graphs.recorded;
  return new Launches(launches);
}
Status Device::replay(void* graph) {
  PONDER_RETURN_IF_ERROR(use());
  if (std::exchange(emulation::faults.lose_device, false)) return fail(0, "a launch");
  ++emulation::graphs.replayed;
  run_all(*static_cast<Launches*>(graph));
  return OkStatus();
}
void Device::forget(void* graph) {
  ++emulation::graphs.forgotten;
  delete static_cast<Launches*>(graph);
}

// Everything is done at once, so a copy need only keep the order.
Status Device::upload_staged(const void* staging, void* device, uint64_t bytes) {
  return copy(staging, device, bytes);
}
Status Device::copy(const void* from, void* to, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(queue_.submit());
  PONDER_RETURN_IF_ERROR(use());
  std::memcpy(to, from, bytes);
  return OkStatus();
}
Status Device::download(const void* device, void* host, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(copy(device, host, bytes));
  return drain();
}
Status Device::drain() {
  ++emulation::waits;
  PONDER_RETURN_IF_ERROR(queue_.submit());
  return use();
}
Status Device::mark(int) { return use(); }
Status Device::pass(int) { return use(); }
Status Device::check(absl::string_view) { return queue_.take_failure(); }

void enqueue(Stream s, const LaunchShape& shape, std::span<const Argument> arguments) {
  static_cast<Device*>(s)->queue().add(shape, arguments);
}
int64_t shared_memory_limit(Stream) { return emulation::faults.shared_memory; }
F8Operands f8_operands(Stream s) { return static_cast<Device*>(s)->f8_operands(); }

}  // namespace ponder::cuda
