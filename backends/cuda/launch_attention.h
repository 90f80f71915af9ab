// The launchers of everything that has to do with the cache of keys, values and latents, and of the
// router; what launch.h says of launchers holds here too.
//
// Every row's softmax is cut at fixed positions, multiples of a chunk counted from 0: a chunk has a
// softmax of its own, and chunks are merged in ascending order by `out = out * a + chunk * b`. So
// it does not matter which block computes a chunk, nor how many blocks there are
// (docs/decisions/0060-cuda-determinism.md).
#pragma once

#include "backends/cuda/launch.h"

namespace ponder::cuda {

// One layer's cache. A page holds for each head G the keys [P, k_row], then for each head the
// values [P, v_row], P being page_tokens; rows are filled up with zeros to k_row and v_row
// elements. In q8_0 the codes [P, row] of a head are followed by its scales [P, row / 32]. A cache
// of latents (v_dim is 0) holds [P, k_row]: latent, rotary key, zeros.
struct Cache {
  uint8_t* base = nullptr;
  DType dtype = DType::kF32;
  int64_t page_bytes = 0;
  int32_t page_tokens = 0;
  int32_t heads = 0;  // G
  int32_t k_dim = 0;
  int32_t v_dim = 0;
  int32_t k_row = 0;
  int32_t v_row = 0;
};
// Elements of a cached row: the matrix instructions take 16 at a time, blocks of q8_0 are 32 wide.
constexpr int64_t cache_row(DType dtype, int64_t dim) {
  if (dtype == DType::kF32) return dim;
  const int64_t step = dtype == DType::kQ8_0 ? 32 : 16;
  return (dim + step - 1) / step * step;
}
inline constexpr int32_t kPageTokens = 32;
inline constexpr int64_t kLargestHead = 256;

// Where each row of the step stands: its page list is pages[first_page ...].
struct RowPlace {
  int32_t position;
  int32_t first_page;
};

// ---- attention.cu ------------------------------------------------------------------------------
// `key`, where it has heads, turns k on the way; `query` turns what has nothing to do with the
// cache, heads of up to kLargestHead. The numbers are those of launch_rope.
void launch_kv_write(Stream s, const Cache& cache, Rows k, Rows v, const Turn& key,
                     const Turn& query, const RowPlace* places, const int32_t* pages, int64_t rows);
// In float32, for caches of f32: one block per row and head.
void launch_attention(Stream s, const Cache& cache, Rows q, const RowPlace* places,
                      const int32_t* pages, float scale, Rows out, int64_t rows, int64_t heads);

// ---- attention_mma.cu --------------------------------------------------------------------------
// Queries that share their keys: vectors [first, first + M) of a sequence's slice of the step,
// where vector i belongs to row i / group of the slice and to head i % group of the heads that
// share a key/value head (of all heads, for latents). M is the kernel's.
struct Tile {
  int32_t row;         // of the step: the slice's first
  int32_t position;    // of that row
  int32_t rows;        // of the slice
  int32_t first_page;  // in `pages`
  int32_t first;
  int32_t slot;  // of that row among the rows whose chunks are merged afterwards
};
// A row whose chunks are merged afterwards; its number is the slot.
struct SplitRow {
  int32_t row;  // of the output
  int32_t position;
};
inline constexpr int64_t kChunk = 256;      // positions
inline constexpr int64_t kNarrowTile = 16;  // vectors of a tile whose chunks are dealt to blocks
int64_t wide_tile(const Cache& cache);      // of one whose chunks are one block's

struct AttentionMma {
  Cache cache;  // f16, bf16, f8_e4m3 or q8_0
  Rows q, out;  // heads of `out` are v_dim apart
  const int32_t* pages = nullptr;
  float scale = 1;
  int32_t heads = 0;  // H
};
// The launch depends on `tiles` and the cache's shape and type alone.
void launch_attention_wide(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count);
// Each tile's chunks 0 .. chunks - 1, of which those beyond a row's position are left out, then the
// merge of `rows` rows. The launches depend on `count`, `rows`, `chunks` and the cache's shape and
// type. `scratch` is of attention_scratch_bytes.
void launch_attention_split(Stream s, const AttentionMma& p, const Tile* tiles, int64_t count,
                            const SplitRow* split, int64_t rows, int64_t chunks, float* scratch);
// out[row, h] = chunks 0 .. position / positions_per_chunk of that row and head, merged. `sums` is
// [rows, heads, chunks, width]; `stats`, pairs of the largest score in base 2 and the sum of
// weights, is [rows, heads, chunks]. Rows of `out` are the step's.
void launch_merge_chunks(Stream s, const float* sums, const void* stats, const SplitRow* split,
                         int64_t rows, int64_t heads, int64_t chunks, int64_t positions_per_chunk,
                         int64_t width, Rows out);
constexpr int64_t attention_scratch_bytes(int64_t rows, int64_t heads, int64_t chunks,
                                          int64_t width) {
  return rows * heads * chunks * (width + 2) * 4;
}

// ---- mla.cu ------------------------------------------------------------------------------------
// Latents are refused where they are longer than this, or longer than the second with the rotary
// key.
inline constexpr int64_t kLargestRank = 512;
inline constexpr int64_t kLargestLatent = 1024;
// `key`, where it has a head, turns k_rope on the way.
void launch_mla_write(Stream s, const Cache& cache, Rows latent, Rows k_rope, const Turn& key,
                      const RowPlace* places, const int32_t* pages, int64_t rows, int64_t rank);

// A matrix for each head: out[t, h, o] = sum over k of x[t, h, k] w[h, o, k].
struct HeadMatrices {
  const void* data = nullptr;  // [heads, stored_outputs, pitch] of f32, f16 or bf16, zeros behind
  DType dtype = DType::kF32;
  int64_t heads = 0, outputs = 0, cols = 0;
  int64_t stored_outputs = 0, pitch = 0;
};
// What a 16-bit matrix is filled up to; f32 is not.
constexpr int64_t head_pitch(DType dtype, int64_t cols) {
  return dtype == DType::kF32 ? cols : (cols + 31) / 32 * 32;
}
constexpr int64_t head_outputs(DType dtype, int64_t outputs) {
  return dtype == DType::kF32 ? outputs : (outputs + 15) / 16 * 16;
}
// 16-bit matrices: on the matrix instructions, x rounded to their type; f32: in float32.
void launch_head_products(Stream s, const HeadMatrices& w, Rows x, Rows out, int64_t rows);

// Of T rows that are merged together (Tile::slot and SplitRow::row count them).
struct MlaAttention {
  Cache cache;
  Rows q_latent;  // q_nope times W^UK, [T, H, R]
  Rows q_rope;    // [T, H, P]
  Rows out;       // [T, H, R], the mean of the latents; may be q_latent
  const int32_t* pages = nullptr;
  float scale = 1;
  int32_t heads = 0;
  int32_t rank = 0;
};
// In float32, for caches of f32, f16 and bf16: one block per row and head.
void launch_mla_float(Stream s, const MlaAttention& p, const RowPlace* places, int64_t rows);

// ---- mla_mma.cu --------------------------------------------------------------------------------
inline constexpr int64_t kMlaChunk = 512;  // positions
// Vectors of a tile, for caches of f16 or bf16: as many as `limit`, the device's
// shared_memory_limit, has room for; 0: not even the fewest.
int64_t mla_tile(const Cache& cache, int64_t limit);
// As launch_attention_split; chunks are kMlaChunk long, tiles are of mla_tile vectors of all heads.
void launch_mla_split(Stream s, const MlaAttention& p, const Tile* tiles, int64_t count,
                      const SplitRow* split, int64_t rows, int64_t chunks, float* scratch);

// ---- route.cu ----------------------------------------------------------------------------------
struct Router {
  int32_t experts = 0;  // X
  int32_t top_k = 1;
  int32_t groups = 1;
  int32_t groups_kept = 1;
  bool sigmoid = false;
  bool group_by_top2 = false;
  bool normalize = false;
  float scale = 1;
};
// What the first row with a score that is not finite leaves for the host; all zero: none did.
struct RouteFault {
  uint32_t found;
  int32_t row;
  int32_t expert;
  float score;
};
// `bias` may be null. Rows with a score that is not finite get experts all the same, so that what
// follows stays within its bounds, and set *fault.
void launch_route(Stream s, Rows logits, const float* bias, const Router& router, int32_t* ids,
                  int64_t ids_row, Rows weights, int64_t rows, RouteFault* fault);

}  // namespace ponder::cuda
