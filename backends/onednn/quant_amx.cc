// Products of several rows with block-quantised weights on AMX's tiles of bytes. A tile's product
// is one sub-block for 16 rows and 16 columns, an exact integer sum, so its results are those of
// the other instruction sets to the bit; what bounds it is the float arithmetic after every
// sub-block.

#include "backends/onednn/quant.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>

namespace ponder::cpu {
namespace {

#include "backends/onednn/simd_avx512.inc"

#include "backends/onednn/quant_simd_avx512.inc"

#include "backends/onednn/tiles.inc"

#include "backends/onednn/quant_block.inc"

#include "backends/onednn/amx.inc"

constexpr int kRows = 16;  // of a tile
// Fewer rows, and so many that are left over, are no faster in tiles.
constexpr int64_t kLeastRows = 48;
constexpr int64_t kFewRows = 4;

// q - offset, which every format has within a signed byte.
struct alignas(64) SignedBlock {
  int8_t q[kQuantBlock * kPanel];
};

inline const int8_t* with_sign(const QuantGemmArgs& g, SignedBlock* room) {
  if (g.offset == 0) return reinterpret_cast<const int8_t*>(g.w.q);
  const VI offset = i_set8(g.offset);
  for (int64_t i = 0; i < g.k * kPanel; i += 64) {
    i_store(room->q + i, i_sub8(i_load(g.w.q + i), offset));
  }
  return room->q;
}

// Minima of groups of 256 as bf16, exactly, in pairs of sub-blocks, twice: for both parts of xsum.
struct alignas(64) BlockMinima {
  static constexpr int kPairs = kQuantBlock / 32 / 2;
  uint32_t pairs[2 * kPairs][kPanel];
};

inline void take_minima(const QuantGemmArgs& g, BlockMinima* out) {
  for (int p = 0; p < BlockMinima::kPairs; ++p) {
    for (int column = 0; column < kPanel; column += W) {
      const float* const min = g.w.min + 2 * p * kPanel + column;
      const VI even = v_bits(v_load(min)), odd = v_bits(v_load(min + kPanel));
      const VI both =
          i_or(i_shr(even, 16), odd);  // whole numbers below 64: the low halves are zeros
      i_store(out->pairs[p] + column, both);
      i_store(out->pairs[p + BlockMinima::kPairs] + column, both);
    }
  }
}

// Sixteen rows of activations, missing ones filled up with zeros.
template <typename T>
struct alignas(64) TileRows {
  static constexpr int kSubs = kQuantBlock / T::kSub;
  static constexpr bool kMinOnce = T::kWide && T::kMin;

  // From row `first_row` on.
  void take(const QuantGemmArgs& g, int64_t first_row) {
    const QuantRows& x = g.x;
    first = first_row;
    count = static_cast<int>(at_most(g.m - first, kRows));
    columns_of(x.scale + first * x.ld_group, x.ld_group, T::kWide ? 1 : kSubs, scale);
    if constexpr (kMinOnce) {
      for (int r = 0; r < kRows; ++r)
        split(r < count ? x.sum + (first + r) * x.ld_sub : nullptr, r);
    } else if constexpr (T::kMin) {
      columns_of(x.sum + first * x.ld_sub, x.ld_sub, kSubs, sum);
    }
    q = x.q + first * x.ldq;
    ldq = x.ldq;
    if (count == kRows) return;
    for (int64_t i = count * kQuantBlock; i < kRows * kQuantBlock; i += 64) {
      i_store(filled + i, i_zero());
    }
    for (int r = 0; r < count; ++r) {
      __builtin_memcpy(filled + r * kQuantBlock, q + r * ldq, kQuantBlock);
    }
    q = filled;
    ldq = kQuantBlock;
  }

  int64_t first;
  int count;
  const int8_t* q;
  int64_t ldq;
  float scale[T::kWide ? 1 : kSubs][kRows];
  float sum[kSubs][kRows];           // xsum, by sub-block
  uint16_t parts[kRows][2 * kSubs];  // xsum as two bf16 that add up to it
  int8_t filled[kRows * kQuantBlock];

