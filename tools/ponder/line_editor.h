// Reads lines of a conversation: with editing and history on a terminal, plainly otherwise.
//
// Threads: one. On a terminal it changes the terminal's settings while a line is read, and only
// then.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace ponder::tool {

class LineEditor {
 public:
  virtual ~LineEditor() = default;

  // The next line without its end; nullopt at the end of input, and at Ctrl-C on an empty line
  // (elsewhere Ctrl-C empties the line).
  virtual std::optional<std::string> read(const std::string& prompt) = 0;
};

// For standard input and output as they are.
std::unique_ptr<LineEditor> make_line_editor();

}  // namespace ponder::tool
