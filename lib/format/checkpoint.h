// A checkpoint: named tensors in files, whatever the file format. Names are those of Hugging Face
// checkpoints ("model.layers.0.self_attn.q_proj.weight") whichever format they are stored in.
//
// Made by the format readers (safetensors.h), owned by whoever loads the model. Immutable: any
// thread may call any method at any time. The table was validated when the checkpoint was opened:
// every tensor lies inside its file, and its bytes agree with its type and shape.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/tensor/tensor.h"

namespace ponder {

// What the table says about a tensor, without touching its data.
struct TensorInfo {
  std::string name;
  std::string dtype;  // as the file spells it: "BF16", "F8_E4M3"
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  std::string file;  // which file holds it

  uint64_t elements() const {
    uint64_t n = 1;
    for (int64_t d : shape) n *= static_cast<uint64_t>(d);
    return n;
  }
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual bool has(absl::string_view name) const = 0;
  // The tensor's bytes, mapped or read into memory; they live as long as the result's owner, which
  // may outlive the checkpoint. `data` is aligned to its element type (block types: not at all) and
  // no further: tensors start wherever the file puts them, so vector code uses unaligned loads.
  // not_found_error: no such tensor. unsupported_error: an element type that we do not compute
  // with.
  virtual StatusOr<WeightData> find(absl::string_view name) const = 0;
  // Part `index` of a tensor whose outermost dimension is cut into single steps: expert 3 of a
  // stack [256, 2048, 7168] is a matrix [2048, 7168]. As find(), but no more than the part is read.
  virtual StatusOr<WeightData> find_slice(absl::string_view name, int64_t index) const = 0;
  // What find() would give, but for the data and its owner: nothing is read or mapped in.
  virtual StatusOr<WeightData> describe(absl::string_view name) const = 0;
  // As find(), or find_slice() unless `slice` is -1, but always read, never mapped: a disk that fails
  // is an error then and not a signal (docs/decisions/0020-mapped-weights.md).
  virtual StatusOr<WeightData> load(absl::string_view name, int64_t slice) const = 0;
  // load() with the same arguments will follow: the system may begin to read. Neither waits nor
  // fails.
  virtual void prefetch(absl::string_view name, int64_t slice) const = 0;
  // Bytes [offset, offset + n) of a tensor of any element type, within its bytes.
  virtual Status read(absl::string_view name, uint64_t offset, void* dst, uint64_t n) const = 0;
  // The backend has made its own copy of a tensor that find() gave: a mapped one's pages may leave
  // memory. The data stays readable.
  virtual void drop(const WeightData& weight) const = 0;
  // The table's entry; not_found_error when there is none.
  virtual StatusOr<TensorInfo> info(absl::string_view name) const = 0;
  // All names, sorted.
  virtual std::vector<std::string> names() const = 0;
  // Bytes and elements of all tensors.
  virtual uint64_t total_bytes() const = 0;
  virtual uint64_t parameters() const = 0;
  // Where it lies, for error texts: "/models/r1".
  virtual const std::string& where() const = 0;
};

}  // namespace ponder
