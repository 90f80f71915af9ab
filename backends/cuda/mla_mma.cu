// Attention over latents of f16 or bf16 on the matrix instructions. Each head's query is a vector
// of R + P numbers against the cached rows, whose first R numbers are the values too: what is read
// once into shared memory serves both products for a tile of vectors (rows and heads alike).
//
// A block takes one chunk of 512 positions of a tile, a page of 32 positions at a time, with 8
// warps:
//   scores   four slices of the R + P numbers, two warps each; the slices are added in order
//   weights  four threads per vector; the softmax goes over the chunk's pages as it goes
//   values   every warp has 64 of up to 512 columns for all vectors of the tile
// Chunks are merged in ascending order by launch_merge_chunks. A tile has as many vectors as shared
// memory has room for; what is computed for a vector does not depend on it.

#include "backends/cuda/cache.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSlices = 4;
constexpr int kColumns = kLargestRank / (kThreads / 32);  // of a warp
constexpr int kPad = 8;          // elements between rows in shared memory: no bank conflicts
constexpr int kScorePitch = 36;  // floats; as 16-bit rows of weights free of conflicts, too
constexpr float kLog2E = 1.44269504f;

// Slots for pages: with two the next page comes while one is used.
constexpr int page_slots(int row_tiles) { return row_tiles > 1 ? 2 : 1; }

int64_t shared_bytes(const Cache& c, int row_tiles) {
  const int64_t vectors = 16 * row_tiles, pitch = (c.k_row + kPad) * 2;
  return (vectors + page_slots(row_tiles) * kPageTokens) * pitch +
         kSlices * vectors * kScorePitch * 4 + vectors * 4;
}

