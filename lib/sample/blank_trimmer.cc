#include "lib/sample/blank_trimmer.h"

#include <utility>

namespace ponder {
namespace {

constexpr absl::string_view kBlank = " \t\r\n\v\f";

}  // namespace

std::string BlankTrimmer::feed(absl::string_view piece) {
  std::string text = std::exchange(held_, {});
  text.append(piece);
  if (!started_) {
    const size_t first = text.find_first_not_of(kBlank);
    // Only what follows the last line break can matter later: it indents the text to come.
    const size_t line = text.substr(0, first).rfind('\n');
    if (first == std::string::npos) {
      held_ = line == std::string::npos ? std::move(text) : text.substr(line);
      return {};
    }
    started_ = true;
    text.erase(0, line == std::string::npos ? first : line + 1);
  }
  if (trailing_) {
    const size_t end = text.find_last_not_of(kBlank) + 1;  // npos + 1 is 0
    held_ = text.substr(end);
    text.resize(end);
  }
  return text;
}

}  // namespace ponder
