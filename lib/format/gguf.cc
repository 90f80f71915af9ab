#include "lib/format/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "lib/base/quote.h"

namespace ponder {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian");

constexpr uint64_t kMaxHeader = 64 << 20;  // the largest vocabularies take a third of it
constexpr uint64_t kMaxKey = 65535;        // of the specification
constexpr uint64_t kMaxTensorName = 1024;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxRank = 4;
constexpr int64_t kMaxSplits = 65535;
constexpr size_t kChunk = 256 << 10;  // bytes read at a time

constexpr GgufType kTypes[] = {
    {0, "F32", 1, 4, DType::kF32},
    {1, "F16", 1, 2, DType::kF16},
    {30, "BF16", 1, 2, DType::kBF16},
    {2, "Q4_0", 32, 18, DType::kQ4_0},
    {3, "Q4_1", 32, 20, DType::kQ4_1},
    {6, "Q5_0", 32, 22, DType::kQ5_0},
    {7, "Q5_1", 32, 24, DType::kQ5_1},
    {8, "Q8_0", 32, 34, DType::kQ8_0},
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84, DType::kQ2_K},
    {11, "Q3_K", 256, 110, DType::kQ3_K},
    {12, "Q4_K", 256, 144, DType::kQ4_K},
    {13, "Q5_K", 256, 176, DType::kQ5_K},
    {14, "Q6_K", 256, 210, DType::kQ6_K},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66, DType::kIQ2_XXS},
    {17, "IQ2_XS", 256, 74, DType::kIQ2_XS},
    {18, "IQ3_XXS", 256, 98, DType::kIQ3_XXS},
    {19, "IQ1_S", 256, 50, DType::kIQ1_S},
    {20, "IQ4_NL", 32, 18, DType::kIQ4_NL},
    {21, "IQ3_S", 256, 110, DType::kIQ3_S},
    {22, "IQ2_S", 256, 82, DType::kIQ2_S},
    {23, "IQ4_XS", 256, 136, DType::kIQ4_XS},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56, DType::kIQ1_M},
    {34, "TQ1_0", 256, 54, DType::kTQ1_0},
    {35, "TQ2_0", 256, 66, DType::kTQ2_0},
    {39, "MXFP4", 32, 17, DType::kMXFP4},
};

// Types of metadata values.
enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// A forward-only view of a file's beginning. The first failure sticks; reads after it give zero.
class Reader {
 public:
  Reader(const FileSource& source, absl::string_view file, std::string what, uint64_t size)
      : source_(source), file_(file), what_(std::move(what)), size_(size) {}

  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  const std::string& what() const { return what_; }
  uint64_t position() const { return position_; }
  // Bytes that a header may still take.
  uint64_t left() const { return std::min(size_, kMaxHeader) - position_; }

  template <typename... Parts>
  bool fail(const Parts&... parts) {
    if (status_.ok()) status_ = corrupt_error(what_, ": ", parts...);
    return false;
  }
  bool fail_with(Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }

  // Adds to the failure what was being read.
  void at(absl::string_view thing) {
    status_ = Status(status_.code(), absl::StrCat(status_.message(), " (reading ", thing, ")"));
  }

  template <typename T>
  T take() {
    T value{};
    bytes(&value, sizeof value);
    return value;
  }

  // A length and that many bytes.
  std::string text(uint64_t max) {
    const auto length = take<uint64_t>();
    if (!ok()) return {};
    if (length > max || length > left()) {
      fail("a text at byte ", position_ - 8, " claims ", length, " bytes; ",
           length > max ? absl::StrCat("the most that makes sense is ", max)
                        : absl::StrCat("the file has only ", left(), " more for its header"));
      return {};
    }
    std::string value(static_cast<size_t>(length), '\0');
    bytes(value.data(), value.size());
    return ok() ? value : std::string();
  }

 private:
  void bytes(void* dst, size_t n) {
    if (!ok()) return;
    if (n > left()) {
      if (size_ > kMaxHeader) {
        fail("the header takes more than ", kMaxHeader, " bytes; no real one does");
      } else {
        fail("ends at byte ", size_,
             " in the middle of its header; it is truncated, or its"
             " download is not complete");
      }
      return;
    }
    auto* out = static_cast<char*>(dst);
    while (n > 0) {
      if (at_ == buffer_.size()) {
        buffer_.resize(static_cast<size_t>(std::min<uint64_t>(kChunk, left())));
        at_ = 0;
        if (!fail_unless_ok(source_.read(file_, position_, buffer_.data(), buffer_.size()))) {
          buffer_.clear();
          return;
        }
      }
      const size_t part = std::min(n, buffer_.size() - at_);
      std::memcpy(out, buffer_.data() + at_, part);
      out += part, at_ += part, position_ += part, n -= part;
    }
  }
  bool fail_unless_ok(const Status& status) { return status.ok() || fail_with(status); }

