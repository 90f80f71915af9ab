#include "lib/text/tool_calls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/json.h"

namespace ponder {
namespace {

constexpr size_t kNpos = absl::string_view::npos;

constexpr absl::string_view kPythonTag = "<|python_tag|>";

// The markers of a format; empty ones do not exist.
struct Markers {
  absl::string_view open, close;
  absl::string_view section_begin, section_end;  // around all calls
};

Markers markers_of(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes:
      return {"<tool_call>", "</tool_call>", "", ""};
    case ToolFormat::kDeepSeekR1:
    case ToolFormat::kDeepSeekV31:
      return {"<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁begin｜>",
              "<｜tool▁calls▁end｜>"};
    default:
      return {};
  }
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

absl::string_view trim(absl::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

size_t skip_space(absl::string_view text, size_t at) {
  while (at < text.size() && is_space(text[at])) ++at;
  return at;
}

// Where the JSON value that starts at `at` ends; kNpos while it is incomplete. Brackets and strings
// only: whether it is JSON is for the parser to say.
size_t value_end(absl::string_view text, size_t at) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = at; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
        if (depth == 0) return i + 1;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return i;  // the end of a number or a word inside something
      if (--depth == 0) return i + 1;
    } else if (depth == 0 && (c == ',' || c == ':')) {
      return i;
    }
  }
  return kNpos;
}

// The text of the member `key` of an object in valid JSON; empty if there is none.
absl::string_view member(absl::string_view object, absl::string_view key) {
  absl::string_view found;
  for (size_t at = skip_space(object, 1); at < object.size() && object[at] == '"';) {
    const size_t key_end = value_end(object, at);
    if (key_end == kNpos) break;
    const absl::string_view name = object.substr(at + 1, key_end - at - 2);
    const size_t value = skip_space(object, skip_space(object, key_end) + 1);
    const size_t end = value_end(object, value);
    if (end == kNpos) break;
    if (name == key) found = trim(object.substr(value, end - value));  // the last one counts
    at = skip_space(object, end);
    if (at < object.size() && object[at] == ',') at = skip_space(object, at + 1);
  }
  return found;
}

bool is_object(absl::string_view text) {
  return !text.empty() && text.front() == '{' && parse_json_object(text, "").ok();
}

// Arguments as a JSON object: some models write it as a string, none as nothing.
bool read_arguments(absl::string_view json, std::string& out) {
  json = trim(json);
  if (json.empty() || json == "null") {
    out = "{}";
    return true;
  }
  if (json.front() == '"') {
    const StatusOr<Json> text = parse_json(json, "");
    if (!text.ok() || !text->is_string()) return false;
    out = text->get<std::string>();
    return is_object(trim(out));
  }
  if (!is_object(json)) return false;
  out = std::string(json);
  return true;
}

// {"name": .., "arguments" or "parameters": ..}.
bool read_call_object(absl::string_view json, ToolCall& call) {
  json = trim(json);
  const StatusOr<Json> parsed = json.empty() || json.front() != '{'
                                    ? StatusOr<Json>(corrupt_error(""))
                                    : parse_json_object(json, "");
  if (!parsed.ok()) return false;
  const auto name = parsed->find("name");
  if (name == parsed->end() || !name->is_string()) return false;
  call.name = name->get<std::string>();
  absl::string_view arguments = member(json, "arguments");
  if (arguments.empty()) arguments = member(json, "parameters");
  return !call.name.empty() && read_arguments(arguments, call.arguments);
}

// "function<sep>NAME\n```json\n{..}\n```" of R1, "NAME<sep>{..}" of V3.1.
bool read_deepseek(absl::string_view body, bool fenced, ToolCall& call) {
  constexpr absl::string_view kSeparator = "<｜tool▁sep｜>";
  const size_t sep = body.find(kSeparator);
  if (sep == kNpos) return false;
  absl::string_view name = trim(body.substr(0, sep));
  absl::string_view arguments = trim(body.substr(sep + kSeparator.size()));
  if (fenced) {
    const size_t line = arguments.find('\n');
    if (line == kNpos) return false;
    name = trim(arguments.substr(0, line));
    arguments = trim(arguments.substr(line));
    for (const absl::string_view fence : {"```json", "```"}) {
      if (!absl::StartsWith(arguments, fence)) continue;
      arguments.remove_prefix(fence.size());
      break;
    }
    if (absl::EndsWith(arguments, "```")) arguments.remove_suffix(3);
  }
  call.name = std::string(name);
  return !name.empty() && read_arguments(arguments, call.arguments);
}

