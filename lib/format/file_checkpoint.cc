#include "lib/format/file_checkpoint.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/quote.h"

namespace ponder {

// Memory of tensors that load() read and that nobody has any more, a dozen at the most: fresh pages
// are slow, and experts on demand want the same few sizes all the time.
class FileCheckpoint::Shelf {
 public:
  // Of this very size; else empty, and one of another size goes.
  Buffer take(uint64_t bytes) {
    absl::MutexLock lock(&mutex_);
    for (Buffer& buffer : buffers_) {
      if (buffer.size() == bytes) return std::move(buffer);
    }
    for (Buffer& buffer : buffers_) {
      if (buffer.size() != 0) {
        buffer = Buffer();
        break;
      }
    }
    return Buffer();
  }
  void put(Buffer buffer) {
    constexpr size_t kWorthwhile = 64 << 10;
    if (buffer.size() < kWorthwhile) return;
    absl::MutexLock lock(&mutex_);
    for (Buffer& place : buffers_) {
      if (place.size() != 0) continue;
      place = std::move(buffer);
      return;
    }
  }

 private:
  absl::Mutex mutex_;
  std::array<Buffer, 12> buffers_ ABSL_GUARDED_BY(mutex_);  // four experts' matrices
};

FileCheckpoint::FileCheckpoint(std::shared_ptr<const FileSource> source, Allocator* allocator)
    : source_(std::move(source)), allocator_(allocator), shelf_(std::make_shared<Shelf>()) {}

StatusOr<uint32_t> FileCheckpoint::add_file(absl::string_view name, uint64_t size) {
  PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const FileView> view, source_->map(name));
  if (view->size() != size) {
    return io_error(where(), "/", excerpt(name, 255), ": changed from ", size, " to ", view->size(),
                    " bytes while it was being opened");
  }
  files_.push_back({std::string(name), std::move(view)});
  return static_cast<uint32_t>(files_.size() - 1);
}

void FileCheckpoint::add(StoredTensor tensor) {
  uint64_t elements = 1;
  for (int64_t d : tensor.shape) elements *= static_cast<uint64_t>(d);
  total_bytes_ += tensor.bytes;
  parameters_ += elements;
  tensors_.push_back(std::move(tensor));
}

void FileCheckpoint::finish() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
}

bool FileCheckpoint::has(absl::string_view name) const { return lookup(name) != nullptr; }

StatusOr<WeightData> FileCheckpoint::find(absl::string_view name) const {
  PONDER_ASSIGN_OR_RETURN(Part whole, part(name, -1));
  return view(std::move(whole));
}

StatusOr<WeightData> FileCheckpoint::find_slice(absl::string_view name, int64_t index) const {
  PONDER_ASSIGN_OR_RETURN(const StoredTensor* tensor, entry(name));
  if (index < 0) {
    return invalid_argument_error("part ", index, " wanted of tensor ", quote(tensor->name));
  }
  PONDER_ASSIGN_OR_RETURN(Part slice, part(name, index));
  return view(std::move(slice));
}

StatusOr<WeightData> FileCheckpoint::load(absl::string_view name, int64_t slice) const {
  PONDER_ASSIGN_OR_RETURN(Part wanted, part(name, slice));
  return copy(std::move(wanted), true);
}

StatusOr<FileCheckpoint::Part> FileCheckpoint::part(absl::string_view name, int64_t slice) const {
  PONDER_ASSIGN_OR_RETURN(const StoredTensor* tensor, entry(name));
  const std::vector<int64_t>& shape = tensor->shape;
  if (slice < 0) return Part{tensor, shape, 0, tensor->bytes};
  if (shape.size() < 2 || slice >= shape[0]) {
    return invalid_argument_error("part ", slice, " wanted of tensor ", quote(name), ", which has ",
                                  shape.size() < 2 ? 0 : shape[0], " parts");
  }
  // Rows are whole blocks, so parts are whole bytes.
  const uint64_t bytes = tensor->bytes / static_cast<uint64_t>(shape[0]);
  return Part{
      tensor, {shape.begin() + 1, shape.end()}, static_cast<uint64_t>(slice) * bytes, bytes};
}

