// Attention over pages of f16, bf16, f8_e4m3 and q8_0 on the matrix instructions.
//
// Vectors (queries of neighbouring rows and of the heads that share a key/value head) are the rows
// of mma.m16n8k16, 16 to a warp; keys and values come page by page through a ring of slots in
// shared memory, asynchronously. Scores of 64 positions are summed, weighed and rounded, then their
// values are summed; a chunk of 256 positions has a softmax of its own as it goes over its four
// 64s; chunks are merged in ascending order: in registers when a block takes all of a tile's chunks
// ("wide", for many vectors), or by `merge` from memory when each block takes one ("split", for
// few). Both do the same operations in the same order on a vector, and a vector's place among the
// 16 does not matter.
//
// Positions that a vector does not see weigh 0 in its sums, which is nothing unless the value there
// is no number: 0 * NaN is NaN. So a NaN at a position that not all of the tile's vectors see is
// taken out of shared memory and remembered by its column; a vector that does see it gets it back
// when results are stored, as NaN is what any sum with it would have been.

#include "backends/cuda/cache.cuh"

namespace ponder::cuda {
namespace {

constexpr int kScored = 64;  // positions that are weighed at once
constexpr int kPad = 8;      // elements between rows in shared memory: no bank conflicts
constexpr float kLog2E = 1.44269504f;

constexpr bool is_narrow_type(DType dtype) {
  return dtype == DType::kF8_E4M3 || dtype == DType::kQ8_0;
}
// Of 256 wide heads two warps share 16 vectors, each with half of the values' columns.
constexpr int column_warps(int width) { return width > 128 ? 2 : 1; }
// Two slots of 256 wide heads are as large as four of 128 wide ones.
constexpr int ring_slots(int width) { return width > 128 ? 2 : 4; }

// Bytes of a slot: a head's rows in one page; as stored when they are to be widened.
__host__ __device__ constexpr int slot_bytes(DType dtype, int row) {
  return is_narrow_type(dtype) ? kPageTokens * (row + (dtype == DType::kQ8_0 ? row / 16 : 0))
                               : kPageTokens * (row + kPad) * 2;
}
int64_t shared_bytes(const Cache& c, int width, int row_warps) {
  const int row = c.k_row > c.v_row ? c.k_row : c.v_row;
  const int64_t widened = is_narrow_type(c.dtype) ? kPageTokens * (row + kPad) * 2 : 0;
  return width * 4 + ring_slots(width) * slot_bytes(c.dtype, row) + widened +
         int64_t{16} * row_warps * (c.k_row + kPad) * 2;
}

// Columns of a warp's chunk, or of all chunks so far, as the instruction distributes them: rows
// l / 4 and l / 4 + 8 of 16.
template <int kColumns>
struct Sums {
  float of[kColumns / 8][4];
  float largest[2], total[2];  // of scores in base 2; of weights