// The longest end of `text` that begins one of the markers.
size_t partial_marker(absl::string_view text, const Markers& markers) {
  size_t longest = 0;
  for (const absl::string_view marker :
       {markers.open, markers.section_begin, markers.section_end}) {
    if (marker.empty()) continue;
    for (size_t n = std::min(marker.size() - 1, text.size()); n > longest; --n) {
      if (absl::EndsWith(text, marker.substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace

ToolFormat detect_tool_format(absl::string_view source) {
  if (absl::StrContains(source, "<｜tool▁call▁begin｜>")) {
    return absl::StrContains(source, "```json") ? ToolFormat::kDeepSeekR1
                                                : ToolFormat::kDeepSeekV31;
  }
  if (absl::StrContains(source, "<tool_call>")) {
    // Others put something else than JSON between the same tags.
    const bool other =
        absl::StrContains(source, "<function=") || absl::StrContains(source, "<arg_key>");
    return other ? ToolFormat::kNone : ToolFormat::kHermes;
  }
  if (absl::StrContains(source, kPythonTag) ||
      (absl::StrContains(source, "ipython") && absl::StrContains(source, "\"parameters\""))) {
    return ToolFormat::kLlama;
  }
  return ToolFormat::kNone;
}

std::vector<ToolItem> ToolCallParser::feed(absl::string_view piece) {
  Items out;
  held_.append(piece.data(), piece.size());
  while (advance(/*at_end=*/false, out)) {
  }
  return out;
}

std::vector<ToolItem> ToolCallParser::finish() {
  Items out;
  while (advance(/*at_end=*/true, out)) {
  }
  return out;
}

// One step; false when nothing more can be said yet.
bool ToolCallParser::advance(bool at_end, Items& out) {
  if (held_.empty()) return false;
  switch (format_) {
    case ToolFormat::kNone:
      take_text(held_.size(), out);
      return false;
    case ToolFormat::kLlama:
      return read_whole_answer(at_end, out);
    default:
      return in_call_ ? read_call(at_end, out) : find_marker(at_end, out);
  }
}

bool ToolCallParser::find_marker(bool at_end, Items& out) {
  const Markers markers = markers_of(format_);
  size_t first = kNpos;
  absl::string_view found;
  for (const absl::string_view marker :
       {markers.open, markers.section_begin, markers.section_end}) {
    const size_t at = marker.empty() ? kNpos : held_.find(marker);
    if (at < first) first = at, found = marker;
  }
  const absl::string_view before = absl::string_view(held_).substr(0, first);
  const bool only_space = after_call_ && trim(before).empty();
  if (first != kNpos) {
    if (only_space) {
      held_.erase(0, first);
    } else {
      take_text(first, out);
    }
    if (found == markers.open) {
      in_call_ = true;
      scanned_ = found.size();
    } else {
      held_.erase(0, found.size());
      after_call_ = true;
    }
    return true;
  }
  if (at_end) {
    if (only_space) {
      held_.clear();
    } else {
      take_text(held_.size(), out);
    }
    return false;
  }
  const size_t keep = partial_marker(held_, markers);
  const absl::string_view ready = absl::string_view(held_).substr(0, held_.size() - keep);
  if (after_call_ && trim(ready).empty()) return false;  // white space waits for what follows
  take_text(ready.size(), out);
  return false;
}

bool ToolCallParser::parse_call(absl::string_view body, ToolCall& call) const {
  if (format_ == ToolFormat::kHermes) return read_call_object(body, call);
  return read_deepseek(body, format_ == ToolFormat::kDeepSeekR1, call);
}

bool ToolCallParser::read_call(bool at_end, Items& out) {
  const Markers markers = markers_of(format_);
  ToolCall call;
  size_t close;
  while ((close = held_.find(markers.close, scanned_)) != kNpos) {
    const absl::string_view body =
        absl::string_view(held_).substr(markers.open.size(), close - markers.open.size());
    scanned_ = close + markers.close.size();
    if (parse_call(body, call)) {
      take_call(scanned_, std::move(call), out);
      return true;
    }
    // Not a call, or a marker inside a string of one: a later marker may close it.
  }
  // A part of the closing marker may be at the end.
  const size_t tail = std::min(held_.size(), markers.close.size() - 1);
  scanned_ = std::max(scanned_, held_.size() - tail);
  if (!at_end) return false;
  // Some models forget to close the last call.
  if (parse_call(absl::string_view(held_).substr(markers.open.size()), call)) {
    take_call(held_.size(), std::move(call), out);
    return false;
  }
  // No call: its text, up to where another call may begin.
  in_call_ = false;
  const size_t next = held_.find(markers.open, markers.open.size());
  take_text(std::min(next, held_.size()), out);
  return !held_.empty();
}

bool ToolCallParser::read_whole_answer(bool at_end, Items& out) {
  if (plain_) {
    take_text(held_.size(), out);
    return false;
  }
  size_t at = skip_space(held_, 0);
  // Several calls are separated by ";".
  if (after_call_ && at < held_.size() && held_[at] == ';') at = skip_space(held_, at + 1);
  const absl::string_view rest = absl::string_view(held_).substr(at);
  if (absl::StartsWith(rest, kPythonTag)) {
    at = skip_space(held_, at + kPythonTag.size());
  } else if (!rest.empty() && absl::StartsWith(kPythonTag, rest) && !at_end) {
    return false;
  }
  if (at == held_.size()) {
    if (at_end && after_call_) held_.clear();
    if (at_end) take_text(held_.size(), out);
    return false;
  }
  if (held_[at] == '{') {
    const size_t end = value_end(held_, at);
    if (end == kNpos && !at_end) return false;
    ToolCall call;
    if (end != kNpos && read_call_object(absl::string_view(held_).substr(at, end - at), call)) {
      take_call(end, std::move(call), out);
      return true;
    }
  }
  plain_ = true;
  return true;
}

void ToolCallParser::take_text(size_t size, Items& out) {
  if (size == 0) return;
  ToolItem item;
  item.text = held_.substr(0, size);
  held_.erase(0, size);
  after_call_ = false;
  out.push_back(std::move(item));
}

void ToolCallParser::take_call(size_t size, ToolCall call, Items& out) {
  call.id = absl::StrCat("call_", next_id_++);
  held_.erase(0, size);
  in_call_ = false;
  after_call_ = true;
  ToolItem item;
  item.is_call = true;
  item.call = std::move(call);
  out.push_back(std::move(item));
}

}  // namespace ponder
