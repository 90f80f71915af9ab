// Reads safetensors: one file, or shards named by an index.
//
// The layout is https://github.com/huggingface/safetensors: eight bytes of length, that many bytes
// of JSON, then the data. The header is validated as strictly as the reference does: known types,
// sizes that equal the product of the shape, data ranges that cover the file without gap or
// overlap. Parsing streams (no JSON tree is built), since R1's index and headers name 91,991
// tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/allocator.h"
#include "lib/base/status.h"
#include "lib/format/checkpoint.h"
#include "lib/format/file_source.h"

namespace ponder {

// One entry of a header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // one of the names of the specification
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes, counted from the end of the header
};

// The longest header that is accepted, as in the reference implementation.
constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;

// Parses and validates the JSON of a header whose file has `data_bytes` bytes after it. The entries
// come back sorted by `begin`. `what` names the file in errors.
StatusOr<std::vector<SafetensorsEntry>> parse_safetensors_header(absl::string_view json,
                                                                 uint64_t data_bytes,
                                                                 absl::string_view what);

// Parses model.safetensors.index.json: pairs of tensor name and file name, in the index's order.
StatusOr<std::vector<std::pair<std::string, std::string>>> parse_safetensors_index(
    absl::string_view json, absl::string_view what);

// The tensors of one file. Tensors that cannot be mapped are read into memory of `allocator`, which
// outlives everything that find() returned.
StatusOr<std::unique_ptr<Checkpoint>> open_safetensors(std::shared_ptr<const FileSource> source,
                                                       absl::string_view file,
                                                       Allocator* allocator);

// The tensors that the index names, in the shards that it names; what else the shards hold is not
// seen. All shards are opened and validated here.
StatusOr<std::unique_ptr<Checkpoint>> open_sharded_safetensors(
    std::shared_ptr<const FileSource> source, absl::string_view index_file, Allocator* allocator);

}  // namespace ponder