  const FileSource& source_;
  const absl::string_view file_;
  const std::string what_;
  const uint64_t size_;
  uint64_t position_ = 0;
  std::string buffer_;
  size_t at_ = 0;
  Status status_;
};

uint64_t least_bytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
    case kString:
      return 8;
    default:
      return 0;
  }
}

GgufValue unsigned_value(uint64_t v) {
  if (v <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return static_cast<int64_t>(v);
  }
  return v;
}

bool take_bool(Reader& in) {
  const auto byte = in.take<uint8_t>();
  if (byte > 1) in.fail("a truth value at byte ", in.position() - 1, " is ", byte);
  return byte == 1;
}

GgufValue take_scalar(Reader& in, uint32_t type) {
  switch (type) {
    case kUint8:
      return static_cast<int64_t>(in.take<uint8_t>());
    case kInt8:
      return static_cast<int64_t>(in.take<int8_t>());
    case kUint16:
      return static_cast<int64_t>(in.take<uint16_t>());
    case kInt16:
      return static_cast<int64_t>(in.take<int16_t>());
    case kUint32:
      return static_cast<int64_t>(in.take<uint32_t>());
    case kInt32:
      return static_cast<int64_t>(in.take<int32_t>());
    case kFloat32:
      return static_cast<double>(in.take<float>());
    case kBool:
      return take_bool(in);
    case kString:
      return in.text(kMaxHeader);
    case kUint64:
      return unsigned_value(in.take<uint64_t>());
    case kInt64:
      return in.take<int64_t>();
    case kFloat64:
      return in.take<double>();
    default:
      in.fail("value type ", type, " at byte ", in.position() - 4, " is unknown");
      return {};
  }
}

// `One` reads an element. The count was checked against what is left of the file, but the memory is
// taken as the elements come: a host that lies about sizes gets no more than it delivers.
template <typename T, typename One>
GgufValue take_elements(Reader& in, uint64_t count, const One& one) {
  std::vector<T> elements;
  for (uint64_t i = 0; i < count && in.ok(); ++i) elements.push_back(one());
  return elements;
}

GgufValue take_array(Reader& in) {
  const auto type = in.take<uint32_t>();
  const auto count = in.take<uint64_t>();
  if (!in.ok()) return {};
  if (type == kArray) {
    in.fail_with(unsupported_error(in.what(), ": has an array of arrays at byte ", in.position(),
                                   ", which no known model uses"));
    return {};
  }
  const uint64_t each = least_bytes(type);
  if (each == 0) {
    in.fail("array element type ", type, " at byte ", in.position() - 12, " is unknown");
    return {};
  }
  if (count > in.left() / each) {
    in.fail("an array at byte ", in.position(), " claims ", count, " elements of at least ", each,
            " bytes; the file has only ", in.left(), " bytes more for its header");
    return {};
  }
  switch (type) {
    case kString:
      return take_elements<std::string>(in, count, [&] { return in.text(kMaxHeader); });
    case kFloat32:
      return take_elements<double>(in, count, [&] { return double{in.take<float>()}; });
    case kFloat64:
      return take_elements<double>(in, count, [&] { return in.take<double>(); });
    default:
      return take_elements<int64_t>(in, count, [&]() -> int64_t {
        const GgufValue value = take_scalar(in, type);
        if (const auto* i = std::get_if<int64_t>(&value)) return *i;
        if (const auto* b = std::get_if<bool>(&value)) return *b ? 1 : 0;
        in.fail("an array element at byte ", in.position() - 8, " is beyond 2^63");
        return 0;
      });
  }
}

