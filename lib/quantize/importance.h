// Importance files: for each weight, the mean square of each of its inputs over some text, which
// says in which columns an error costs most. The format is llama.cpp's: a GGUF file of type
// "imatrix" with the tensors "<weight>.in_sum2" [(matrices,) columns] and "<weight>.counts".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"

namespace ponder::quantization {

// Sums over the rows seen, by GGUF name of the weight ("blk.0.ffn_down.weight"). A plain value.
struct Importance {
  struct Entry {
    std::vector<float> sums;    // [matrices * columns] of squares
    std::vector<float> counts;  // [matrices] rows
  };
  std::map<std::string, Entry> entries;
  std::string text;        // what it was measured on, for people
  int64_t chunks = 0;      // of text
  int64_t chunk_size = 0;  // in tokens

  // Mean squares of matrix `index` of a weight with so many columns; empty: none are known.
  // Whatever a file says, they are finite and not negative. mismatch_error: another number of
  // columns.
  StatusOr<std::vector<float>> of(absl::string_view name, int64_t index, int64_t cols) const;
};

StatusOr<Importance> read_importance(absl::string_view path);
Status write_importance(const Importance& importance, absl::string_view path);

}  // namespace ponder::quantization
