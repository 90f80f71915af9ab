// Which kernels this library contains: what host code calls each by, its name, and the machine code
// it is in. The list is complete when the library is loaded and does not change.
//
// nvcc's host code tells of its kernels by calling the functions that kernels.cc defines, an
// interface that other compilers emit calls to as well (Clang's, for one). NVIDIA's runtime library
// has the same functions; ours take its place, for it imports what this library must not
// (docs/decisions/0061-cuda-driver.md).
#pragma once

#include <span>

namespace ponder::cuda {

struct Kernel {
  const void* call;   // as a launch names it
  const char* name;   // as the machine code does
  const void* image;  // one of kernel_images()
};

// By address.
std::span<const Kernel> kernels();
// Machine code for several kinds of GPUs, as cuLibraryLoadData takes it.
std::span<const void* const> kernel_images();
// More kernels than there is room for: the list lacks some.
bool kernels_overflow();

}  // namespace ponder::cuda
