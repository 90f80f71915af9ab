// Products of bf16 on AMX's tiles, for any number of rows.
//
// The order of sums (kernels.h): a chain of steps of 32 inputs from zero. Within a step the
// products of even and of odd inputs are two chains of fused multiply-adds whose sum is added to
// what the steps before gave (TDPBF16PS in Intel's manual). A row's sums do not depend on the
// tile's other rows, and inputs that are zeros change nothing, so the last step may be filled up
// with them.

#include "backends/onednn/kernels.h"

#if defined(__AVX512F__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/amx.inc"

#include "backends/onednn/f8_pairs.inc"

constexpr int64_t kRows = 16;                         // of a tile
constexpr int64_t kColumns = 16;                      // of a tile
constexpr int64_t kInputs = 32;                       // of a step
constexpr int64_t kStepBytes = kInputs * kPanel * 2;  // of a panel
// Bytes to prefetch with few rows; the hardware's prefetcher stops at page borders.
constexpr int64_t kAhead = 4096;

inline __mmask16 lanes_below(int64_t n) {
  return n >= 16  ? __mmask16{0xffff}
         : n <= 0 ? __mmask16{0}
                  : static_cast<__mmask16>((1u << n) - 1);
}

// The last step of K inputs that are no multiple of 32, filled up with zeros.
struct alignas(64) LastStep {
  uint16_t a[2 * kRows * kInputs];
  std::byte b[kStepBytes];

  void fill_b(const GemmArgs& g, int64_t first) {
    const auto* from = static_cast<const std::byte*>(g.b) + first * kPanel * 2;
    const int64_t bytes = (g.k - first) * kPanel * 2;
    __builtin_memset(b, 0, sizeof(b));
    __builtin_memcpy(b, from, static_cast<size_t>(bytes));
  }
  void fill_a(const GemmArgs& g, int64_t row, int64_t rows, int64_t first) {
    const auto* from = static_cast<const uint16_t*>(g.a) + row * g.lda + first;
    __builtin_memset(a, 0, sizeof(a));
    for (int64_t r = 0; r < rows; ++r) {
      __builtin_memcpy(a + r * kInputs, from + r * g.lda, static_cast<size_t>((g.k - first) * 2));
    }
  }
};

// Lines to prefetch, evenly, so many a step.
struct Ahead {
  void step() {
    for (int64_t n = 0; n < lines && at < end; ++n, at += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
    }
  }
  const std::byte* at;
  const std::byte* end;
  int64_t lines;
};

// A tile of sums, from its register, to `rows` rows of c.
template <int kTile>
inline void finish(const GemmArgs& g, int64_t row, int64_t rows, int64_t column) {
  float* const c = g.c + row * g.ldc + column;
  if (g.n - column >= kColumns && !g.accumulate && g.bias == nullptr) {
    tile_store<kTile>(c, g.ldc * 4);
    return;
  }
  const __mmask16 mask = lanes_below(g.n - column);
  if (mask == 0) return;
  alignas(64) float sums[kRows][kColumns];
  tile_store<kTile>(sums, sizeof(sums[0]));
  const __m512 bias =
      g.bias != nullptr ? _mm512_maskz_loadu_ps(mask, g.bias + column) : _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; ++r) {
    __m512 v = _mm512_load_ps(sums[r]);
    if (g.accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + r * g.ldc), v);
    if (g.bias != nullptr) v = _mm512_add_ps(v, bias);
    _mm512_mask_storeu_ps(c + r * g.ldc, mask, v);
  }
}

void shape_two_tiles(int64_t rows) {
  TileShapes shapes;
  shapes.set(0, 2, kRows, 64);
  shapes.set(2, 4, rows - kRows, 64);
  shapes.set(4, 5, kRows, 64);
  shapes.set(5, 6, rows - kRows, 64);
  shapes.set(6, 8, kInputs / 2, 64);
  tiles_shape(shapes);
}

