// The kernels' launchers, as backend.cc calls them. Pointers are device memory but for what is
// said to be a host's; a stream is opaque here, so that only the .cu files and runtime.cc need the
// toolkit. Launchers return at once; errors are found by Device::check (runtime.h).
#pragma once

#include <cstdint>

#include "lib/tensor/dtype.h"

namespace ponder::cuda {

using Stream = void*;

// Rows of an activation: element e of part h of row t is data[t * row + h * head + e].
struct Rows {
  float* data = nullptr;
  int64_t row = 0;
  int64_t head = 0;
};

// ---- elementwise.cu ----------------------------------------------------------------------------
void launch_rms_norm(Stream s, Rows x, const float* weight, float eps, Rows out, int64_t rows,
                     int64_t heads, int64_t width);
void launch_rope_table(Stream s, const float* inv_freq, const int32_t* positions, float magnitude,
                       Rows out, int64_t rows, int64_t half);
// A rotation of x in place.
struct Turn {
  Rows x;             // [T, heads, dim]; the first 2 * half of dim turn
  Rows table;         // [T, 2 * half], by launch_rope_table
  int32_t heads = 0;  // 0: no rotation
  int32_t dim = 0;
  int32_t half = 0;
  bool interleaved = false;
};
void launch_rope(Stream s, const Turn& turn, int64_t rows);
void launch_swiglu(Stream s, Rows gate_up, Rows out, int64_t rows, int64_t width);
void launch_add(Stream s, Rows a, Rows b, Rows out, int64_t rows, int64_t width);
void launch_gather_rows(Stream s, Rows x, const int32_t* indices, Rows out, int64_t rows,
                        int64_t width);

// ---- linear.cu ---------------------------------------------------------------------------------
// A stored matrix [rows, cols] in its own type, rows without padding.
struct Matrix {
  const void* data = nullptr;
  const float* scales = nullptr;  // f8_e4m3: one per 128 x 128 elements; null: all are 1
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
};
// out row i = matrix row indices[i], the stored values bit for bit.
void launch_widen_rows(Stream s, const Matrix& matrix, const int32_t* indices, Rows out,
                       int64_t rows);

}  // namespace ponder::cuda