 private:
  void columns_of(const float* from, int64_t ld, int64_t columns, float (*out)[kRows]) const {
    const VI lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const VI at = _mm512_mullo_epi32(lanes, i_set(static_cast<int32_t>(ld)));
    const __mmask16 there = lanes_below(count);
    for (int64_t j = 0; j < columns; ++j) {
      v_store(out[j], _mm512_mask_i32gather_ps(v_zero(), there, at, from + j, 4));
    }
  }

  // Whole numbers below 2^12: eight bits of each, and what those leave.
  void split(const float* from, int row) {
    static_assert(!kMinOnce || kSubs == 8);
    const __m256 x = from != nullptr ? _mm256_loadu_ps(from) : _mm256_setzero_ps();
    const __m256 high = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
    const __m256i both =
        _mm256_packus_epi32(_mm256_srli_epi32(_mm256_castps_si256(high), 16),
                            _mm256_srli_epi32(_mm256_castps_si256(_mm256_sub_ps(x, high)), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts[row]),
                        _mm256_permute4x64_epi64(both, 0xd8));
  }
};

// What 16 rows by 16 columns are made of.
template <typename T>
struct Group {
  const TileRows<T>* x;
  int64_t column;
};

// The first tiles are sums, 4 and 5 activations, 6 and 7 weights. A sum takes some 50 cycles to
// come out of its tile, so it is stored when its tile's turn comes again, and what is stored is
// worked up while the next group is multiplied.
template <typename T>
class Pipeline {
 public:
  static constexpr bool kMinOnce = TileRows<T>::kMinOnce;
  // Sub-blocks, before them the minima.
  static constexpr int kSteps = TileRows<T>::kSubs + kMinOnce;
  static constexpr int kDepth = kMinOnce ? 3 : 4;  // sums under way
  static_assert(kSteps % kDepth == 0);

  Pipeline(const QuantGemmArgs& g, const int8_t* w, const BlockMinima* minima, int64_t groups)
      : g_(g), w_(w), minima_(minima), next_(g.next) {
    next_end_ = next_ + (next_ != nullptr ? g.next_bytes : 0);
    const int64_t turns = groups * (kSteps / kDepth);
    lines_ = ((next_end_ - next_) / 64 + turns - 1) / turns;
  }

  // Multiplies `now` and finishes `last`; either may be null.
  void run(const Group<T>* now, const Group<T>* last) {
    V part[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) part[r] = v_zero();
    for (int step = 0; step < kSteps; step += kDepth) {
      run_step<0>(now, last, step, part);
      run_step<1>(now, last, step + 1, part);
      run_step<2>(now, last, step + 2, part);
      if constexpr (kDepth == 4) run_step<3>(now, last, step + 3, part);
      for (int64_t n = 0; n < lines_ && next_ < next_end_; ++n, next_ += 64) v_prefetch(next_);
    }
    if (last == nullptr) return;
    const TileRows<T>& x = *last->x;
    if (x.count == kRows && last->column + W <= g_.n && g_.before != nullptr &&
        g_.bias == nullptr) {
      const float* before = g_.before + x.first * g_.ld_before + last->column;
      float* c = g_.c + x.first * g_.ldc + last->column;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r, before += g_.ld_before, c += g_.ldc) {
        const V v = v_load(before);
        v_store(c, T::kWide ? v_fma(part[r], v_set(x.scale[0][r]), v) : v_add(v, part[r]));
      }
      return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r < x.count) add_block<T>(g_, x.first + r, last->column, x.scale[0] + r, part[r]);
    }
  }

