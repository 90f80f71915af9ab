#include "lib/format/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "lib/base/quote.h"
#include "lib/format/file_checkpoint.h"
#include "lib/format/json_reader.h"

namespace ponder {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr size_t kMaxRank = 16;
constexpr size_t kLengthBytes = 8;

// The element types of the specification; `dtype` where we compute with it.
struct ElementType {
  absl::string_view name;
  uint32_t bits;
  std::optional<DType> dtype;
};

constexpr ElementType kElementTypes[] = {
    {"F32", 32, DType::kF32},         {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},       {"F64", 64, std::nullopt},
    {"I64", 64, std::nullopt},        {"U64", 64, std::nullopt},
    {"I32", 32, std::nullopt},        {"U32", 32, std::nullopt},
    {"I16", 16, std::nullopt},        {"U16", 16, std::nullopt},
    {"I8", 8, std::nullopt},          {"U8", 8, std::nullopt},
    {"BOOL", 8, std::nullopt},        {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, DType::kF8_E4M3},  {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},     {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},     {"F4", 4, std::nullopt},
};

const ElementType* find_type(absl::string_view name) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) absl::StrAppend(&text, i > 0 ? ", " : "", shape[i]);
  return text + "]";
}

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}
class HeaderReader final : public JsonReader {
 public:
  HeaderReader(absl::string_view what, uint64_t data_bytes)
      : JsonReader(what), data_bytes_(data_bytes) {}

  std::vector<SafetensorsEntry> take() { return std::move(entries_); }

  bool start_object(size_t) override {
    if (in_ == In::kNothing) return go(In::kTop);
    if (in_ == In::kTop) return go(metadata_next_ ? In::kMetadata : In::kTensor);
    return unexpected("an object");
  }

  bool end_object() override {
    if (in_ == In::kTop) return go(In::kDone);
    if (in_ == In::kMetadata) return go(In::kTop);
    return finish_entry() && go(In::kTop);
  }

  bool key(string_t& name) override {
    if (in_ == In::kTop) {
      metadata_next_ = name == "__metadata__";
      if (metadata_next_) {
        return !std::exchange(had_metadata_, true) || fail("\"__metadata__\" occurs twice");
      }
      field_ = Field::kNone;
      had_type_ = had_shape_ = had_offsets_ = false;
      entries_.emplace_back().name = std::move(name);
      return true;
    }
    if (in_ == In::kMetadata) return true;
    if (name == "dtype" && !std::exchange(had_type_, true)) {
      field_ = Field::kType;
    } else if (name == "shape" && !std::exchange(had_shape_, true)) {
      field_ = Field::kShape;
    } else if (name == "data_offsets" && !std::exchange(had_offsets_, true)) {
      field_ = Field::kOffsets;
    } else {
      field_ = Field::kNone;
      return fail(place(), ": key ", quote(name),
                  " is unknown or occurs twice; a tensor has"
                  " \"dtype\", \"shape\" and \"data_offsets\"");
    }
    return true;
  }

  bool null() override {
    // The reference writes no metadata as null.
    return (in_ == In::kTop && metadata_next_) || unexpected("null");
  }

  bool string(string_t& v) override {
    if (in_ == In::kMetadata) return true;
    if (in_ != In::kTensor || field_ != Field::kType) return unexpected(quote(v));
    const ElementType* type = find_type(v);
    if (type == nullptr) {
      return fail_with(unsupported_error(what(), ": ", place(), ": element type ", quote(v),
                                         " is not one of the safetensors format that we know"));
    }
    entries_.back().dtype = std::string(type->name);
    bits_ = type->bits;
    return true;
  }

  bool start_array(size_t) override {
    if (in_ != In::kTensor || (field_ != Field::kShape && field_ != Field::kOffsets)) {
      return unexpected("an array");
    }
    offsets_ = 0;
    return go(In::kArray);
  }

  bool end_array() override {
    if (field_ == Field::kOffsets && offsets_ != 2) {
      return fail(place(), ": has ", offsets_, " numbers, must have 2: begin and end");
    }
    return go(In::kTensor);
  }

