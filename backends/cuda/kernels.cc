#include "backends/cuda/kernels.h"

#include <algorithm>
#include <cstddef>
#include <functional>

namespace ponder::cuda {
namespace {

constexpr size_t kMostKernels = 4096, kMostImages = 64;

// Filled before anybody can call us, while the library is loaded, on one thread.
struct List {
  Kernel kernels[kMostKernels];
  const void* images[kMostImages];
  size_t kernel_count, image_count;
  bool overflow;
};
constinit List list = {};

// What nvcc passes to register an image (fatbinary_section.h, __fatBinC_Wrapper_t).
struct ImageWrapper {
  int magic;
  int version;
  const void* data;
  void* more;
};

}  // namespace

std::span<const Kernel> kernels() { return {list.kernels, list.kernel_count}; }
std::span<const void* const> kernel_images() { return {list.images, list.image_count}; }
bool kernels_overflow() { return list.overflow; }

}  // namespace ponder::cuda

// ---- what nvcc's host code calls ---------------------------------------------------------------

using ponder::cuda::Kernel;
using ponder::cuda::list;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  const void* image = static_cast<ponder::cuda::ImageWrapper*>(wrapper)->data;
  if (list.image_count == ponder::cuda::kMostImages) {
    list.overflow = true;
    return nullptr;
  }
  list.images[list.image_count] = image;
  return const_cast<void**>(&list.images[list.image_count++]);
}

void __cudaRegisterFunction(void** image, const char* call, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  if (image == nullptr || list.kernel_count == ponder::cuda::kMostKernels) {
    list.overflow = true;
    return;
  }
  Kernel* const end = list.kernels + list.kernel_count++;
  Kernel* const at = std::upper_bound(
      list.kernels, end, Kernel{call, name, *image},
      [](const Kernel& a, const Kernel& b) { return std::less<const void*>()(a.call, b.call); });
  std::copy_backward(at, end, end + 1);
  *at = Kernel{call, name, *image};
}

// Tables in device memory: they are in the machine code, and the host does not look at them.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }

// Kernels are launched by `launch` (simt.cuh) and never called as functions: what their bodies on
// the host would do is refused. 999 is cudaErrorUnknown.
int __cudaPopCallConfiguration(void*, void*, size_t*, void*) { return 999; }
int __cudaGetKernel(void**, const void*) { return 999; }
int __cudaLaunchKernel(...) { return 999; }
int cudaLaunchKernel(...) { return 999; }

}  // extern "C"
