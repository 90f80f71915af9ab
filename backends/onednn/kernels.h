// The inner loops of the CPU backend: one table of functions per instruction set.
//
// Everything here is plain C data, and the files that implement it include nothing with inline
// functions but this header and the compiler's intrinsics: a template or inline function compiled
// for AVX-512 must not become the one copy that the rest of the library links to.
//
// All kernels are pure: they touch only what their arguments name, allocate nothing, cannot fail,
// and run on the calling thread. The arithmetic of one result never depends on how many rows a call
// has, which is what makes results independent of batching (lib/device/backend.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ponder::cpu {

// How elements are stored; the numbers index the kernel tables below.
enum Storage : uint8_t { kStoreF32 = 0, kStoreF16 = 1, kStoreBF16 = 2, kStoreQ8_0 = 3 };
inline constexpr int kStorages = 3;       // of weights and latents
inline constexpr int kCacheStorages = 4;  // of keys and values: q8_0 too

// Of one element; not for q8_0, whose elements share scales.
constexpr int64_t storage_bytes(Storage s) { return s == kStoreF32 ? 4 : 2; }

// ---- linear
// ---------------------------------------------------------------------------------------
//
// A weight [N, K] is cut into panels of 64 rows of W, which are 64 columns of the product. Panel p
// holds, contiguously and padded with zeros to 64 columns and an even K:
//   f32, f16:  [K][64]
//   bf16:      [K/2][64][2]   two consecutive k side by side, as vdpbf16ps takes them
//   f8_e4m3:   [K/4][64][4]   codes, K padded to a multiple of 4
// and the product of a row with a column is one chain of fused multiply-adds over ascending k per
// block of K (kBlockF32 or kBlockBF16), the chains being added in ascending order, then the bias.
// AMX takes 32 inputs of bf16 at a time and orders the sums within them in a way of its own
// (kernels_amx.cc).

inline constexpr int64_t kPanel = 64;
inline constexpr int64_t kBlockF32 = 512;    // so that a panel block as floats is 128 KiB
inline constexpr int64_t kBlockBF16 = 2048;  // 256 KiB; both sit in a second-level cache

// One block of one panel times some rows.
struct GemmArgs {
  const void* a;  // [m, k]: f32, or bf16 for gemm_bf16 (k even there)
  int64_t lda;    // elements
  const void* b;  // this block of the panel, in the layout that the kernel wants
  int64_t m, k;
  float* c;  // [m, n]
  int64_t ldc;
  int32_t n;            // 1 to 64 columns exist
  bool accumulate;      // c += chain, else c = chain
  const float* bias;    // [n], added last; or null
  bool cached = false;  // b is in the first-level cache: nothing of it need be fetched ahead
  // k * kPanel bytes that will be read next, or null. gemm_bf16 fetches them while it multiplies.
  const std::byte* next = nullptr;
};

// ---- attention
// ------------------------------------------------------------------------------------
//
// A page of P tokens holds per key/value head:
//   keys    f32, f16: [E'][P]      bf16: [E'/2][P][2]     E' = E rounded up to even
//   values  f32, f16: [P][F']      bf16: [P/2][F'][2]     F' = values' E rounded up to 16
// q8_0 has int8 and one f16 scale per 32 elements of a head, E' and F' being E rounded up to 32:
//   keys    int8 [E'][P], then scales [E'/32][P]
//   values  int8 [P][F'], then scales [P][F'/32]
// The scale is the largest magnitude / 127, held at 65504, or a NaN where an element is not finite;
// an element is the nearest whole multiple of it, up to 127.
// Keys are taken in chunks of kChunk, each with a softmax of its own; chunks are merged in
// ascending order. Chunk boundaries are positions, so they do not depend on what a step computes.

inline constexpr int64_t kPageTokens = 32;
inline constexpr int64_t kChunk = 256;

struct ChunkArgs {
  const float* q;  // [rows, E'], already times scale, padded with zeros
  int64_t rows;
  int64_t k_dim;  // E'
  int64_t v_dim;  // F'
  Storage storage;
  const std::byte* const* k_pages;  // kChunk / P pointers (as many as `keys` needs)
  const std::byte* const* v_pages;
  const std::byte* next;  // the keys' page that will be read after this chunk, or null
  int32_t keys;           // of the chunk that any row sees: 1 to kChunk
  const int32_t* limits;  // [rows] how many of them each row sees, 0 to keys
  float* scratch;         // [rows, kChunk] scores
  float* highest;         // [rows] out: largest score
  float* total;           // [rows] out: sum of exp(score - highest)
  float* out;             // [rows, F'] out: sum of exp(score - highest) * value
};

// ---- latent attention
// ------------------------------------------------------------------------------
//
// A page of multi-head latent attention holds P tokens, each a row of `width` elements: the latent,
// the rotary key that all heads share, zeros up to a multiple of kLatentAlign. The same row is key
// and value, so it is rearranged where it is used: one copy in the cache, and one rearrangement for
// some hundred query vectors.

inline constexpr int64_t kLatentAlign = 16;

// ---- the table
// ------------------------------------------------------------------------------------

using GemmBf16 = void (*)(const GemmArgs& args);

struct Kernels {
  // Rows of up to 64 weight rows to one panel; absent rows are null. Returns whether any element is
  // a NaN or infinity. `k` is the width of the rows, which need no alignment.
  bool (*pack_panel[kStorages])(const void* const* rows, int64_t k, void* panel);

