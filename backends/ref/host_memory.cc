#include "backends/ref/host_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace ponder {

HostMemory host_memory() {
  HostMemory memory;
  const int fd = ::open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return memory;
  char text[4096];
  const ssize_t size = ::read(fd, text, sizeof(text));
  ::close(fd);
  if (size <= 0) return memory;
  const absl::string_view all(text, static_cast<size_t>(size));
  for (absl::string_view line : absl::StrSplit(all, '\n')) {
    uint64_t* field = nullptr;
    if (absl::ConsumePrefix(&line, "MemTotal:")) field = &memory.total;
    if (absl::ConsumePrefix(&line, "MemAvailable:")) field = &memory.free;
    uint64_t kib = 0;
    if (field != nullptr && absl::ConsumeSuffix(&line, " kB") &&
        absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &kib)) {
      *field = kib * 1024;
    }
  }
  return memory;
}

}  // namespace ponder
