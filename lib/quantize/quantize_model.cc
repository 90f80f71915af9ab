#include "lib/quantize/quantize_model.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "lib/base/quote.h"
#include "lib/base/thread_pool.h"
#include "lib/format/gguf_writer.h"
#include "lib/quantize/gguf_export.h"
#include "lib/quantize/importance.h"
#include "lib/quantize/recipe.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/quantize.h"

namespace ponder::quantization {
namespace {

// Elements that a thread has as floats at one time.
constexpr int64_t kPiece = int64_t{1} << 18;

class Quantizer {
 public:
  Quantizer(const ModelFiles& files, const Importance* importance, ThreadPool* pool,
            GgufWriter* writer)
      : files_(files), importance_(importance), pool_(pool), writer_(writer) {}

  Status write(const ExportTensor& tensor, DType type,
               const std::function<Status(uint64_t)>& report) {
    if (tensor.source.empty()) {
      return writer_->write(tensor.values.data(), tensor.values.size() * sizeof(float));
    }
    if (tensor.shape.size() == 3) {
      for (int64_t i = 0; i < tensor.shape[0]; ++i) {
        PONDER_ASSIGN_OR_RETURN(const WeightData slice,
                                files_.weights->find_slice(tensor.source, i));
        PONDER_RETURN_IF_ERROR(
            write_matrix(tensor, slice, tensor.shape[1], tensor.shape[2], i, type, report));
        files_.weights->drop(slice);
      }
      return OkStatus();
    }
    PONDER_ASSIGN_OR_RETURN(const WeightData data, files_.weights->find(tensor.source));
    const int64_t cols = tensor.shape.back();
    PONDER_RETURN_IF_ERROR(
        write_matrix(tensor, data, data.elements() / cols, cols, 0, type, report));
    files_.weights->drop(data);
    return OkStatus();
  }

 private:
  Status write_matrix(const ExportTensor& tensor, const WeightData& from, int64_t rows,
                      int64_t cols, int64_t index, DType type,
                      const std::function<Status(uint64_t)>& report) {
    std::vector<float> weights;
    if (importance_ != nullptr && dtype_is_blocked(type)) {
      PONDER_ASSIGN_OR_RETURN(weights, importance_->of(tensor.name, index, cols));
    }
    std::optional<WeightData> scales;
    if (from.dtype == DType::kF8_E4M3) {
      PONDER_ASSIGN_OR_RETURN(scales, files_.weights->find(tensor.source + "_scale_inv"));
      const int64_t tiles = (rows + 127) / 128 * ((cols + 127) / 128);
      if (scales->dtype != DType::kF32 || scales->elements() != tiles) {
        return corrupt_error("tensor ", quote(scales->name), " must hold ", tiles,
                             " numbers of f32");
      }
    } else if (find_dequantize(from.dtype) == nullptr) {
      return unsupported_error("tensor ", from.describe(), " is no weight");
    }
    const int64_t row_bytes = dtype_bytes(type, cols);
    const auto lanes = static_cast<int64_t>(pool_->concurrency());
    const int64_t piece_rows = std::clamp<int64_t>(kPiece / cols, 1, rows);
    for (int64_t first = 0; first < rows; first += piece_rows * lanes) {
      const int64_t count = std::min(rows - first, piece_rows * lanes);
      const int64_t pieces = (count + piece_rows - 1) / piece_rows;
      out_.resize(static_cast<size_t>(count * row_bytes));
      std::vector<Status> results(static_cast<size_t>(pieces));
      pool_->parallel_for(static_cast<uint32_t>(pieces), [&](uint32_t p) {
        const int64_t begin = first + p * piece_rows;
        const int64_t n = std::min(piece_rows, first + count - begin);
        try {
          std::vector<float> values(static_cast<size_t>(n * cols));
          for (int64_t r = 0; r < n; ++r) {
            read_row(tensor, from, scales, rows, cols, begin + r, values.data() + r * cols);
          }
          results[p] = quantize(type, values.data(), n, cols, weights,
                                out_.data() + (begin - first) * row_bytes);
          if (!results[p].ok()) {
            results[p] = in_context(results[p], absl::StrCat("tensor ", quote(tensor.source),
                                                             ", counting rows from ", begin));
          }
        } catch (const std::bad_alloc&) {
          results[p] = out_of_memory_error("no memory for ", n * cols * 4, " bytes of a weight");
        }
      });
      for (const Status& result : results) PONDER_RETURN_IF_ERROR(result);
      PONDER_RETURN_IF_ERROR(writer_->write(out_.data(), out_.size()));
      PONDER_RETURN_IF_ERROR(report(static_cast<uint64_t>(dtype_bytes(from.dtype, count * cols))));
    }
    return OkStatus();
  }