// 17 to 32 rows by the whole panel: two tiles of rows by two of columns at a time. After
// shape_two_tiles.
void two_tiles(const GemmArgs& g, int64_t row, int64_t rows, LastStep* last, Ahead* ahead) {
  const int64_t lower = rows - kRows;
  const auto* const a = static_cast<const uint16_t*>(g.a) + row * g.lda;
  const auto* const b = static_cast<const std::byte*>(g.b);
  const int64_t whole = g.k / kInputs * kInputs;
  if (whole < g.k) last->fill_a(g, row, rows, whole);
  for (int64_t column = 0; column < g.n; column += 2 * kColumns) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const auto step = [&](const uint16_t* x, int64_t ldx, const std::byte* w) {
      tile_load<4>(x, ldx * 2);
      tile_load<6>(w + column * 4, kPanel * 4);
      tile_load<7>(w + column * 4 + 64, kPanel * 4);
      tile_dot_bf16<0, 4, 6>();
      tile_dot_bf16<1, 4, 7>();
      tile_load<5>(x + kRows * ldx, ldx * 2);
      tile_dot_bf16<2, 5, 6>();
      tile_dot_bf16<3, 5, 7>();
      ahead->step();
    };
    for (int64_t k = 0; k < whole; k += kInputs) step(a + k, g.lda, b + k * kPanel * 2);
    if (whole < g.k) step(last->a, kInputs, last->b);
    finish<0>(g, row, kRows, column);
    finish<1>(g, row, kRows, column + kColumns);
    finish<2>(g, row + kRows, lower, column);
    finish<3>(g, row + kRows, lower, column + kColumns);
  }
}

// Up to 16 rows by the whole panel, which is read from front to back.
void one_tile(const GemmArgs& g, int64_t row, int64_t rows, LastStep* last, Ahead* ahead) {
  TileShapes shapes;
  shapes.set(0, 5, rows, 64);
  shapes.set(5, 8, kInputs / 2, 64);
  tiles_shape(shapes);
  const auto* const a = static_cast<const uint16_t*>(g.a) + row * g.lda;
  const auto* const b = static_cast<const std::byte*>(g.b);
  const int64_t whole = g.k / kInputs * kInputs;
  if (whole < g.k) last->fill_a(g, row, rows, whole);
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  const auto step = [&](const uint16_t* x, int64_t ldx, const std::byte* w) {
    tile_load<4>(x, ldx * 2);
    tile_load<5>(w, kPanel * 4);
    tile_dot_bf16<0, 4, 5>();
    tile_load<6>(w + 64, kPanel * 4);
    tile_dot_bf16<1, 4, 6>();
    tile_load<7>(w + 128, kPanel * 4);
    tile_dot_bf16<2, 4, 7>();
    tile_load<5>(w + 192, kPanel * 4);
    tile_dot_bf16<3, 4, 5>();
    ahead->step();
  };
  for (int64_t k = 0; k < whole; k += kInputs) {
    const std::byte* const w = b + k * kPanel * 2;
    if (row == 0 && !g.cached) {
      for (int64_t i = 0; i < kStepBytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(w + kAhead + i), _MM_HINT_T0);
      }
    }
    step(a + k, g.lda, w);
  }
  if (whole < g.k) step(last->a, kInputs, last->b);
  finish<0>(g, row, rows, 0);
  finish<1>(g, row, rows, kColumns);
  finish<2>(g, row, rows, 2 * kColumns);
  finish<3>(g, row, rows, 3 * kColumns);
}

// ---- a single row ------------------------------------------------------------------------------
//
// The same sums by float32 multiply-add: quicker than tiles of which only one row is wanted. Tiles
// take subnormals for zeros, so this does too.

class NoSubnormals {
 public:
  NoSubnormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | 0x8040);
    __asm__ volatile("" ::: "memory");  // what is read, and hence computed, later stays there
  }
  ~NoSubnormals() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
};

inline __m512 even_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 odd_of(__m512i pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))));
}

constexpr int kVectors = kPanel / kColumns;

struct RowSums {
  // Of the step's inputs, widened; zeros beyond `left`.
  void begin(const uint16_t* a, int64_t left) {
    const __m512i x = _mm512_maskz_loadu_epi16(
        left >= kInputs ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1), a);
    _mm512_store_ps(x_even, even_of(x));
    _mm512_store_ps(x_odd, odd_of(x));
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) even[j] = odd[j] = _mm512_setzero_ps();
  }
  // Inputs 2 * pair and 2 * pair + 1 of the step.
  void add(int64_t pair, int j, __m512i w) {
    even[j] = _mm512_fmadd_ps(_mm512_set1_ps(x_even[pair]), even_of(w), even[j]);
    odd[j] = _mm512_fmadd_ps(_mm512_set1_ps(x_odd[pair]), odd_of(w), odd[j]);
  }
  void end(int64_t left) {
    // The zeros that fill up a tile's last step make 0 of -0.
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int j = 0; j < kVectors && left < kInputs; ++j) {
      even[j] = _mm512_add_ps(even[j], zero);
      odd[j] = _mm512_add_ps(odd[j], zero);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      total[j] = _mm512_add_ps(total[j], _mm512_add_ps(even[j], odd[j]));
    }
  }

  // They are computed by now, not when the floating-point mode has changed back.
  void settle() {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __asm__ volatile("" : "+v"(total[j]));
  }

  __m512 total[kVectors] = {};
  __m512 even[kVectors], odd[kVectors];
  alignas(64) float x_even[kInputs / 2], x_odd[kInputs / 2];
};

