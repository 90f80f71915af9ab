// What a GGUF file says, put into ModelFiles: the configuration in Hugging Face's words, the
// tensors under Hugging Face's names, the sampling defaults, the chat template, and the metadata,
// from which lib/text makes the tokenizer. Private to lib/format.
#pragma once

#include <memory>

#include "absl/strings/string_view.h"
#include "lib/base/allocator.h"
#include "lib/base/status.h"
#include "lib/format/file_source.h"
#include "lib/format/model_files.h"

namespace ponder {

// Fills everything but the name and the fingerprint. `file` is the only file or the first of a
// split model. unsupported_error for architectures other than qwen2, llama,
// qwen3, qwen3moe and deepseek2.
Status open_gguf(std::shared_ptr<const FileSource> source, absl::string_view file,
                 Allocator* allocator, ModelFiles* files);

}  // namespace ponder
