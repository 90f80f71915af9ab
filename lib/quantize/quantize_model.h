// Quantising a whole model: from a Hugging Face folder or a GGUF file to a GGUF file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"

namespace ponder::quantization {

struct QuantizeOptions {
  std::string type;        // a recipe's name: "q4_k_m"
  std::string importance;  // path of an importance file; empty: all columns count alike
  uint32_t threads = 0;    // 0: one per physical core
  // In bytes of the source; nonzero stops with cancelled_error. Called on the caller's thread.
  std::function<int32_t(uint64_t done, uint64_t total)> progress;
};

// Blocks until the file at `to` is whole; nothing appears there on failure. Memory: some megabytes
// a thread, whatever the size of the model. Errors name the tensor. Any thread.
Status quantize_model(absl::string_view from, absl::string_view to, const QuantizeOptions& options);

}  // namespace ponder::quantization
