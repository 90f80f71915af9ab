// Activations rounded to the form that a weight type is multiplied in (launch_linear.h), together
// with the op that makes them where that was not launched by itself. Each row's numbers depend on
// that row alone.

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/rows.cuh"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kLeastGroup = 0x1p-100f;  // a group of smaller numbers counts as zeros

// Number k of row t, zeros behind the last.
template <bool kGated>
__device__ inline float number_of(const RowSource& source, int64_t t, int64_t k, int64_t cols) {
  if (k >= cols) return 0.0f;
  const float* x = source.x.data + t * source.x.row;
  if constexpr (!kGated) return x[k];
  const float v = x[k] / (1.0f + expf(-x[k])) * x[cols + k];
  if (source.out.data != nullptr) source.out.data[t * source.out.row + k] = v;
  return v;
}

__device__ inline uint32_t magnitude(float v) { return __float_as_uint(v) & 0x7fffffffu; }

// As integers magnitudes are ordered like the floats they are, infinity and NaN above all.
__device__ inline uint32_t highest_of_lanes(uint32_t v, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(~0u, v, step);
    v = v > other ? v : other;
  }
  return v;
}

// How the numbers of a group are scaled, whose largest magnitude `high` becomes `most`. With NaN or
// infinity among them there is none to be rounded, and the scale is NaN.
struct GroupScale {
  __device__ GroupScale(uint32_t high, float most) {
    const float largest = __uint_as_float(high);
    const bool finite = high < 0x7f800000u;
    any = finite && largest >= kLeastGroup;
    factor = any ? most / largest : 0.0f;
    scale = !finite ? __uint_as_float(0x7fc00000u) : any ? largest / most : 0.0f;
  }
  bool any;
  float factor, scale;
};

// A warp's 256 numbers from `first` on, eight to a lane, as on the CPU (backends/onednn/quant.h).
template <int kGroup, typename Number>
__device__ inline void round_bytes(const Number& number, int64_t first, ByteBlock* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float v[8];
  uint32_t high = 0;
  for (int e = 0; e < 8; ++e) {
    v[e] = number(first + 8 * lane + e);
    high = high > magnitude(v[e]) ? high : magnitude(v[e]);
  }
  const GroupScale group(highest_of_lanes(high, kGroup / 8), 127.0f);
  uint32_t words[2] = {0, 0};
  int sum = 0;
  for (int e = 0; e < 8; ++e) {
    const int q = group.any ? static_cast<int>(rintf(v[e] * group.factor)) : 0;
    words[e / 4] |= (static_cast<uint32_t>(q) & 255) << (8 * (e % 4));
    sum += q;
  }
  ByteBlock& block = out[lane / 4];
  auto* const q = reinterpret_cast<uint32_t*>(block.q) + lane % 4 * 2;
  q[0] = words[0];
  q[1] = words[1];
  sum += __shfl_xor_sync(~0u, sum, 1);
  const int both = sum + __shfl_xor_sync(~0u, sum, 2);
  if (lane % 2 == 0) block.sum[lane % 4 / 2] = static_cast<float>(sum);
  if (lane % 4 == 0) {
    block.both = static_cast<float>(both);
    block.scale = group.scale;
  }
}

// A warp's 128 numbers from `first` on as f8_e4m3, four to a lane, and their scale.
template <typename Number>
__device__ inline void round_codes(const Number& number, int64_t first, uint8_t* out,
                                   float* scale) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float v[4];
  uint32_t high = 0;
  for (int e = 0; e < 4; ++e) {
    v[e] = number(first + 4 * lane + e);
    high = high > magnitude(v[e]) ? high : magnitude(v[e]);
  }
  const GroupScale group(highest_of_lanes(high, 32), 448.0f);
  uint32_t codes = 0;
  for (int e = 0; e < 4; ++e) {
    const uint32_t code = group.any ? f8_of(v[e] * group.factor) : 0;
    codes |= code << (8 * e);
  }
  reinterpret_cast<uint32_t*>(out)[lane] = codes;
  if (lane == 0) *scale = group.scale;
}

