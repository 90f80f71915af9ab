// Instructions that only the matrix products use, after simt.cuh. Their counterparts for the CPU
// are in tests/backends/cuda/emulate_linear.h.
#pragma once

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {
// Which kernels of Form::kF8Codes the code that is compiled has.
#ifdef __CUDA_ARCH__
inline constexpr bool kF8FromRegisters = f8_operands(__CUDA_ARCH__ / 10) == F8Operands::kRegisters;
inline constexpr bool kF8FromShared = f8_operands(__CUDA_ARCH__ / 10) == F8Operands::kSharedMemory;
#if __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma is of sm_90a alone: compile for that, not for sm_90"
#endif
#else
inline constexpr bool kF8FromRegisters = true, kF8FromShared = true;  // emulated
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
// distributes them. Only where kF8FromRegisters.
__device__ inline void mma_f8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static_assert(kF8FromRegisters);
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// ---- wgmma (PTX ISA, "Asynchronous warpgroup level matrix instructions"; sm_90a) ----------------
// Operands lie in shared memory, rows of 128 bytes one after the other in the order that PTX calls
// 128-byte swizzling: the 16 bytes at 16 p of row r are at 16 (p ^ r % 8). A matrix begins at a
// multiple of 1024 bytes.
__device__ inline char* first_swizzled(char* shared) {
  return shared + (-static_cast<uint32_t>(__cvta_generic_to_shared(shared)) & 1023);
}
// What this thread's copies brought to shared memory, once they have arrived, is there for wgmma of
// all threads behind a barrier.
__device__ inline void publish_shared() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// The sums of a warpgroup, 64 outputs by kColumns: d[4 j + 2 h + i] of lane l of warp w is that of
// output 16 w + l / 4 + 8 h and column 8 j + 2 (l % 4) + i. Between wgmma_begin and wgmma_end they
// are the instruction's.
template <int kColumns>
__device__ inline void wgmma_begin(float (&d)[kColumns / 2]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  PONDER_UNROLL
  for (float& sum : d) asm volatile("" : "+f"(sum)::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
template <int kColumns>
__device__ inline void wgmma_end(float (&d)[kColumns / 2]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  PONDER_UNROLL
  for (float& sum : d) asm volatile("" : "+f"(sum)::"memory");
#endif
}
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// The descriptor of a matrix as above ("Matrix descriptor" in PTX ISA): its address, 1024 bytes
// from eight rows to the next eight, 128-byte swizzling.
__device__ inline uint64_t swizzled_matrix(const void* first) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(first));
  return uint64_t{(at & 0x3ffffu) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
#define PONDER_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PONDER_SUMS_16(d, i) \
  PONDER_SUMS_4(d, i), PONDER_SUMS_4(d, i + 4), PONDER_SUMS_4(d, i + 8), PONDER_SUMS_4(d, i + 12)
#endif
// d = a b, `add`: d += a b: 64 rows of weights by 32 codes of each, kColumns rows of inputs by the
// same. Only where kF8FromShared.
template <int kColumns>
__device__ inline void wgmma_f8(float (&d)[kColumns / 2], const void* a, const void* b, bool add) {
  static_assert(kColumns == 8 || kColumns == 32 || kColumns == 128);
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const uint64_t left = swizzled_matrix(a), right = swizzled_matrix(b);
  const auto adds = static_cast<int32_t>(add);
  if constexpr (kColumns == 8) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0,%1,%2,%3}, %4, %5, p, 1, 1;\n}"
        : PONDER_SUMS_4(d, 0)
        : "l"(left), "l"(right), "r"(adds));
  } else if constexpr (kColumns == 32) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1;\n}"
        : PONDER_SUMS_16(d, 0)
        : "l"(left), "l"(right), "r"(adds));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, p, 1, 1;\n}"
        : PONDER_SUMS_16(d, 0), PONDER_SUMS_16(d, 16), PONDER_SUMS_16(d, 32), PONDER_SUMS_16(d, 48)
        : "l"(left), "l"(right), "r"(adds));
  }
#endif
}
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#undef PONDER_SUMS_16
#undef PONDER_SUMS_4
#endif

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
