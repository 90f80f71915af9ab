// Everything that a model's files say, in one struct: what the engine loads a model from.
//
// open_model reads a Hugging Face folder or a GGUF file. The result owns its
// strings and its checkpoint; it is plain data afterwards (one thread at a time, save `weights`).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/base/allocator.h"
#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/format/checkpoint.h"
#include "lib/format/config.h"
#include "lib/format/file_source.h"
#include "lib/format/gguf.h"

namespace ponder {

struct ModelFiles {
  std::string name;          // for people: the folder's name, or what the files call the model
  std::string architecture;  // "Qwen2ForCausalLM": selects the model file
  Json config;               // as read_model_config returns it
  GenerationDefaults defaults;
  // The tokenizer, as the text of a tokenizer.json; of a GGUF file it is in the metadata instead,
  // under "tokenizer.ggml." (lib/text/tokenizer_gguf.h).
  std::string tokenizer_json;
  std::optional<GgufMetadata> gguf;
  // Chat template, token strings, whether a beginning-of-text token is added.
  TokenizerSettings tokenizer;
  std::unique_ptr<Checkpoint> weights;
  // 64 hex digits that change when the configuration, the tokenizer, the tensor table or (as far as
  // a sample of each tensor shows) the weights change; the same however the files are sharded.
  std::string fingerprint;
};

struct OpenOptions {
  Allocator* allocator = default_allocator();  // for weights that are read, not mapped
  Mapping mapping = Mapping::kAuto;            // for open_model_path only
  std::string name = {};                       // overrides ModelFiles::name
};

// The GGUF file that the source names as its main one, or else the folder; "model.gguf" where there
// is no config.json, so that a host's IO can give a GGUF file under that name.
StatusOr<ModelFiles> open_model(std::shared_ptr<const FileSource> source,
                                const OpenOptions& options = {});

// `path` is a model folder or a .gguf file.
StatusOr<ModelFiles> open_model_path(absl::string_view path, const OpenOptions& options = {});

}  // namespace ponder
