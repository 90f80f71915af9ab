// Puts pieces of untrusted text into messages for people. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace ponder {

// `text` for a message: at most `max` bytes of it (cut between code points, with "..." behind),
// line breaks and other control characters escaped, bytes that are not UTF-8 as \xNN. Always valid
// UTF-8.
std::string excerpt(absl::string_view text, size_t max = 80);

// The same in double quotes, with quotes and backslashes escaped: names of tensors, files, keys.
std::string quote(absl::string_view text, size_t max = 80);

}  // namespace ponder
