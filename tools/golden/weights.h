// Writes random weights as safetensors, streaming: memory stays small however large the model is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "architectures.h"

namespace ponder::golden {

enum class ElementType { kF32, kF16, kBF16 };

struct WriteOptions {
  ElementType type = ElementType::kBF16;
  uint64_t seed = 0;
  uint64_t shard_bytes = 0;  // data of one file at the most (one tensor at the least); 0: one file
  std::function<void(uint64_t done, uint64_t total)> progress;
};

// model.safetensors, or shards with their index. The values of a tensor depend on the seed, its
// name and its place in the tensor, and on nothing else. Throws std::runtime_error when a file
// cannot be written.
void write_weights(const std::filesystem::path& folder, const std::vector<TensorSpec>& tensors,
                   const WriteOptions& options);

}  // namespace ponder::golden
