// A model's files in GGUF's words: the metadata that llama.cpp's converter would write, and where
// each tensor comes from. Plain functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/format/gguf.h"
#include "lib/format/model_files.h"
#include "lib/quantize/recipe.h"

namespace ponder::quantization {

struct ExportTensor {
  std::string name;            // in GGUF
  std::vector<int64_t> shape;  // outermost first
  std::string source;          // in the checkpoint
  // Rows change places within so many heads: from pairs (i, i + E/2) to neighbours (llama's q and
  // k).
  int64_t turned_heads = 0;
  std::vector<float> values;  // instead of a source
};

struct GgufExport {
  std::vector<std::pair<std::string, GgufValue>> metadata;
  std::vector<ExportTensor> tensors;
  ModelShape shape;
};

// A GGUF file gives what it holds. A Hugging Face folder is converted: Qwen2, Llama and Qwen3, with
// byte-level BPE tokenizers. unsupported_error for all others.
StatusOr<GgufExport> export_model(const ModelFiles& files);

}  // namespace ponder::quantization
