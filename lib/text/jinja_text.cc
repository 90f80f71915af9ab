#include "lib/text/jinja_text.h"

#include <algorithm>
#include <string>
#include <utility>

#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

constexpr size_t kNpos = absl::string_view::npos;

bool push(Context& c, std::vector<absl::string_view>& out, absl::string_view part) {
  // What the parts become (strings in a list) is bounded already here.
  if (!c.work(1) || !c.room((out.size() + 1) * (sizeof(part) + sizeof(Str)))) return false;
  out.push_back(part);
  return true;
}

bool is_line_end(char32_t ch) {
  return (ch >= 0x0A && ch <= 0x0D) || (ch >= 0x1C && ch <= 0x1E) || ch == 0x85 || ch == 0x2028 ||
         ch == 0x2029;
}

}  // namespace

absl::string_view strip_chars(absl::string_view text, const Value* chars, bool left, bool right) {
  if (chars == nullptr) {
    if (left) text = strip_left(text);
    return right ? strip_right(text) : text;
  }
  const absl::string_view set = chars->text();
  while (left && !text.empty()) {
    const size_t n = utf8_size(text[0]);
    if (set.find(text.substr(0, n)) == kNpos) break;
    text.remove_prefix(n);
  }
  while (right && !text.empty()) {
    const char* const end = text.data() + text.size();
    const auto n = static_cast<size_t>(end - previous_code_point(end));
    if (set.find(text.substr(text.size() - n)) == kNpos) break;
    text.remove_suffix(n);
  }
  return text;
}

bool split_by(Context& c, absl::string_view text, absl::string_view separator, int64_t limit,
              bool from_right, std::vector<absl::string_view>& out) {
  if (!c.work_bytes(text.size())) return false;
  while (limit != 0) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == kNpos) break;
    if (!push(c, out, from_right ? text.substr(at + separator.size()) : text.substr(0, at))) {
      return false;
    }
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
    if (limit > 0) --limit;
  }
  if (!push(c, out, text)) return false;
  if (from_right) std::reverse(out.begin(), out.end());
  return true;
}

bool split_space(Context& c, absl::string_view text, int64_t limit, bool from_right,
                 std::vector<absl::string_view>& out) {
  if (!c.work_bytes(text.size())) return false;
  text = from_right ? strip_right(text) : strip_left(text);
  while (!text.empty()) {
    if (limit == 0) {
      text = from_right ? strip_right(text) : text;
      if (!push(c, out, from_right ? text : strip_left(text))) return false;
      break;
    }
    const char* const begin = text.data();
    const char* const end = begin + text.size();
    if (from_right) {
      const char* p = end;
      while (p != begin) {
        const char* const q = previous_code_point(p);
        const char* r = q;
        if (is_space(next_code_point(r))) break;
        p = q;
      }
      if (!push(c, out, absl::string_view(p, static_cast<size_t>(end - p)))) return false;
      text = strip_right(text.substr(0, static_cast<size_t>(p - begin)));
    } else {
      const char* p = begin;
      while (p != end) {
        const char* q = p;
        if (is_space(next_code_point(q))) break;
        p = q;
      }
      if (!push(c, out, absl::string_view(begin, static_cast<size_t>(p - begin)))) return false;
      text = strip_left(text.substr(static_cast<size_t>(p - begin)));
    }
    if (limit > 0) --limit;
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return true;
}

bool split_lines(Context& c, absl::string_view text, bool keep_ends,
                 std::vector<absl::string_view>& out) {
  const char* const end = text.data() + text.size();
  for (const char* line = text.data(); line != end;) {
    const char *p = line, *stop = line;
    bool ended = false;
    while (p != end) {
      stop = p;
      const char32_t ch = next_code_point(p);
      if (!is_line_end(ch)) continue;
      if (ch == '\r' && p != end && *p == '\n') ++p;
      ended = true;
      break;
    }
    if (!ended || keep_ends) stop = p;
    if (!push(c, out, absl::string_view(line, static_cast<size_t>(stop - line)))) return false;
    line = p;
  }
  return c.work_bytes(text.size());
}

Value text_list(Context& c, const std::vector<absl::string_view>& parts, bool markup) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const absl::string_view part : parts) {
    items.push_back(c.str(std::string(part), markup));
    if (!c.ok()) return Value();
  }
  return c.list(std::move(items));
}

Value replace_text(Context& c, absl::string_view text, absl::string_view from, absl::string_view to,
                   int64_t limit, bool markup) {
  Sink out(c);
  if (!c.work_bytes(text.size())) return Value();
  size_t at = 0;
  if (from.empty()) {  // before every character, and at the end
    for (; limit != 0; limit -= limit > 0 ? 1 : 0) {
      if (!out.append(to)) return Value();
      if (at == text.size()) break;
      const size_t n = utf8_size(text[at]);
      if (!c.work(1) || !out.append(text.substr(at, n))) return Value();
      at += n;
    }
  } else {
    for (size_t found; limit != 0 && (found = text.find(from, at)) != kNpos;
         limit -= limit > 0 ? 1 : 0) {
      if (!c.work(1) || !out.append(text.substr(at, found - at)) || !out.append(to)) return Value();
      at = found + from.size();
    }
  }
  if (!out.append(text.substr(at))) return Value();
  return out.value(markup);
}

Value justify(Context& c, const Value& text, int64_t width, absl::string_view fill, bool at_left,
              bool at_right) {
  const int64_t missing = width - length(c, text);
  if (missing <= 0) return text;
  if (static_cast<uint64_t>(missing) > (uint64_t{1} << 40)) {
    c.room(SIZE_MAX);
    return Value();
  }
  int64_t left = at_left ? 0 : missing;
  if (at_left && at_right) left = missing / 2 + (missing & width & 1);  // as CPython centres
  Sink out(c);
  const auto pad = [&](int64_t n) {
    if (fill.size() == 1) return out.append(static_cast<size_t>(n), fill[0]);
    for (; n > 0; --n) {
      if (!c.work(1) || !out.append(fill)) return false;
    }
    return true;
  };
  if (!pad(left) || !out.append(text.text()) || !pad(missing - left)) return Value();
  return out.value(text.as<Str>().markup);
}

bool has_case(absl::string_view text, bool upper) {
  bool found = false;
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    const uint32_t classes = char_classes(next_code_point(p));
    if ((classes & (upper ? kLower : kUpper)) != 0 || (classes & kTitle) != 0) return false;
    if ((classes & (upper ? kUpper : kLower)) != 0) found = true;
  }
  return found;
}

}  // namespace ponder::jinja
