#include "lib/quantize/importance.h"

#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/strip.h"
#include "lib/base/quote.h"
#include "lib/format/file_source.h"
#include "lib/format/gguf.h"
#include "lib/format/gguf_writer.h"

namespace ponder::quantization {
namespace {

constexpr absl::string_view kSums = ".in_sum2", kCounts = ".counts";

StatusOr<std::vector<float>> read_floats(const FileSource& source, const GgufFiles& files,
                                         const GgufTensor& tensor) {
  if (tensor.type->dtype != DType::kF32) {
    return corrupt_error(source.where(), ": tensor ", quote(tensor.name), " must be F32");
  }
  std::vector<float> values(static_cast<size_t>(tensor.bytes / sizeof(float)));
  PONDER_RETURN_IF_ERROR(
      source.read(files.files[tensor.file], tensor.offset, values.data(), tensor.bytes));
  return values;
}

}  // namespace

StatusOr<std::vector<float>> Importance::of(absl::string_view name, int64_t index,
                                            int64_t cols) const {
  const auto it = entries.find(std::string(name));
  if (it == entries.end()) return std::vector<float>();
  const Entry& entry = it->second;
  const auto matrices = static_cast<int64_t>(entry.counts.size());
  if (matrices == 0 || static_cast<int64_t>(entry.sums.size()) != matrices * cols) {
    return mismatch_error("the importance file has ", entry.sums.size(), " numbers for ",
                          quote(name), ", whose rows have ", cols,
                          " columns; was it made with this model?");
  }
  const int64_t matrix = matrices == 1 ? 0 : index;
  if (matrix >= matrices) {
    return mismatch_error("the importance file has ", matrices, " matrices for ", quote(name),
                          ", not ", index + 1);
  }
  const float count = entry.counts[static_cast<size_t>(matrix)];
  if (!(count > 0)) return std::vector<float>();  // an expert that was never chosen
  std::vector<float> means(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) {
    const float mean = entry.sums[static_cast<size_t>(matrix * cols + c)] / count;
    means[static_cast<size_t>(c)] = std::isfinite(mean) && mean > 0 ? mean : 0.0f;
  }
  return means;
}

StatusOr<Importance> read_importance(absl::string_view path) {
  const std::filesystem::path whole{std::string(path)};
  const std::string folder = whole.parent_path().empty() ? "." : whole.parent_path().string();
  PONDER_ASSIGN_OR_RETURN(const std::shared_ptr<const FileSource> source, open_folder(folder));
  PONDER_ASSIGN_OR_RETURN(const GgufFiles files, read_gguf(*source, whole.filename().string()));
  Importance importance;
  for (const GgufTensor& tensor : files.tensors) {
    absl::string_view name = tensor.name;
    if (!absl::ConsumeSuffix(&name, kSums)) continue;
    const GgufTensor* counts = files.find(absl::StrCat(name, kCounts));
    if (counts == nullptr) {
      return corrupt_error(excerpt(path, 255), ": ", quote(tensor.name),
                           " has no counts beside it");
    }
    Importance::Entry entry;
    PONDER_ASSIGN_OR_RETURN(entry.sums, read_floats(*source, files, tensor));
    PONDER_ASSIGN_OR_RETURN(entry.counts, read_floats(*source, files, *counts));
    importance.entries.emplace(std::string(name), std::move(entry));
  }
  if (importance.entries.empty()) {
    return corrupt_error(excerpt(path, 255),
                         ": is no importance file: it has no tensor that ends in ", kSums);
  }
  return importance;
}

Status write_importance(const Importance& importance, absl::string_view path) {
  std::vector<std::pair<std::string, GgufValue>> metadata = {
      {"general.type", std::string("imatrix")},
      {"imatrix.datasets", std::vector<std::string>{importance.text}},
      {"imatrix.chunk_count", importance.chunks},
      {"imatrix.chunk_size", importance.chunk_size},
  };
  std::vector<GgufTensorPlan> plans;
  for (const auto& [name, entry] : importance.entries) {
    const auto matrices = static_cast<int64_t>(entry.counts.size());
    const int64_t cols = static_cast<int64_t>(entry.sums.size()) / matrices;
    plans.push_back({absl::StrCat(name, kSums), DType::kF32, {matrices, cols}});
    plans.push_back({absl::StrCat(name, kCounts), DType::kF32, {matrices, 1}});
  }
  PONDER_ASSIGN_OR_RETURN(const auto writer, GgufWriter::create(path, metadata, plans));
  for (const auto& [name, entry] : importance.entries) {
    PONDER_RETURN_IF_ERROR(writer->write(entry.sums.data(), entry.sums.size() * sizeof(float)));
    PONDER_RETURN_IF_ERROR(writer->write(entry.counts.data(), entry.counts.size() * sizeof(float)));
  }
  return writer->finish();
}

}  // namespace ponder::quantization