// In kF8 a lane's sixteen weights are two runs of eight (linear_mma.cu): where the number for place
// i of 64 comes from.
__device__ inline int64_t f8_source(int64_t i) {
  return i / 64 * 64 + i % 32 / 8 * 16 + i % 64 / 32 * 8 + i % 8;
}

// A block's row. The power of two brings the largest magnitude to [2^14, 2^15), so that numbers
// down to 2^-28 of it keep binary16's eleven bits.
template <bool kF8, typename Number>
__device__ inline void round_halves(const Number& number, uint16_t* out, float* scale, int64_t cols,
                                    int64_t pitch) {
  __shared__ uint32_t highest[kWarps];
  uint32_t high = 0;
  for (int64_t k = threadIdx.x; k < cols; k += kThreads) {
    const uint32_t m = magnitude(number(k));
    high = high > m ? high : m;
  }
  high = highest_of_lanes(high, 32);
  if (threadIdx.x % 32 == 0) highest[threadIdx.x / 32] = high;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) high = high > highest[i] ? high : highest[i];
  const bool finite = high < 0x7f800000u;
  uint32_t exponent = high >> 23;
  if (exponent < 15) exponent = 15;  // both powers below stay normal numbers
  const float factor = finite ? __uint_as_float((268 - exponent) << 23) : 0.0f;
  for (int64_t i = threadIdx.x; i < pitch; i += kThreads) {
    const float v = number(kF8 ? f8_source(i) : i);
    out[i] = finite ? f16_of(v * factor) : uint16_t{0};
  }
  if (threadIdx.x == 0) *scale = __uint_as_float(finite ? (exponent - 14) << 23 : 0x7fc00000u);
}

// ---- numbers that a thread can make by itself --------------------------------------------------

template <int kGroup, bool kGated>
__global__ void byte_rows(RowSource source, ByteBlock* out, int64_t rows, int64_t cols,
                          int64_t blocks) {
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows * blocks; i += warps) {
    const int64_t t = i / blocks;
    round_bytes<kGroup>([&](int64_t k) { return number_of<kGated>(source, t, k, cols); },
                        i % blocks * 256, out + i * 8);
  }
}

template <bool kGated>
__global__ void code_rows(RowSource source, uint8_t* out, float* scales, int64_t rows, int64_t cols,
                          int64_t groups) {
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows * groups; i += warps) {
    const int64_t t = i / groups;
    round_codes([&](int64_t k) { return number_of<kGated>(source, t, k, cols); }, i % groups * 128,
                out + i * 128, scales + i);
  }
}

template <bool kGated>
__global__ void bf16_rows(RowSource source, uint16_t* out, int64_t rows, int64_t cols,
                          int64_t pitch) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * pitch; i += step) {
    out[i] = bf16_of(number_of<kGated>(source, i / pitch, i % pitch, cols));
  }
}

template <bool kF8, bool kGated>
__global__ void f16_rows(RowSource source, uint16_t* out, float* scales, int64_t cols,
                         int64_t pitch) {
  const int64_t t = blockIdx.x;
  round_halves<kF8>([&](int64_t k) { return number_of<kGated>(source, t, k, cols); },
                    out + t * pitch, scales + t, cols, pitch);
}

template <bool kGated>
void launch_of(Stream s, Form form, const RowSource& source, void* out, int64_t rows,
               int64_t cols) {
  const int64_t pitch = form_pitch(form, cols);
  if (is_bytes(form)) {
    const auto kernel = form == Form::kBytes32 ? byte_rows<32, kGated> : byte_rows<256, kGated>;
    launch(s, blocks_for(rows * (pitch / 256), kWarps), kThreads, kernel, source,
           static_cast<ByteBlock*>(out), rows, cols, pitch / 256);
    return;
  }
  auto* const scales =
      reinterpret_cast<float*>(static_cast<char*>(out) + scales_offset(form, rows, pitch));
  if (form == Form::kF8Codes) {
    launch(s, blocks_for(rows * (pitch / 128), kWarps), kThreads, code_rows<kGated>, source,
           static_cast<uint8_t*>(out), scales, rows, cols, pitch / 128);
    return;
  }
  auto* const halves = static_cast<uint16_t*>(out);
  if (form == Form::kBF16) {
    launch(s, blocks_for(rows * pitch, kThreads), kThreads, bf16_rows<kGated>, source, halves, rows,
           cols, pitch);
    return;
  }
  const auto kernel = form == Form::kF16 ? f16_rows<false, kGated> : f16_rows<true, kGated>;
  launch(s, dim3(static_cast<unsigned>(rows)), kThreads, kernel, source, halves, scales, cols,
         pitch);
}

