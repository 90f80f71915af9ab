// Writes random weights as a GGUF file that llama.cpp reads too, streaming.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "architectures.h"

namespace ponder::golden {

struct GgufOptions {
  std::string type = "f16";  // of matrices: f32, f16, bf16, q8_0 or q4_k
  uint64_t seed = 0;
  std::function<void(uint64_t done, uint64_t total)> progress;
};

// The model and the made-up tokenizer for its vocabulary in one file. Names, shapes and metadata
// are those of llama.cpp's converter: experts stacked, kv_b split in two. Where rows are no
// multiple of a type's block, q4_k becomes q8_0 and that f16. Throws std::invalid_argument for what
// has no GGUF form, std::runtime_error when the file cannot be written.
void write_gguf(const std::filesystem::path& path, const Sizes& sizes, const GgufOptions& options);

}  // namespace ponder::golden
