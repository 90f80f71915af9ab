#include "backends/cuda/runtime.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "backends/cuda/driver.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/launch_linear.h"
#include "lib/base/status.h"

namespace ponder::cuda {
namespace {

// Kernels are built for this and newer: docs/kernels/cuda.md.
constexpr int kOldestMajor = 7, kOldestMinor = 5;
constexpr uint64_t kStagingBytes = uint64_t{8} << 20;

CUdeviceptr address(const void* memory) { return reinterpret_cast<CUdeviceptr>(memory); }

// After these the process's context on the device is gone; nothing but a new process gets it back.
bool is_sticky(CUresult error) {
  switch (error) {
    case CUDA_ERROR_DEINITIALIZED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_UNKNOWN:
      return true;
    default:
      return false;
  }
}

// The context is current on this thread while one of these lives, and what was current before is
// again when it goes.
class Current {
 public:
  Current(const Driver* driver, CUcontext context) : driver_(driver) {
    pushed_ = driver->cuCtxPushCurrent(context) == CUDA_SUCCESS;
  }
  ~Current() {
    CUcontext ours;
    if (pushed_) static_cast<void>(driver_->cuCtxPopCurrent(&ours));
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver* const driver_;
  bool pushed_;
};

}  // namespace

struct Device::Native {
  struct Function {
    const void* call;
    CUfunction function;
    uint32_t shared_bytes;  // the most it may have so far
  };
  // Through one of these a piece of a weight goes to the device while the next is copied to
  // another.
  struct Stage {
    void* memory = nullptr;
    CUevent free = nullptr;
  };

  const Driver* driver = nullptr;
  CUdevice device = 0;
  CUcontext context = nullptr;
  CUstream steps = nullptr, loads = nullptr;
  CUevent marks[kMarks] = {};
  std::vector<CUlibrary> libraries;
  std::vector<Function> functions;  // by address
  std::vector<void*> arguments;     // of the launch being made

  absl::Mutex loading;
  Stage stages[2] ABSL_GUARDED_BY(loading);
  size_t next_stage ABSL_GUARDED_BY(loading) = 0;
  CUevent loaded ABSL_GUARDED_BY(loading) = nullptr;

