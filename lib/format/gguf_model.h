// What a GGUF file says, put into ModelFiles: the configuration in Hugging Face's words, the
// tensors under Hugging Face's names, the sampling defaults, the chat template, and the metadata,
// from which lib/text makes the tokenizer. open_gguf is private to lib/format.
#pragma once

#include <memory>
#include <string>

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

// "blk.3.attn_q.weight" for "model.layers.3.self_attn.q_proj.weight": the inverse of what open_gguf
// does to names. Those that it leaves as they are stay so here.
std::string gguf_name(absl::string_view hugging_face);

}  // namespace ponder
