// Instructions that only the matrix products use, after simt.cuh. Their counterparts for the CPU
// are in tests/backends/cuda/emulate_linear.h.
#pragma once

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {
#ifdef __CUDA_ARCH__
inline constexpr bool kMultipliesF8 = multiplies_f8(__CUDA_ARCH__ / 10);
#else
inline constexpr bool kMultipliesF8 = true;  // emulated
#endif
}  // namespace ponder::cuda

#ifndef PONDER_CUDA_EMULATED
namespace ponder::cuda {

// d = start + a b, exact: a is 16 x 16, b 16 x 8, four signed bytes to a register as PTX's
// mma.sync.m16n8k16 distributes them.
__device__ inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b, int32_t start) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%7,%7,%7,%7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(start));
#else
  for (int half = 0; half < 2; ++half) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%4};"
                 : "=r"(d[2 * half]), "=r"(d[2 * half + 1])
                 : "r"(a[half]), "r"(b), "r"(start));
  }
#endif
}
// a is 16 x 32, b 32 x 8: m16n8k32.
__device__ inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              int32_t start) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
#else
  for (int half = 0; half < 2; ++half) {
    int32_t one = 0, two = 0;
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%4};"
                 : "=r"(one), "=r"(two)
                 : "r"(a[half]), "r"(b[0]), "r"(start));
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%5};"
                 : "=r"(d[2 * half]), "=r"(d[2 * half + 1])
                 : "r"(a[2 + half]), "r"(b[1]), "r"(one), "r"(two));
  }
#endif
}

// d += a b: a is 16 x 32, b 32 x 8, four f8_e4m3 to a register as PTX's mma.sync.m16n8k32
// distributes them. Only where kMultipliesF8.
__device__ inline void mma_f8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static_assert(kMultipliesF8);
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Global memory that a step reads once: not kept in the first-level cache.
__device__ inline uint4 load_once(const uint4* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}
__device__ inline uint2 load_once(const uint2* p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
template <typename T>
__device__ inline T load_once(const T* p) {
  return __ldg(p);
}

}  // namespace ponder::cuda
#endif
