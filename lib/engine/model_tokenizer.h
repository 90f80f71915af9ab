// The tokenizer of a model's files, whichever format they are in. A plain function; any thread.
#pragma once

#include <memory>

#include "lib/base/log.h"
#include "lib/base/status.h"
#include "lib/format/model_files.h"
#include "lib/text/tokenizer.h"

namespace ponder::engine {

// From tokenizer.json, or from the metadata of a GGUF file.
StatusOr<std::unique_ptr<Tokenizer>> make_tokenizer(const ModelFiles& files, const LogSink& log);

}  // namespace ponder::engine
