// Products with block-quantised weights: how the CPU backend stores them, and its kernels.
//
// Like kernels.h this is plain data: each instruction set's file includes it, the intrinsics and
// nothing with inline functions of its own.
//
// Weights [N, K] are cut into panels of kPanel rows of W (64 columns of the product), panels into
// blocks of kQuantBlock inputs (the last of a panel may be shorter). A block takes exactly the
// bytes that its 64 x k weights take in the file, regrouped so that a vector register's worth of
// columns lies together (quant_pack.cc says how for each type); columns beyond N are zeros. Before
// it is multiplied a block is expanded, into the first-level cache, to one form that all types
// share:
//
//     w[k][n] = scale[k / sub][n] * (q[k][n] - offset) - min[k / sub][n]      q: 0 to 255
//
// where types with a group of 256 inputs have minima min_scale[n] * min[k / sub][n], min being
// whole numbers below 64.
//
// Activations are rounded to int8, `group` of them to a scale (the largest magnitude becomes 127),
// as ggml does for the same types. Integer sums over a sub-block are exact whatever the order, and
// what is added in float32 is added in one order, so a product's value depends on its row and its
// column alone: not on the number of rows, their cutting, or the width of the registers.
//
//     isum_j = sum over sub-block j of x q - offset * (sum over sub-block j of x)     int32, exact
//     xsum_j = sum over sub-block j of x                                              int32, exact
//   group == 256, one scale s for the block:
//     part = 0, or if the type has minima: -min_scale * (sum over j of min_j xsum_j, exact: below
//     2^24) for each j ascending: part = fma(isum_j, scale_j, part) c = fma(part, s, c)
//   group == sub == 32, a scale s_j for each sub-block:
//     part = 0; for each j ascending: t = isum_j * scale_j
//                                     if the type has minima: t = fma(-min_j, xsum_j, t)
//                                     part = fma(t, s_j, part)
//     c = c + part
// with blocks in ascending order and c = 0 before the first, the bias added after the last.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/onednn/kernels.h"

