// Launchers of the matrix products: activations in the form that a weight type wants, products of
// many rows with one matrix or of each expert's rows with that expert's. As in launch.h pointers
// are device memory and launchers return at once.
#pragma once

#include "backends/cuda/launch.h"

namespace ponder::cuda {

// What activations are rounded to before they meet weights of a type.
enum class Form : uint8_t {
  kFloats,   // not at all: float32 products
  kBF16,     // bf16 weights
  kF16,      // f16 weights: binary16 times a power of two that all of a row shares
  kF8,       // f8 weights: the same numbers in another order
  kF8Codes,  // f8 weights, Precision::kF8: f8_e4m3, 128 inputs to a scale
  kBytes32,  // block types: int8, 32 inputs to a scale
  kBytes256,
};

// The form that products with a type use where inputs may be rounded (Precision::kAuto).
Form form_of(DType dtype);

// Where the matrix instructions of an architecture (89: sm_89) take f8_e4m3 from, and so which
// kernels of kF8Codes its code has. The sm_100s, which take it from memory of its own kind, have
// none, as before sm_89.
enum class F8Operands : uint8_t {
  kNone,
  kRegisters,     // linear_mma.cu
  kSharedMemory,  // linear_wgmma.cu
};
constexpr F8Operands f8_operands(int architecture) {
  if (architecture == 90) return F8Operands::kSharedMemory;
  return architecture == 89 || architecture >= 120 ? F8Operands::kRegisters : F8Operands::kNone;
}
// Of the code on the stream's device.
F8Operands f8_operands(Stream s);

constexpr bool is_bytes(Form form) { return form == Form::kBytes32 || form == Form::kBytes256; }
// Inputs are stored in multiples of so many, zeros behind the last.
constexpr int64_t form_pitch(Form form, int64_t cols) {
  const int64_t unit = is_bytes(form) ? 256 : 128;
  return (cols + unit - 1) / unit * unit;
}
constexpr uint64_t align16(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

// Thirty-two inputs of kBytes32 and kBytes256.
struct alignas(16) ByteBlock {
  int8_t q[32];
  float scale;   // of the block's group
  float sum[2];  // of the first and the last sixteen q
  float both;    // of all
};

// Of forms but kFloats and bytes: where the scales lie, behind all rows, and how many a row has. In
// kF16 and kF8 they are powers of two.
constexpr int64_t scales_offset(Form form, int64_t rows, int64_t pitch) {
  return rows * pitch * (form == Form::kF8Codes ? 1 : 2);
}
constexpr int64_t row_scales(Form form, int64_t pitch) {
  return form == Form::kBF16 ? 0 : form == Form::kF8Codes ? pitch / 128 : 1;
}

// Room for `rows` rows in a form.
constexpr uint64_t form_bytes(Form form, int64_t rows, int64_t cols) {
  const int64_t pitch = form_pitch(form, cols);
  if (form == Form::kFloats) return 0;
  if (is_bytes(form)) return static_cast<uint64_t>(rows * pitch) / 32 * sizeof(ByteBlock);
  return static_cast<uint64_t>(scales_offset(form, rows, pitch)) +
         align16(static_cast<uint64_t>(rows * row_scales(form, pitch)) * sizeof(float));
}

// ---- linear_rows.cu ----------------------------------------------------------------------------
// Numbers before they are rounded: x itself, or what an op makes of it, which is stored as floats,
// too, where `out` is not null. The floats are those of launch_rms_norm and launch_swiglu.
struct RowSource {
  enum class Kind { kStored, kGated, kNormed };
  Kind kind = Kind::kStored;
  Rows x;  // [rows, cols]; kGated: [rows, 2 cols], the numbers are silu(left half) * right half
  const float* weight = nullptr;  // kNormed: [cols]
  float eps = 0;
  Rows out;  // [rows, cols]; kNormed: may be x
};
// Rows in a form, form_bytes of memory. Not for kFloats; kNormed up to most_normed_cols.
void launch_form_rows(Stream s, Form form, const RowSource& source, void* out, int64_t rows,
                      int64_t cols);
// A row waits in shared memory of which a block can have `limit` bytes.
constexpr int64_t most_normed_cols(int64_t limit) { return (limit - 1024) / 4; }

// ---- products ----------------------------------------------------------------------------------
// Weights on the device, the matrices of all experts one after the other (a dense layer has one).
struct Weights {
  DType dtype = DType::kF32;
  Form form = Form::kFloats;
  int64_t rows = 0;
  int64_t cols = 0;
  // kFloats: as stored; kBF16, kF16, kF8, kF8Codes: rows of form_pitch elements, zeros behind, 16 n
  // rows; else panels (quant_layout.h).
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;             // of one expert's
  const float* scales = nullptr;  // of f8, a row of them per 128 rows; or null
  int64_t scale_count = 0;        // of one expert's
};

// Consecutive places that one expert's matrix multiplies.
struct RowTile {
  int32_t expert;
  int32_t first;
  int32_t rows;  // 0: the list has ended
};

// The rows of a product: `rows` places. Place i reads row from[i] of x (null: row i) and writes row
// i of out.
struct Places {
  int64_t rows = 0;
  int64_t x_rows = 0;  // rows that x has
  const int32_t* from = nullptr;
  // Of experts: tiles of at most tile_rows places. Null: one matrix for all places.
  const RowTile* tiles = nullptr;
  int64_t tile_count = 0;
  int tile_rows = 0;
};

// out[i, n] = sum over k of x[from[i], k] w[n, k], + bias[n] (may be null). `formed` is x in
// w.form; kFloats reads x itself. The bits of a result depend on its row of x and of w alone.
void launch_product(Stream s, const Weights& w, Rows x, const void* formed, const Places& places,
                    const float* bias, Rows out);

// How many places a tile of experts should hold when `places` are spread over `experts` and no
// expert has more than `most`.
int expert_tile_rows(int64_t places, int64_t experts, int64_t most);

// Parts of launch_product, by form.
void launch_product_floats(Stream s, const Weights& w, Rows x, const Places& places,
                           const float* bias, Rows out);
void launch_product_mma(Stream s, const Weights& w, const void* formed, const Places& places,
                        const float* bias, Rows out);
void launch_product_bytes(Stream s, const Weights& w, const void* formed, const Places& places,
                          const float* bias, Rows out);
// kF8Codes where f8_operands says kSharedMemory; elsewhere launch_product_mma does them.
void launch_product_wgmma(Stream s, const Weights& w, const void* formed, const Places& places,
                          const float* bias, Rows out);

// ---- experts.cu --------------------------------------------------------------------------------
// Sorts the choices ids [rows, top_k] (`id_row` apart) by expert, rows ascending within each:
// place i of the sorted list is row from[i], choice c of row t lies at place place_of[t * top_k +
// c]. Fills tiles[0, tile_count) with each expert's places in pieces of tile_rows. counts:
// [experts].
void launch_sort_choices(Stream s, const int32_t* ids, int64_t id_row, int64_t rows, int64_t top_k,
                         int64_t experts, int tile_rows, int64_t tile_count, int32_t* counts,
                         int32_t* from, int32_t* place_of, RowTile* tiles);
// The most tiles that launch_sort_choices can need.
constexpr int64_t most_tiles(int64_t places, int64_t experts, int tile_rows) {
  const int64_t touched = places < experts ? places : experts;
  return touched + places / tile_rows;
}
// out[t] = sum over c, ascending, of weights[t, c] * values[place_of[t, c]].
void launch_sum_choices(Stream s, Rows values, const int32_t* place_of, Rows weights, Rows out,
                        int64_t rows, int64_t top_k, int64_t width);

}  // namespace ponder::cuda