 private:
  template <int kTile>
  [[gnu::always_inline]] void run_step(const Group<T>* now, const Group<T>* last, int step,
                                       V (&part)[kRows]) {
    const int j = step - kMinOnce;  // sub-block; -1: minima
    if (now != nullptr) {
      if (j < 0) {
        tile_load<4 + kTile % 2>(now->x->parts, sizeof(now->x->parts[0]));
        tile_load<6 + kTile % 2>(minima_->pairs[0] + now->column, sizeof(minima_->pairs[0]));
      } else {
        tile_load<4 + kTile % 2>(now->x->q + j * T::kSub, now->x->ldq);
        tile_load<6 + kTile % 2>(w_ + j * T::kSub * kPanel + now->column * 4, kPanel * 4);
      }
    }
    if (last != nullptr) {
      if (j < 0) {
        const V less = minus_min_scale(g_.w, last->column);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) part[r] = v_mul(less, v_of_bits(i_load(sums_[step][r])));
      } else {
        add(*last, step, j, part);
      }
    }
    tile_store<kTile>(sums_[(step + kSteps - kDepth) % kSteps], sizeof(sums_[0][0]));
    if (now != nullptr) {
      tile_zero<kTile>();
      if (j < 0) {
        tile_dot_bf16<kTile, 4 + kTile % 2, 6 + kTile % 2>();
      } else {
        tile_dot_bytes<kTile, 4 + kTile % 2, 6 + kTile % 2>();
      }
    }
  }

  [[gnu::always_inline]] void add(const Group<T>& last, int step, int j, V (&part)[kRows]) const {
    const SubScale<T> scale(g_.w, j * kPanel + last.column);
    const float* const sum = last.x->sum[j];
    const float* const x_scale = last.x->scale[T::kWide ? 0 : j];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      part[r] = scale.add(i_load(sums_[step][r]), sum + r, x_scale + r, part[r]);
    }
  }

  const QuantGemmArgs& g_;
  const int8_t* const w_;
  const BlockMinima* const minima_;
  const std::byte* next_;
  const std::byte* next_end_;
  int64_t lines_;  // to prefetch every kDepth steps
  alignas(64) int32_t sums_[kSteps][kRows][W];
};

template <typename T>
void gemm_tiles(const QuantGemmArgs& g, int64_t rows) {
  static_assert(T::kSub == 32, "a step's tiles and those of minima have one shape");
  SignedBlock room;
  const int8_t* const w = with_sign(g, &room);
  BlockMinima minima;
  if constexpr (T::kWide && T::kMin) take_minima(g, &minima);
  TileShapes shapes;
  shapes.set(0, 4, kRows, 64);
  shapes.set(4, 6, kRows, T::kSub);
  shapes.set(6, 8, T::kSub / 4, 64);
  tiles_shape(shapes);
  Pipeline<T> pipeline(g, w, &minima, (rows + kRows - 1) / kRows * ((g.n + W - 1) / W));
  TileRows<T> x[2];
  Group<T> groups[2];
  const Group<T>* last = nullptr;
  int turn = 0;
  for (int64_t row = 0; row < rows; row += kRows) {
    TileRows<T>& taken = x[row / kRows % 2];
    taken.take(g, row);
    for (int64_t column = 0; column < g.n; column += W) {
      Group<T>& now = groups[turn ^= 1];
      now = {&taken, column};
      pipeline.run(&now, last);
      last = &now;
    }
  }
  pipeline.run(nullptr, last);
  tiles_release();
}

void gemm(const QuantGemmArgs& g) {
  // Full tiles, of sub-blocks that are long enough, and of blocks that do not just end K.
  const bool suits = g.m >= kLeastRows && g.sub == 32 && g.k == kQuantBlock;
  const int64_t over = g.m % kRows;
  const int64_t rows = !suits ? 0 : over <= kFewRows ? g.m - over : g.m;
  if (rows > 0) {
    const bool min = g.w.min != nullptr;
    if (g.group != kQuantBlock) {
      min ? gemm_tiles<TileOf<32, false, true>>(g, rows)
          : gemm_tiles<TileOf<32, false, false>>(g, rows);
    } else {
      min ? gemm_tiles<TileOf<32, true, true>>(g, rows)
          : gemm_tiles<TileOf<32, true, false>>(g, rows);
    }
  }
  if (rows < g.m) quant_kernels_avx512vnni()->gemm(from_row(g, rows));
}

}  // namespace

QuantGemm quant_gemm_amx() { return gemm; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
QuantGemm quant_gemm_amx() { return nullptr; }
}  // namespace ponder::cpu

#endif