bool take_tensor(Reader& in, GgufTensor* tensor) {
  tensor->name = in.text(kMaxTensorName);
  const auto rank = in.take<uint32_t>();
  if (!in.ok()) return false;
  const auto name = [tensor] { return absl::StrCat("tensor ", quote(tensor->name)); };
  if (tensor->name.empty()) return in.fail("a tensor before byte ", in.position(), " has no name");
  if (rank < 1 || rank > kMaxRank) {
    return in.fail(name(), ": has ", rank, " dimensions, may have 1 to ", kMaxRank);
  }
  for (uint32_t i = 0; i < rank; ++i) {
    const auto d = in.take<uint64_t>();
    if (!in.ok()) return false;
    if (d < 1 || d > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return in.fail(name(), ": dimension ", d, " makes no sense");
    }
    tensor->shape.push_back(static_cast<int64_t>(d));
  }
  const auto type = in.take<uint32_t>();
  tensor->offset = in.take<uint64_t>();
  if (!in.ok()) return false;
  tensor->type = find_gguf_type(type);
  if (tensor->type == nullptr) {
    return in.fail_with(unsupported_error(in.what(), ": ", name(), ": element type number ", type,
                                          " is unknown; the file is newer than this library, or"
                                          " uses a type that was withdrawn"));
  }
  const GgufType& t = *tensor->type;
  if (tensor->shape[0] % t.block != 0) {
    return in.fail(name(), ": rows of ", tensor->shape[0], " elements cannot be stored as ", t.name,
                   ", which has blocks of ", t.block);
  }
  uint64_t bytes = 0;
  bool fits = !__builtin_mul_overflow(static_cast<uint64_t>(tensor->shape[0] / t.block),
                                      static_cast<uint64_t>(t.bytes), &bytes);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto d = static_cast<uint64_t>(tensor->shape[i]);
    fits = fits && !__builtin_mul_overflow(elements, d, &elements);
    if (i > 0) fits = fits && !__builtin_mul_overflow(bytes, d, &bytes);
  }
  if (!fits || elements > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return in.fail(name(), ": its dimensions are more than any file can hold");
  }
  tensor->bytes = bytes;
  std::reverse(tensor->shape.begin(), tensor->shape.end());
  return true;
}

}  // namespace