  __device__ void clear() {
    PONDER_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      PONDER_UNROLL
      for (int i = 0; i < 4; ++i) of[n][i] = 0;
    }
    PONDER_UNROLL
    for (int i = 0; i < 2; ++i) {
      largest[i] = -INFINITY;
      total[i] = 0;
    }
  }
};

// How what was merged so far and a chunk with positions that are seen are weighed against each
// other.
struct Merge {
  float largest, before, chunk;
  __device__ Merge(float highest_before, float highest_of_chunk)
      : largest(fmaxf(highest_before, highest_of_chunk)),
        before(exp2f(highest_before - largest)),
        chunk(exp2f(highest_of_chunk - largest)) {}
};

template <DType kType, int kWidth, int kRowWarps, bool kSplit>
__global__ void __launch_bounds__(32 * kRowWarps * column_warps(kWidth), 1)
    attention_mma(AttentionMma p, const Tile* tiles, int64_t chunks, float* sums, float2* stats) {
  constexpr int kThreads = 32 * kRowWarps * column_warps(kWidth);
  constexpr int kVectors = 16 * kRowWarps;
  constexpr int kColumns = kWidth < 128 ? kWidth : 128;
  constexpr int kSlots = ring_slots(kWidth);
  constexpr bool kWiden = is_narrow_type(kType);
  const Cache& c = p.cache;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int row_warp = thread / 32 % kRowWarps, first_column = thread / 32 / kRowWarps * 128;
  const int g = static_cast<int>(blockIdx.y), group = p.heads / c.heads;
  const int64_t chunk = kSplit ? blockIdx.x % chunks : 0;
  const int64_t tile_index = kSplit ? blockIdx.x / chunks : blockIdx.x;
  const Tile tile = tiles[tile_index];

  // Positions [begin, last] are this block's.
  const int last_row = (tile.first + kVectors - 1) / group;
  int last = tile.position + (last_row < tile.rows ? last_row : tile.rows - 1);
  const int begin = kSplit ? static_cast<int>(chunk) * kChunk : 0;
  if (begin > last) return;
  if (kSplit && last > begin + kChunk - 1) last = begin + kChunk - 1;
  const int unseen = tile.position + tile.first / group + 1;  // the first that not all vectors see

  const int largest_row = c.k_row > c.v_row ? c.k_row : c.v_row;
  const int k_pitch = c.k_row + kPad;
  // The first position whose value of a column was taken out.
  auto* spoilt = reinterpret_cast<int32_t*>(dynamic_shared());
  auto* query = reinterpret_cast<uint16_t*>(spoilt + kWidth);
  char* ring = reinterpret_cast<char*>(query + kVectors * k_pitch);
  const int slot_size = slot_bytes(kType, largest_row);
  auto* widened = reinterpret_cast<uint16_t*>(ring + kSlots * slot_size);

  // ---- pages come as keys, keys, values, values of 64 positions
  // -----------------------------------
  const auto k_bytes = static_cast<int>(head_bytes(kType, kPageTokens, c.k_row));
  const auto v_bytes = static_cast<int>(head_bytes(kType, kPageTokens, c.v_row));
  const int k_at = g * k_bytes, v_at = c.heads * k_bytes + g * v_bytes;  // in a page
  const int steps = ((last - begin) / kScored + 1) * 4;
  const auto first_of = [&](int step) { return begin + step / 4 * kScored + step % 2 * 32; };
  const auto page_of = [&](int step) {
    const int first = first_of(step);
    return step < steps && first <= last ? p.pages[tile.first_page + first / kPageTokens] : 0;
  };
  int32_t next_page = page_of(0);  // known a step ahead, or its latency would be waited for
  const auto load = [&](int step) {
    const int first = first_of(step);
    const int32_t page = next_page;
    next_page = page_of(step + 1);
    if (step < steps && first <= last) {
      const bool values = step % 4 >= 2;
      const int row = values ? c.v_row : c.k_row;
      const uint8_t* from = c.base + page * c.page_bytes + (values ? v_at : k_at);
      char* to = ring + step % kSlots * slot_size;
      const int pieces = kWiden ? row / 16 : row / 8;  // of 16 bytes in a row; up to 32
      const int inverse = (65535 + pieces) / pieces;   // for up to 1,024 pieces exact
      for (int i = thread; i < kPageTokens * pieces; i += kThreads) {
        const int r = i * inverse >> 16;
        copy_async16(to + 16 * (kWiden ? i : i + r), from + 16 * i, first + r <= last);
      }
      if (kType == DType::kQ8_0) {
        for (int i = thread; i < row / 8; i += kThreads) {
          copy_async16(to + kPageTokens * row + 16 * i, from + kPageTokens * row + 16 * i);
        }
      }
    }
    copy_async_commit();
  };
  // The slot of `step` as 16-bit rows; while it is used the next ones are on their way.
  const auto acquire = [&](int step) -> uint16_t* {
    copy_async_wait<kSlots - 2>();
    __syncthreads();
    load(step + kSlots - 1);
    char* slot = ring + step % kSlots * slot_size;
    if (!kWiden) return reinterpret_cast<uint16_t*>(slot);
    const int row = step % 4 >= 2 ? c.v_row : c.k_row, first = first_of(step);
    for (int i = thread; i < kPageTokens * row / 16; i += kThreads) {
      const int r = i / (row / 16), e = i % (row / 16) * 16;
      const uint4 codes = *reinterpret_cast<const uint4*>(slot + 16 * i);
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
      uint2 halves[4];
      if constexpr (kType == DType::kQ8_0) {
        const auto* scales = reinterpret_cast<const uint16_t*>(slot + kPageTokens * row);
        // What lies behind the last position is no number.
        const uint32_t scale = first + r <= last ? scales[r * (row / 32) + e / 32] : 0u;
        PONDER_UNROLL
        for (int j = 0; j < 4; ++j) halves[j] = widen_q8(words[j], scale | scale << 16);
      } else {
        PONDER_UNROLL
        for (int j = 0; j < 4; ++j) halves[j] = widen_f8(words[j]);
      }
      auto* to = reinterpret_cast<uint4*>(widened + r * (row + kPad) + e);
      to[0] = make_uint4(halves[0].x, halves[0].y, halves[1].x, halves[1].y);
      to[1] = make_uint4(halves[2].x, halves[2].y, halves[3].x, halves[3].y);
    }
    __syncthreads();
    return widened;
  };
  for (int i = thread; i < kWidth; i += kThreads) spoilt[i] = INT32_MAX;
  // Takes out what is no number at positions [from, to) of a page that begins with `first`. A
  // column is one thread's on all pages.
  const auto take_out = [&](uint16_t* values, int first, int from, int to) {
    for (int i = thread; i < c.v_row; i += kThreads) {
      for (int position = from; position < to; ++position) {
        uint16_t& value = values[(position - first) * (c.v_row + kPad) + i];
        if (!is_nan_operand<kType>(value)) continue;
        value = 0;
        if (spoilt[i] > position) spoilt[i] = position;
      }
    }
    __syncthreads();
  };
  PONDER_UNROLL
  for (int step = 0; step < kSlots - 1; ++step) load(step);

  // ---- queries
  // ------------------------------------------------------------------------------------
  const int vectors = tile.rows * group - tile.first;
  for (int i = thread; i < kVectors * (c.k_row / 2); i += kThreads) {
    const int m = i / (c.k_row / 2), e = i % (c.k_row / 2) * 2;
    const int row = tile.row + (tile.first + m) / group;
    const int h = g * group + (tile.first + m) % group;
    const float* from = p.q.data + row * p.q.row + h * p.q.head + e;
    const float low = m < vectors && e < c.k_dim ? from[0] : 0.0f;
    const float high = m < vectors && e + 1 < c.k_dim ? from[1] : 0.0f;
    *reinterpret_cast<uint32_t*>(query + m * k_pitch + e) = pack_pair<kType>(low, high);
  }
  int seen[2];  // the last position that each of the thread's two vectors sees
  PONDER_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int m = 16 * row_warp + lane / 4 + 8 * i;
    seen[i] = m < vectors ? tile.position + (tile.first + m) / group : -1;
  }

