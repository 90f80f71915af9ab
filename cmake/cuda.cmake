# Decides whether the CUDA backend is built: PONDER_CUDA=AUTO takes it when there is a toolkit.
# Sets PONDER_HAVE_CUDA for backends/CMakeLists.txt and backends/builtin.cc.

set(PONDER_HAVE_CUDA OFF)
if(NOT PONDER_CUDA STREQUAL "OFF" AND EXISTS ${PROJECT_SOURCE_DIR}/backends/cuda/CMakeLists.txt)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(PONDER_HAVE_CUDA ON)
  endif()
endif()
if(PONDER_CUDA STREQUAL "ON" AND NOT PONDER_HAVE_CUDA)
  message(FATAL_ERROR "PONDER_CUDA=ON, but no CUDA toolkit (nvcc) or no backends/cuda was found")
endif()
message(STATUS "ponder: CUDA backend ${PONDER_HAVE_CUDA}")