  static void read_row(const ExportTensor& tensor, const WeightData& from,
                       const std::optional<WeightData>& scales, int64_t rows, int64_t cols,
                       int64_t row, float* out) {
    if (tensor.turned_heads > 0) {
      // Row 2 i + j of a head is row j * E / 2 + i of the checkpoint's.
      const int64_t width = rows / tensor.turned_heads;
      const int64_t in_head = row % width;
      row = row - in_head + in_head % 2 * (width / 2) + in_head / 2;
    }
    if (scales.has_value()) {
      dequantize_f8_rows({from.data, scales->data, rows, cols}, row, row + 1, out);
      return;
    }
    find_dequantize(from.dtype)(
        static_cast<const char*>(from.data) + row * dtype_bytes(from.dtype, cols), cols, out);
  }

  const ModelFiles& files_;
  const Importance* const importance_;
  ThreadPool* const pool_;
  GgufWriter* const writer_;
  std::vector<char> out_;
};

}  // namespace

Status quantize_model(absl::string_view from, absl::string_view to,
                      const QuantizeOptions& options) {
  PONDER_ASSIGN_OR_RETURN(const Recipe recipe, find_recipe(options.type));
  std::error_code failed;
  if (std::filesystem::equivalent(std::string(from), std::string(to), failed)) {
    return invalid_argument_error(excerpt(to, 255), " is the model itself; name another file");
  }
  PONDER_ASSIGN_OR_RETURN(const ModelFiles files, open_model_path(from));
  PONDER_ASSIGN_OR_RETURN(GgufExport model, export_model(files));
  std::optional<Importance> importance;
  if (!options.importance.empty()) {
    PONDER_ASSIGN_OR_RETURN(importance, read_importance(options.importance));
    model.shape.has_importance = true;
    model.metadata.emplace_back("quantize.imatrix.file",
                                std::filesystem::path(options.importance).filename().string());
    model.metadata.emplace_back("quantize.imatrix.entries_count",
                                static_cast<int64_t>(importance->entries.size()));
  }
  model.metadata.emplace_back("general.quantization_version", int64_t{2});
  model.metadata.emplace_back("general.file_type", int64_t{recipe.file_type});

  std::vector<GgufTensorPlan> plans;
  uint64_t total = 0, done = 0;
  for (const ExportTensor& tensor : model.tensors) {
    if (tensor.shape.empty() || tensor.shape.size() > 3) {
      return unsupported_error("tensor ", quote(tensor.source), " has ", tensor.shape.size(),
                               " dimensions");
    }
    plans.push_back(
        {tensor.name, tensor_type(recipe, model.shape, tensor.name, tensor.shape), tensor.shape});
    if (tensor.source.empty()) continue;
    PONDER_ASSIGN_OR_RETURN(const TensorInfo info, files.weights->info(tensor.source));
    total += info.bytes;
  }
  PONDER_ASSIGN_OR_RETURN(const auto pool, make_thread_pool(options.threads));
  PONDER_ASSIGN_OR_RETURN(const auto writer, GgufWriter::create(to, model.metadata, plans));
  Quantizer quantizer(files, importance.has_value() ? &*importance : nullptr, pool.get(),
                      writer.get());
  const auto report = [&](uint64_t bytes) {
    done += bytes;
    if (options.progress && options.progress(done, total) != 0) {
      return cancelled_error("quantising was stopped by the caller");
    }
    return OkStatus();
  };
  for (size_t i = 0; i < plans.size(); ++i) {
    PONDER_RETURN_IF_ERROR(quantizer.write(model.tensors[i], plans[i].type, report));
  }
  return writer->finish();
}

}  // namespace ponder::quantization