  // Where a vector's results go. The tile is read again: registers are short in between.
  struct Place {
    bool there;
    int row, slot, head;
  };
  const auto place_of = [&](int m) {
    const Tile t = tiles[tile_index];
    const int v = t.first + m;
    return Place{v < t.rows * group, t.row + v / group, t.slot + v / group, g * group + v % group};
  };

  // What becomes of a vector's sum `v` of a column.
  const auto with_spoilt = [&](float v, int i, int column) {
    return spoilt[column] <= seen[i] ? __uint_as_float(0x7fffffffu) : v;
  };

  // Where a lane's rows of the four matrices lie in 16 x 16 elements.
  const uint16_t* query_at = query + (16 * row_warp + lane % 16) * k_pitch + lane / 16 * 8;
  const int key_at = (lane / 16 * 8 + lane % 8) * k_pitch + lane / 8 % 2 * 8;
  const int v_pitch = c.v_row + kPad;
  const int value_at = lane % 16 * v_pitch + lane / 16 * 8 + first_column;
  const float scale = p.scale * kLog2E;

  Sums<kColumns> now, merged;
  now.clear();
  if constexpr (!kSplit) merged.clear();
  for (int step = 0; step < steps; step += 4) {
    // ---- scores of 64 positions
    // -------------------------------------------------------------------
    const int first = first_of(step);
    float s[kScored / 8][4] = {};
    PONDER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const uint16_t* keys = acquire(step + half);
      if (first + 32 * half > last) continue;
      PONDER_ROLLED
      for (int k = 0; k < c.k_row; k += 16) {
        uint32_t a[4];
        load_matrices(a, query_at + k);
        PONDER_UNROLL
        for (int two = 0; two < 2; ++two) {
          uint32_t b[4];
          load_matrices(b, keys + key_at + 16 * two * k_pitch + k);
          const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
          multiply_add<kType>(s[4 * half + 2 * two], a, low);
          multiply_add<kType>(s[4 * half + 2 * two + 1], a, high);
        }
      }
    }
    // ---- their weights
    // ----------------------------------------------------------------------------
    uint32_t weights[kScored / 8][2];  // pairs, as operands
    PONDER_UNROLL
    for (int i = 0; i < 2; ++i) {
      float highest = now.largest[i];
      PONDER_UNROLL
      for (int n = 0; n < kScored / 8; ++n) {
        PONDER_UNROLL
        for (int j = 0; j < 2; ++j) {
          float& score = s[n][2 * i + j];
          score = first + 8 * n + lane % 4 * 2 + j <= seen[i] ? score * scale : -INFINITY;
          highest = fmaxf(highest, score);
        }
      }
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      const float base = highest == -INFINITY ? 0.0f : highest;  // nothing seen yet: weights of 0
      const float keep = exp2f(now.largest[i] - base);
      now.largest[i] = highest;
      float total = now.total[i] * keep;
      PONDER_UNROLL
      for (int n = 0; n < kScored / 8; ++n) {
        const float low = exp2f(s[n][2 * i] - base), high = exp2f(s[n][2 * i + 1] - base);
        total += low;
        total += high;
        weights[n][i] = pack_pair<kType>(low, high);
      }
      now.total[i] = total;
      if (keep != 1.0f) {
        PONDER_UNROLL
        for (int n = 0; n < kColumns / 8; ++n) {
          now.of[n][2 * i] *= keep;
          now.of[n][2 * i + 1] *= keep;
        }
      }
    }
    // ---- their values
    // -----------------------------------------------------------------------------
    PONDER_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint16_t* values = acquire(step + 2 + half);
      const int page_first = first + 32 * half;
      if (page_first > last) continue;
      const int page_end = page_first + 31 < last ? page_first + 32 : last + 1;
      if (page_end > unseen) {
        take_out(values, page_first, unseen > page_first ? unseen : page_first, page_end);
      }
      PONDER_UNROLL
      for (int k = 0; k < 2; ++k) {
        const int eight = 4 * half + 2 * k;
        const uint32_t a[4] = {weights[eight][0], weights[eight][1], weights[eight + 1][0],
                               weights[eight + 1][1]};
        PONDER_UNROLL
        for (int n = 0; n < kColumns / 16; ++n) {
          if (first_column + 16 * n >= c.v_row) continue;
          uint32_t b[4];
          load_matrices_transposed(b, values + value_at + 16 * k * v_pitch + 16 * n);
          const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
          multiply_add<kType>(now.of[2 * n], a, left);
          multiply_add<kType>(now.of[2 * n + 1], a, right);
        }
      }
    }
    // ---- the end of a chunk
    // -----------------------------------------------------------------------
    if ((first + kScored) % kChunk != 0 && step + 4 < steps) continue;
    PONDER_UNROLL
    for (int i = 0; i < 2; ++i) {
      now.total[i] += __shfl_xor_sync(~0u, now.total[i], 1);
      now.total[i] += __shfl_xor_sync(~0u, now.total[i], 2);
      const int m = 16 * row_warp + lane / 4 + 8 * i;
      if constexpr (kSplit) {
        const Place place = place_of(m);
        if (!place.there) continue;
        const int64_t at = (int64_t{place.slot} * p.heads + place.head) * chunks + chunk;
        if (lane % 4 == 0 && first_column == 0) {
          stats[at] = make_float2(now.largest[i], now.total[i]);
        }
        PONDER_UNROLL
        for (int n = 0; n < kColumns / 8; ++n) {
          const int column = first_column + 8 * n + lane % 4 * 2;
          float* to = sums + at * c.v_dim + column;
          if (column < c.v_dim) to[0] = with_spoilt(now.of[n][2 * i], i, column);
          if (column + 1 < c.v_dim) to[1] = with_spoilt(now.of[n][2 * i + 1], i, column + 1);
        }
      } else if (first / kChunk * kChunk <= seen[i]) {
        const Merge merge(merged.largest[i], now.largest[i]);
        merged.largest[i] = merge.largest;
        merged.total[i] = fmaf(now.total[i], merge.chunk, merged.total[i] * merge.before);
        PONDER_UNROLL
        for (int n = 0; n < kColumns / 8; ++n) {
          PONDER_UNROLL
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            merged.of[n][j] = fmaf(now.of[n][j], merge.chunk, merged.of[n][j] * merge.before);
          }
        }
      }
    }
    if constexpr (!kSplit) now.clear();
  }
  if constexpr (!kSplit) {
    PONDER_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int m = 16 * row_warp + lane / 4 + 8 * i;
      const Place place = place_of(m);
      if (!place.there) continue;
      PONDER_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        const int column = first_column + 8 * n + lane % 4 * 2;
        float* to = p.out.data + place.row * p.out.row + place.head * p.out.head + column;
        // + 0: whether a sum of zeros is -0 depends on what was masked beside it.
        PONDER_UNROLL
        for (int j = 0; j < 2; ++j) {
          if (column + j >= c.v_dim) continue;
          const float mean = merged.of[n][2 * i + j] / merged.total[i] + 0.0f;
          to[j] = with_spoilt(mean, i, column + j);
        }
      }
    }
  }
}

