// Writes GGUF files, version 3: metadata and tensor table at once, then the tensors' bytes in
// order.
//
// The file appears under its name when it is whole, and not before: until finish() it is
// "<path>.part", which is removed if the writer goes without. Owns the open file; one thread at a
// time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/format/gguf.h"
#include "lib/tensor/dtype.h"

namespace ponder {

struct GgufTensorPlan {
  std::string name;
  DType type = DType::kF32;
  std::vector<int64_t> shape;  // outermost first; rows are whole blocks
};

class GgufWriter {
 public:
  // Whole numbers are written as u32 where they fit, lists of them as i32, numbers as f32.
  // io_error: the file cannot be made. invalid_argument_error: a type that GGUF has no number for,
  // a row that ends within a block.
  static StatusOr<std::unique_ptr<GgufWriter>> create(
      absl::string_view path, std::span<const std::pair<std::string, GgufValue>> metadata,
      std::span<const GgufTensorPlan> tensors);
  ~GgufWriter();

  // The next bytes of the tensor that is being written. io_error: the disk is full, say.
  Status write(const void* bytes, uint64_t size);
  // All tensors have all their bytes: the file takes its name.
  Status finish();

 private:
  explicit GgufWriter(std::string path) : path_(std::move(path)) {}
  Status put(const void* bytes, uint64_t size);
  Status flush();
  Status pad();

  const std::string path_;
  int fd_ = -1;
  std::string buffer_;
  uint64_t written_ = 0;         // with what is in the buffer
  std::vector<uint64_t> sizes_;  // of the tensors
  size_t tensor_ = 0;            // being written
  uint64_t done_ = 0;            // of its bytes
};

}  // namespace ponder
