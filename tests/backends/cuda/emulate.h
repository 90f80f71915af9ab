// Runs kernels written for CUDA on the CPU, one block after the other: each thread of a block is a
// fiber of the one host thread, barriers and warp exchanges switch between them. Slow, exact about
// who sees whose values when, and the same every time. Include before the kernels' sources.
#pragma once

#define PONDER_CUDA_EMULATED

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "backends/cuda/enqueue.h"
#include "lib/tensor/half.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint4 {
  uint32_t x, y, z, w;
};

namespace ponder::cuda::emulation {

// Where the running fiber stands.
struct Place {
  dim3 thread, block, block_size, grid_size;
};
extern Place place;

// Runs body() for every thread of every block. Ends the test program when threads of a block wait
// for different things: such a kernel hangs on a device.
void run(dim3 grid, unsigned threads, int64_t shared_bytes, const std::function<void()>& body);
// The running block's dynamic shared memory; NaN until written.
char* dynamic_shared();

// Calls a kernel with the arguments that `values` point at: how emulated_runtime.cc runs a launch.
using Invoke = void (*)(const void* kernel, void* const* values);
// Kernels are known from their first launch on.
void know(const void* kernel, Invoke invoke);
Invoke invoke_of(const void* kernel);
template <typename... Params>
void invoke(const void* kernel, void* const* values) {
  [&]<size_t... kI>(std::index_sequence<kI...>) {
    reinterpret_cast<void (*)(Params...)>(const_cast<void*>(kernel))(
        *static_cast<Params*>(values[kI])...);
  }
  (std::index_sequence_for<Params...>());
}
void block_barrier();
// All lanes give 64 bits and then get those of lane `from`; also a barrier of the warp.
uint64_t exchange(uint64_t mine, unsigned from);
// All lanes' registers of a matrix instruction: mine to all, `out` gets 32 lanes' n words each.
void gather(const uint32_t* mine, int n, uint32_t* out);
// Sixteen bytes for later, null: zeros; what is read before finish_copies is what was there before.
void copy_later(void* to, const void* from);
void commit_copies();
void finish_copies(size_t but_groups);

}  // namespace ponder::cuda::emulation

#define __global__ static
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define PONDER_UNROLL
#define PONDER_ROLLED
#define threadIdx ::ponder::cuda::emulation::place.thread
#define blockIdx ::ponder::cuda::emulation::place.block
#define gridDim ::ponder::cuda::emulation::place.grid_size

struct uint2 {
  uint32_t x, y;
};
struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float __uint_as_float(uint32_t v) { return std::bit_cast<float>(v); }
inline uint32_t __float_as_uint(float v) { return std::bit_cast<uint32_t>(v); }
inline void __syncthreads() { ponder::cuda::emulation::block_barrier(); }
inline void __syncwarp() { ponder::cuda::emulation::exchange(0, 0); }