// Chunks of one row and head in ascending order; a thread per column.
constexpr int kMergeThreads = 128;
constexpr int kAhead = 8;  // chunks whose loads are under way at once

__global__ void __launch_bounds__(kMergeThreads)
    merge(const float* sums, const float2* stats, const SplitRow* split, int64_t heads,
          int64_t chunks, int64_t width, int64_t positions_per_chunk, Rows out) {
  const int64_t slot = blockIdx.x / heads, h = blockIdx.x % heads;
  const SplitRow row = split[slot];
  const int64_t count = row.position / positions_per_chunk + 1;
  const int64_t first = (slot * heads + h) * chunks;
  for (int64_t column = threadIdx.x; column < width; column += kMergeThreads) {
    float largest = -INFINITY, total = 0, sum = 0;
    for (int64_t c = 0; c < count; c += kAhead) {
      float of[kAhead];
      float2 stat[kAhead];
      PONDER_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        const int64_t at = first + (c + j < count ? c + j : count - 1);
        of[j] = sums[at * width + column];
        stat[j] = stats[at];
      }
      PONDER_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        if (c + j >= count) break;
        const Merge merge(largest, stat[j].x);
        largest = merge.largest;
        total = fmaf(stat[j].y, merge.chunk, total * merge.before);
        sum = fmaf(of[j], merge.chunk, sum * merge.before);
      }
    }
    out.data[row.row * out.row + h * out.head + column] = sum / total + 0.0f;
  }
}

