// Measuring how much each input of a model's weights matters, for quantising it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/engine/model.h"

namespace ponder::engine {

struct CalibrateOptions {
  ModelOptions model;
  uint32_t window = 512;  // tokens that are read together
  // Windows read so far; nonzero stops with cancelled_error. On the caller's thread.
  std::function<int32_t(uint64_t done, uint64_t total)> progress;
};

// Reads `text` with the model and writes the mean squares of its weights' inputs to the file `to`
// (lib/quantize/importance.h). Experts of mixtures are left out: their inputs are seen by the
// backend alone. Blocks. invalid_argument_error: the text is shorter than one window.
Status calibrate(std::shared_ptr<Runtime> runtime, std::shared_ptr<const FileSource> source,
                 absl::string_view text, absl::string_view to, const CalibrateOptions& options);

}  // namespace ponder::engine
