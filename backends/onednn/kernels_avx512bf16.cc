// What AVX512_BF16 adds: products of bf16 pairs summed in float32.

#include "backends/onednn/kernels.h"

#if defined(__AVX512BF16__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

constexpr int kColumns = 4;  // vectors in a panel
constexpr int kRows = 6;     // 24 of the 32 registers are sums
constexpr int64_t kAhead =
    2048;  // bytes to prefetch; the hardware's prefetcher stops at page borders

inline __mmask16 lanes_below(int64_t n) {
  return n >= 16  ? __mmask16{0xffff}
         : n <= 0 ? __mmask16{0}
                  : static_cast<__mmask16>((1u << n) - 1);
}

#include "backends/onednn/f8_pairs.inc"

inline __m512bh load_pairs(const uint16_t* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}

inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// The sums of a row, by column.
inline void store_row(const GemmArgs& g, int64_t row, const __m512 (&sums)[kColumns]) {
  float* const c = g.c + row * g.ldc;
#pragma GCC unroll 4
  for (int j = 0; j < kColumns; ++j) {
    const __mmask16 mask = lanes_below(g.n - j * 16);
    __m512 v = sums[j];
    if (g.accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + j * 16), v);
    if (g.bias != nullptr) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, g.bias + j * 16));
    _mm512_mask_storeu_ps(c + j * 16, mask, v);
  }
}

template <int R>
void tile(const GemmArgs& g, int64_t row) {
  const uint16_t* a = static_cast<const uint16_t*>(g.a) + row * g.lda;
  const uint16_t* b = static_cast<const uint16_t*>(g.b);
  __m512 acc[R][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) acc[r][j] = _mm512_setzero_ps();
  }
  // Two lines a step in the first tile: all at once would wait for each other.
  const std::byte* next = row == 0 ? g.next : nullptr;
  for (int64_t i = 0; i < g.k; i += 2, b += kPanel * 2) {
    if (next != nullptr) {
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(next + 64), _MM_HINT_T0);
      next += 128;
    }
    __m512bh w[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      if (R <= 2 && !g.cached) {
        _mm_prefetch(reinterpret_cast<const char*>(b + j * 32) + kAhead, _MM_HINT_T0);
      }
      w[j] = load_pairs(b + j * 32);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh x = broadcast_pair(a + r * g.lda + i);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], x, w[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store_row(g, row + r, acc[r]);
}

void gemm_bf16(const GemmArgs& g) {
  int64_t tiles = (g.m + kRows - 1) / kRows;
  for (int64_t row = 0; row < g.m; --tiles) {
    const int64_t rows = (g.m - row + tiles - 1) / tiles;
    switch (rows) {
      case 1:
        tile<1>(g, row);
        break;
      case 2:
        tile<2>(g, row);
        break;
      case 3:
        tile<3>(g, row);
        break;
      case 4:
        tile<4>(g, row);
        break;
      case 5:
        tile<5>(g, row);
        break;
      default:
        tile<6>(g, row);
        break;
    }
    row += rows;
  }
}

// Nearest even like the others; values below 2^-126 become zero.
void round_bf16(const float* x, int64_t n, int64_t n_padded, uint16_t* out) {
  for (int64_t i = 0; i < n_padded; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes_below(n - i), x + i);
    _mm256_mask_storeu_epi16(out + i, lanes_below(n_padded - i),
                             reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
  }
}

// Two tokens side by side, element by element: [count / 2][64][2].
void latent_values_bf16(const std::byte* const* tokens, int64_t count, int64_t width,
                        int64_t column, uint16_t* out) {
  const int64_t there = width - column < kPanel ? width - column : kPanel;
  for (int64_t t = 0; t < count; t += 2, out += kPanel * 2) {
    const auto* even = reinterpret_cast<const uint16_t*>(tokens[t]) + column;
    const auto* odd =
        t + 1 < count ? reinterpret_cast<const uint16_t*>(tokens[t + 1]) + column : nullptr;
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const __mmask16 mask = lanes_below(there - j * 16);
      __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, even + j * 16));
      if (odd != nullptr) {
        const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd + j * 16));
        v = _mm512_or_si512(v, _mm512_slli_epi32(high, 16));
      }
      _mm512_storeu_si512(out + j * 32, v);
    }
  }
}

