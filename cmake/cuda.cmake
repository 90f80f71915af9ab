# Decides whether the CUDA backend is built: PONDER_CUDA=AUTO takes it when there is a toolkit and
# PONDER_CUDA_ARCHITECTURES says for which GPUs (nvcc takes minutes for each): the presets cuda and
# cuda-sm90 do. ON without architectures means all that we support.
# Sets PONDER_HAVE_CUDA for backends/CMakeLists.txt and backends/builtin.cc.

set(PONDER_HAVE_CUDA OFF)
if(PONDER_CUDA STREQUAL "ON" OR (PONDER_CUDA STREQUAL "AUTO" AND PONDER_CUDA_ARCHITECTURES))
  if(NOT PONDER_SANITIZE STREQUAL "")
    message(FATAL_ERROR "The CUDA backend has no sanitizer build; configure with -DPONDER_CUDA=OFF")
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT PONDER_CUDA_ARCHITECTURES)
      # PTX of the last one serves later chips.
      set(PONDER_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120)
    endif()
    # All GPUs of 9.0 are sm_90a, which alone has wgmma.
    list(TRANSFORM PONDER_CUDA_ARCHITECTURES REPLACE "^90(-|$)" "90a\\1")
    set(CMAKE_CUDA_ARCHITECTURES ${PONDER_CUDA_ARCHITECTURES})
    # Nothing links to NVIDIA's runtime: backends/cuda/kernels.h.
    set(CMAKE_CUDA_RUNTIME_LIBRARY None)
    enable_language(CUDA)
    set(PONDER_HAVE_CUDA ON)
  endif()
endif()
if(PONDER_CUDA STREQUAL "ON" AND NOT PONDER_HAVE_CUDA)
  message(FATAL_ERROR "PONDER_CUDA=ON, but no CUDA toolkit (nvcc) was found")
endif()
message(STATUS "ponder: CUDA backend ${PONDER_HAVE_CUDA}")