StatusOr<WeightData> FileCheckpoint::view(Part part) const {
  const File& file = files_[part.tensor->file];
  if (file.view->data() == nullptr) return copy(std::move(part), false);
  PONDER_ASSIGN_OR_RETURN(WeightData weight, blank(*part.tensor));
  PONDER_RETURN_IF_ERROR(file.view->check());
  const std::byte* data = file.view->data() + part.tensor->offset + part.offset;
  // Writers pad headers so that this holds; where one did not, a copy is the way out. Blocks of
  // quantised elements are read byte by byte and may lie anywhere.
  const DTypeInfo type = dtype_info(weight.dtype);
  const auto align = static_cast<uintptr_t>(type.block == 1 ? type.bytes : 1);
  if (reinterpret_cast<uintptr_t>(data) % align != 0) return copy(std::move(part), false);
  weight.shape = std::move(part.shape);
  weight.data = data;
  weight.owner = file.view;
  return weight;
}

StatusOr<WeightData> FileCheckpoint::copy(Part part, bool reuse) const {
  PONDER_ASSIGN_OR_RETURN(WeightData weight, blank(*part.tensor));
  const std::string& name = part.tensor->name;
  Buffer made;
  if (reuse) made = shelf_->take(part.bytes);
  if (made.size() != part.bytes) {
    PONDER_ASSIGN_OR_RETURN(
        made, Buffer::create(allocator_, part.bytes, absl::StrCat("tensor ", quote(name))));
  }
  const auto give_back = [shelf = reuse ? shelf_ : nullptr](Buffer* owned) {
    if (shelf != nullptr) shelf->put(std::move(*owned));
    delete owned;
  };
  const std::shared_ptr<Buffer> buffer(new Buffer(std::move(made)), give_back);
  PONDER_RETURN_IF_ERROR(read(name, part.offset, buffer->data(), part.bytes));
  weight.shape = std::move(part.shape);
  weight.data = buffer->data();
  weight.owner = buffer;
  return weight;
}

StatusOr<WeightData> FileCheckpoint::blank(const StoredTensor& tensor) const {
  if (!tensor.dtype.has_value()) {
    return unsupported_error(where(), "/", excerpt(files_[tensor.file].name, 255), ": tensor ",
                             quote(tensor.name), " is stored as ", tensor.type,
                             "; weights must be F32, F16, BF16, F8_E4M3 or of a GGUF block type:"
                             " use such a version of the model");
  }
  WeightData weight;
  weight.name = tensor.name;
  weight.dtype = *tensor.dtype;
  weight.shape = tensor.shape;
  return weight;
}

StatusOr<WeightData> FileCheckpoint::describe(absl::string_view name) const {
  PONDER_ASSIGN_OR_RETURN(const StoredTensor* tensor, entry(name));
  return blank(*tensor);
}

void FileCheckpoint::prefetch(absl::string_view name, int64_t slice) const {
  const StatusOr<Part> wanted = part(name, slice);
  if (!wanted.ok()) return;
  const StoredTensor& tensor = *wanted->tensor;
  source_->prefetch(files_[tensor.file].name, tensor.offset + wanted->offset, wanted->bytes);
}

void FileCheckpoint::drop(const WeightData& weight) const {
  for (const File& file : files_) {
    if (weight.owner == file.view) {
      file.view->drop(weight.data,
                      static_cast<uint64_t>(dtype_bytes(weight.dtype, weight.elements())));
    }
  }
}

Status FileCheckpoint::read(absl::string_view name, uint64_t offset, void* dst, uint64_t n) const {
  PONDER_ASSIGN_OR_RETURN(const StoredTensor* tensor, entry(name));
  if (offset > tensor->bytes || n > tensor->bytes - offset) {
    return invalid_argument_error("bytes ", offset, " to ", offset, " + ", n, " wanted of tensor ",
                                  quote(name), ", which has ", tensor->bytes);
  }
  const File& file = files_[tensor->file];
  return in_context(source_->read(file.name, tensor->offset + offset, dst, n),
                    absl::StrCat("reading tensor ", quote(name)));
}

StatusOr<TensorInfo> FileCheckpoint::info(absl::string_view name) const {
  PONDER_ASSIGN_OR_RETURN(const StoredTensor* tensor, entry(name));
  return TensorInfo{std::string(name), std::string(tensor->type), tensor->shape, tensor->bytes,
                    files_[tensor->file].name};
}

std::vector<std::string> FileCheckpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) names.push_back(tensor.name);
  return names;
}

const StoredTensor* FileCheckpoint::lookup(absl::string_view name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const StoredTensor& tensor, absl::string_view wanted) { return tensor.name < wanted; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

StatusOr<const StoredTensor*> FileCheckpoint::entry(absl::string_view name) const {
  if (const StoredTensor* tensor = lookup(name); tensor != nullptr) return tensor;
  return not_found_error(where(), ": there is no tensor ", quote(name), " among the ",
                         tensors_.size(),
                         " of this checkpoint; are all its files there, and is it"
                         " of the architecture that its configuration says?");
}

}  // namespace ponder
