#include "lib/text/jinja_unicode.h"

#include <algorithm>
#include <iterator>

#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

// `count` code points from `first` on, `stride` apart, map to themselves plus `delta`.
struct CaseRun {
  uint32_t first;
  uint16_t count;
  uint8_t stride;
  int32_t delta;
};

// A code point that becomes several; zeros are absent.
struct CaseSpecial {
  uint32_t code_point;
  uint32_t to[3];
};

#include "lib/text/jinja_unicode_data.inc"

template <typename Runs, typename Specials>
bool map_by(const Runs& runs, const Specials& specials, char32_t c, std::string& out) {
  const auto run = std::upper_bound(std::begin(runs), std::end(runs), c,
                                    [](char32_t v, const CaseRun& r) { return v < r.first; });
  // Runs with a stride interleave, so the one before may hold the code point too.
  for (auto it = run; it != std::begin(runs) && run - it < 4;) {
    --it;
    const uint32_t offset = c - it->first;
    if (offset % it->stride == 0 && offset / it->stride < it->count) {
      append_utf8(out, static_cast<char32_t>(static_cast<int64_t>(c) + it->delta));
      return true;
    }
  }
  const auto special =
      std::lower_bound(std::begin(specials), std::end(specials), c,
                       [](const CaseSpecial& s, char32_t v) { return s.code_point < v; });
  if (special == std::end(specials) || special->code_point != c) return false;
  for (const uint32_t to : special->to) {
    if (to != 0) append_utf8(out, to);
  }
  return true;
}

void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
  } else if (!map_by(kUpperRuns, kUpperSpecials, c, out)) {
    append_utf8(out, c);
  }
}

void append_title(std::string& out, char32_t c) {
  if (!map_by(kTitleRuns, kTitleSpecials, c, out)) append_upper(out, c);
}

constexpr char32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

// Unicode's "case ignorable", as far as it decides over a final sigma.
bool case_ignorable(char32_t c) {
  if (c == '\'' || c == '.' || c == ':' || c == '^' || c == '`' || c == 0xA8 || c == 0xAD ||
      c == 0xAF || c == 0xB4 || c == 0xB7 || c == 0xB8 || c == 0x2019) {
    return true;
  }
  const uint32_t classes = char_classes(c);
  return (classes & (kAlnum | kIdentStart)) == 0 && (classes & kIdent) != 0;  // marks
}

bool is_final_sigma(absl::string_view text, const char* at, const char* after) {
  const char* p = at;
  bool cased_before = false;
  while (p != text.data()) {
    const char* q = p = previous_code_point(p);
    const char32_t c = next_code_point(q);
    if (case_ignorable(c)) continue;
    cased_before = (char_classes(c) & kCased) != 0;
    break;
  }
  if (!cased_before) return false;
  while (after != text.data() + text.size()) {
    const char32_t c = next_code_point(after);
    if (!case_ignorable(c)) return (char_classes(c) & kCased) == 0;
  }
  return true;
}

// `at` and `after` bound the code point `c` within `text`.
void append_lower(std::string& out, absl::string_view text, char32_t c, const char* at,
                  const char* after) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  } else if (c == kSigma) {
    append_utf8(out, is_final_sigma(text, at, after) ? kFinalSigma : kSmallSigma);
  } else if (!map_by(kLowerRuns, kLowerSpecials, c, out)) {
    append_utf8(out, c);
  }
}

template <typename Fn>
std::string map_text(absl::string_view text, Fn fn) {
  std::string out;
  out.reserve(text.size());
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p != end;) {
    const char* const at = p;
    const char32_t c = next_code_point(p);
    fn(out, c, at, p);
  }
  return out;
}

}  // namespace

uint32_t char_classes(char32_t code_point) {
  const uint32_t key = (static_cast<uint32_t>(code_point) << 11) | 0x7FF;
  const auto it = std::upper_bound(std::begin(kClasses), std::end(kClasses), key);
  return *(it - 1) & 0x7FF;  // the first row is code point 0
}

std::string to_lower(absl::string_view text) {
  return map_text(text, [text](std::string& out, char32_t c, const char* at, const char* after) {
    append_lower(out, text, c, at, after);
  });
}

std::string to_upper(absl::string_view text) {
  return map_text(
      text, [](std::string& out, char32_t c, const char*, const char*) { append_upper(out, c); });
}

std::string to_casefold(absl::string_view text) {
  return map_text(text, [](std::string& out, char32_t c, const char*, const char*) {
    if (map_by(kFoldRuns, kFoldSpecials, c, out)) return;
    if (c < 0x80) {
      out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
    } else if (!map_by(kLowerRuns, kLowerSpecials, c, out)) {
      append_utf8(out, c);
    }
  });
}

std::string to_swapcase(absl::string_view text) {
  return map_text(text, [text](std::string& out, char32_t c, const char* at, const char* after) {
    const uint32_t classes = char_classes(c);
    if ((classes & kUpper) != 0) {
      append_lower(out, text, c, at, after);
    } else if ((classes & kLower) != 0) {
      append_upper(out, c);
    } else {
      append_utf8(out, c);
    }
  });
}

std::string to_title(absl::string_view text) {
  bool in_word = false;
  return map_text(text, [&](std::string& out, char32_t c, const char* at, const char* after) {
    if (in_word) {
      append_lower(out, text, c, at, after);
    } else {
      append_title(out, c);
    }
    in_word = (char_classes(c) & kCased) != 0;
  });
}

std::string to_capitalized(absl::string_view text) {
  return map_text(text, [text](std::string& out, char32_t c, const char* at, const char* after) {
    if (at == text.data()) {
      append_title(out, c);
    } else {
      append_lower(out, text, c, at, after);
    }
  });
}

absl::string_view strip_left(absl::string_view text) {
  const char* const end = text.data() + text.size();
  const char* p = text.data();
  while (p != end) {
    const char* next = p;
    if (!is_space(next_code_point(next))) break;
    p = next;
  }
  return absl::string_view(p, static_cast<size_t>(end - p));
}

absl::string_view strip_right(absl::string_view text) {
  const char* end = text.data() + text.size();
  while (end != text.data()) {
    const char* const p = previous_code_point(end);
    const char* q = p;
    if (!is_space(next_code_point(q))) break;
    end = p;
  }
  return absl::string_view(text.data(), static_cast<size_t>(end - text.data()));
}

size_t count_code_points(absl::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

size_t offset_of_code_point(absl::string_view text, size_t index) {
  size_t i = 0;
  while (i < text.size() && index-- != 0) i += utf8_size(text[i]);
  return i;
}

}  // namespace ponder::jinja
