// Where words go: results to standard output, everything else to standard error.
//
// Results are written with write(2) and every failure is noticed, a full disk as well as a reader
// that has gone. Colours and progress appear on terminals only, colours never with NO_COLOR set.
//
// Threads: the main thread only, Diagnostics::line aside.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <ponder/ponder.h>

namespace ponder::tool {

using Json = nlohmann::ordered_json;

// Buffered standard output. flush() before anything that takes time.
class Output {
 public:
  void write(std::string_view bytes);
  // One JSON value on a line of its own, flushed. Bytes that are not UTF-8 become U+FFFD.
  void json_line(const Json& value);
  void flush();  // throws PipeClosed, or Failure naming the system's reason

  bool is_terminal() const;
  bool colours() const;  // a terminal that wants them

 private:
  std::string buffer_;
};

// Standard error: whole lines, and on a terminal one line of progress below them.
class Diagnostics {
 public:
  ~Diagnostics() { clear_progress(); }
  void line(std::string_view text);      // any thread
  void progress(std::string_view text);  // nothing unless a terminal; at most ten a second
  void clear_progress();
  bool is_terminal() const;

 private:
  std::atomic<bool> shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

Output& output();
Diagnostics& diagnostics();

// The text with line ends and other control characters made harmless, for one-line messages.
std::string one_line(std::string_view text);

// 1536 -> "1.5 KiB".
std::string human_bytes(uint64_t bytes);
// Three significant digits or so: 0.912, 12.3, 1234.
std::string human_number(double value);

// What a borrowed string of the library holds.
inline std::string_view text_of(ponder_str s) {
  return s.size == 0 ? std::string_view() : std::string_view(s.data, s.size);
}

// All of a file, or of standard input for "-", as bytes.
std::string read_input(const std::string& path);

}  // namespace ponder::tool