template <DType kType, int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1, sm_75 spills for a second block
    mla_mma(MlaAttention p, const Tile* tiles, int64_t chunks, float* sums, float2* stats) {
  constexpr int kVectors = 16 * kRowTiles;
  constexpr int kSlots = page_slots(kRowTiles);
  const Cache& c = p.cache;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t chunk = blockIdx.x % chunks;
  const Tile tile = tiles[blockIdx.x / chunks];

  // Positions [begin, last] are this block's.
  const int begin = static_cast<int>(chunk * kMlaChunk);
  const int last_row = (tile.first + kVectors - 1) / p.heads;
  int last = tile.position + (last_row < tile.rows ? last_row : tile.rows - 1);
  if (begin > last) return;
  if (last > begin + kMlaChunk - 1) last = begin + kMlaChunk - 1;

  const int pitch = c.k_row + kPad;
  auto* query = reinterpret_cast<uint16_t*>(dynamic_shared());
  uint16_t* ring = query + kVectors * pitch;
  auto* scores = reinterpret_cast<float*>(ring + kSlots * kPageTokens * pitch);
  float* keeps = scores + kSlices * kVectors * kScorePitch;
  // The weights of a vector take the place of its first slice of scores.
  auto* weights = reinterpret_cast<uint16_t*>(scores);

  const auto load = [&](int first) {
    if (first <= last) {
      const uint8_t* from = c.base + p.pages[tile.first_page + first / kPageTokens] * c.page_bytes;
      uint16_t* to = ring + first / kPageTokens % kSlots * kPageTokens * pitch;
      const int pieces = c.k_row / 8;
      for (int i = thread; i < kPageTokens * pieces; i += kThreads) {
        const int r = i / pieces;
        copy_async16(to + r * pitch + i % pieces * 8, from + 16 * i, first + r <= last);
      }
    }
    copy_async_commit();
  };
  load(begin);

  const int vectors = tile.rows * p.heads - tile.first;
  for (int i = thread; i < kVectors * (c.k_row / 2); i += kThreads) {
    const int m = i / (c.k_row / 2), e = i % (c.k_row / 2) * 2;
    const int row = tile.slot + (tile.first + m) / p.heads, h = (tile.first + m) % p.heads;
    const auto number = [&](int at) {
      if (m >= vectors || at >= c.k_dim) return 0.0f;
      return at < p.rank ? p.q_latent.data[row * p.q_latent.row + h * p.q_latent.head + at]
                         : p.q_rope.data[row * p.q_rope.row + h * p.q_rope.head + at - p.rank];
    };
    *reinterpret_cast<uint32_t*>(query + m * pitch + e) =
        pack_pair<kType>(number(e), number(e + 1));
  }

  // Scores: this warp's slice, its 16s of vectors and its keys.
  constexpr int kScoreTiles = kRowTiles > 1 ? kRowTiles / 2 : 1;
  constexpr int kKeyPairs = kRowTiles > 1 ? 2 : 1;
  const int slice = warp % kSlices, side = warp / kSlices;
  const int first_tile = kRowTiles > 1 ? side * kScoreTiles : 0;
  const int first_key = kRowTiles > 1 ? 0 : 16 * side;
  const int slice_steps = (c.k_row / 16 + kSlices - 1) / kSlices;
  const int slice_begin = slice * slice_steps * 16;
  const int slice_end =
      slice_begin + slice_steps * 16 < c.k_row ? slice_begin + slice_steps * 16 : c.k_row;
  // Weights: this thread's vector, four threads to one.
  const int vector = thread / 4, quarter = thread % 4;
  const bool weighs = thread < 4 * kVectors;
  const int seen =
      weighs && vector < vectors ? tile.position + (tile.first + vector) / p.heads : -1;
  const float scale = p.scale * kLog2E;
  float largest = -INFINITY, total = 0;
  // Values: this warp's columns.
  const int first_column = warp * kColumns;
  float of[kRowTiles][kColumns / 8][4] = {};

  for (int first = begin; first <= last; first += kPageTokens) {
    if (kSlots == 1 && first > begin) {
      __syncthreads();
      load(first);
    }
    copy_async_wait<0>();
    __syncthreads();
    if (kSlots == 2) load(first + kPageTokens);
    uint16_t* keys = ring + first / kPageTokens % kSlots * kPageTokens * pitch;

    float s[kScoreTiles][2 * kKeyPairs][4] = {};
    for (int k = slice_begin; k < slice_end; k += 16) {
      uint32_t a[kScoreTiles][4];
      PONDER_UNROLL
      for (int m = 0; m < kScoreTiles; ++m) {
        load_matrices(a[m],
                      query + (16 * (first_tile + m) + lane % 16) * pitch + k + lane / 16 * 8);
      }
      PONDER_UNROLL
      for (int n = 0; n < kKeyPairs; ++n) {
        uint32_t b[4];
        load_matrices(b, keys + (first_key + 16 * n + lane / 16 * 8 + lane % 8) * pitch + k +
                             lane / 8 % 2 * 8);
        const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        PONDER_UNROLL
        for (int m = 0; m < kScoreTiles; ++m) {
          multiply_add<kType>(s[m][2 * n], a[m], low);
          multiply_add<kType>(s[m][2 * n + 1], a[m], high);
        }
      }
    }
    PONDER_UNROLL
    for (int m = 0; m < kScoreTiles; ++m) {
      PONDER_UNROLL
      for (int n = 0; n < 2 * kKeyPairs; ++n) {
        PONDER_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int row = 16 * (first_tile + m) + lane / 4 + 8 * i;
          float* to =
              scores + (slice * kVectors + row) * kScorePitch + first_key + 8 * n + lane % 4 * 2;
          *reinterpret_cast<float2*>(to) = make_float2(s[m][n][2 * i], s[m][n][2 * i + 1]);
        }
      }
    }
    __syncthreads();

    // As in attention_mma.cu: a NaN that not all vectors see must not reach the others as 0 * NaN.
    // Here it needs no memory: a vector that sees it has a score that is NaN, and so has its sums.
    const int unseen = tile.position + tile.first / p.heads + 1;
    const int page_end = first + 31 < last ? first + 32 : last + 1;
    for (int position = unseen > first ? unseen : first; position < page_end; ++position) {
      for (int i = thread; i < p.rank; i += kThreads) {
        uint16_t& value = keys[(position - first) * pitch + i];
        if (is_nan_operand<kType>(value)) value = 0;
      }
    }

    if (weighs) {
      float weight[8], highest = largest;
      PONDER_UNROLL
      for (int i = 0; i < 8; ++i) {
        const float* at = scores + vector * kScorePitch + 8 * quarter + i;
        constexpr int kNext = kVectors * kScorePitch;
        const float score = at[0] + at[kNext] + at[2 * kNext] + at[3 * kNext];
        weight[i] = first + 8 * quarter + i <= seen ? score * scale : -INFINITY;
        highest = fmaxf(highest, weight[i]);
      }
      // All have read when they know the highest: the weights may take the scores' place.
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      __syncwarp();
      const float base = highest == -INFINITY ? 0.0f : highest;
      const float keep = exp2f(largest - base);
      largest = highest;
      total *= keep;
      PONDER_UNROLL
      for (int i = 0; i < 8; ++i) {
        weight[i] = exp2f(weight[i] - base);
        total += weight[i];
      }
      *reinterpret_cast<uint4*>(weights + 2 * vector * kScorePitch + 8 * quarter) = make_uint4(
          pack_pair<kType>(weight[0], weight[1]), pack_pair<kType>(weight[2], weight[3]),
          pack_pair<kType>(weight[4], weight[5]), pack_pair<kType>(weight[6], weight[7]));
      if (quarter == 0) keeps[vector] = keep;
    }
    __syncthreads();

    if (first_column >= p.rank) continue;
    PONDER_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      PONDER_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float keep = keeps[16 * m + lane / 4 + 8 * i];
        if (keep == 1.0f) continue;
        PONDER_UNROLL
        for (int n = 0; n < kColumns / 8; ++n) {
          of[m][n][2 * i] *= keep;
          of[m][n][2 * i + 1] *= keep;
        }
      }
    }
    PONDER_UNROLL
    for (int k = 0; k < kPageTokens; k += 16) {
      uint32_t a[kRowTiles][4];
      PONDER_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        load_matrices(a[m], weights + 2 * (16 * m + lane % 16) * kScorePitch + k + lane / 16 * 8);
      }
      PONDER_UNROLL
      for (int n = 0; n < kColumns / 16; ++n) {
        if (first_column + 16 * n >= p.rank) continue;
        uint32_t b[4];
        load_matrices_transposed(
            b, keys + (k + lane % 16) * pitch + first_column + 16 * n + lane / 16 * 8);
        const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
        PONDER_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_add<kType>(of[m][2 * n], a[m], left);
          multiply_add<kType>(of[m][2 * n + 1], a[m], right);
        }
      }
    }
  }

  const auto place_of = [&](int m) {  // of a vector's chunk among all
    const int64_t slot = tile.slot + (tile.first + m) / p.heads;
    return (slot * p.heads + (tile.first + m) % p.heads) * chunks + chunk;
  };
  if (weighs) {
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (vector < vectors && quarter == 0) stats[place_of(vector)] = make_float2(largest, total);
  }
  PONDER_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    PONDER_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int v = 16 * m + lane / 4 + 8 * i;
      if (v >= vectors) continue;
      float* to = sums + place_of(v) * p.rank + first_column + lane % 4 * 2;
      PONDER_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        const int column = first_column + 8 * n + lane % 4 * 2;
        if (column < p.rank) to[8 * n] = of[m][n][2 * i];
        if (column + 1 < p.rank) to[8 * n + 1] = of[m][n][2 * i + 1];
      }
    }
  }
}