// ---- norms -------------------------------------------------------------------------------------

// A block per row, which waits in shared memory.
template <Form kForm>
__global__ void __launch_bounds__(kThreads)
    normed_rows(RowSource source, void* out, float* scales, int64_t cols, int64_t pitch) {
  __shared__ float shared_factor;
  auto* const row = reinterpret_cast<float*>(dynamic_shared());
  const int64_t t = blockIdx.x;
  const float* in = source.x.data + t * source.x.row;
  for (int64_t k = threadIdx.x; k < cols; k += kThreads) row[k] = in[k];
  __syncthreads();
  if (threadIdx.x < 32) {
    const float factor = norm_factor(row, cols, source.eps);
    if (threadIdx.x == 0) shared_factor = factor;
  }
  __syncthreads();
  const float factor = shared_factor;
  for (int64_t k = threadIdx.x; k < cols; k += kThreads) {
    const float v = row[k] * factor * source.weight[k];
    row[k] = v;
    source.out.data[t * source.out.row + k] = v;
  }
  __syncthreads();
  const auto number = [&](int64_t k) { return k < cols ? row[k] : 0.0f; };
  if constexpr (is_bytes(kForm)) {
    const int64_t blocks = pitch / 256;
    for (int64_t b = threadIdx.x / 32; b < blocks; b += kWarps) {
      round_bytes<kForm == Form::kBytes32 ? 32 : 256>(
          number, b * 256, static_cast<ByteBlock*>(out) + (t * blocks + b) * 8);
    }
  } else if constexpr (kForm == Form::kF8Codes) {
    const int64_t groups = pitch / 128;
    for (int64_t b = threadIdx.x / 32; b < groups; b += kWarps) {
      const int64_t i = t * groups + b;
      round_codes(number, b * 128, static_cast<uint8_t*>(out) + i * 128, scales + i);
    }
  } else {
    uint16_t* const halves = static_cast<uint16_t*>(out) + t * pitch;
    if constexpr (kForm == Form::kBF16) {
      for (int64_t i = threadIdx.x; i < pitch; i += kThreads) halves[i] = bf16_of(number(i));
    } else {
      round_halves<kForm == Form::kF8>(number, halves, scales + t, cols, pitch);
    }
  }
}

void launch_normed(Stream s, Form form, const RowSource& source, void* out, int64_t rows,
                   int64_t cols) {
  const int64_t pitch = form_pitch(form, cols);
  auto* const scales =
      reinterpret_cast<float*>(static_cast<char*>(out) + scales_offset(form, rows, pitch));
  const auto run = [&](auto kernel) {
    launch_shared(s, dim3(static_cast<unsigned>(rows)), kThreads, cols * 4, kernel, source, out,
                  scales, cols, pitch);
  };
  switch (form) {
    case Form::kBF16:
      return run(normed_rows<Form::kBF16>);
    case Form::kF16:
      return run(normed_rows<Form::kF16>);
    case Form::kF8:
      return run(normed_rows<Form::kF8>);
    case Form::kF8Codes:
      return run(normed_rows<Form::kF8Codes>);
    case Form::kBytes32:
      return run(normed_rows<Form::kBytes32>);
    default:
      return run(normed_rows<Form::kBytes256>);
  }
}

}  // namespace

void launch_form_rows(Stream s, Form form, const RowSource& source, void* out, int64_t rows,
                      int64_t cols) {
  if (rows == 0) return;
  switch (source.kind) {
    case RowSource::Kind::kStored:
      return launch_of<false>(s, form, source, out, rows, cols);
    case RowSource::Kind::kGated:
      return launch_of<true>(s, form, source, out, rows, cols);
    case RowSource::Kind::kNormed:
      return launch_normed(s, form, source, out, rows, cols);
  }
}

}  // namespace ponder::cuda
