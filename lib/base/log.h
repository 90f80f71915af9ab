// Where words for people go: the host's log callback, or nowhere. The library never prints.
//
// A LogSink is copied freely (two pointers) and may be called from any thread; the callback must
// stand that, as ponder_runtime_options_set_log says.
#pragma once

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ponder {

enum class LogLevel : int32_t { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

struct LogSink {
  void (*fn)(void* user, int32_t level, const char* text, size_t size) = nullptr;
  void* user = nullptr;
  LogLevel min_level = LogLevel::kInfo;

  template <typename... Parts>
  void log(LogLevel level, const Parts&... parts) const {
    if (fn == nullptr || level < min_level) return;
    const std::string text = absl::StrCat(parts...);
    fn(user, static_cast<int32_t>(level), text.data(), text.size());
  }
};

}  // namespace ponder