template <DType kType, int kWidth>
void launch_wide(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count) {
  constexpr int kRowWarps = kWidth > 128 ? 2 : 4;
  launch_shared(s, dim3(static_cast<unsigned>(count), static_cast<unsigned>(p.cache.heads)),
                32 * kRowWarps * column_warps(kWidth), shared_bytes(p.cache, kWidth, kRowWarps),
                attention_mma<kType, kWidth, kRowWarps, false>, p, tiles, int64_t{1},
                static_cast<float*>(nullptr), static_cast<float2*>(nullptr));
}
template <DType kType, int kWidth>
void launch_split(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count, int64_t chunks,
                  float* sums, float2* stats) {
  launch_shared(s,
                dim3(static_cast<unsigned>(count * chunks), static_cast<unsigned>(p.cache.heads)),
                32 * column_warps(kWidth), shared_bytes(p.cache, kWidth, 1),
                attention_mma<kType, kWidth, 1, true>, p, tiles, chunks, sums, stats);
}

int32_t widest(const Cache& c) { return c.k_row > c.v_row ? c.k_row : c.v_row; }

// f.operator()<type, width>() of the kernel for a cache.
template <typename F>
void with_kernel(const Cache& c, F&& f) {
  const auto with_type = [&]<DType kType>() {
    if (widest(c) <= 64) return f.template operator()<kType, 64>();
    if (widest(c) <= 128) return f.template operator()<kType, 128>();
    f.template operator()<kType, 256>();
  };
  switch (c.dtype) {
    case DType::kF16:
      return with_type.template operator()<DType::kF16>();
    case DType::kF8_E4M3:
      return with_type.template operator()<DType::kF8_E4M3>();
    case DType::kQ8_0:
      return with_type.template operator()<DType::kQ8_0>();
    default:
      return with_type.template operator()<DType::kBF16>();
  }
}

}  // namespace

int64_t wide_tile(const Cache& cache) { return widest(cache) > 128 ? 32 : 64; }

void launch_attention_wide(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count) {
  if (count == 0) return;
  with_kernel(p.cache,
              [&]<DType kType, int kWidth>() { launch_wide<kType, kWidth>(s, p, tiles, count); });
}

void launch_attention_split(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count,
                            const SplitRow* split, int64_t rows, int64_t chunks, float* scratch) {
  if (count == 0) return;
  auto* stats = reinterpret_cast<float2*>(scratch);
  float* sums = scratch + 2 * rows * p.heads * chunks;
  with_kernel(p.cache, [&]<DType kType, int kWidth>() {
    launch_split<kType, kWidth>(s, p, tiles, count, chunks, sums, stats);
  });
  launch_merge_chunks(s, sums, stats, split, rows, p.heads, chunks, kChunk, p.cache.v_dim, p.out);
}

void launch_merge_chunks(Stream s, const float* sums, const void* stats, const SplitRow* split,
                         int64_t rows, int64_t heads, int64_t chunks, int64_t positions_per_chunk,
                         int64_t width, Rows out) {
  launch(s, static_cast<unsigned>(rows * heads), kMergeThreads, merge, sums,
         static_cast<const float2*>(stats), split, heads, chunks, width, positions_per_chunk, out);
}

}  // namespace ponder::cuda
