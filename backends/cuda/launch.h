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
void launch_rope(Stream s, Rows x, Rows table, bool interleaved, int64_t rows, int64_t heads,
                 int64_t half);
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
// out[t, n] = sum over k of x[t, k] w[n, k], + bias[n]; float32 throughout. `bias` may be null.
void launch_linear(Stream s, const Matrix& w, Rows x, const float* bias, Rows out, int64_t rows);

// ---- linear_mma.cu -----------------------------------------------------------------------------
// bf16 in rows of mma_pitch(cols) elements, the last of them zero, 16 * n rows.
constexpr int64_t mma_pitch(int64_t cols) { return (cols + 127) / 128 * 128; }
constexpr int64_t mma_rows(int64_t rows) { return (rows + 15) / 16 * 16; }
// Rounds x to bf16, rows of mma_pitch(cols), zeros behind.
void launch_round_rows(Stream s, Rows x, uint16_t* out, int64_t rows, int64_t cols);
// x as launch_round_rows leaves it. w: see above.
void launch_linear_mma(Stream s, const uint16_t* w, const uint16_t* x, const float* bias, Rows out,
                       int64_t rows, int64_t cols, int64_t outputs);

}  // namespace ponder::cuda