const GgufType* find_gguf_type(uint32_t id) {
  for (const GgufType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

// ---- metadata -----------------------------------------------------------------------------------

const GgufValue* GgufMetadata::find(absl::string_view key) const {
  const auto it = std::lower_bound(
      entries_.begin(), entries_.end(), key,
      [](const auto& entry, absl::string_view wanted) { return entry.first < wanted; });
  return it != entries_.end() && it->first == key ? &it->second : nullptr;
}

Status GgufMetadata::wrong_kind(absl::string_view key, absl::string_view wanted) const {
  static constexpr absl::string_view kKinds[] = {
      "true or false", "a whole number", "a whole number beyond 2^63",
      "a number",      "a text",         "whole numbers",
      "numbers",       "texts"};
  return corrupt_error(what_, ": metadata ", quote(key), " must be ", wanted, ", found ",
                       kKinds[find(key)->index()]);
}

StatusOr<std::optional<int64_t>> GgufMetadata::integer(absl::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<int64_t>();
  if (const auto* i = std::get_if<int64_t>(value)) return std::optional<int64_t>(*i);
  return wrong_kind(key, "a whole number");
}

StatusOr<std::optional<double>> GgufMetadata::number(absl::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<double>();
  if (const auto* d = std::get_if<double>(value)) return std::optional<double>(*d);
  if (const auto* i = std::get_if<int64_t>(value)) {
    return std::optional<double>(static_cast<double>(*i));
  }
  return wrong_kind(key, "a number");
}

StatusOr<std::optional<bool>> GgufMetadata::boolean(absl::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<bool>();
  if (const auto* b = std::get_if<bool>(value)) return std::optional<bool>(*b);
  return wrong_kind(key, "true or false");
}

StatusOr<std::optional<std::string>> GgufMetadata::text(absl::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<std::string>();
  if (const auto* s = std::get_if<std::string>(value)) return std::optional<std::string>(*s);
  return wrong_kind(key, "a text");
}

StatusOr<const std::vector<int64_t>*> GgufMetadata::integers(absl::string_view key) const {
  const GgufValue* value = find(key);
  const auto* list = value == nullptr ? nullptr : std::get_if<std::vector<int64_t>>(value);
  if (value != nullptr && list == nullptr) return wrong_kind(key, "whole numbers");
  return list;
}

StatusOr<const std::vector<double>*> GgufMetadata::numbers(absl::string_view key) const {
  const GgufValue* value = find(key);
  const auto* list = value == nullptr ? nullptr : std::get_if<std::vector<double>>(value);
  if (value != nullptr && list == nullptr) return wrong_kind(key, "numbers");
  return list;
}

StatusOr<const std::vector<std::string>*> GgufMetadata::texts(absl::string_view key) const {
  const GgufValue* value = find(key);
  const auto* list = value == nullptr ? nullptr : std::get_if<std::vector<std::string>>(value);
  if (value != nullptr && list == nullptr) return wrong_kind(key, "texts");
  return list;
}

// ---- files --------------------------------------------------------------------------------------

// Puts a GgufFiles together, file by file.
class GgufParser {
 public:
  GgufParser(const FileSource& source, absl::string_view first) : source_(source), first_(first) {}

  StatusOr<GgufFiles> parse() {
    PONDER_RETURN_IF_ERROR(add_file(std::string(first_), &result_.metadata));
    const GgufMetadata& m = result_.metadata;
    PONDER_ASSIGN_OR_RETURN(const auto count, m.integer("split.count"));
    if (count.has_value() && *count != 0 && *count != 1) PONDER_RETURN_IF_ERROR(add_others(*count));

    std::vector<GgufTensor>& tensors = result_.tensors;
    std::sort(tensors.begin(), tensors.end(),
              [](const GgufTensor& a, const GgufTensor& b) { return a.name < b.name; });
    const auto twice = std::adjacent_find(
        tensors.begin(), tensors.end(),
        [](const GgufTensor& a, const GgufTensor& b) { return a.name == b.name; });
    if (twice != tensors.end()) {
      return corrupt_error(path_of(result_.files[twice->file]), ": tensor ", quote(twice->name),
                           " occurs twice");
    }
    return std::move(result_);
  }

 private:
  std::string path_of(absl::string_view file) const {
    return absl::StrCat(source_.where(), "/", excerpt(file, 255));
  }

  Status add_others(int64_t count) {
    const std::string what = path_of(first_);
    if (count < 2 || count > kMaxSplits) {
      return corrupt_error(what, ": is split into ", count, " files, may be into 1 to ",
                           kMaxSplits);
    }
    PONDER_ASSIGN_OR_RETURN(const auto number, result_.metadata.integer("split.no"));
    const std::string ending = absl::StrFormat("-00001-of-%05d.gguf", count);
    if (number.value_or(0) != 0 || !absl::EndsWith(first_, ending)) {
      return invalid_argument_error(what, ": is number ", number.value_or(0) + 1, " of a model of ",
                                    count, " files; name the first one, which ends in ", ending);
    }
    const absl::string_view stem = first_.substr(0, first_.size() - ending.size());
    for (int64_t i = 1; i < count; ++i) {
      const std::string name =
          absl::StrFormat("%s-%05d-of-%05d.gguf", std::string(stem), i + 1, count);
      GgufMetadata metadata;
      const Status status = add_file(name, &metadata);
      if (absl::IsNotFound(status)) {
        return not_found_error(what, ": belongs to a model of ", count, " files, of which ",
                               quote(name, 255), " is not there");
      }
      PONDER_RETURN_IF_ERROR(status);
      PONDER_ASSIGN_OR_RETURN(const auto its_number, metadata.integer("split.no"));
      PONDER_ASSIGN_OR_RETURN(const auto its_count, metadata.integer("split.count"));
      if (its_number != i || its_count != count) {
        return corrupt_error(path_of(name), ": says that it is number ", its_number.value_or(0) + 1,
                             " of ", its_count.value_or(0), " files, but its name says number ",
                             i + 1, " of ", count, "; the files do not belong together");
      }
    }
    PONDER_ASSIGN_OR_RETURN(const auto total, result_.metadata.integer("split.tensors.count"));
    const auto have = static_cast<int64_t>(result_.tensors.size());
    if (total.has_value() && *total != have) {
      return corrupt_error(what, ": the model has ", *total, " tensors in all, its ", count,
                           " files have ", have, "; they do not belong together");
    }
    return OkStatus();
  }

  Status add_file(const std::string& file, GgufMetadata* metadata) {
    PONDER_ASSIGN_OR_RETURN(const uint64_t size, source_.size(file));
    Reader in(source_, file, path_of(file), size);
    read_start(in);
    const auto tensors = in.take<uint64_t>();
    const auto entries = in.take<uint64_t>();
    read_metadata(in, entries, metadata);
    PONDER_RETURN_IF_ERROR(in.status());
    PONDER_ASSIGN_OR_RETURN(const auto alignment, metadata->integer("general.alignment"));
    read_table(in, tensors, size, alignment.value_or(32));
    PONDER_RETURN_IF_ERROR(in.status());
    result_.files.push_back(file);
    result_.sizes.push_back(size);
    return OkStatus();
  }

  static void read_start(Reader& in) {
    char magic[4];
    const auto word = in.take<uint32_t>();
    std::memcpy(magic, &word, sizeof magic);
    const auto version = in.take<uint32_t>();
    if (!in.ok()) return;
    if (std::memcmp(magic, "GGUF", 4) != 0) {
      if (std::memcmp(magic, "vers", 4) == 0) {
        in.fail("is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`");
      } else if (std::memcmp(magic, "lmgg", 4) == 0 || std::memcmp(magic, "tjgg", 4) == 0 ||
                 std::memcmp(magic, "fmgg", 4) == 0) {
        in.fail_with(unsupported_error(in.what(),
                                       ": is in a format before GGUF; get or make a"
                                       " newer file of the model"));
      } else {
        in.fail("is not a GGUF file: it begins with ", quote({magic, 4}));
      }
      return;
    }
    if (version == 2 || version == 3) return;
    const bool swapped = (version & 0xFFFF) == 0 && version != 0;
    in.fail_with(unsupported_error(
        in.what(), ": is GGUF ", swapped ? "for big-endian machines" : "version ",
        swapped ? "" : absl::StrCat(version), "; versions 2 and 3, little-endian, are supported"));
  }

  static void read_metadata(Reader& in, uint64_t count, GgufMetadata* metadata) {
    // An entry takes at least 13 bytes: a key of none, a type, a value of one.
    if (in.ok() && count > in.left() / 13) {
      in.fail("claims ", count, " metadata entries, more than its ", in.left(), " bytes can hold");
    }
    metadata->what_ = in.what();
    for (uint64_t i = 0; i < count && in.ok(); ++i) {
      std::string key = in.text(kMaxKey);
      const auto type = in.take<uint32_t>();
      if (!in.ok()) return;
      GgufValue value = type == kArray ? take_array(in) : take_scalar(in, type);
      if (!in.ok()) {
        in.at(absl::StrCat("metadata ", quote(key)));
        return;
      }
      metadata->entries_.emplace_back(std::move(key), std::move(value));
    }
    auto& entries = metadata->entries_;
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto twice =
        std::adjacent_find(entries.begin(), entries.end(),
                           [](const auto& a, const auto& b) { return a.first == b.first; });
    if (in.ok() && twice != entries.end()) {
      in.fail("metadata ", quote(twice->first), " occurs twice");
    }
  }

  void read_table(Reader& in, uint64_t count, uint64_t size, int64_t alignment) {
    if (!std::has_single_bit(static_cast<uint64_t>(alignment)) || alignment < 1 ||
        static_cast<uint64_t>(alignment) > kMaxAlignment) {
      in.fail("metadata \"general.alignment\" is ", alignment,
              ", must be a power of two and at most ", kMaxAlignment);
      return;
    }
    // A tensor takes at least 33 bytes: its name's length and one letter, one dimension and so on.
    if (count > in.left() / 33) {
      in.fail("claims ", count, " tensors, more than its ", in.left(), " bytes can hold");
      return;
    }
    std::vector<GgufTensor> tensors;
    for (uint64_t i = 0; i < count && in.ok(); ++i) take_tensor(in, &tensors.emplace_back());
    if (!in.ok()) return;

    const auto step = static_cast<uint64_t>(alignment);
    const uint64_t data_begin = (in.position() + step - 1) / step * step;
    const uint64_t data_bytes = size > data_begin ? size - data_begin : 0;
    std::sort(tensors.begin(), tensors.end(),
              [](const GgufTensor& a, const GgufTensor& b) { return a.offset < b.offset; });
    uint64_t end = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      GgufTensor& tensor = tensors[i];
      const std::string name = absl::StrCat("tensor ", quote(tensor.name));
      if (tensor.offset % step != 0) {
        in.fail(name, ": begins at byte ", tensor.offset, " of the data, no multiple of ", step);
        return;
      }
      if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
        in.fail(name, ": its ", tensor.bytes, " bytes at ", tensor.offset, " reach past the ",
                data_bytes,
                " bytes of data; the file is truncated, or its download is not"
                " complete");
        return;
      }
      if (tensor.offset < end) {
        in.fail(name, ": begins at byte ", tensor.offset, " inside tensor ",
                quote(tensors[i - 1].name), ", which ends at ", end);
        return;
      }
      end = tensor.offset + tensor.bytes;
      tensor.offset += data_begin;
      tensor.file = static_cast<uint32_t>(result_.files.size());
    }
    auto& all = result_.tensors;
    all.insert(all.end(), std::make_move_iterator(tensors.begin()),
               std::make_move_iterator(tensors.end()));
  }

  const FileSource& source_;
  const absl::string_view first_;
  GgufFiles result_;
};

const GgufTensor* GgufFiles::find(absl::string_view name) const {
  const auto it = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const GgufTensor& tensor, absl::string_view wanted) { return tensor.name < wanted; });
  return it != tensors.end() && it->name == name ? &*it : nullptr;
}

StatusOr<GgufFiles> read_gguf(const FileSource& source, absl::string_view file) {
  return GgufParser(source, file).parse();
}

}  // namespace ponder
