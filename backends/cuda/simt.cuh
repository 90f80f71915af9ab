// How kernels are written here so that the same source also runs on the CPU, where tests check it:
// CUDA's own names, launches through `launch`, matrix instructions through the functions below.
// Tests define PONDER_CUDA_EMULATED and bring tests/backends/cuda/emulate.h in first.
#pragma once

#include "backends/cuda/enqueue.h"

#ifndef PONDER_CUDA_EMULATED
#include <cuda_runtime.h>

#define PONDER_UNROLL _Pragma("unroll")
#define PONDER_ROLLED _Pragma("unroll 1")  // where unrolling would take registers that are short

namespace ponder::cuda {

// With `bytes` of dynamic shared memory, at most shared_memory_limit(s).
template <typename... Params, typename... Args>
void launch_shared(Stream s, dim3 grid, unsigned threads, int64_t bytes, void (*kernel)(Params...),
                   Args... args) {
  const LaunchShape shape{nullptr, {grid.x, grid.y, grid.z}, threads, static_cast<uint32_t>(bytes)};
  enqueue_call(s, shape, kernel, args...);
}
template <typename... Params, typename... Args>
void launch(Stream s, dim3 grid, unsigned threads, void (*kernel)(Params...), Args... args) {
  launch_shared(s, grid, threads, 0, kernel, args...);
}

// The running block's dynamic shared memory.
__device__ inline char* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<char*>(dynamic_shared_memory);
}

// Sixteen bytes from device memory to shared memory, both aligned to 16; zeros unless `there`. They
// have arrived when copy_async_wait says so, and other threads see them after a barrier behind it.
__device__ inline void copy_async16(void* shared, const void* from, bool there = true) {
#if __CUDA_ARCH__ >= 800
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = there ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}
// What the thread copied since its last commit becomes a group.
__device__ inline void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits for all of the thread's groups but the latest kStillFlying.
template <int kStillFlying>
__device__ inline void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kStillFlying) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l names the 16 bytes of row l % 8
// of matrix l / 8. Afterwards r[i] of lane l holds elements 2 (l % 4) and the next one of row l / 4
// of matrix i.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
// The same of the transposed matrices: r[i] holds rows 2 (l % 4) and the next one of column l / 4.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// Two halves at a time, rounded to nearest even.
__device__ inline uint32_t add_f16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ inline uint32_t mul_f16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ inline uint32_t pack_f16x2(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#else
  uint16_t one, two;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(one) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(two) : "f"(high));
  return one | uint32_t{two} << 16;
#endif
}
__device__ inline uint32_t pack_bf16x2(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#else
  const auto round = [](float v) {  // a NaN loses its sign, as in the instruction
    const uint32_t u = __float_as_uint(v);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1)) >> 16;
  };
  return round(low) | round(high) << 16;
#endif
}

// d += a b: a is 16 x 16 (rows), b 16 x 8 (columns), bf16 pairs in 32 bits as PTX's
// mma.sync.m16n8k16 distributes them. On sm_75, which has no bf16, the products are done one by
// one.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
#pragma unroll 1  // or a kernel of many of these runs out of registers
  for (int k = 0; k < 16; ++k) {
    const int low = k % 8, owner = low / 2;
    // Chosen, not indexed: an array with an index lies in memory.
    const uint32_t own_b = k < 8 ? b[0] : b[1];
    const uint32_t a_top = __shfl_sync(~0u, k < 8 ? a[0] : a[2], group * 4 + owner);
    const uint32_t a_low = __shfl_sync(~0u, k < 8 ? a[1] : a[3], group * 4 + owner);
    const uint32_t b_one = __shfl_sync(~0u, own_b, pair * 4 + owner);
    const uint32_t b_two = __shfl_sync(~0u, own_b, (pair + 1) * 4 + owner);
    const auto half = [low](uint32_t v) {
      return __uint_as_float(low % 2 != 0 ? v & 0xffff0000u : v << 16);
    };
    d[0] = fmaf(half(a_top), half(b_one), d[0]);
    d[1] = fmaf(half(a_top), half(b_two), d[1]);
    d[2] = fmaf(half(a_low), half(b_one), d[2]);
    d[3] = fmaf(half(a_low), half(b_two), d[3]);
  }
#endif
}

// The same for binary16. sm_75 has half of the instruction.
__device__ inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int half = 0; half < 2; ++half) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

}  // namespace ponder::cuda
#endif

namespace ponder::cuda {

// All lanes get the same bits: the tree is symmetric.
__device__ inline float warp_sum(float v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

inline unsigned blocks_for(int64_t work, int64_t per_block) {
  const int64_t blocks = (work + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 65535 * 16 ? blocks : 65535 * 16);  // kernels then loop
}

}  // namespace ponder::cuda
