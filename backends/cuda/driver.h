// The functions of NVIDIA's driver, found when first asked: nothing links to it. Any thread.
#pragma once

#include <cuda.h>

#include <string>

#include "lib/base/status.h"

namespace ponder::cuda {

// Each is what cuda.h declares under its name, at the version that cuda.h gives it.
#define PONDER_CUDA_DRIVER(X)                                                                      \
  X(cuInit)                                                                                        \
  X(cuDriverGetVersion) X(cuGetErrorString) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName)  \
      X(cuDeviceTotalMem) X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain)                      \
          X(cuDevicePrimaryCtxRelease) X(cuCtxPushCurrent) X(cuCtxPopCurrent)                      \
              X(cuCtxGetStreamPriorityRange) X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree)            \
                  X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync)     \
                      X(cuMemcpyDtoDAsync) X(cuMemsetD8Async) X(cuStreamCreateWithPriority)        \
                          X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamWaitEvent)           \
                              X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord)                  \
                                  X(cuEventSynchronize) X(cuLibraryLoadData) X(cuLibraryUnload)    \
                                      X(cuLibraryGetKernel) X(cuKernelGetFunction)                 \
                                          X(cuFuncSetAttribute) X(cuLaunchKernel) X(cuGraphCreate) \
                                              X(cuGraphDestroy) X(cuGraphAddKernelNode)            \
                                                  X(cuGraphInstantiate) X(cuGraphExecDestroy)      \
                                                      X(cuGraphLaunch) X(cuFuncGetAttribute)

struct Driver {
#define PONDER_CUDA_FUNCTION(name) decltype(&::name) name = nullptr;
  PONDER_CUDA_DRIVER(PONDER_CUDA_FUNCTION)
#undef PONDER_CUDA_FUNCTION
  int version = 0;  // 13000: CUDA 13.0

  // "an illegal memory access was encountered (700)"
  std::string describe(CUresult error) const;
};

// unsupported_error: there is no driver, it is too old to know all of the functions, or it found no
// device.
StatusOr<const Driver*> driver();

}  // namespace ponder::cuda
