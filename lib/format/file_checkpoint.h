// A Checkpoint over the files of a FileSource: what all format readers end in. Private to
// lib/format.
//
// A reader adds files and tensors that it has validated, calls finish(), and hands the object out
// as a Checkpoint; from then on it is immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/allocator.h"
#include "lib/format/checkpoint.h"
#include "lib/format/file_source.h"

namespace ponder {

struct StoredTensor {
  std::string name;
  absl::string_view type;      // as the format spells it; of static storage
  std::optional<DType> dtype;  // where we compute with it
  uint32_t file = 0;           // by add_file
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;          // offset + bytes is within the file
  std::vector<int64_t> shape;  // its product fits in 64 bits
};

class FileCheckpoint final : public Checkpoint {
 public:
  // `allocator` makes room for what cannot be mapped and outlives everything that find() returns.
  FileCheckpoint(std::shared_ptr<const FileSource> source, Allocator* allocator);

  // Maps the file, which had `size` bytes when its table was read. Returns its number.
  StatusOr<uint32_t> add_file(absl::string_view name, uint64_t size);
  void add(StoredTensor tensor);
  // After the last add(). Names are distinct.
  void finish();

  bool has(absl::string_view name) const override;
  StatusOr<WeightData> find(absl::string_view name) const override;
  StatusOr<WeightData> find_slice(absl::string_view name, int64_t index) const override;
  StatusOr<WeightData> describe(absl::string_view name) const override;
  StatusOr<WeightData> load(absl::string_view name, int64_t slice) const override;
  void prefetch(absl::string_view name, int64_t slice) const override;
  void drop(const WeightData& weight) const override;
  Status read(absl::string_view name, uint64_t offset, void* dst, uint64_t n) const override;
  StatusOr<TensorInfo> info(absl::string_view name) const override;
  std::vector<std::string> names() const override;
  uint64_t total_bytes() const override { return total_bytes_; }
  uint64_t parameters() const override { return parameters_; }
  const std::string& where() const override { return source_->where(); }

 private:
  struct File {
    std::string name;
    std::shared_ptr<const FileView> view;
  };

  const StoredTensor* lookup(absl::string_view name) const;
  StatusOr<const StoredTensor*> entry(absl::string_view name) const;
  StatusOr<WeightData> blank(const StoredTensor& tensor) const;  // without data
  // Some of a tensor: all of it, or one of its parts.
  struct Part {
    const StoredTensor* tensor;
    std::vector<int64_t> shape;
    uint64_t offset;  // from the tensor's first byte
    uint64_t bytes;
  };
  StatusOr<Part> part(absl::string_view name, int64_t slice) const;
  StatusOr<WeightData> view(Part part) const;
  // `reuse`: in memory that such a tensor has given back, if there is some.
  StatusOr<WeightData> copy(Part part, bool reuse) const;
  class Shelf;

  std::shared_ptr<const FileSource> source_;
  Allocator* allocator_;
  std::shared_ptr<Shelf> shelf_;
  std::vector<File> files_;
  std::vector<StoredTensor> tensors_;  // by name
  uint64_t total_bytes_ = 0, parameters_ = 0;
};

}  // namespace ponder
