// How block-quantised weights lie on the device, for the host that writes them (quant_pack.cc) and
// the kernels that read them (quants.cuh).
//
// A matrix [N, K] is cut into panels of 32 rows, a panel into super-blocks of 256 inputs (the last
// of a row filled up with zeros). A row's share of a super-block is a record: a few fields, each of
// `pieces` pieces of `bytes`. In memory the same piece of all 32 rows lies together, so that the 32
// lanes of a warp, one row each, read one run of memory with every load. Records hold the stored
// bits, regrouped; scales of 6 bits become bytes, which makes q4_k, q5_k and q3_k 2 to 4% larger,
// iq4_xs 1.5%, and tq1_0 is kept as tq2_0.
#pragma once

#include <cstdint>

#include "lib/tensor/dtype.h"

namespace ponder::cuda {

inline constexpr int kPanelRows = 32;
inline constexpr int kRecordInputs = 256;

struct Field {
  int bytes = 0;  // of a piece: 16, 8, 4, 2 or 1
  int pieces = 0;
};

// Fields in the order of the record, largest pieces first; at most four.
struct RecordLayout {
  Field fields[4];
  constexpr int bytes() const {
    int sum = 0;
    for (const Field& f : fields) sum += f.bytes * f.pieces;
    return sum;
  }
  // Of a field, in a record.
  constexpr int offset(int field) const {
    int sum = 0;
    for (int i = 0; i < field; ++i) sum += fields[i].bytes * fields[i].pieces;
    return sum;
  }
};

// What is in the fields, sub-block j being 32 inputs:
//   nibbles      16 bytes a sub-block: low half of byte i is input i, high half input 16 + i
//   pairs        16 bytes a sub-block: byte i is inputs 2 i (low half) and 2 i + 1
//   bits         a word a sub-block: bit i is input i
//   crumbs       8 bytes a sub-block: bits 2 i, 2 i + 1 of byte b of word w are input 16 w + 4 i +
//   b d, m         binary16 scale and minimum, one a sub-block or one a record s8           signed
//   bytes, scales of 16 or 32 inputs
constexpr RecordLayout record_layout(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return {{{16, 8}, {16, 1}}};  // nibbles or pairs; d
    case DType::kQ4_1:
      return {{{16, 8}, {16, 2}}};  // nibbles; d, then m
    case DType::kQ5_0:
      return {{{16, 8}, {16, 1}, {4, 8}}};  // nibbles; d; bits
    case DType::kQ5_1:
      return {{{16, 8}, {16, 2}, {4, 8}}};  // nibbles; d, then m; bits
    case DType::kQ8_0:
      return {{{16, 16}, {16, 1}}};  // bytes; d
    case DType::kQ2_K:
      return {{{16, 1}, {8, 8}, {4, 1}}};  // scale and minimum in a byte; crumbs; d, dmin
    case DType::kQ3_K:
      return {{{16, 1}, {8, 8}, {4, 8}, {2, 1}}};  // s8; crumbs; bits; d
    case DType::kQ4_K:
      return {{{16, 8}, {16, 1}, {4, 1}}};  // nibbles; 8 scales, 8 minima; d, dmin
    case DType::kQ5_K:
      return {{{16, 8}, {16, 1}, {4, 8}, {4, 1}}};  // and bits before d, dmin
    case DType::kQ6_K:
      return {{{16, 8}, {16, 1}, {8, 8}, {2, 1}}};  // nibbles; s8; crumbs; d
    case DType::kIQ4_XS:
      return {{{16, 8}, {8, 1}, {2, 1}}};  // pairs; s8; d
    case DType::kMXFP4:
      return {{{16, 8}, {8, 1}}};  // pairs; exponents
    case DType::kIQ1_S:
      return {{{4, 8}, {2, 8}, {2, 1}}};  // indices; qh; d
    case DType::kIQ1_M:
      return {{{8, 1}, {4, 8}, {2, 8}}};  // scales; indices; qh
    case DType::kIQ2_XXS:
      return {{{8, 8}, {2, 1}}};  // indices, signs; d
    case DType::kIQ2_XS:
      return {{{8, 9}, {2, 1}}};  // indices with signs, then scales; d
    case DType::kIQ2_S:
      return {{{8, 9}, {1, 8}, {2, 1}}};  // indices and signs, then scales; qh; d
    case DType::kIQ3_XXS:
      return {{{8, 8}, {4, 8}, {2, 1}}};  // indices; signs; d
    case DType::kIQ3_S:
      return {{{8, 9}, {4, 9}, {2, 1}}};  // indices, then qh; signs, then scales; d
    case DType::kTQ1_0:
    case DType::kTQ2_0:
      return {{{8, 8}, {2, 1}}};  // crumbs; d
    default:
      return {};
  }
}

inline constexpr int kMostRecordBytes = 272;  // q8_0

// Memory of one matrix in panels.
constexpr int64_t record_count(int64_t cols) { return (cols + kRecordInputs - 1) / kRecordInputs; }
constexpr uint64_t panel_bytes(DType dtype, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>((rows + kPanelRows - 1) / kPanelRows * record_count(cols)) *
         kPanelRows * static_cast<uint64_t>(record_layout(dtype).bytes());
}

// Where piece `piece` of a field of row `row` lies in a panel's super-block.
constexpr int piece_offset(const RecordLayout& layout, int field, int piece, int row) {
  return kPanelRows * layout.offset(field) +
         (piece * kPanelRows + row) * layout.fields[field].bytes;
}

// The record of one row from `data`, its stored blocks; `inputs` (a multiple of the type's block,
// at most 256) are there. `record` has record_layout(dtype).bytes() bytes, zeroed.
void make_record(DType dtype, const uint8_t* data, int inputs, uint8_t* record);

}  // namespace ponder::cuda
