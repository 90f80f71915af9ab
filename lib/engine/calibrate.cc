#include "lib/engine/calibrate.h"

#include <span>
#include <utility>
#include <vector>

#include "lib/engine/observing_backend.h"
#include "lib/format/gguf_model.h"
#include "lib/quantize/importance.h"

namespace ponder::engine {
namespace {

class SquareSums final : public LinearObserver {
 public:
  void observe(const std::vector<std::string>& weights, const float* x, int64_t rows,
               int64_t cols) override {
    sums_.assign(static_cast<size_t>(cols), 0.0);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const double v = x[r * cols + c];
        sums_[static_cast<size_t>(c)] += v * v;
      }
    }
    for (const std::string& weight : weights) {
      quantization::Importance::Entry& entry = importance.entries[gguf_name(weight)];
      entry.sums.resize(static_cast<size_t>(cols));
      entry.counts.resize(1);
      for (size_t c = 0; c < sums_.size(); ++c) entry.sums[c] += static_cast<float>(sums_[c]);
      entry.counts[0] += static_cast<float>(rows);
    }
  }

  quantization::Importance importance;

 private:
  std::vector<double> sums_;
};

}  // namespace

Status calibrate(std::shared_ptr<Runtime> runtime, std::shared_ptr<const FileSource> source,
                 absl::string_view text, absl::string_view to, const CalibrateOptions& options) {
  SquareSums sums;
  ModelOptions model_options = options.model;
  model_options.observer = &sums;
  PONDER_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model,
                          Model::load(std::move(runtime), std::move(source), model_options));
  if (options.window < 1 || options.window > model->info().context) {
    return invalid_argument_error("a window of ", options.window,
                                  " tokens does not fit the context of ", model->info().context);
  }
  PONDER_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                          model->tokenizer().encode(text, EncodeOptions{}));
  const uint64_t windows = tokens.size() / options.window;
  if (windows == 0) {
    return invalid_argument_error("the text has only ", tokens.size(), " tokens; ", options.window,
                                  " or more are needed");
  }
  for (uint64_t i = 0; i < windows; ++i) {
    if (options.progress && options.progress(i, windows) != 0) {
      return cancelled_error("calibration was stopped by the caller");
    }
    const auto window = std::span(tokens).subspan(i * options.window, options.window);
    PONDER_RETURN_IF_ERROR(model->score(window, 0).status());
  }
  sums.importance.chunks = static_cast<int64_t>(windows);
  sums.importance.chunk_size = options.window;
  sums.importance.text = absl::StrCat(tokens.size(), " tokens");
  return quantization::write_importance(sums.importance, to);
}

}  // namespace ponder::engine
