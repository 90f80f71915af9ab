// Where a model's files come from: a folder, or callbacks of the host. A read-only file system for
// one model, flat: names have no folders in them.
//
// A FileSource is shared by what is read out of it (checkpoints, mapped views) and closed when the
// last of them is gone. Any thread may call it at any time. Everything in the files is untrusted;
// so are the answers of the host's callbacks.
//
// Bytes that are parsed are always read into memory of our own, never parsed inside a mapping, so
// they cannot change under the parser. Only weights are mapped:
// docs/decisions/0020-mapped-weights.md says when, and what remains possible when somebody
// truncates a file that is in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"

namespace ponder {

// A whole file in memory, valid as long as the view. Immutable; any thread.
class FileView {
 public:
  virtual ~FileView() = default;
  // nullptr when the source cannot or may not map this file: use read() instead.
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  // Whether the file still has all its bytes: touching a page that was cut off would raise a
  // signal. Cheap (one system call); ask before going through a stretch of data.
  virtual Status check() const { return OkStatus(); }
  // These bytes will hardly be wanted again: their pages may leave memory. They stay readable.
  virtual void drop(const void* data, uint64_t bytes) const { (void)data, (void)bytes; }

 protected:
  FileView(const void* data, uint64_t size)
      : data_(static_cast<const std::byte*>(data)), size_(size) {}
  const std::byte* data_;
  uint64_t size_;
};

class FileSource {
 public:
  virtual ~FileSource() = default;

  // What this is, for error texts: "/models/r1", "the host's IO".
  virtual const std::string& where() const = 0;
  // Whether where() is a path, whose last part people know the model by.
  virtual bool is_folder() const { return false; }
  // The one file that was asked for, if the model was named by a file and not by its folder.
  virtual const std::string& main_file() const = 0;
  // Bytes in the file; not_found_error when there is no such file.
  virtual StatusOr<uint64_t> size(absl::string_view name) const = 0;
  // Exactly bytes [offset, offset + n), else io_error.
  virtual Status read(absl::string_view name, uint64_t offset, void* dst, size_t n) const = 0;
  // These bytes will be read soon: the system may fetch them meanwhile. Neither waits nor fails.
  virtual void prefetch(absl::string_view name, uint64_t offset, uint64_t n) const {
    (void)name, (void)offset, (void)n;
  }
  // The whole file; a view without data when the source cannot map. Never nullptr.
  virtual StatusOr<std::shared_ptr<const FileView>> map(absl::string_view name) const = 0;
};

enum class Mapping : uint8_t {
  kAuto,    // map files on this machine's own disks, read files that come over a network
  kAlways,  // map whatever the system lets us map
  kNever,   // read everything into memory
};

// The files directly in the folder at `path`, which may also be a .gguf file in it, to be the
// source's main_file(). Symbolic links are followed (download caches are made of them); names with
// a '/', "..", or a NUL are refused. Every file is opened once and stays the same file to us even
// if another one takes its name while the model is loading.
StatusOr<std::shared_ptr<const FileSource>> open_folder(absl::string_view path,
                                                        Mapping mapping = Mapping::kAuto);

// The host's callbacks: mirrors ponder_io of the C API, which documents them. They return 0 when
// done, else a ponder_status: the three below travel on as what they are, all others as io_error.
struct IoCallbacks {
  static constexpr int32_t kIoNotFound = -2;     // PONDER_ERR_NOT_FOUND
  static constexpr int32_t kIoOutOfMemory = -7;  // PONDER_ERR_OUT_OF_MEMORY
  static constexpr int32_t kIoCancelled = -10;   // PONDER_ERR_CANCELLED

  void* user = nullptr;
  int32_t (*size)(void* user, const char* name, uint64_t* size) = nullptr;
  int32_t (*read)(void* user, const char* name, uint64_t offset, void* dst, size_t n) = nullptr;
  const void* (*map)(void* user, const char* name) = nullptr;  // may be null, may return null
  void (*close)(void* user) = nullptr;                         // may be null; the last call made
};

// Fails when `size` or `read` is missing; `close` is then not called.
StatusOr<std::shared_ptr<const FileSource>> open_callbacks(const IoCallbacks& io);

// The whole of a file that is to be parsed. Refuses files above `max_bytes` before allocating.
StatusOr<std::string> read_file(const FileSource& source, absl::string_view name,
                                uint64_t max_bytes);

}  // namespace ponder
