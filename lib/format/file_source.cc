#include "lib/format/file_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <map>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/quote.h"

namespace ponder {
namespace {

std::string system_words(int error) { return std::generic_category().message(error); }

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// A file that may be read as long as this lives, whatever happens to its name.
struct OpenFile {
  FileDescriptor fd;
  std::string path;  // for messages
  uint64_t size;     // when it was opened
};

Status check_still_whole(const OpenFile& file) {
  struct stat now;
  if (::fstat(file.fd.get(), &now) != 0) {
    return io_error(file.path, ": cannot be examined any more: ", system_words(errno));
  }
  if (static_cast<uint64_t>(now.st_size) < file.size) {
    return io_error(file.path, ": was cut from ", file.size, " to ", now.st_size,
                    " bytes while in use; replace model files by renaming, not by overwriting");
  }
  return OkStatus();
}

class UnmappedView final : public FileView {
 public:
  explicit UnmappedView(uint64_t size) : FileView(nullptr, size) {}
};

// Without data where the system refuses (no address space, a file system that cannot).
class MappedView final : public FileView {
 public:
  explicit MappedView(std::shared_ptr<const OpenFile> file)
      : FileView(nullptr, file->size), file_(std::move(file)) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_->fd.get(), 0);
    if (data != MAP_FAILED) data_ = static_cast<const std::byte*>(data);
  }
  ~MappedView() override {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }
  Status check() const override { return check_still_whole(*file_); }
  void drop(const void* data, uint64_t bytes) const override {
    // Whole pages only: a tensor's neighbours share the others.
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

 private:
  std::shared_ptr<const OpenFile> file_;
};

// Whether the file lies on a file system that can lose it without this machine having a say: then
// a mapping can raise a signal at any time, and reading is the only safe way.
bool is_remote(int fd) {
  struct statfs info;
  if (::fstatfs(fd, &info) != 0) return true;
  switch (static_cast<uint64_t>(info.f_type) & 0xFFFFFFFFu) {
    case 0x00006969u:  // NFS
    case 0x0000517Bu:  // SMB
    case 0xFE534D42u:  // SMB2
    case 0xFF534D42u:  // CIFS
    case 0x5346414Fu:  // AFS
    case 0x73757245u:  // Coda
    case 0x00C36400u:  // Ceph
    case 0x0BD00BD0u:  // Lustre
    case 0x01021997u:  // 9P: folders shared into a virtual machine
    case 0x65735546u:  // FUSE: mostly remote stores
      return true;
    default:
      return false;
  }
}

class FolderSource final : public FileSource {
 public:
  FolderSource(FileDescriptor folder, std::string path, std::string main_file, Mapping mapping)
      : folder_(std::move(folder)),
        path_(std::move(path)),
        main_file_(std::move(main_file)),
        mapping_(mapping) {}

  const std::string& where() const override { return path_; }
  bool is_folder() const override { return true; }
  const std::string& main_file() const override { return main_file_; }

  StatusOr<uint64_t> size(absl::string_view name) const override {
    PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const OpenFile> file, open(name));
    return file->size;
  }