void f8_to_bf16(const void* codes, int64_t k, const void* next, uint16_t* out) {
  const __m512i table[4] = {_mm512_load_si512(kBf16OfF8.of), _mm512_load_si512(kBf16OfF8.of + 32),
                            _mm512_load_si512(kBf16OfF8.of + 64),
                            _mm512_load_si512(kBf16OfF8.of + 96)};
  // Bytes 0 and 1 of each four, then 2 and 3, each in 16 bits.
  const __m512i first = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  const __m512i second = _mm512_broadcast_i32x4(
      _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
  const __m512i sign = _mm512_set1_epi16(static_cast<int16_t>(0x8000));
  const __m512i upper = _mm512_set1_epi16(0x40);
  const auto values = [&](__m512i code) {
    const __m512i low = _mm512_permutex2var_epi16(table[0], code, table[1]);
    const __m512i high = _mm512_permutex2var_epi16(table[2], code, table[3]);
    const __m512i v = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(code, upper), low, high);
    return _mm512_or_si512(v, _mm512_and_si512(_mm512_slli_epi16(code, 8), sign));
  };
  const auto* from = static_cast<const uint8_t*>(codes);
  const auto* ahead = static_cast<const char*>(next);
  for (int64_t i = 0; i < k; i += 4, out += kPanel * 4, from += kPanel * 4) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      if (next != nullptr) _mm_prefetch(ahead + j * 64, _MM_HINT_T0);
      const __m512i v = _mm512_loadu_si512(from + j * 64);
      _mm512_storeu_si512(out + j * 32, values(_mm512_shuffle_epi8(v, first)));
      _mm512_storeu_si512(out + kPanel * 2 + j * 32, values(_mm512_shuffle_epi8(v, second)));
    }
    if (next != nullptr) ahead += kPanel * 4;
  }
}

// The same in fewer and quicker instructions.
__attribute__((target("avx512vbmi"))) void f8_to_bf16_vbmi(const void* codes, int64_t k,
                                                           const void* next, uint16_t* out) {
  const F8Pairs table;
  const auto* from = static_cast<const uint8_t*>(codes);
  const auto* ahead = static_cast<const char*>(next);
  for (int64_t i = 0; i < k; i += 4, out += kPanel * 4, from += kPanel * 4) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      if (next != nullptr) _mm_prefetch(ahead + j * 64, _MM_HINT_T0);
      __m512i first, second;
      table.pairs(_mm512_loadu_si512(from + j * 64), first, second);
      _mm512_storeu_si512(out + j * 32, first);
      _mm512_storeu_si512(out + kPanel * 2 + j * 32, second);
    }
    if (next != nullptr) ahead += kPanel * 4;
  }
}

// A single row by codes as they are read: the sums of f8_to_bf16 and gemm_bf16.
__attribute__((target("avx512vbmi"))) void f8_row_bf16(const GemmArgs& g) {
  const F8Pairs table;
  const auto* const x = static_cast<const uint16_t*>(g.a);
  const auto* codes = static_cast<const char*>(g.b);
  __m512 sums[kColumns];
#pragma GCC unroll 4
  for (int j = 0; j < kColumns; ++j) sums[j] = _mm512_setzero_ps();
  for (int64_t i = 0; i < g.k; i += 4, codes += kPanel * 4) {
    const __m512bh x0 = broadcast_pair(x + i), x1 = broadcast_pair(x + i + 2);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      constexpr int kNear = 1024;  // as in quant_avx512vnni.cc
      _mm_prefetch(codes + j * 64 + kNear, _MM_HINT_T1);
      __m512i first, second;
      table.pairs(_mm512_loadu_si512(codes + j * 64), first, second);
      sums[j] = _mm512_dpbf16_ps(sums[j], x0, reinterpret_cast<__m512bh>(first));
      sums[j] = _mm512_dpbf16_ps(sums[j], x1, reinterpret_cast<__m512bh>(second));
    }
  }
  store_row(g, 0, sums);
}

constexpr Kernels make_kernels(bool vbmi) {
  Kernels k{};
  k.gemm_bf16 = gemm_bf16;
  k.f8_to_bf16 = vbmi ? f8_to_bf16_vbmi : f8_to_bf16;
  k.f8_row_bf16 = vbmi ? f8_row_bf16 : nullptr;
  k.round_bf16 = round_bf16;
  k.latent_values_bf16 = latent_values_bf16;
  return k;
}
constexpr Kernels kKernels = make_kernels(false), kKernelsVbmi = make_kernels(true);

}  // namespace

const Kernels* own_kernels_avx512bf16(bool vbmi) { return vbmi ? &kKernelsVbmi : &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const Kernels* own_kernels_avx512bf16(bool) { return nullptr; }
}  // namespace ponder::cpu

#endif