  Function* find(const void* call) {
    const auto at = std::lower_bound(
        functions.begin(), functions.end(), call,
        [](const Function& f, const void* c) { return std::less<const void*>()(f.call, c); });
    return at != functions.end() && at->call == call ? &*at : nullptr;
  }
  // Lets the kernel have the dynamic shared memory.
  CUresult allow(Function* f, uint32_t shared_bytes) {
    if (shared_bytes <= f->shared_bytes) return CUDA_SUCCESS;
    const CUresult set =
        driver->cuFuncSetAttribute(f->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                   static_cast<int>(shared_bytes));
    if (set == CUDA_SUCCESS) f->shared_bytes = shared_bytes;
    return set;
  }
  // All machine code, now: what a step does later is launching alone.
  CUresult load_kernels() {
    const auto images = kernel_images();
    for (const void* image : images) {
      CUlibrary library;
      const CUresult loaded_library =
          driver->cuLibraryLoadData(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
      if (loaded_library != CUDA_SUCCESS) return loaded_library;
      libraries.push_back(library);
    }
    for (const Kernel& kernel : kernels()) {
      const auto i = std::find(images.begin(), images.end(), kernel.image) - images.begin();
      CUkernel found;
      Function f{kernel.call, nullptr, 48 << 10};
      CUresult error =
          driver->cuLibraryGetKernel(&found, libraries[static_cast<size_t>(i)], kernel.name);
      if (error == CUDA_SUCCESS) error = driver->cuKernelGetFunction(&f.function, found);
      if (error != CUDA_SUCCESS) return error;
      functions.push_back(f);
    }
    return CUDA_SUCCESS;
  }
  // By the code that was loaded: for which architecture it was written, and for which it was
  // translated. A device may run code of an older one.
  CUresult ask_f8_operands(F8Operands* operands) {
    int written = 0, translated = 0;
    const auto ask = [&](int* architecture, CUfunction_attribute which) {
      return driver->cuFuncGetAttribute(architecture, which, functions.front().function);
    };
    if (functions.empty()) return CUDA_SUCCESS;
    CUresult error = ask(&written, CU_FUNC_ATTRIBUTE_PTX_VERSION);
    if (error == CUDA_SUCCESS) error = ask(&translated, CU_FUNC_ATTRIBUTE_BINARY_VERSION);
    if (error != CUDA_SUCCESS) return error;
    const F8Operands one = cuda::f8_operands(written);
    const F8Operands other = cuda::f8_operands(translated);
    *operands = one == other ? one : F8Operands::kNone;
    return CUDA_SUCCESS;
  }
  CUresult make_streams() {
    int least = 0, greatest = 0;
    CUresult error = driver->cuCtxGetStreamPriorityRange(&least, &greatest);
    const auto make = [&](CUstream* stream, int priority) {
      if (error != CUDA_SUCCESS) return;
      error = driver->cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, priority);
    };
    make(&steps, greatest);
    make(&loads, least);
    return error;
  }
  CUresult make_event(CUevent* event) {
    return *event != nullptr ? CUDA_SUCCESS : driver->cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
  }
};

int device_count() {
  int count = 0;
  // No driver, one too old or no device: the same to a list of devices.
  const auto found = driver();
  if (!found.ok() || (*found)->cuDeviceGetCount(&count) != CUDA_SUCCESS) return 0;
  return count;
}

StatusOr<DeviceProperties> device_properties(int number) {
  PONDER_ASSIGN_OR_RETURN(const Driver* const d, driver());
  CUdevice device;
  char name[256] = {};
  size_t total = 0;
  int major = 0, minor = 0;
  CUresult error = d->cuDeviceGet(&device, number);
  if (error == CUDA_SUCCESS) error = d->cuDeviceGetName(name, sizeof name - 1, device);
  if (error == CUDA_SUCCESS) error = d->cuDeviceTotalMem(&total, device);
  const auto attribute = [&](int* value, CUdevice_attribute which) {
    if (error == CUDA_SUCCESS) error = d->cuDeviceGetAttribute(value, which, device);
  };
  attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (error != CUDA_SUCCESS) {
    return device_error("cuda:", number, " cannot be asked what it is: ", d->describe(error),
                        "; see whether nvidia-smi lists it");
  }
  return DeviceProperties{absl::StrCat(name, ", sm_", major, minor), total};
}

Device::Device(int number) : number_(number), native_(std::make_unique<Native>()), queue_(this) {}

StatusOr<std::unique_ptr<Device>> Device::open(int number) {
  std::unique_ptr<Device> made(new Device(number));
  Native& n = *made->native_;
  PONDER_ASSIGN_OR_RETURN(n.driver, driver());
  if (n.driver->version / 1000 < CUDA_VERSION / 1000) {
    return unsupported_error("the NVIDIA driver is too old: it is for CUDA ",
                             n.driver->version / 1000, ".", n.driver->version % 1000 / 10,
                             " and this build needs one for CUDA ", CUDA_VERSION / 1000,
                             "; update it or run on the CPU");
  }
  if (kernels_overflow()) return internal_error("this build has more kernels than it can list");
  const auto fail = [&](CUresult error, absl::string_view what) {
    return made->fail(static_cast<int>(error), what);
  };
  PONDER_RETURN_IF_ERROR(fail(n.driver->cuDeviceGet(&n.device, number), "finding the device"));
  int major = 0, minor = 0, shared = 0;
  const auto attribute = [&](int* value, CUdevice_attribute which) {
    return fail(n.driver->cuDeviceGetAttribute(value, which, n.device), "asking the device");
  };
  PONDER_RETURN_IF_ERROR(attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR));
  PONDER_RETURN_IF_ERROR(attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
  PONDER_RETURN_IF_ERROR(attribute(&shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
  if (major * 10 + minor < kOldestMajor * 10 + kOldestMinor) {
    return unsupported_error("cuda:", number, " is an sm_", major, minor,
                             "; our kernels need an sm_", kOldestMajor, kOldestMinor,
                             " or newer; run on the CPU");
  }
  made->shared_limit_ = shared;
  PONDER_RETURN_IF_ERROR(
      fail(n.driver->cuDevicePrimaryCtxRetain(&n.context, n.device), "preparing the device"));
  const Current current(n.driver, n.context);
  PONDER_RETURN_IF_ERROR(fail(n.make_streams(), "making streams"));
  PONDER_RETURN_IF_ERROR(fail(n.load_kernels(), "loading the kernels"));
  PONDER_RETURN_IF_ERROR(fail(n.ask_f8_operands(&made->f8_operands_), "asking the kernels"));
  return made;
}

Device::~Device() {
  Native& n = *native_;
  if (n.context == nullptr) return;
  {
    const Current current(n.driver, n.context);
    if (n.steps != nullptr) static_cast<void>(n.driver->cuStreamSynchronize(n.steps));
    if (n.loads != nullptr) static_cast<void>(n.driver->cuStreamSynchronize(n.loads));
    absl::MutexLock lock(&n.loading);
    for (Native::Stage& stage : n.stages) {
      if (stage.free != nullptr) static_cast<void>(n.driver->cuEventDestroy(stage.free));
      if (stage.memory != nullptr) static_cast<void>(n.driver->cuMemFreeHost(stage.memory));
    }
    if (n.loaded != nullptr) static_cast<void>(n.driver->cuEventDestroy(n.loaded));
    for (CUevent event : n.marks) {
      if (event != nullptr) static_cast<void>(n.driver->cuEventDestroy(event));
    }
    for (CUlibrary library : n.libraries) static_cast<void>(n.driver->cuLibraryUnload(library));
    if (n.steps != nullptr) static_cast<void>(n.driver->cuStreamDestroy(n.steps));
    if (n.loads != nullptr) static_cast<void>(n.driver->cuStreamDestroy(n.loads));
  }
  static_cast<void>(n.driver->cuDevicePrimaryCtxRelease(n.device));
}

Status Device::fail(int code, absl::string_view what) {
  const auto error = static_cast<CUresult>(code);
  switch (error) {
    case CUDA_SUCCESS:
      return OkStatus();
    case CUDA_ERROR_OUT_OF_MEMORY:
      return out_of_memory_error(
          "memory of cuda:", number_, " ran out in ", what,
          "; use a smaller context or KV type, vram_bytes, or another device");
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
      return unsupported_error("this build has no code for cuda:", number_,
                               "; build with its architecture in PONDER_CUDA_ARCHITECTURES");
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    case CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
      return unsupported_error("the NVIDIA driver is too old for this build (CUDA ",
                               CUDA_VERSION / 1000, ".", CUDA_VERSION % 1000 / 10,
                               "): ", native_->driver->describe(error),
                               "; update it or run on the CPU");
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
      return device_error("cuda:", number_,
                          " is not there any more; see whether nvidia-smi lists it");
    default:
      break;
  }
  if (is_sticky(error)) {
    lost_.store(true, std::memory_order_relaxed);
    return device_error("cuda:", number_, " was lost in ", what, ": ",
                        native_->driver->describe(error),
                        "; start the program again, or load the model on another device");
  }
  return device_error("cuda:", number_, " failed in ", what, ": ",
                      native_->driver->describe(error));
}

Status Device::use() {
  if (!lost()) return OkStatus();
  return device_error("cuda:", number_,
                      " was lost before; start the program again, or use another device");
}

// ---- memory and loading ------------------------------------------------------------------------

void* Device::allocate(uint64_t bytes) {
  if (lost()) return nullptr;
  const Current current(native_->driver, native_->context);
  CUdeviceptr memory = 0;
  const CUresult error = native_->driver->cuMemAlloc(&memory, bytes);
  if (error != CUDA_SUCCESS) static_cast<void>(fail(static_cast<int>(error), "an allocation"));
  return reinterpret_cast<void*>(memory);
}

void Device::free(void* memory) {
  if (memory == nullptr) return;
  const Current current(native_->driver, native_->context);
  static_cast<void>(native_->driver->cuMemFree(address(memory)));
}

uint64_t Device::memory_free() {
  const Current current(native_->driver, native_->context);
  size_t free = 0, total = 0;
  return native_->driver->cuMemGetInfo(&free, &total) == CUDA_SUCCESS ? free : 0;
}

void* Device::allocate_staging(uint64_t bytes) {
  if (lost()) return nullptr;
  const Current current(native_->driver, native_->context);
  void* memory = nullptr;
  const CUresult error = native_->driver->cuMemHostAlloc(&memory, bytes, 0);
  if (error != CUDA_SUCCESS) static_cast<void>(fail(static_cast<int>(error), "an allocation"));
  return memory;
}

void Device::free_staging(void* memory) {
  if (memory == nullptr) return;
  const Current current(native_->driver, native_->context);
  static_cast<void>(native_->driver->cuMemFreeHost(memory));
}

Status Device::upload(const void* host, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  constexpr absl::string_view kWhat = "a copy to the device";
  if (on_steps_thread()) {
    PONDER_RETURN_IF_ERROR(queue_.submit());
    // From memory that is not page-locked: read when the call returns.
    return fail(n.driver->cuMemcpyHtoDAsync(address(device), host, bytes, n.steps), kWhat);
  }
  absl::MutexLock lock(&n.loading);
  const auto* from = static_cast<const char*>(host);
  CUdeviceptr to = address(device);
  while (bytes > 0) {
    Native::Stage& stage = n.stages[n.next_stage++ % std::size(n.stages)];
    if (stage.free == nullptr) {
      PONDER_RETURN_IF_ERROR(fail(n.make_event(&stage.free), kWhat));
    } else {
      PONDER_RETURN_IF_ERROR(fail(n.driver->cuEventSynchronize(stage.free), kWhat));
    }
    if (stage.memory == nullptr) {
      PONDER_RETURN_IF_ERROR(
          fail(n.driver->cuMemHostAlloc(&stage.memory, kStagingBytes, 0), "memory for loading"));
    }
    const uint64_t now = std::min(bytes, kStagingBytes);
    std::memcpy(stage.memory, from, now);
    PONDER_RETURN_IF_ERROR(
        fail(n.driver->cuMemcpyHtoDAsync(to, stage.memory, now, n.loads), kWhat));
    PONDER_RETURN_IF_ERROR(fail(n.driver->cuEventRecord(stage.free, n.loads), kWhat));
    from += now;
    to += now;
    bytes -= now;
  }
  return OkStatus();
}

Status Device::zero(void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  if (on_steps_thread()) PONDER_RETURN_IF_ERROR(queue_.submit());
  return fail(
      n.driver->cuMemsetD8Async(address(device), 0, bytes, on_steps_thread() ? n.steps : n.loads),
      "clearing memory");
}

Status Device::settle() {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  absl::MutexLock lock(&n.loading);
  PONDER_RETURN_IF_ERROR(fail(n.make_event(&n.loaded), "loading"));
  PONDER_RETURN_IF_ERROR(fail(n.driver->cuEventRecord(n.loaded, n.loads), "loading"));
  return fail(n.driver->cuStreamWaitEvent(n.steps, n.loaded, 0), "loading");
}

// ---- steps -------------------------------------------------------------------------------------

Status Device::run(const Launches& launches) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  for (size_t i = 0; i < launches.size(); ++i) {
    const LaunchShape& shape = launches.shape(i);
    Native::Function* const f = n.find(shape.kernel);
    if (f == nullptr) return internal_error("a kernel that is in no list was launched");
    launches.arguments(i, &n.arguments);
    CUresult error = n.allow(f, shape.shared_bytes);
    if (error == CUDA_SUCCESS) {
      error = n.driver->cuLaunchKernel(f->function, shape.grid[0], shape.grid[1], shape.grid[2],
                                       shape.threads, 1, 1, shape.shared_bytes, n.steps,
                                       n.arguments.data(), nullptr);
    }
    PONDER_RETURN_IF_ERROR(fail(static_cast<int>(error), "a launch"));
  }
  return OkStatus();
}

StatusOr<void*> Device::record(const Launches& launches) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  CUgraph graph = nullptr;
  CUgraphExec made = nullptr;
  CUresult error = n.driver->cuGraphCreate(&graph, 0);
  CUgraphNode last = nullptr;
  for (size_t i = 0; i < launches.size() && error == CUDA_SUCCESS; ++i) {
    const LaunchShape& shape = launches.shape(i);
    Native::Function* const f = n.find(shape.kernel);
    if (f == nullptr) {
      error = CUDA_ERROR_NOT_FOUND;
      break;
    }
    launches.arguments(i, &n.arguments);
    error = n.allow(f, shape.shared_bytes);
    if (error != CUDA_SUCCESS) break;
    CUDA_KERNEL_NODE_PARAMS node = {};
    node.func = f->function;
    node.gridDimX = shape.grid[0];
    node.gridDimY = shape.grid[1];
    node.gridDimZ = shape.grid[2];
    node.blockDimX = shape.threads;
    node.blockDimY = node.blockDimZ = 1;
    node.sharedMemBytes = shape.shared_bytes;
    node.kernelParams = n.arguments.data();
    CUgraphNode added = nullptr;
    // One after the other, as they were called.
    error = n.driver->cuGraphAddKernelNode(&added, graph, &last, i == 0 ? 0 : 1, &node);
    last = added;
  }
  if (error == CUDA_SUCCESS) error = n.driver->cuGraphInstantiate(&made, graph, 0);
  if (graph != nullptr) static_cast<void>(n.driver->cuGraphDestroy(graph));
  PONDER_RETURN_IF_ERROR(fail(static_cast<int>(error), "making a graph"));
  return made;
}

Status Device::replay(void* graph) {
  PONDER_RETURN_IF_ERROR(use());
  const Current current(native_->driver, native_->context);
  return fail(native_->driver->cuGraphLaunch(static_cast<CUgraphExec>(graph), native_->steps),
              "a launch");
}

void Device::forget(void* graph) {
  const Current current(native_->driver, native_->context);
  static_cast<void>(native_->driver->cuGraphExecDestroy(static_cast<CUgraphExec>(graph)));
}

Status Device::upload_staged(const void* staging, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(queue_.submit());
  PONDER_RETURN_IF_ERROR(use());
  if (bytes == 0) return OkStatus();
  const Current current(native_->driver, native_->context);
  return fail(native_->driver->cuMemcpyHtoDAsync(address(device), staging, bytes, native_->steps),
              "a copy to the device");
}

Status Device::copy(const void* from, void* to, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(queue_.submit());
  PONDER_RETURN_IF_ERROR(use());
  const Current current(native_->driver, native_->context);
  return fail(native_->driver->cuMemcpyDtoDAsync(address(to), address(from), bytes, native_->steps),
              "a copy on the device");
}

Status Device::download(const void* device, void* host, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(queue_.submit());
  PONDER_RETURN_IF_ERROR(use());
  {
    const Current current(native_->driver, native_->context);
    PONDER_RETURN_IF_ERROR(
        fail(native_->driver->cuMemcpyDtoHAsync(host, address(device), bytes, native_->steps),
             "a copy from the device"));
  }
  return drain();
}

Status Device::drain() {
  PONDER_RETURN_IF_ERROR(queue_.submit());
  PONDER_RETURN_IF_ERROR(use());
  const Current current(native_->driver, native_->context);
  return fail(native_->driver->cuStreamSynchronize(native_->steps), "kernels under way");
}

Status Device::mark(int i) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  const Current current(n.driver, n.context);
  PONDER_RETURN_IF_ERROR(fail(n.make_event(&n.marks[i]), "a mark"));
  return fail(n.driver->cuEventRecord(n.marks[i], n.steps), "a mark");
}

Status Device::pass(int i) {
  PONDER_RETURN_IF_ERROR(use());
  Native& n = *native_;
  if (n.marks[i] == nullptr) return OkStatus();
  const Current current(n.driver, n.context);
  return fail(n.driver->cuEventSynchronize(n.marks[i]), "kernels under way");
}

Status Device::check(absl::string_view what) {
  const Status failure = queue_.take_failure();
  if (failure.ok()) return failure;
  return Status(failure.code(), absl::StrCat(failure.message(), " (", what, ")"));
}

void enqueue(Stream s, const LaunchShape& shape, std::span<const Argument> arguments) {
  static_cast<Device*>(s)->queue().add(shape, arguments);
}
int64_t shared_memory_limit(Stream s) { return static_cast<Device*>(s)->shared_memory_limit(); }
F8Operands f8_operands(Stream s) { return static_cast<Device*>(s)->f8_operands(); }

}  // namespace ponder::cuda