  // gemm_bf16 is null where there is no bf16 dot product.
  GemmBf16 gemm_bf16;
  // Rows and panels of a task of gemm_bf16 that has many rows: what a core's own cache holds of
  // both; not more than 512 times 1.
  int32_t bf16_rows, bf16_panels;
  // Straight from a panel; best for a few rows.
  void (*gemm_direct[kStorages])(const GemmArgs& args);
  // For many rows: a block of a panel as floats in gemm_f32's own order, then any number of rows.
  void (*unpack_block[kStorages])(const void* block, int64_t k, float* out);
  void (*gemm_f32)(const GemmArgs& args);
  int32_t direct_rows;  // up to here gemm_direct beats unpacking

  // As pack_panel. Whether any code is a NaN.
  bool (*pack_f8)(const void* const* rows, int64_t k, void* panel);
  // k codes of a panel in gemm_bf16's order, exactly; k a multiple of 4. Null without gemm_bf16.
  // Fetches as many bytes from `next` on, unless it is null.
  void (*f8_to_bf16)(const void* codes, int64_t k, const void* next, uint16_t* out);
  // gemm_bf16 of what f8_to_bf16 makes of args.b, for a single row; k a multiple of 4. Null: no
  // faster.
  GemmBf16 f8_row_bf16;
  // k codes of a panel times `scale`, in gemm_f32's order.
  void (*unpack_f8)(const void* codes, int64_t k, float scale, float* out);
  // gemm_f32 of what unpack_f8 makes of args.b, for a single row; false: `scale` is too large for
  // it. Null: no faster.
  bool (*f8_row)(const GemmArgs& args, float scale);
  // c[r][j] = part[r][j] * scale + before[r][j] + bias[j] for j < n, one rounding per sum; part and
  // before are [m, 64], before may be null or c, bias null.
  void (*add_scaled)(const float* part, int64_t m, int64_t n, float scale, const float* before,
                     const float* bias, float* c, int64_t ldc);

  // c[r][j] += bias[j]
  void (*add_bias)(float* c, int64_t ldc, int64_t m, int64_t n, const float* bias);
  // [n] floats to bf16, nearest even, zeros up to n_padded
  void (*round_bf16)(const float* x, int64_t n, int64_t n_padded, uint16_t* out);
  void (*widen[kStorages])(const void* x, int64_t n, float* out);

  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  void (*add)(const float* a, const float* b, int64_t n, float* out);
  // Turns one head in place: pairs (i, i + half), or (2i, 2i + 1) when interleaved.
  void (*rope)(float* x, const float* cosines, const float* sines, int64_t half, bool interleaved);

  // q times scale, zero-padded.
  void (*scale_row)(const float* x, float scale, int64_t n, int64_t n_padded, float* out);
  // One token's key and value of one head into its slot of a page.
  void (*kv_store[kCacheStorages])(const float* k, int64_t k_dim, const float* v, int64_t v_dim,
                                   int64_t v_padded, int64_t slot, std::byte* k_page,
                                   std::byte* v_page);
  void (*attend_chunk)(const ChunkArgs& args);
  // Folds a later chunk's (highest, total, out) into an earlier one's.
  void (*merge_chunk)(float* highest, float* total, float* out, float chunk_highest,
                      float chunk_total, const float* chunk_out, int64_t n);
  // Scores to weights in place: exp(score - highest) of the first `limit`, zeros up to `keys`; both
  // at least 1.
  void (*softmax)(float* scores, int64_t limit, int64_t keys, float* highest, float* total);

  int32_t gemm_columns;  // of a panel that lie together in gemm_f32's own order; divides kPanel
  // `count` tokens, up to 64, as the columns of one panel [width][64] in gemm_f32's own order.
  void (*latent_keys[kStorages])(const std::byte* const* tokens, int64_t count, int64_t width,
                                 float* out);
  // Elements [column, column + 64) of `count` tokens as one panel [count][64] in gemm_f32's order;
  // zeros beyond `width`.
  void (*latent_values[kStorages])(const std::byte* const* tokens, int64_t count, int64_t width,
                                   int64_t column, float* out);
  // The same in gemm_bf16's order, from a cache of bf16; null where there is no gemm_bf16.
  void (*latent_values_bf16)(const std::byte* const* tokens, int64_t count, int64_t width,
                             int64_t column, uint16_t* out);
  // One token: the latent, then the rotary key, then zeros up to `width`.
  void (*latent_store[kStorages])(const float* latent, int64_t rank, const float* rope,
                                  int64_t rope_dim, int64_t width, std::byte* token);

  // out[i] = x[i] * factor
  void (*scale_out)(const float* x, float factor, int64_t n, float* out);
  // out[i] = fma(x[i], factor, out[i])
  void (*add_times)(const float* x, float factor, int64_t n, float* out);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();  // null when not compiled for x86-64
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_amx();

// What the files of AVX-512 compile of them; null entries are another level's. dispatch.cc puts the
// tables together, for code in those files may use AVX-512 where a table is only looked at.
const Kernels* own_kernels_avx512();
const Kernels* own_kernels_avx512bf16(bool vbmi);
GemmBf16 gemm_bf16_amx();
GemmBf16 f8_row_bf16_amx();

}  // namespace ponder::cpu
