#include "lib/format/gguf_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <system_error>
#include <type_traits>
#include <variant>

#include "lib/base/quote.h"

namespace ponder {
namespace {

constexpr uint64_t kAlignment = 32;  // GGUF's own, unless metadata say otherwise
constexpr size_t kBuffer = size_t{1} << 20;

// Numbers of the types of metadata values (ggml, docs/gguf.md).
enum ValueType : uint32_t {
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
};

// Little-endian: so are the machines that we run on.
template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void append_text(std::string& out, absl::string_view text) {
  append<uint64_t>(out, text.size());
  out.append(text.data(), text.size());
}

template <typename T>
bool all_fit(const std::vector<int64_t>& values) {
  for (const int64_t v : values) {
    if (v < std::numeric_limits<T>::min() || v > std::numeric_limits<T>::max()) return false;
  }
  return true;
}

void append_value(std::string& out, const GgufValue& value) {
  std::visit(
      [&out](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, bool>) {
          append<uint32_t>(out, kBool);
          append<uint8_t>(out, v ? 1 : 0);
        } else if constexpr (std::is_same_v<T, int64_t>) {
          if (v >= 0 && v <= std::numeric_limits<uint32_t>::max()) {
            append<uint32_t>(out, kU32);
            append<uint32_t>(out, static_cast<uint32_t>(v));
          } else if (v < 0 && v >= std::numeric_limits<int32_t>::min()) {
            append<uint32_t>(out, kI32);
            append<int32_t>(out, static_cast<int32_t>(v));
          } else {
            append<uint32_t>(out, kI64);
            append<int64_t>(out, v);
          }
        } else if constexpr (std::is_same_v<T, uint64_t>) {
          append<uint32_t>(out, kU64);
          append<uint64_t>(out, v);
        } else if constexpr (std::is_same_v<T, double>) {
          append<uint32_t>(out, kF32);
          append<float>(out, static_cast<float>(v));
        } else if constexpr (std::is_same_v<T, std::string>) {
          append<uint32_t>(out, kString);
          append_text(out, v);
        } else {
          append<uint32_t>(out, kArray);
          if constexpr (std::is_same_v<T, std::vector<std::string>>) {
            append<uint32_t>(out, kString);
            append<uint64_t>(out, v.size());
            for (const std::string& text : v) append_text(out, text);
          } else if constexpr (std::is_same_v<T, std::vector<double>>) {
            append<uint32_t>(out, kF32);
            append<uint64_t>(out, v.size());
            for (const double number : v) append<float>(out, static_cast<float>(number));
          } else {
            const bool small = all_fit<int32_t>(v);
            append<uint32_t>(out, small ? kI32 : kI64);
            append<uint64_t>(out, v.size());
            for (const int64_t number : v) {
              if (small) {
                append<int32_t>(out, static_cast<int32_t>(number));
              } else {
                append<int64_t>(out, number);
              }
            }
          }
        }
      },
      value);
}

const GgufType* type_of(DType dtype) {
  for (uint32_t id = 0; id < 64; ++id) {
    const GgufType* type = find_gguf_type(id);
    if (type != nullptr && type->dtype == dtype) return type;
  }
  return nullptr;
}

std::string system_words(int error) { return std::generic_category().message(error); }

}  // namespace

StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::create(
    absl::string_view path, std::span<const std::pair<std::string, GgufValue>> metadata,
    std::span<const GgufTensorPlan> tensors) {
  std::unique_ptr<GgufWriter> writer(new GgufWriter(std::string(path)));
  std::string head = "GGUF";
  append<uint32_t>(head, 3);
  append<uint64_t>(head, tensors.size());
  append<uint64_t>(head, metadata.size());
  for (const auto& [key, value] : metadata) {
    append_text(head, key);
    append_value(head, value);
  }
  uint64_t offset = 0;
  for (const GgufTensorPlan& tensor : tensors) {
    const GgufType* type = type_of(tensor.type);
    if (type == nullptr || tensor.shape.empty() || tensor.shape.back() % type->block != 0) {
      return invalid_argument_error("tensor ", quote(tensor.name), " cannot be written as ",
                                    dtype_name(tensor.type));
    }
    append_text(head, tensor.name);
    append<uint32_t>(head, static_cast<uint32_t>(tensor.shape.size()));
    int64_t elements = 1;
    for (auto d = tensor.shape.rbegin(); d != tensor.shape.rend(); ++d) {
      append<uint64_t>(head, static_cast<uint64_t>(*d));
      elements *= *d;
    }
    append<uint32_t>(head, type->id);
    append<uint64_t>(head, offset);
    const auto bytes = static_cast<uint64_t>(dtype_bytes(tensor.type, elements));
    writer->sizes_.push_back(bytes);
    offset += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  const std::string part = writer->path_ + ".part";
  writer->fd_ = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (writer->fd_ < 0) {
    return io_error(excerpt(part, 255), " cannot be created: ", system_words(errno));
  }
  PONDER_RETURN_IF_ERROR(writer->put(head.data(), head.size()));
  PONDER_RETURN_IF_ERROR(writer->pad());
  return writer;
}

GgufWriter::~GgufWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink((path_ + ".part").c_str());
}

Status GgufWriter::flush() {
  const char* from = buffer_.data();
  size_t left = buffer_.size();
  while (left > 0) {
    const ssize_t n = ::write(fd_, from, left);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return io_error(excerpt(path_, 255), ".part: ", system_words(errno));
    from += n;
    left -= static_cast<size_t>(n);
  }
  buffer_.clear();
  return OkStatus();
}

Status GgufWriter::put(const void* bytes, uint64_t size) {
  const char* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const auto some = static_cast<size_t>(std::min<uint64_t>(size, kBuffer));
    buffer_.append(from, some);
    if (buffer_.size() >= kBuffer) PONDER_RETURN_IF_ERROR(flush());
    from += some;
    size -= some;
    written_ += some;
  }
  return OkStatus();
}

Status GgufWriter::pad() {
  constexpr char kZeros[kAlignment] = {};
  return put(kZeros, (kAlignment - written_ % kAlignment) % kAlignment);
}

Status GgufWriter::write(const void* bytes, uint64_t size) {
  if (tensor_ == sizes_.size() || size > sizes_[tensor_] - done_) {
    return internal_error("more bytes than the tensors of ", excerpt(path_, 255), " have");
  }
  PONDER_RETURN_IF_ERROR(put(bytes, size));
  done_ += size;
  if (done_ < sizes_[tensor_]) return OkStatus();
  ++tensor_;
  done_ = 0;
  return pad();
}

Status GgufWriter::finish() {
  if (tensor_ != sizes_.size()) {
    return internal_error("only ", tensor_, " of ", sizes_.size(), " tensors were written to ",
                          excerpt(path_, 255));
  }
  PONDER_RETURN_IF_ERROR(flush());
  const std::string part = path_ + ".part";
  if (::fsync(fd_) != 0 && errno != EINVAL) {
    return io_error(excerpt(part, 255), ": ", system_words(errno));
  }
  if (::rename(part.c_str(), path_.c_str()) != 0) {
    return io_error(excerpt(part, 255), " cannot be renamed to ", excerpt(path_, 255), ": ",
                    system_words(errno));
  }
  ::close(fd_);
  fd_ = -1;
  return OkStatus();
}

}  // namespace ponder
