// Reads the container of GGUF files: metadata and tensor table, of one file or of a split one.
//
// The layout is ggml's docs/gguf.md, versions 2 and 3, little-endian. What the metadata mean for a
// model is not decided here. Everything is validated before it is believed: lengths against what is
// left of the file, products against overflow, tensors against the file's end and each other.
// Values only; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/format/file_source.h"
#include "lib/tensor/dtype.h"

namespace ponder {

// How ggml stores the elements of a tensor: in blocks along the innermost dimension.
struct GgufType {
  uint32_t id;
  absl::string_view name;                     // as llama.cpp prints it: "Q4_K"
  int64_t block;                              // elements of a block
  int64_t bytes;                              // bytes of a block
  std::optional<DType> dtype = std::nullopt;  // where we know its values
};

// nullptr for numbers that name no type (some did once and are gone).
const GgufType* find_gguf_type(uint32_t id);

// A value of the metadata. Integers of all widths are int64_t (uint64_t where larger), both float
// types are double; arrays likewise, those of bool being integers.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

// Metadata by key. The typed readers return nullopt when a key is absent and corrupt_error when its
// value is of another kind.
class GgufMetadata {
 public:
  const GgufValue* find(absl::string_view key) const;
  bool has(absl::string_view key) const { return find(key) != nullptr; }
  // Sorted by key.
  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }

  StatusOr<std::optional<int64_t>> integer(absl::string_view key) const;
  StatusOr<std::optional<double>> number(absl::string_view key) const;  // integers too
  StatusOr<std::optional<bool>> boolean(absl::string_view key) const;
  StatusOr<std::optional<std::string>> text(absl::string_view key) const;
  // Borrowed; nullptr when absent.
  StatusOr<const std::vector<int64_t>*> integers(absl::string_view key) const;
  StatusOr<const std::vector<double>*> numbers(absl::string_view key) const;
  StatusOr<const std::vector<std::string>*> texts(absl::string_view key) const;

 private:
  friend class GgufParser;
  Status wrong_kind(absl::string_view key, absl::string_view wanted) const;

  std::vector<std::pair<std::string, GgufValue>> entries_;
  std::string what_;  // the file, for errors
};

struct GgufTensor {
  std::string name;
  const GgufType* type = nullptr;
  std::vector<int64_t> shape;  // outermost first, unlike in the file
  uint32_t file = 0;           // index into GgufFiles::files
  uint64_t offset = 0;         // from the start of that file
  uint64_t bytes = 0;
};

// One model: the first file's metadata, the tensors of all.
struct GgufFiles {
  std::vector<std::string> files;
  std::vector<uint64_t> sizes;  // of each file
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // sorted by name

  const GgufTensor* find(absl::string_view name) const;
};

// `file` is the model's only file, or the first of a split one ("x-00001-of-00003.gguf"), whose
// others are found by their names.
StatusOr<GgufFiles> read_gguf(const FileSource& source, absl::string_view file);

}  // namespace ponder
