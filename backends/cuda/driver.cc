#include "backends/cuda/driver.h"

#include <dlfcn.h>

namespace ponder::cuda {
namespace {

struct Found {
  Driver driver;
  // What is wrong; static text, so that nothing here needs memory. Null: nothing.
  const char* lacks = nullptr;
};

#define PONDER_CUDA_TEXT_OF(name) #name
#define PONDER_CUDA_TEXT(name) PONDER_CUDA_TEXT_OF(name)  // cuMemAlloc -> "cuMemAlloc_v2"

Found find() {
  Found found;
  // Stays for the life of the process: the driver has threads of its own.
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    found.lacks =
        "there is no NVIDIA driver (libcuda.so.1) on this machine; install one, or run on the CPU";
    return found;
  }
#define PONDER_CUDA_FIND(name)                                                                     \
  found.driver.name = reinterpret_cast<decltype(&::name)>(dlsym(library, PONDER_CUDA_TEXT(name))); \
  if (found.driver.name == nullptr) {                                                              \
    found.lacks = "the NVIDIA driver is too old (it has no " #name                                 \
                  "); update it to one for CUDA 12 or newer, or run on the CPU";                   \
    return found;                                                                                  \
  }
  PONDER_CUDA_DRIVER(PONDER_CUDA_FIND)
#undef PONDER_CUDA_FIND
  const CUresult started = found.driver.cuInit(0);
  if (started == CUDA_ERROR_NO_DEVICE) {
    found.lacks =
        "the NVIDIA driver found no device that this process may use; see nvidia-smi and "
        "CUDA_VISIBLE_DEVICES, or run on the CPU";
  } else if (started != CUDA_SUCCESS) {
    found.lacks =
        "the NVIDIA driver did not start; see whether nvidia-smi works and whether the "
        "kernel module is of the same version, or run on the CPU";
  } else {
    static_cast<void>(found.driver.cuDriverGetVersion(&found.driver.version));
  }
  return found;
}

}  // namespace

std::string Driver::describe(CUresult error) const {
  const char* words = nullptr;
  if (cuGetErrorString(error, &words) != CUDA_SUCCESS || words == nullptr) words = "unknown error";
  return absl::StrCat(words, " (", static_cast<int>(error), ")");
}

StatusOr<const Driver*> driver() {
  static const Found found = find();
  if (found.lacks != nullptr) return unsupported_error(found.lacks);
  return &found.driver;
}

}  // namespace ponder::cuda