  bool number_unsigned(number_unsigned_t v) override {
    if (in_ != In::kArray) return unexpected(absl::StrCat(v));
    SafetensorsEntry& entry = entries_.back();
    if (field_ == Field::kShape) {
      if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return fail(place(), ": dimension ", v, " is beyond all sense");
      }
      if (entry.shape.size() == kMaxRank) {
        return fail(place(), ": more than ", kMaxRank, " dimensions");
      }
      entry.shape.push_back(static_cast<int64_t>(v));
      return true;
    }
    if (offsets_ == 2) return fail(place(), ": more than 2 numbers");
    (offsets_++ == 0 ? entry.begin : entry.end) = v;
    return true;
  }

  bool number_integer(number_integer_t v) override {
    if (in_ != In::kArray) return unexpected(absl::StrCat(v));
    return fail(place(), ": ", v, " is negative");
  }

  bool number_float(number_float_t, const string_t& text) override {
    if (in_ != In::kArray) return unexpected(excerpt(text));
    return fail(place(), ": ", excerpt(text), " is not a whole number below 2^64");
  }

 private:
  enum class In { kNothing, kTop, kMetadata, kTensor, kArray, kDone };
  enum class Field { kNone, kType, kShape, kOffsets };

  bool go(In in) {
    in_ = in;
    return true;
  }

  // All that can be said of an entry alone; how entries lie together is checked at the end.
  bool finish_entry() {
    const SafetensorsEntry& entry = entries_.back();
    field_ = Field::kNone;
    if (!had_type_ || !had_shape_ || !had_offsets_) {
      return fail(place(), ": ",
                  !had_type_    ? "\"dtype\""
                  : !had_shape_ ? "\"shape\""
                                : "\"data_offsets\"",
                  " is missing");
    }
    uint64_t bits = bits_;
    for (int64_t d : entry.shape) {
      if (__builtin_mul_overflow(bits, static_cast<uint64_t>(d), &bits)) {
        return fail(place(), ": shape ", shape_text(entry.shape), " of ", entry.dtype,
                    " is more than any file can hold");
      }
    }
    if (entry.begin > entry.end) {
      return fail(place(), ": \"data_offsets\" [", entry.begin, ", ", entry.end, "] run backwards");
    }
    if (entry.end > data_bytes_) {
      return fail(place(), ": its data ends at byte ", entry.end, " but the file has ", data_bytes_,
                  " bytes of data; the file is truncated, or its download is not complete");
    }
    if (bits % 8 != 0 || entry.end - entry.begin != bits / 8) {
      return fail(place(), ": has ", entry.end - entry.begin, " bytes of data, but shape ",
                  shape_text(entry.shape), " of ", entry.dtype, " takes ", (bits + 7) / 8);
    }
    return true;
  }

  std::string place() const override {
    if (in_ == In::kNothing || in_ == In::kDone || entries_.empty()) return "header";
    if (in_ == In::kMetadata || (in_ == In::kTop && metadata_next_)) return "\"__metadata__\"";
    const absl::string_view field = field_ == Field::kType      ? ", \"dtype\""
                                    : field_ == Field::kShape   ? ", \"shape\""
                                    : field_ == Field::kOffsets ? ", \"data_offsets\""
                                                                : "";
    return absl::StrCat("tensor ", quote(entries_.back().name), field);
  }

  const uint64_t data_bytes_;
  std::vector<SafetensorsEntry> entries_;
  In in_ = In::kNothing;
  Field field_ = Field::kNone;
  bool metadata_next_ = false, had_metadata_ = false;
  bool had_type_ = false, had_shape_ = false, had_offsets_ = false;  // of the entry being read
  uint32_t bits_ = 0;
  int offsets_ = 0;
};

// {"metadata": {...}, "weight_map": {"name": "file", ...}}
class IndexReader final : public JsonReader {
 public:
  explicit IndexReader(absl::string_view what) : JsonReader(what) {}

  using Map = std::vector<std::pair<std::string, std::string>>;
  Map take() { return std::move(map_); }
  bool complete() const { return had_map_; }

  bool start_object(size_t) override {
    if (in_map_) return unexpected("an object");
    ++depth_;
    if (depth_ == 2 && map_next_) in_map_ = true;
    return true;
  }
  bool end_object() override {
    in_map_ = false;
    return --depth_, true;
  }
  bool start_array(size_t) override {
    if (depth_ == 0 || map_next_here()) return unexpected("an array");
    return ++depth_, true;
  }
  bool end_array() override { return --depth_, true; }

