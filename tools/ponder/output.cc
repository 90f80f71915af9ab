#include "output.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "failure.h"

namespace ponder::tool {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 16;

// Writes all of it; 0 or an errno.
int write_fully(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

bool terminal(int fd) { return ::isatty(fd) == 1; }

bool wants_colours() {
  // no-color.org: any value that is not empty. A "dumb" terminal cannot show them.
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return (no_color == nullptr || *no_color == '\0') &&
         (term == nullptr || std::string_view(term) != "dumb");
}

}  // namespace

void Output::write(std::string_view bytes) {
  buffer_.append(bytes);
  if (buffer_.size() >= kBufferBytes) flush();
}

void Output::json_line(const Json& value) {
  write(value.dump(-1, ' ', false, Json::error_handler_t::replace));
  write("\n");
  flush();
}

void Output::flush() {
  const std::string pending = std::exchange(buffer_, {});
  const int failed = write_fully(STDOUT_FILENO, pending);
  if (failed == EPIPE) throw PipeClosed();
  if (failed != 0) {
    throw Failure(std::string("writing to standard output failed: ") + std::strerror(failed));
  }
}

bool Output::is_terminal() const { return terminal(STDOUT_FILENO); }
bool Output::colours() const { return is_terminal() && wants_colours(); }

void Diagnostics::line(std::string_view text) {
  // Nobody to tell when this fails.
  (void)write_fully(STDERR_FILENO,
                    (is_terminal() && shown_ ? "\r\x1b[K" : "") + std::string(text) + "\n");
}

void Diagnostics::progress(std::string_view text) {
  if (!is_terminal()) return;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  (void)write_fully(STDERR_FILENO, "\r" + std::string(text) + "\x1b[K");
}

void Diagnostics::clear_progress() {
  if (!shown_) return;
  shown_ = false;
  (void)write_fully(STDERR_FILENO, "\r\x1b[K");
}

bool Diagnostics::is_terminal() const { return terminal(STDERR_FILENO); }

Output& output() {
  static Output instance;
  return instance;
}

Diagnostics& diagnostics() {
  static Diagnostics instance;
  return instance;
}

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    line += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text.data();
}

std::string human_number(double value) {
  const double size = std::abs(value);
  std::array<char, 48> text;
  std::snprintf(text.data(), text.size(),
                size < 10     ? "%.3f"
                : size < 1000 ? "%.1f"
                              : "%.0f",
                value);
  return text.data();
}

std::string read_input(const std::string& path) {
  struct File {
    int fd;
    ~File() {
      if (fd > STDERR_FILENO) ::close(fd);
    }
  };
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : "'" + path + "'";
  const File file{standard ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) throw Failure("cannot open " + name + ": " + std::strerror(errno));
  std::string bytes;
  std::array<char, 1 << 16> chunk;
  for (;;) {
    const ssize_t n = ::read(file.fd, chunk.data(), chunk.size());
    if (n == 0) return bytes;
    if (n > 0) {
      bytes.append(chunk.data(), static_cast<size_t>(n));
    } else if (errno != EINTR) {
      throw Failure("cannot read " + name + ": " + std::strerror(errno));
    }
  }
}

}  // namespace ponder::tool
