// The CUDA kernels and launchers of one file, compiled for the CPU.
#include "tests/backends/cuda/emulate.h"

#include "backends/cuda/digest.cu"
