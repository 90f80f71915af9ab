// What simt_linear.cuh and the kernels of matrix products use of CUDA, for the CPU; after
// emulate.h.
#pragma once

#include "lib/tensor/float8.h"
#include "tests/backends/cuda/emulate.h"

inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i)
    sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return sum;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t chosen) {
  const uint64_t both = low | uint64_t{high} << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(both >> (8 * (chosen >> (4 * i) & 7)) & 255) << (8 * i);
  }
  return out;
}
inline int __popc(uint32_t v) { return std::popcount(v); }
inline uint32_t __ballot_sync(unsigned, bool mine) {
  uint32_t all[32], out = 0;
  const uint32_t bit = mine;
  ponder::cuda::emulation::gather(&bit, 1, all);
  for (int i = 0; i < 32; ++i) out |= all[i] << i;
  return out;
}

namespace ponder::cuda {

// As PTX's mma.m16n8k16 and mma.m16n8k32 of bytes: kWords runs of 16 inputs. f(i, left, right) for
// all words that meet in sum i.
template <int kWords, typename F>
void mma_words(const uint32_t (&a)[2 * kWords], const uint32_t (&b)[kWords], const F& f) {
  constexpr unsigned kAll = 3 * kWords;
  uint32_t mine[kAll], all[32 * kAll];
  for (unsigned i = 0; i < 2 * kWords; ++i) mine[i] = a[i];
  for (unsigned i = 0; i < kWords; ++i) mine[2 * kWords + i] = b[i];
  emulation::gather(mine, kAll, all);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 4 * kWords; ++k) {
      f(i, all[kAll * (row % 8 * 4 + k % 4) + row / 8 + 2 * (k / 4)],
        all[kAll * (column * 4 + k % 4) + 2 * kWords + k / 4]);
    }
  }
}
template <int kWords>
void mma_bytes(int32_t (&d)[4], const uint32_t (&a)[2 * kWords], const uint32_t (&b)[kWords],
               int32_t start) {
  for (int32_t& sum : d) sum = start;
  mma_words<kWords>(a, b, [&](unsigned i, uint32_t left, uint32_t right) {
    d[i] = __dp4a(static_cast<int>(left), static_cast<int>(right), d[i]);
  });
}
inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b, int32_t start) {
  mma_bytes<1>(d, a, {b}, start);
}
inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t start) {
  mma_bytes<2>(d, a, b, start);
}

// Rounded once. A device's tensor core keeps fewer bits of its sums (docs/kernels/cuda.md).
inline void mma_f8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  double sums[4] = {d[0], d[1], d[2], d[3]};
  mma_words<2>(a, b, [&](unsigned i, uint32_t left, uint32_t right) {
    for (int shift = 0; shift < 32; shift += 8) {
      sums[i] += double{f8_e4m3_to_f32(static_cast<uint8_t>(left >> shift))} *
                 double{f8_e4m3_to_f32(static_cast<uint8_t>(right >> shift))};
    }
  });
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(sums[i]);
}

// Shared memory as simt_linear.cuh tells, read at once: that a device reads it later is not
// emulated.
inline char* first_swizzled(char* shared) {
  return shared + (-reinterpret_cast<uintptr_t>(shared) & 1023);
}
inline void publish_shared() {}
template <int kColumns>
void wgmma_begin(float (&)[kColumns / 2]) {}
template <int kColumns>
void wgmma_end(float (&)[kColumns / 2]) {}
template <int kColumns>
void wgmma_f8(float (&d)[kColumns / 2], const void* a, const void* b, bool add) {
  const auto code = [](const void* matrix, int row, int k) {
    const uintptr_t at =
        reinterpret_cast<uintptr_t>(matrix) + static_cast<uintptr_t>(row * 128 + k);
    return double{f8_e4m3_to_f32(*reinterpret_cast<const uint8_t*>(at ^ (at >> 7 & 7) << 4))};
  };
  const int lane = static_cast<int>(threadIdx.x % 32),
            warp = static_cast<int>(threadIdx.x / 32 % 4);
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = 16 * warp + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    double sum = add ? double{d[i]} : 0.0;
    for (int k = 0; k < 32; ++k) sum += code(a, row, k) * code(b, column, k);
    d[i] = static_cast<float>(sum);
  }
}

template <typename T>
T load_once(const T* p) {
  return *p;
}

}  // namespace ponder::cuda
