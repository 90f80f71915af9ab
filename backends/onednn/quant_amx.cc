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

// Sixteen rows of activations, missing ones filled up with zeros.
struct alignas(64) TileRows {
  // From row `first` on.
  void take(const QuantGemmArgs& g, int64_t first_row) {
    const QuantRows& x = g.x;
    first = first_row;
    count = static_cast<int>(at_most(g.m - first, kRows));
    const int64_t groups = kQuantBlock / g.group;
    if (g.w.min != nullptr)
      columns_of(x.sum + first * x.ld_sub, x.ld_sub, kQuantBlock / g.sub, sum);
    columns_of(x.scale + first * x.ld_group, x.ld_group, groups, scale);
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
  float sum[kQuantBlock / 16][kRows];    // by sub-block
  float scale[kQuantBlock / 32][kRows];  // by group
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
};

// What 16 rows by 16 columns are made of.
struct Group {
  const TileRows* x;
  int64_t column;
};

// Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights. A sum takes some 50 cycles to come
// out of its tile, so it is stored when its tile's turn comes again, and what is stored is worked
// up while the next group is multiplied.
constexpr int kDepth = 4;

template <typename T>
class Pipeline {
 public:
  static constexpr int kSubs = kQuantBlock / T::kSub;

  Pipeline(const QuantGemmArgs& g, const int8_t* w, int64_t groups) : g_(g), w_(w), next_(g.next) {
    next_end_ = next_ + (next_ != nullptr ? g.next_bytes : 0);
    const int64_t turns = groups * (kSubs / kDepth);
    lines_ = ((next_end_ - next_) / 64 + turns - 1) / turns;
  }

  // Multiplies `now` and finishes `last`; either may be null.
  void run(const Group* now, const Group* last) {
    V part[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) part[r] = v_zero();
    for (int j = 0; j < kSubs; j += kDepth) {
      step<0>(now, last, j, part);
      step<1>(now, last, j + 1, part);
      step<2>(now, last, j + 2, part);
      step<3>(now, last, j + 3, part);
      for (int64_t n = 0; n < lines_ && next_ < next_end_; ++n, next_ += 64) v_prefetch(next_);
    }
    if (last == nullptr) return;
    const TileRows& x = *last->x;
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
  [[gnu::always_inline]] void step(const Group* now, const Group* last, int j, V (&part)[kRows]) {
    if (now != nullptr) {
      tile_load<4 + kTile % 2>(now->x->q + j * T::kSub, now->x->ldq);
      tile_load<6 + kTile % 2>(w_ + j * T::kSub * kPanel + now->column * 4, kPanel * 4);
    }
    if (last != nullptr) add(*last, j, part);
    tile_store<kTile>(sums_[(j + kSubs - kDepth) % kSubs], sizeof(sums_[0][0]));
    if (now != nullptr) {
      tile_zero<kTile>();
      tile_dot_bytes<kTile, 4 + kTile % 2, 6 + kTile % 2>();
    }
  }

  [[gnu::always_inline]] void add(const Group& last, int j, V (&part)[kRows]) const {
    const SubScale<T> scale(g_.w, j * kPanel + last.column);
    const float* const sum = last.x->sum[j];
    const float* const x_scale = last.x->scale[T::kWide ? 0 : j];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      part[r] = scale.add(i_load(sums_[j][r]), sum + r, x_scale + r, part[r]);
    }
  }

  const QuantGemmArgs& g_;
  const int8_t* const w_;
  const std::byte* next_;
  const std::byte* next_end_;
  int64_t lines_;  // to prefetch every kDepth steps
  alignas(64) int32_t sums_[kSubs][kRows][W];
};

template <typename T>
void gemm_tiles(const QuantGemmArgs& g, int64_t rows) {
  SignedBlock room;
  const int8_t* const w = with_sign(g, &room);
  TileShapes shapes;
  shapes.set(0, 4, kRows, 64);
  shapes.set(4, 6, kRows, T::kSub);
  shapes.set(6, 8, T::kSub / 4, 64);
  tiles_shape(shapes);
  Pipeline<T> pipeline(g, w, (rows + kRows - 1) / kRows * ((g.n + W - 1) / W));
  TileRows x[2];
  Group groups[2];
  const Group* last = nullptr;
  int turn = 0;
  for (int64_t row = 0; row < rows; row += kRows) {
    TileRows& taken = x[row / kRows % 2];
    taken.take(g, row);
    for (int64_t column = 0; column < g.n; column += W) {
      Group& now = groups[turn ^= 1];
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
  if (rows == g.m) return;
  QuantGemmArgs rest = g;
  rest.m -= rows;
  rest.x.q += rows * g.x.ldq;
  rest.x.scale += rows * g.x.ld_group;
  rest.x.start += rows * g.x.ld_sub;
  rest.x.sum += rows * g.x.ld_sub;
  if (g.before != nullptr) rest.before += rows * g.ld_before;
  rest.c += rows * g.ldc;
  if (rows > 0) rest.next = nullptr;
  quant_kernels_avx512vnni()->gemm(rest);
}

}  // namespace

QuantGemm quant_gemm_amx() { return gemm; }

}  // namespace ponder::cpu

#else

namespace ponder::cpu {
QuantGemm quant_gemm_amx() { return nullptr; }
}  // namespace ponder::cpu

#endif