template <DType kType>
void launch_tiles(Stream s, const MlaAttention& p, const Tile* tiles, int64_t count, int64_t chunks,
                  float* sums, float2* stats) {
  const auto run = [&](auto kernel, int row_tiles) {
    launch_shared(s, dim3(static_cast<unsigned>(count * chunks)), kThreads,
                  shared_bytes(p.cache, row_tiles), kernel, p, tiles, chunks, sums, stats);
  };
  const int64_t tile = mla_tile(p.cache, shared_memory_limit(s));
  if (tile == 64) return run(mla_mma<kType, 4>, 4);
  if (tile == 32) return run(mla_mma<kType, 2>, 2);
  run(mla_mma<kType, 1>, 1);
}

}  // namespace

int64_t mla_tile(const Cache& cache, int64_t limit) {
  for (int row_tiles = 4; row_tiles > 0; row_tiles /= 2) {
    if (shared_bytes(cache, row_tiles) <= limit) return 16 * row_tiles;
  }
  return 0;
}

void launch_mla_split(Stream s, const MlaAttention& p, const Tile* tiles, int64_t count,
                      const SplitRow* split, int64_t rows, int64_t chunks, float* scratch) {
  if (count == 0) return;
  auto* stats = reinterpret_cast<float2*>(scratch);
  float* sums = scratch + 2 * rows * p.heads * chunks;
  const auto run =
      p.cache.dtype == DType::kF16 ? launch_tiles<DType::kF16> : launch_tiles<DType::kBF16>;
  run(s, p, tiles, count, chunks, sums, stats);
  launch_merge_chunks(s, sums, stats, split, rows, p.heads, chunks, kMlaChunk, p.rank, p.out);
}

}  // namespace ponder::cuda