namespace ponder::cpu {

inline constexpr int64_t kQuantBlock = 256;

// The block types of lib/tensor/dtype.h; the numbers index the kernel tables.
enum QuantType : uint8_t {
  kQuantQ4_0,
  kQuantQ4_1,
  kQuantQ5_0,
  kQuantQ5_1,
  kQuantQ8_0,
  kQuantQ2_K,
  kQuantQ3_K,
  kQuantQ4_K,
  kQuantQ5_K,
  kQuantQ6_K,
  kQuantIQ4_NL,
  kQuantIQ4_XS,
  kQuantMXFP4,
  // Codebooks, and digits of base 3.
  kQuantIQ1_S,
  kQuantIQ1_M,
  kQuantIQ2_XXS,
  kQuantIQ2_XS,
  kQuantIQ2_S,
  kQuantIQ3_XXS,
  kQuantIQ3_S,
  kQuantTQ1_0,
  kQuantTQ2_0,
};
inline constexpr int kQuantTypes = 22;

struct QuantFormat {
  int32_t unit;   // inputs of a stored block: 32 or 256
  int32_t bytes;  // of a stored block
  int32_t sub;    // inputs that share a weight scale: 16 or 32
  int32_t group;  // inputs that share an activation scale: 32 or 256
  int32_t offset;
  bool has_min;
  int32_t first;  // bytes of a stored block that come first, and that expanding fetches ahead
};

// Indexed by QuantType.
inline constexpr QuantFormat kQuantFormats[kQuantTypes] = {
    // unit, bytes, sub, group, offset, has_min, first
    {32, 18, 32, 32, 8, false, 16},
    {32, 20, 32, 32, 0, true, 16},
    {32, 22, 32, 32, 16, false, 16},
    {32, 24, 32, 32, 0, true, 16},
    {32, 34, 32, 32, 128, false, 0},
    {256, 84, 16, 256, 0, true, 64},
    {256, 110, 16, 256, 4, false, 64},
    {256, 144, 32, 256, 0, true, 128},
    {256, 176, 32, 256, 0, true, 160},
    {256, 210, 16, 256, 32, false, 192},
    {32, 18, 32, 32, 128, false, 16},
    {256, 136, 32, 256, 128, false, 128},
    {32, 17, 32, 32, 12, false, 16},
    // The shift of an eighth makes ninths of both signs: q = 8 * entry +- 1 + 9, scale / 8.
    {256, 50, 32, 256, 9, false, 32},
    {256, 56, 16, 256, 9, false, 32},
    // The largest level of each codebook is the offset.
    {256, 66, 32, 256, 43, false, 64},
    {256, 74, 16, 256, 43, false, 64},
    {256, 82, 16, 256, 43, false, 32},
    {256, 98, 32, 256, 62, false, 64},
    {256, 110, 32, 256, 15, false, 64},
    {256, 54, 32, 256, 1, false, 48},
    {256, 66, 32, 256, 1, false, 64},
};

// One block of one panel as it is stored. While it is expanded, what lies `ahead` bytes behind its
// first section is fetched; 0: nothing is.
struct PackedBlock {
  const std::byte* data;
  int64_t ahead;
};

// One block of one panel, expanded. Scratch memory, but q and the scales may point into the packed
// block where that has the form already.
struct ExpandedBlock {
  const uint8_t* q;                  // [k/4][64][4]
  const float* scale;                // [k/sub][64]
  const float* min;                  // [k/sub][64]; null when the type has none
  const float* min_scale = nullptr;  // [64], of groups of 256
  uint8_t highest = 255;             // no q is larger
};
// Room that an expand function may use.
struct alignas(64) ExpandRoom {
  uint8_t q[kQuantBlock * kPanel];
  float scale[kQuantBlock / 16 * kPanel];
  float min[kQuantBlock / 16 * kPanel];
  float min_scale[kPanel];
};

// Some rows of activations, rounded for one QuantFormat.
struct QuantRows {
  int8_t* q;  // [m, ldq]
  int64_t ldq;
  float* scale;  // [m, ld_group]: K / group of them
  int64_t ld_group;
  int32_t* start;  // [m, ld_sub]: -offset * xsum_j, what an integer sum starts from
  float* sum;      // [m, ld_sub]: xsum_j
  int64_t ld_sub;
};

// One expanded block times some rows.
struct QuantGemmArgs {
  ExpandedBlock w;
  QuantRows x;  // pointers at this block's first input, and first row
  int32_t sub, group, offset;
  int64_t m, k;
  const float* before = nullptr;  // [m, n] of the blocks before this one, may be c; null: zeros
  int64_t ld_before = 0;
  float* c;  // [m, n]
  int64_t ldc;
  int32_t n;                        // 1 to 64 columns exist
  const float* bias = nullptr;      // [n], added last; or null
  const std::byte* next = nullptr;  // packed bytes that will be read after this, or null
  int64_t next_bytes = 0;
};

using QuantGemm = void (*)(const QuantGemmArgs& args);

struct QuantKernels {
  // One row of k activations (a multiple of the format's unit) into row 0 of `out`. NaN and
  // infinity must give NaN or infinity in every product, never a trap.
  void (*quantize_row)(const float* x, int64_t k, const QuantFormat& format, const QuantRows& out);
  // `packed` is one block of a panel with k inputs.
  ExpandedBlock (*expand[kQuantTypes])(PackedBlock packed, int64_t k, ExpandRoom* room);
  QuantGemm gemm;
  // Both at once for a single row, where that is faster, else null. args.w and args.next are not
  // looked at: what lies behind `packed` is taken to be read next.
  void (*one_row[kQuantTypes])(const std::byte* packed, const QuantGemmArgs& args,
                               ExpandRoom* room);
  // An expanded block as the floats it stands for, in the layout that Kernels::gemm_f32 takes; what
  // dequantize.h defines, bit for bit.
  void (*to_floats)(const ExpandedBlock& w, const QuantFormat& format, int64_t k, float* out);
};

const QuantKernels* quant_kernels_portable();
const QuantKernels* quant_kernels_avx2();     // null when not compiled for x86-64
const QuantKernels* quant_kernels_avxvnni();  // 256-bit vpdpbusd
const QuantKernels* quant_kernels_avx512vnni();

// Of AMX's tiles of bytes; null when not compiled for x86-64.
QuantGemm quant_gemm_amx();
// That, in AVX-512 VNNI's table.
const QuantKernels* quant_kernels_amx();

// Regroups one block: columns[n] points at column n's stored blocks for these k inputs, or is null
// (zeros). Writes kPanel * (k / unit) * bytes. Returns whether a scale is a NaN or infinity.
using QuantPackFn = bool (*)(const std::byte* const* columns, int64_t k, std::byte* out);
extern const QuantPackFn kQuantPack[kQuantTypes];

}  // namespace ponder::cpu