  bool key(string_t& name) override {
    if (in_map_) {
      map_.emplace_back(std::move(name), std::string());
    } else if (depth_ == 1) {
      map_next_ = name == "weight_map";
      if (map_next_ && std::exchange(had_map_, true)) return fail("\"weight_map\" occurs twice");
    }
    return true;
  }
  bool string(string_t& v) override {
    if (depth_ == 0 || (map_next_here() && !in_map_)) return unexpected(quote(v));
    if (in_map_) map_.back().second = std::move(v);
    return true;
  }
  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("true or false"); }
  bool number_integer(number_integer_t v) override { return scalar(absl::StrCat(v)); }
  bool number_unsigned(number_unsigned_t v) override { return scalar(absl::StrCat(v)); }
  bool number_float(number_float_t, const string_t& text) override { return scalar(excerpt(text)); }

 private:
  // The value that comes next is the map's, or in the map.
  bool map_next_here() const { return in_map_ || (depth_ == 1 && map_next_); }
  bool scalar(absl::string_view found) {
    return (depth_ > 0 && !map_next_here()) || unexpected(found);
  }
  std::string place() const override {
    if (in_map_) return absl::StrCat("\"weight_map\", tensor ", quote(map_.back().first));
    return map_next_ ? "\"weight_map\"" : "index";
  }

  Map map_;
  uint64_t depth_ = 0;
  bool map_next_ = false, in_map_ = false, had_map_ = false;
};

struct Header {
  uint64_t data_begin = 0;  // from the start of the file
  uint64_t file_size = 0;
  std::vector<SafetensorsEntry> entries;
};

StatusOr<Header> read_header(const FileSource& source, absl::string_view file) {
  const std::string what = absl::StrCat(source.where(), "/", excerpt(file, 255));
  Header header;
  PONDER_ASSIGN_OR_RETURN(header.file_size, source.size(file));
  if (header.file_size < kLengthBytes) {
    return corrupt_error(what, ": has ", header.file_size,
                         " bytes, too few for a safetensors file; is its download complete?");
  }
  char start[kLengthBytes];
  PONDER_RETURN_IF_ERROR(source.read(file, 0, start, sizeof start));
  if (std::memcmp(start, "version ", sizeof start) == 0) {
    return corrupt_error(what,
                         ": is a Git LFS pointer, not the weights themselves; fetch them with"
                         " `git lfs pull`");
  }
  uint64_t length;
  std::memcpy(&length, start, sizeof length);
  if (length > kSafetensorsMaxHeader) {
    return corrupt_error(what, ": claims a header of ", length, " bytes, more than the ",
                         kSafetensorsMaxHeader, " allowed; it is not a safetensors file");
  }
  if (length > header.file_size - kLengthBytes) {
    return corrupt_error(what, ": claims a header of ", length, " bytes but has only ",
                         header.file_size, " bytes in all; it is truncated");
  }
  header.data_begin = kLengthBytes + length;
  std::string json(static_cast<size_t>(length), '\0');
  PONDER_RETURN_IF_ERROR(source.read(file, kLengthBytes, json.data(), json.size()));
  PONDER_ASSIGN_OR_RETURN(
      header.entries, parse_safetensors_header(json, header.file_size - header.data_begin, what));
  return header;
}

void add_tensor(uint32_t file, uint64_t data_begin, SafetensorsEntry entry,
                FileCheckpoint* checkpoint) {
  const ElementType* type = find_type(entry.dtype);
  checkpoint->add({std::move(entry.name), type->name, type->dtype, file, data_begin + entry.begin,
                   entry.end - entry.begin, std::move(entry.shape)});
}

}  // namespace

StatusOr<std::vector<SafetensorsEntry>> parse_safetensors_header(absl::string_view json,
                                                                 uint64_t data_bytes,
                                                                 absl::string_view what) {
  if (json.empty() || json.front() != '{') {
    return corrupt_error(what,
                         ": the header does not begin with '{'; it is not a safetensors file");
  }
  HeaderReader reader(what, data_bytes);
  PONDER_RETURN_IF_ERROR(reader.read(json));
  std::vector<SafetensorsEntry> entries = reader.take();

  // Duplicates, without moving the entries about.
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].name < entries[b].name; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (entries[order[i]].name == entries[order[i - 1]].name) {
      return corrupt_error(what, ": tensor ", quote(entries[order[i]].name), " occurs twice");
    }
  }

  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t end = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& entry = entries[i];
    const std::string before =
        i == 0 ? "the header" : absl::StrCat("tensor ", quote(entries[i - 1].name));
    if (entry.begin < end) {
      return corrupt_error(what, ": tensor ", quote(entry.name), " begins at byte ", entry.begin,
                           " inside ", before, ", which ends at ", end);
    }
    if (entry.begin > end) {
      return corrupt_error(what, ": ", entry.begin - end, " bytes between ", before, " and tensor ",
                           quote(entry.name), " belong to nobody");
    }
    end = entry.end;
  }
  if (end != data_bytes) {
    return corrupt_error(what, ": ", data_bytes - end,
                         " bytes behind the last tensor belong to"
                         " nobody");
  }
  return entries;
}