template <typename T>
T __shfl_sync(unsigned, T v, int from) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(static_cast<uint32_t>(ponder::cuda::emulation::exchange(
      std::bit_cast<uint32_t>(v), static_cast<unsigned>(from) % 32)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int bits) {
  return __shfl_sync(mask, v, static_cast<int>(threadIdx.x % 32) ^ bits);
}

namespace ponder::cuda {

using std::cos, std::exp, std::fma, std::sin;

template <typename... Params, typename... Args>
void launch_shared(Stream s, dim3 grid, unsigned threads, int64_t bytes, void (*kernel)(Params...),
                   Args... args) {
  emulation::know(reinterpret_cast<const void*>(kernel), &emulation::invoke<Params...>);
  const LaunchShape shape{nullptr, {grid.x, grid.y, grid.z}, threads, static_cast<uint32_t>(bytes)};
  enqueue_call(s, shape, kernel, args...);
}
template <typename... Params, typename... Args>
void launch(Stream s, dim3 grid, unsigned threads, void (*kernel)(Params...), Args... args) {
  launch_shared(s, grid, threads, 0, kernel, args...);
}
inline char* dynamic_shared() { return emulation::dynamic_shared(); }

inline void copy_async16(void* shared, const void* from, bool there = true) {
  emulation::copy_later(shared, there ? from : nullptr);
}
inline void copy_async_commit() { emulation::commit_copies(); }
template <int kStillFlying>
void copy_async_wait() {
  emulation::finish_copies(kStillFlying);
}

// Lane l's four words by `f(rows, i)`: rows are the addresses that the lanes named.
template <typename F>
void load_matrices_with(uint32_t (&r)[4], const void* row, F&& f) {
  const auto address = reinterpret_cast<uintptr_t>(row);
  const uint32_t mine[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  uint32_t all[32 * 2];
  emulation::gather(mine, 2, all);
  const uint16_t* rows[32];
  for (unsigned i = 0; i < 32; ++i) {
    rows[i] = reinterpret_cast<const uint16_t*>(all[2 * i] | uintptr_t{all[2 * i + 1]} << 32);
  }
  for (unsigned i = 0; i < 4; ++i) r[i] = f(rows + 8 * i);
  emulation::exchange(0, 0);  // nobody goes on and writes before all have read
}
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const unsigned lane = threadIdx.x % 32;
  load_matrices_with(r, row, [lane](const uint16_t** rows) {
    const uint16_t* from = rows[lane / 4] + lane % 4 * 2;
    return from[0] | uint32_t{from[1]} << 16;
  });
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const unsigned lane = threadIdx.x % 32;
  load_matrices_with(r, row, [lane](const uint16_t** rows) {
    return rows[lane % 4 * 2][lane / 4] | uint32_t{rows[lane % 4 * 2 + 1][lane / 4]} << 16;
  });
}

inline uint32_t pack_f16x2(float low, float high) {
  return f32_to_f16(low) | uint32_t{f32_to_f16(high)} << 16;
}
inline uint32_t pack_bf16x2(float low, float high) {
  return f32_to_bf16(low) | uint32_t{f32_to_bf16(high)} << 16;
}
inline uint32_t add_f16x2(uint32_t a, uint32_t b) {
  return pack_f16x2(
      f16_to_f32(static_cast<uint16_t>(a)) + f16_to_f32(static_cast<uint16_t>(b)),
      f16_to_f32(static_cast<uint16_t>(a >> 16)) + f16_to_f32(static_cast<uint16_t>(b >> 16)));
}
inline uint32_t mul_f16x2(uint32_t a, uint32_t b) {
  return pack_f16x2(
      f16_to_f32(static_cast<uint16_t>(a)) * f16_to_f32(static_cast<uint16_t>(b)),
      f16_to_f32(static_cast<uint16_t>(a >> 16)) * f16_to_f32(static_cast<uint16_t>(b >> 16)));
}

// The registers' places are those of PTX's mma.m16n8k16.
template <float (*kValue)(uint16_t)>
void mma_16_bits(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint32_t all[32 * 6];
  emulation::gather(mine, 6, all);
  const unsigned lane = threadIdx.x % 32;
  const auto half = [](uint32_t v, unsigned k) {
    return static_cast<double>(kValue(static_cast<uint16_t>(k % 2 != 0 ? v >> 16 : v)));
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    double sum = static_cast<double>(d[i]);
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned owner = k % 8 / 2;
      const uint32_t left = all[6 * (row % 8 * 4 + owner) + row / 8 + 2 * (k / 8)];
      const uint32_t right = all[6 * (column * 4 + owner) + 4 + k / 8];
      sum += half(left, k) * half(right, k);
    }
    d[i] = static_cast<float>(sum);
  }
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_16_bits<bf16_to_f32>(d, a, b);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_16_bits<f16_to_f32>(d, a, b);
}

}  // namespace ponder::cuda
