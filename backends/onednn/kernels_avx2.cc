// The kernels for AVX2, FMA and F16C; compiled with those flags (CMakeLists.txt).

#include "backends/onednn/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx2.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/kernels_generic.inc"

#include "backends/onednn/pack_avx2.inc"

// f8_e4m3: the bits of a code, moved to those of a float, make a number 2^120 times too small, and
// a subnormal one where the code is subnormal; the floating-point mode of workers.h keeps those.
constexpr float kF8Factor = 0x1p120f;

// Input d of W columns, of which each has four codes in 32 bits.
inline V f8_tiny(__m256i codes, int d) {
  const __m256i first = _mm256_slli_epi32(codes, 24 - 8 * d);
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_srai_epi32(first, 4),
                                              _mm256_set1_epi32(static_cast<int>(0x87f00000u))));
}

void unpack_f8_bits(const void* codes, int64_t k, float scale, float* out) {
  const auto* b = static_cast<const uint8_t*>(codes);
  const V exact = v_set(kF8Factor), factor = v_set(scale);
  for (int64_t i = 0; i < k; i += 4, b += kPanel * 4) {
    for (int j = 0; j < kPanel / W; ++j) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + j * W * 4));
#pragma GCC unroll 4
      for (int d = 0; d < 4; ++d) {
        if (i + d < k) store_unpacked(out, k, i + d, j, v_mul(v_mul(f8_tiny(v, d), exact), factor));
      }
    }
  }
}

// The sums of gemm_f32_tile, without memory in between.
bool f8_row(const GemmArgs& g, float scale) {
  const float product = scale * kF8Factor;
  if (!(product - product == 0)) return false;  // infinity
  const V factor = v_set(product);
  constexpr int C = kPanel / W;
  constexpr int64_t kAhead = 2048;
  const auto* a = static_cast<const float*>(g.a);
  const auto* b = static_cast<const uint8_t*>(g.b);
  V acc[1][C];
#pragma GCC unroll 8
  for (int j = 0; j < C; ++j) acc[0][j] = v_zero();
  int64_t i = 0;
  for (; i + 4 <= g.k; i += 4, b += kPanel * 4) {
    const V x[4] = {v_set(a[i]), v_set(a[i + 1]), v_set(a[i + 2]), v_set(a[i + 3])};
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      if (j % 2 == 0) v_prefetch(b + j * W * 4 + kAhead);
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + j * W * 4));
#pragma GCC unroll 4
      for (int d = 0; d < 4; ++d) {
        acc[0][j] = v_fma(x[d], v_mul(f8_tiny(v, d), factor), acc[0][j]);
      }
    }
  }
  for (int d = 0; i < g.k; ++i, ++d) {
    for (int j = 0; j < C; ++j) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + j * W * 4));
      acc[0][j] = v_fma(v_set(a[i]), v_mul(f8_tiny(v, d), factor), acc[0][j]);
    }
  }
  finish_tile(acc, g, g.c, g.bias, g.n);
  return true;
}

constexpr Kernels make_kernels() {
  Kernels k = generic_kernels();
  k.pack_panel[kStoreF32] = pack_panel<kStoreF32>;
  k.pack_panel[kStoreF16] = pack_panel<kStoreF16>;
  k.pack_panel[kStoreBF16] = pack_panel<kStoreBF16>;
  k.pack_f8 = pack_panel<kCodes>;
  k.unpack_f8 = unpack_f8_bits;
  k.f8_row = f8_row;
  return k;
}

constexpr Kernels kKernels = make_kernels();

}  // namespace

const Kernels* kernels_avx2() { return &kKernels; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace ponder::cpu

#endif