StatusOr<std::vector<std::pair<std::string, std::string>>> parse_safetensors_index(
    absl::string_view json, absl::string_view what) {
  IndexReader reader(what);
  PONDER_RETURN_IF_ERROR(reader.read(json));
  if (!reader.complete()) {
    return corrupt_error(what, ": has no \"weight_map\"; an index maps tensor names to file names");
  }
  IndexReader::Map map = reader.take();
  if (map.empty()) return corrupt_error(what, ": \"weight_map\" is empty");
  std::vector<absl::string_view> names;
  names.reserve(map.size());
  for (const auto& [name, file] : map) names.push_back(name);
  std::sort(names.begin(), names.end());
  if (const auto it = std::adjacent_find(names.begin(), names.end()); it != names.end()) {
    return corrupt_error(what, ": tensor ", quote(*it), " occurs twice");
  }
  return map;
}

StatusOr<std::unique_ptr<Checkpoint>> open_safetensors(std::shared_ptr<const FileSource> source,
                                                       absl::string_view file,
                                                       Allocator* allocator) {
  PONDER_ASSIGN_OR_RETURN(Header header, read_header(*source, file));
  auto checkpoint = std::make_unique<FileCheckpoint>(std::move(source), allocator);
  PONDER_ASSIGN_OR_RETURN(const uint32_t number, checkpoint->add_file(file, header.file_size));
  for (SafetensorsEntry& entry : header.entries) {
    add_tensor(number, header.data_begin, std::move(entry), checkpoint.get());
  }
  checkpoint->finish();
  return checkpoint;
}

StatusOr<std::unique_ptr<Checkpoint>> open_sharded_safetensors(
    std::shared_ptr<const FileSource> source, absl::string_view index_file, Allocator* allocator) {
  const std::string what = absl::StrCat(source->where(), "/", excerpt(index_file, 255));
  PONDER_ASSIGN_OR_RETURN(const std::string text,
                          read_file(*source, index_file, kSafetensorsMaxHeader));
  PONDER_ASSIGN_OR_RETURN(auto map, parse_safetensors_index(text, what));

  std::sort(map.begin(), map.end());  // by tensor
  const auto wanted = [&map](absl::string_view name, absl::string_view shard) {
    const auto it = std::lower_bound(
        map.begin(), map.end(), name,
        [](const auto& pair, absl::string_view tensor) { return pair.first < tensor; });
    return it != map.end() && it->first == name && it->second == shard;
  };
  // Shards in the order of their names, so that errors do not depend on the index's order.
  std::vector<absl::string_view> shards;
  shards.reserve(map.size());
  for (const auto& [name, file] : map) shards.push_back(file);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());

  const FileSource& files = *source;
  auto checkpoint = std::make_unique<FileCheckpoint>(std::move(source), allocator);
  for (absl::string_view shard : shards) {
    StatusOr<Header> header = read_header(files, shard);
    if (absl::IsNotFound(header.status())) {
      return not_found_error(what, ": names the file ", quote(shard, 255),
                             ", which is not there; the download is not complete (", shards.size(),
                             " weight files belong to this model)");
    }
    PONDER_RETURN_IF_ERROR(header.status());
    PONDER_ASSIGN_OR_RETURN(const uint32_t number, checkpoint->add_file(shard, header->file_size));
    for (SafetensorsEntry& entry : header->entries) {
      if (wanted(entry.name, shard)) {
        add_tensor(number, header->data_begin, std::move(entry), checkpoint.get());
      }
    }
  }
  checkpoint->finish();
  for (const auto& [name, file] : map) {
    if (!checkpoint->has(name)) {
      return corrupt_error(what, ": says that tensor ", quote(name), " is in ", quote(file, 255),
                           ", which does not have it; index and weight files are of different"
                           " versions");
    }
  }
  return checkpoint;
}

}  // namespace ponder
