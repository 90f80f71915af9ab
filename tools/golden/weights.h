// Writes random weights as safetensors, streaming: memory stays small however large the model is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "architectures.h"

namespace ponder::golden {

struct WriteOptions {
  ElementType type = ElementType::kBF16;
  uint64_t seed = 0;
  // Digits of the number of files in their names; the releases of DeepSeek have six.
  int total_digits = 5;
  uint64_t shard_bytes = 0;  // data of one file at the most (one tensor at the least); 0: one file
  std::function<void(uint64_t done, uint64_t total)> progress;
};

// kF8: linear layers are f8_e4m3 with a tensor "<name>_scale_inv" beside them, one f32 for each 128
// x 128 elements; the others are bf16.
//
// model.safetensors, or shards with their index. The values of a tensor depend on the seed, its
// name and its place in the tensor, and on nothing else. Throws std::runtime_error when a file
// cannot be written.
void write_weights(const std::filesystem::path& folder, const std::vector<TensorSpec>& tensors,
                   const WriteOptions& options);

}  // namespace ponder::golden