void store(const GemmArgs& g, const RowSums& sums) {
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    const __mmask16 mask = lanes_below(g.n - j * kColumns);
    float* const c = g.c + j * kColumns;
    __m512 v = sums.total[j];
    if (g.accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), v);
    if (g.bias != nullptr) {
      v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, g.bias + j * kColumns));
    }
    _mm512_mask_storeu_ps(c, mask, v);
  }
}

void row_bf16(const GemmArgs& g) {
  const auto* const a = static_cast<const uint16_t*>(g.a);
  const auto* b = static_cast<const std::byte*>(g.b);
  const std::byte* next = g.next;
  RowSums sums;
  {
    const NoSubnormals mode;
    for (int64_t k = 0; k < g.k; k += kInputs) {
      const int64_t left = g.k - k < kInputs ? g.k - k : kInputs;
      sums.begin(a + k, left);
      for (int64_t pair = 0; pair < left / 2; ++pair, b += kPanel * 4) {
        if (next != nullptr) {
          _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
          _mm_prefetch(reinterpret_cast<const char*>(next + 64), _MM_HINT_T0);
          next += 128;
        }
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          const std::byte* const at = b + j * 64;
          if (!g.cached) _mm_prefetch(reinterpret_cast<const char*>(at + kAhead), _MM_HINT_T0);
          sums.add(pair, j, _mm512_loadu_si512(at));
        }
      }
      sums.end(left);
    }
    sums.settle();
  }
  store(g, sums);
}

__attribute__((target("avx512vbmi"))) void f8_row_bf16(const GemmArgs& g) {
  const F8Pairs table;
  const auto* const a = static_cast<const uint16_t*>(g.a);
  const auto* b = static_cast<const std::byte*>(g.b);
  const std::byte* next = g.next;
  RowSums sums;
  {
    const NoSubnormals mode;
    for (int64_t k = 0; k < g.k; k += kInputs) {
      const int64_t left = g.k - k < kInputs ? g.k - k : kInputs;
      sums.begin(a + k, left);
      for (int64_t pair = 0; pair < left / 2; pair += 2, b += kPanel * 4) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          if (next != nullptr) {
            _mm_prefetch(reinterpret_cast<const char*>(next + j * 64), _MM_HINT_T0);
          }
          __m512i first, second;
          table.pairs(_mm512_loadu_si512(b + j * 64), first, second);
          sums.add(pair, j, first);
          sums.add(pair + 1, j, second);
        }
        if (next != nullptr) next += kPanel * 4;
      }
      sums.end(left);
    }
    sums.settle();
  }
  store(g, sums);
}

void gemm_bf16(const GemmArgs& g) {
  if (g.m == 1) return row_bf16(g);
  LastStep last;
  const int64_t whole = g.k / kInputs * kInputs;
  if (whole < g.k) last.fill_b(g, whole);
  // All of it is on its way when the first rows are done.
  Ahead ahead{};
  if (g.next != nullptr) {
    ahead.at = g.next;
    ahead.end = g.next + g.k * kPanel;
    const int64_t halves = g.m > kRows ? 2 : 1;
    ahead.lines = kInputs / halves;
  }
  int64_t row = 0;
  if (g.m >= 2 * kRows) shape_two_tiles(2 * kRows);
  for (; row + 2 * kRows <= g.m; row += 2 * kRows) two_tiles(g, row, 2 * kRows, &last, &ahead);
  const int64_t left = g.m - row;
  if (left > kRows) {
    shape_two_tiles(left);
    two_tiles(g, row, left, &last, &ahead);
  } else if (left > 0) {
    one_tile(g, row, left, &last, &ahead);
  }
  tiles_release();
}

}  // namespace

GemmBf16 gemm_bf16_amx() { return gemm_bf16; }
GemmBf16 f8_row_bf16_amx() { return f8_row_bf16; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
GemmBf16 gemm_bf16_amx() { return nullptr; }
GemmBf16 f8_row_bf16_amx() { return nullptr; }
}  // namespace ponder::cpu

#endif