  Status read(absl::string_view name, uint64_t offset, void* dst, size_t n) const override {
    PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const OpenFile> file, open(name));
    if (offset > file->size || n > file->size - offset) {
      return io_error(file->path, ": bytes ", offset, " to ", offset, " + ", n,
                      " wanted of a file of ", file->size);
    }
    auto* out = static_cast<char*>(dst);
    for (size_t done = 0; done < n;) {
      const size_t part = std::min<size_t>(n - done, size_t{1} << 30);
      const ssize_t got =
          ::pread(file->fd.get(), out + done, part, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return io_error(file->path, ": reading ", part, " bytes at ", offset + done,
                        " failed: ", system_words(errno));
      }
      if (got == 0) {
        return io_error(file->path, ": ends at byte ", offset + done, " but had ", file->size,
                        " when it was opened; is it still being written?");
      }
      done += static_cast<size_t>(got);
    }
    return OkStatus();
  }

  void prefetch(absl::string_view name, uint64_t offset, uint64_t n) const override {
    const auto file = open(name);
    if (!file.ok()) return;
    // Linux reads no more than a device's largest request, often 128 KiB, for one call.
    constexpr uint64_t kPiece = uint64_t{128} << 10;
    for (uint64_t at = offset; at < offset + n; at += kPiece) {
      ::posix_fadvise((*file)->fd.get(), static_cast<off_t>(at),
                      static_cast<off_t>(std::min(kPiece, offset + n - at)), POSIX_FADV_WILLNEED);
    }
  }

  StatusOr<std::shared_ptr<const FileView>> map(absl::string_view name) const override {
    PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const OpenFile> file, open(name));
    // A link may lead to another file system than the folder's, so each file is asked.
    const bool may_map =
        mapping_ == Mapping::kAlways || (mapping_ == Mapping::kAuto && !is_remote(file->fd.get()));
    if (!may_map || file->size == 0 || file->size > std::numeric_limits<size_t>::max()) {
      return std::make_shared<const UnmappedView>(file->size);
    }
    PONDER_RETURN_IF_ERROR(check_still_whole(*file));
    return std::make_shared<const MappedView>(std::move(file));
  }

 private:
  StatusOr<std::shared_ptr<const OpenFile>> open(absl::string_view name) const {
    absl::MutexLock lock(&mutex_);
    if (const auto it = files_.find(name); it != files_.end()) return it->second;
    if (name.empty() || name == "." || name == ".." || name.size() > 255 ||
        name.find('/') != name.npos || name.find('\0') != name.npos) {
      return corrupt_error(path_, ": ", quote(name),
                           " is not the name of a file in this folder; files of a model lie side by"
                           " side and are named without folders");
    }
    const std::string path = absl::StrCat(path_, "/", excerpt(name, 255));
    // Non-blocking, lest a FIFO of that name make us wait; it does nothing to regular files.
    FileDescriptor fd(::openat(folder_.get(), std::string(name).c_str(),
                               O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (fd.get() < 0) {
      if (errno == ENOENT) return not_found_error(path, ": no such file");
      return io_error(path, ": cannot be opened: ", system_words(errno));
    }
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) {
      return io_error(path, ": cannot be examined: ", system_words(errno));
    }
    if (!S_ISREG(info.st_mode)) return io_error(path, ": is not a regular file");
    auto file = std::make_shared<const OpenFile>(
        OpenFile{std::move(fd), path, static_cast<uint64_t>(info.st_size)});
    files_.emplace(name, file);
    return file;
  }

  const FileDescriptor folder_;
  const std::string path_;
  const std::string main_file_;
  const Mapping mapping_;
  mutable absl::Mutex mutex_;
  // Not one of Abseil's hash tables: those do not survive an allocation that throws.
  mutable std::map<std::string, std::shared_ptr<const OpenFile>, std::less<>> files_
      ABSL_GUARDED_BY(mutex_);
};

