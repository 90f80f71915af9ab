#include "line_editor.h"

#include <langinfo.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "failure.h"
#include "output.h"

#if PONDER_HAVE_LIBEDIT
#include <histedit.h>
#endif

namespace ponder::tool {
namespace {

class PlainReader : public LineEditor {
 public:
  std::optional<std::string> read(const std::string& prompt) override {
    if (::isatty(STDIN_FILENO) == 1) {
      output().write(prompt);
      output().flush();
    }
    for (;;) {
      const size_t end = pending_.find('\n');
      if (end != std::string::npos) return take(end, 1);
      std::array<char, 4096> chunk;
      const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
      if (n > 0) {
        pending_.append(chunk.data(), static_cast<size_t>(n));
      } else if (n == 0) {
        if (pending_.empty()) return std::nullopt;
        return take(pending_.size(), 0);
      } else if (errno != EINTR) {
        throw Failure(std::string("cannot read standard input: ") + std::strerror(errno));
      }
    }
  }

 private:
  std::string take(size_t size, size_t terminator) {
    std::string line = pending_.substr(0, size);
    pending_.erase(0, size + terminator);
    return line;
  }

  std::string pending_;
};

#if PONDER_HAVE_LIBEDIT

// libedit counts columns in the locale's encoding; text is UTF-8 here whatever the locale says.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

class TerminalEditor : public LineEditor {
 public:
  TerminalEditor() {
    // A Ctrl-C between the end of an answer and the next prompt has nothing left to stop.
    ::signal(SIGINT, SIG_IGN);
    use_utf8();
    history_ = history_init();
    edit_ = el_init("ponder", stdin, stdout, stderr);
    if (edit_ == nullptr || history_ == nullptr) {
      release();
      throw Failure("the line editor does not start on this terminal; pipe the lines in instead");
    }
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, &TerminalEditor::prompt_of);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_HIST, history, history_);
    // While a line is edited Ctrl-C is a key like others; during generation it is a signal again.
    el_set(edit_, EL_SETTY, "-d", "-isig", nullptr);
    el_set(edit_, EL_ADDFN, "ponder-interrupt", "Empty the line, or leave",
           &TerminalEditor::interrupt);
    el_set(edit_, EL_BIND, "^C", "ponder-interrupt", nullptr);
  }
  ~TerminalEditor() override { release(); }
  TerminalEditor(const TerminalEditor&) = delete;
  TerminalEditor& operator=(const TerminalEditor&) = delete;

  std::optional<std::string> read(const std::string& prompt) override {
    prompt_ = prompt;
    left_ = false;
    int size = 0;
    // Before the prompt is shown, so that no key meant for it arrives as a signal.
    el_set(edit_, EL_PREP_TERM, 1);
    const char* text = el_gets(edit_, &size);
    if (text == nullptr || size <= 0 || left_) {
      output().write("\n");
      output().flush();
      return std::nullopt;
    }
    std::string line(text, static_cast<size_t>(size));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    if (!line.empty()) {
      HistEvent event;
      history(history_, &event, H_ENTER, line.c_str());
    }
    return line;
  }

 private:
  static constexpr int kHistoryLines = 1000;

  static TerminalEditor* self(EditLine* edit) {
    void* data = nullptr;
    el_get(edit, EL_CLIENTDATA, &data);
    return static_cast<TerminalEditor*>(data);
  }
  static char* prompt_of(EditLine* edit) { return self(edit)->prompt_.data(); }
  static unsigned char interrupt(EditLine* edit, int) {
    const LineInfo* line = el_line(edit);
    if (line->lastchar == line->buffer) {
      self(edit)->left_ = true;
      return CC_EOF;
    }
    el_cursor(edit, static_cast<int>(line->lastchar - line->cursor));
    el_deletestr(edit, static_cast<int>(line->lastchar - line->buffer));
    return CC_REFRESH;
  }

  void release() {
    ::signal(SIGINT, SIG_DFL);
    if (edit_ != nullptr) el_end(edit_);
    if (history_ != nullptr) history_end(history_);
  }

  History* history_ = nullptr;
  EditLine* edit_ = nullptr;
  std::string prompt_;
  bool left_ = false;
};

#endif

}  // namespace

std::unique_ptr<LineEditor> make_line_editor() {
#if PONDER_HAVE_LIBEDIT
  if (::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1) {
    return std::make_unique<TerminalEditor>();
  }
#endif
  return std::make_unique<PlainReader>();
}

}  // namespace ponder::tool
