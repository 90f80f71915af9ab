// The CUDA kernels and launchers of one file, compiled for the CPU.
#include "tests/backends/cuda/emulate_linear.h"

#include "backends/cuda/linear_wgmma.cu"