class CallbackSource final : public FileSource,
                             public std::enable_shared_from_this<CallbackSource> {
 public:
  explicit CallbackSource(const IoCallbacks& io) : io_(io) {}
  ~CallbackSource() override {
    if (io_.close != nullptr) io_.close(io_.user);
  }

  const std::string& where() const override { return where_; }
  const std::string& main_file() const override { return main_file_; }

  StatusOr<uint64_t> size(absl::string_view name) const override {
    PONDER_ASSIGN_OR_RETURN(const std::string key, checked(name));
    uint64_t size = 0;
    PONDER_RETURN_IF_ERROR(words(io_.size(io_.user, key.c_str(), &size), "size", name));
    return size;
  }

  Status read(absl::string_view name, uint64_t offset, void* dst, size_t n) const override {
    PONDER_ASSIGN_OR_RETURN(const std::string key, checked(name));
    if (n == 0) return OkStatus();
    const Status status = words(io_.read(io_.user, key.c_str(), offset, dst, n), "read", name);
    return status.ok() ? status
                       : Status(status.code(),
                                absl::StrCat(status.message(), " (", n, " bytes at ", offset, ")"));
  }

  StatusOr<std::shared_ptr<const FileView>> map(absl::string_view name) const override {
    PONDER_ASSIGN_OR_RETURN(const std::string key, checked(name));
    PONDER_ASSIGN_OR_RETURN(const uint64_t bytes, size(name));
    const void* data = io_.map != nullptr && bytes > 0 ? io_.map(io_.user, key.c_str()) : nullptr;
    return std::make_shared<const View>(data, bytes, shared_from_this());
  }

 private:
  // The host's mapping is good until close(), so a view only keeps the source.
  class View final : public FileView {
   public:
    View(const void* data, uint64_t size, std::shared_ptr<const CallbackSource> source)
        : FileView(data, size), source_(std::move(source)) {}

   private:
    std::shared_ptr<const CallbackSource> source_;
  };

  // What reaches the host is a plain file name, so that it may join it to a path without checks.
  StatusOr<std::string> checked(absl::string_view name) const {
    if (name.empty() || name == "." || name == ".." || name.size() > 255 ||
        name.find_first_of(absl::string_view("/\\\0", 3)) != name.npos) {
      return corrupt_error(where_, ": ", quote(name),
                           " is not a plain file name; files of a model"
                           " lie side by side and are named without folders");
    }
    return std::string(name);
  }

  Status words(int32_t code, absl::string_view callback, absl::string_view name) const {
    switch (code) {
      case 0:
        return OkStatus();
      case IoCallbacks::kIoNotFound:
        return not_found_error(where_, ": no file ", quote(name));
      case IoCallbacks::kIoOutOfMemory:
        return out_of_memory_error(where_, ": ", callback, " of ", quote(name),
                                   " ran out of memory");
      case IoCallbacks::kIoCancelled:
        return cancelled_error(where_, ": ", callback, " of ", quote(name), " was cancelled");
      default:
        return io_error(where_, ": ", callback, " of ", quote(name), " failed with status ", code);
    }
  }

  const IoCallbacks io_;
  const std::string where_ = "the host's IO";
  const std::string main_file_;
};

}  // namespace

StatusOr<std::shared_ptr<const FileSource>> open_folder(absl::string_view path, Mapping mapping) {
  if (path.empty() || path.find('\0') != path.npos) {
    return invalid_argument_error(quote(path, 255), " is not a path");
  }
  std::string text(path);
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  std::string main_file;
  if (absl::EndsWithIgnoreCase(text, ".gguf")) {
    struct stat info;
    if (::stat(text.c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
      const size_t slash = text.rfind('/');
      main_file = text.substr(slash + 1);  // all of it where there is no slash
      text = slash == text.npos ? "." : slash == 0 ? "/" : text.substr(0, slash);
    }
  }
  FileDescriptor folder(::open(text.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) {
    const int error = errno;
    text = excerpt(text, 4096);
    if (error == ENOENT) return not_found_error(text, ": no such file or folder");
    if (error == ENOTDIR) {
      return invalid_argument_error(text,
                                    ": is not a model; give the folder that holds config.json,"
                                    " tokenizer.json and *.safetensors, or a .gguf file");
    }
    return io_error(text, ": cannot be opened: ", system_words(error));
  }
  return std::make_shared<const FolderSource>(std::move(folder), excerpt(text, 4096),
                                              std::move(main_file), mapping);
}

StatusOr<std::shared_ptr<const FileSource>> open_callbacks(const IoCallbacks& io) {
  if (io.size == nullptr || io.read == nullptr) {
    return invalid_argument_error("the host's IO needs the callbacks `size` and `read`; `",
                                  io.size == nullptr ? "size" : "read", "` is missing");
  }
  return std::make_shared<const CallbackSource>(io);
}

StatusOr<std::string> read_file(const FileSource& source, absl::string_view name,
                                uint64_t max_bytes) {
  PONDER_ASSIGN_OR_RETURN(const uint64_t size, source.size(name));
  if (size > max_bytes) {
    return corrupt_error(source.where(), ": ", name, " has ", size, " bytes; no more than ",
                         max_bytes, " make sense for this file");
  }
  std::string text(static_cast<size_t>(size), '\0');
  PONDER_RETURN_IF_ERROR(source.read(name, 0, text.data(), text.size()));
  return text;
}

}  // namespace ponder
