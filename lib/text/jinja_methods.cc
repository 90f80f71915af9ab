// Methods of text, lists, dicts and the other objects that templates hold.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_text.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

// `a` holds the bound arguments, Missing where not given.
using MethodFn = Value (*)(Context& c, const Value& self, Value* a);

bool given(const Value& v) { return !v.missing() && !v.is(Type::kNone); }

bool want_text(Context& c, const Value& v, absl::string_view method) {
  if (v.is_str()) return true;
  if (v.is(Type::kUndefined)) {
    c.undefined_error(v);
  } else {
    c.type_error(method, "() argument must be str, not ", type_name(v));
  }
  return false;
}

// A text of the same kind (markup or plain) as self.
Value like(Context& c, const Value& self, std::string text) {
  return c.str(std::move(text), self.as<Str>().markup);
}

template <std::string (*kMap)(absl::string_view)>
Value mapped(Context& c, const Value& self, Value*) {
  if (!c.room(self.text().size() * 3) || !c.work(self.text().size() / 4 + 1)) return Value();
  return like(c, self, kMap(self.text()));
}

// True where there is a character and all have one of `classes`.
template <uint32_t kClasses>
Value all_of(Context& c, const Value& self, Value*) {
  const absl::string_view text = self.text();
  if (!c.work(text.size() / 4 + 1)) return Value();
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    if ((char_classes(next_code_point(p)) & kClasses) == 0) return Value::boolean(false);
  }
  return Value::boolean(!text.empty() || kClasses == kPrintable);
}

Value str_isascii(Context&, const Value& self, Value*) {
  return Value::boolean(self.as<Str>().ascii());
}

Value str_isidentifier(Context&, const Value& self, Value*) {
  uint32_t wanted = kIdentStart;
  const absl::string_view text = self.text();
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    if ((char_classes(next_code_point(p)) & wanted) == 0) return Value::boolean(false);
    wanted = kIdent;
  }
  return Value::boolean(!text.empty());
}

template <bool kWantUpper>
Value str_iscase(Context& c, const Value& self, Value*) {
  return c.work_bytes(self.text().size()) ? Value::boolean(has_case(self.text(), kWantUpper))
                                          : Value();
}

Value str_istitle(Context&, const Value& self, Value*) {
  bool cased = false, previous_cased = false;
  const absl::string_view text = self.text();
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    const uint32_t classes = char_classes(next_code_point(p));
    if ((classes & (kUpper | kTitle)) != 0) {
      if (previous_cased) return Value::boolean(false);
      previous_cased = cased = true;
    } else if ((classes & kLower) != 0) {
      if (!previous_cased) return Value::boolean(false);
      cased = true;
    } else {
      previous_cased = false;
    }
  }
  return Value::boolean(cased);
}

enum Side { kLeft = 1, kRight = 2, kBoth = 3 };

template <Side kSide>
Value str_strip(Context& c, const Value& self, Value* a) {
  if (given(a[0]) && !want_text(c, a[0], "strip")) return Value();
  if (!c.work_bytes(self.text().size())) return Value();
  return like(c, self,
              std::string(strip_chars(self.text(), given(a[0]) ? &a[0] : nullptr,
                                      (kSide & kLeft) != 0, (kSide & kRight) != 0)));
}

template <bool kFromRight>
Value str_split(Context& c, const Value& self, Value* a) {
  int64_t limit = -1;
  if (given(a[0]) && !want_text(c, a[0], "split")) return Value();
  if (!a[1].missing() && !to_index(c, a[1], limit)) return Value();
  std::vector<absl::string_view> parts;
  if (given(a[0])) {
    if (a[0].text().empty()) return c.value_error("empty separator");
    if (!split_by(c, self.text(), a[0].text(), limit, kFromRight, parts)) return Value();
  } else if (!split_space(c, self.text(), limit, kFromRight, parts)) {
    return Value();
  }
  return text_list(c, parts, self.as<Str>().markup);
}

Value str_splitlines(Context& c, const Value& self, Value* a) {
  std::vector<absl::string_view> lines;
  if (!split_lines(c, self.text(), !a[0].missing() && truthy(a[0]), lines)) return Value();
  return text_list(c, lines, self.as<Str>().markup);
}

template <bool kFromRight>
Value str_partition(Context& c, const Value& self, Value* a) {
  if (!want_text(c, a[0], "partition")) return Value();
  const absl::string_view text = self.text(), by = a[0].text();
  if (by.empty()) return c.value_error("empty separator");
  if (!c.work_bytes(text.size())) return Value();
  const size_t at = kFromRight ? text.rfind(by) : text.find(by);
  if (at == absl::string_view::npos) {
    const Value none = like(c, self, "");
    return kFromRight ? c.tuple({none, none, self}) : c.tuple({self, none, none});
  }
  return c.tuple({like(c, self, std::string(text.substr(0, at))), like(c, self, std::string(by)),
                  like(c, self, std::string(text.substr(at + by.size())))});
}

// The part of self that a start and an end (in code points) select, and where it starts.
bool clip(Context& c, const Value& self, const Value& start, const Value& end,
          absl::string_view& part, int64_t& first) {
  const int64_t n = length(c, self);
  const auto bound = [&](const Value& v, int64_t otherwise, int64_t& out) {
    out = otherwise;
    if (!given(v)) return true;
    if (!v.is_integral()) {
      c.type_error("slice indices must be integers or None or have an __index__ method");
      return false;
    }
    out = v.i() < 0 ? std::max<int64_t>(v.i() + n, 0) : v.i();
    return true;
  };
  int64_t last = 0;
  if (!bound(start, 0, first) || !bound(end, n, last)) return false;
  if (!c.work_bytes(self.text().size())) return false;
  last = std::min(last, n);
  if (first > last) {  // nothing, not even an empty text, is found here
    part = absl::string_view();
    first = -1;
    return true;
  }
  const size_t from = offset_of_code_point(self.text(), static_cast<size_t>(first));
  const absl::string_view rest = self.text().substr(from);
  part = rest.substr(0, offset_of_code_point(rest, static_cast<size_t>(last - first)));
  return true;
}

template <bool kFromRight, bool kMustFind>
Value str_find(Context& c, const Value& self, Value* a) {
  if (!want_text(c, a[0], "find")) return Value();
  absl::string_view part;
  int64_t first = 0;
  if (!clip(c, self, a[1], a[2], part, first)) return Value();
  const size_t at = first < 0    ? absl::string_view::npos
                    : kFromRight ? part.rfind(a[0].text())
                                 : part.find(a[0].text());
  if (at != absl::string_view::npos) {
    return Value::integer(first + static_cast<int64_t>(count_code_points(part.substr(0, at))));
  }
  return kMustFind ? c.value_error("substring not found") : Value::integer(-1);
}

Value str_count(Context& c, const Value& self, Value* a) {
  if (!want_text(c, a[0], "count")) return Value();
  absl::string_view part;
  int64_t first = 0;
  if (!clip(c, self, a[1], a[2], part, first)) return Value();
  if (first < 0) return Value::integer(0);
  const absl::string_view what = a[0].text();
  if (what.empty()) return Value::integer(static_cast<int64_t>(count_code_points(part)) + 1);
  int64_t n = 0;
  for (size_t at = 0; (at = part.find(what, at)) != absl::string_view::npos; at += what.size()) ++n;
  return Value::integer(n);
}

template <bool kAtEnd>
Value str_affix(Context& c, const Value& self, Value* a) {
  absl::string_view part;
  int64_t first = 0;
  if (!clip(c, self, a[1], a[2], part, first)) return Value();
  const auto matches = [&](const Value& v) {
    if (first < 0) return false;
    return kAtEnd ? absl::EndsWith(part, v.text()) : absl::StartsWith(part, v.text());
  };
  if (a[0].is_str()) return Value::boolean(matches(a[0]));
  if (!a[0].is(Type::kTuple)) {
    if (a[0].is(Type::kUndefined)) return c.undefined_error(a[0]);
    return c.type_error(kAtEnd ? "endswith" : "startswith",
                        " first arg must be str or a tuple of str, not ", type_name(a[0]));
  }
  for (const Value& item : a[0].items()) {
    if (!want_text(c, item, kAtEnd ? "endswith" : "startswith")) return Value();
    if (matches(item)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value str_replace(Context& c, const Value& self, Value* a) {
  if (!want_text(c, a[0], "replace") || !want_text(c, a[1], "replace")) return Value();
  int64_t limit = -1;
  if (!a[2].missing() && !to_index(c, a[2], limit)) return Value();
  return replace_text(c, self.text(), a[0].text(), a[1].text(), limit, self.as<Str>().markup);
}

template <bool kAtEnd>
Value str_remove(Context& c, const Value& self, Value* a) {
  if (!want_text(c, a[0], "removeprefix")) return Value();
  absl::string_view text = self.text();
  const absl::string_view affix = a[0].text();
  if (kAtEnd ? absl::EndsWith(text, affix) : absl::StartsWith(text, affix)) {
    if (kAtEnd) {
      text.remove_suffix(affix.size());
    } else {
      text.remove_prefix(affix.size());
    }
  }
  return like(c, self, std::string(text));
}

Value str_join(Context& c, const Value& self, Value* a) {
  if (!iterable(a[0])) return c.type_error("can only join an iterable");
  const Ref<Iter> iter = iterate(c, a[0]);
  Sink out(c);
  Value item;
  for (int64_t i = 0; c.ok() && iter->next(c, item); ++i) {
    if (!item.is_str()) {
      return c.type_error("sequence item ", i, ": expected str instance, ", type_name(item),
                          " found");
    }
    if (!c.work(1) || (i != 0 && !out.append(self.text())) || !out.append(item.text())) {
      return Value();
    }
  }
  return c.ok() ? out.value(self.as<Str>().markup) : Value();
}

template <Side kTextSide>
Value str_justify(Context& c, const Value& self, Value* a) {
  int64_t width = 0;
  if (!to_index(c, a[0], width)) return Value();
  if (!a[1].missing() && !(a[1].is_str() && a[1].as<Str>().length() == 1)) {
    return c.type_error("The fill character must be exactly one character long");
  }
  return justify(c, self, width, a[1].missing() ? " " : a[1].text(), (kTextSide & kLeft) != 0,
                 (kTextSide & kRight) != 0);
}

Value str_zfill(Context& c, const Value& self, Value* a) {
  int64_t width = 0;
  if (!to_index(c, a[0], width)) return Value();
  const absl::string_view text = self.text();
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const int64_t zeros = std::max<int64_t>(width - length(c, self), 0);
  Sink out(c);
  if (!out.append(text.substr(0, sign)) || !out.append(static_cast<size_t>(zeros), '0') ||
      !out.append(text.substr(sign))) {
    return Value();
  }
  return out.value();
}

Value str_expandtabs(Context& c, const Value& self, Value* a) {
  int64_t size = 8;
  if (!a[0].missing() && !to_index(c, a[0], size)) return Value();
  Sink out(c);
  int64_t column = 0;
  const absl::string_view text = self.text();
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_size(text[i]);
    if (text[i] == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      if (!out.append(static_cast<size_t>(spaces), ' ')) return Value();
      column += spaces;
    } else {
      if (!out.append(text.substr(i, n))) return Value();
      column = text[i] == '\n' || text[i] == '\r' ? 0 : column + 1;
    }
    i += n;
  }
  return out.value();
}

Value str_format_map(Context& c, const Value& self, Value* a) {
  Args args;
  if (!a[0].is(Type::kDict)) return c.type_error("format_map() argument must be a mapping");
  for (const auto& [key, value] : a[0].as<Dict>().entries) {
    if (key.is_str()) args.named.emplace_back(key.text(), value);
  }
  return str_format(c, self.text(), args);
}

// ---- dict

Value dict_get(Context& c, const Value& self, Value* a) {
  if (!hashable(c, a[0])) return Value();
  const Dict& dict = self.as<Dict>();
  const ptrdiff_t at = dict.find(a[0]);
  if (at >= 0) return dict.entries[static_cast<size_t>(at)].second;
  return a[1].missing() ? Value::none() : a[1];
}

template <View::Kind kKind>
Value dict_view(Context& c, const Value& self, Value*) {
  return c.adopt(Type::kView, new View(Ref<Dict>(&self.as<Dict>()), kKind), self.depth());
}

Value itself(Context&, const Value& self, Value*) { return self; }  // copies of the immutable

// ---- sequences

Value sequence_index(Context& c, const Value& self, Value* a) {
  std::vector<Value> items;
  if (!collect(c, self, items)) return Value();
  const auto n = static_cast<int64_t>(items.size());
  int64_t from = 0, to = n;
  if (!a[1].missing() && !to_index(c, a[1], from)) return Value();
  if (!a[2].missing() && !to_index(c, a[2], to)) return Value();
  from = from < 0 ? std::max<int64_t>(from + n, 0) : from;
  to = to < 0 ? to + n : std::min(to, n);
  for (int64_t i = from; i < to; ++i) {
    if (equal(c, items[static_cast<size_t>(i)], a[0])) return Value::integer(i);
  }
  if (!c.ok()) return Value();
  return c.value_error("the value is not in the ", type_name(self));
}

Value sequence_count(Context& c, const Value& self, Value* a) {
  std::vector<Value> items;
  if (!collect(c, self, items)) return Value();
  int64_t n = 0;
  for (const Value& item : items) n += equal(c, item, a[0]) ? 1 : 0;
  return c.ok() ? Value::integer(n) : Value();
}

// ---- numbers

Value int_bit_length(Context&, const Value& self, Value*) {
  int64_t n = 0;
  for (uint64_t u = self.i() < 0 ? uint64_t{0} - self.u() : self.u(); u != 0; u >>= 1) ++n;
  return Value::integer(n);
}

Value is_integer(Context&, const Value& self, Value*) {
  return Value::boolean(!self.is(Type::kFloat) ||
                        (std::isfinite(self.f()) && self.f() == std::floor(self.f())));
}

// ---- Jinja's own objects

Value cycler_next(Context&, const Value& self, Value*) {
  Cycler& cycler = self.as<Cycler>();
  Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Context&, const Value& self, Value*) {
  self.as<Cycler>().position = 0;
  return Value::none();
}

struct MethodEntry {
  absl::string_view name;
  MethodFn fn;
  uint8_t required;
  absl::string_view params[3];
};

// A null function: takes what is given (format, cycle, changed), see call_method.
constexpr MethodEntry kStrMethods[] = {
    {"capitalize", mapped<to_capitalized>, 0, {}},
    {"casefold", mapped<to_casefold>, 0, {}},
    {"center", str_justify<kBoth>, 1, {"/width", "/fillchar"}},
    {"count", str_count, 1, {"/sub", "/start", "/end"}},
    {"endswith", str_affix<true>, 1, {"/suffix", "/start", "/end"}},
    {"expandtabs", str_expandtabs, 0, {"tabsize"}},
    {"find", str_find<false, false>, 1, {"/sub", "/start", "/end"}},
    {"format", nullptr, 0, {}},
    {"format_map", str_format_map, 1, {"/mapping"}},
    {"index", str_find<false, true>, 1, {"/sub", "/start", "/end"}},
    {"isalnum", all_of<kAlnum>, 0, {}},
    {"isalpha", all_of<kAlpha>, 0, {}},
    {"isascii", str_isascii, 0, {}},
    {"isdecimal", all_of<kDecimal>, 0, {}},
    {"isdigit", all_of<kDigit>, 0, {}},
    {"isidentifier", str_isidentifier, 0, {}},
    {"islower", str_iscase<false>, 0, {}},
    {"isnumeric", all_of<kNumeric>, 0, {}},
    {"isprintable", all_of<kPrintable>, 0, {}},
    {"isspace", all_of<kSpace>, 0, {}},
    {"istitle", str_istitle, 0, {}},
    {"isupper", str_iscase<true>, 0, {}},
    {"join", str_join, 1, {"/iterable"}},
    {"ljust", str_justify<kLeft>, 1, {"/width", "/fillchar"}},
    {"lower", mapped<to_lower>, 0, {}},
    {"lstrip", str_strip<kLeft>, 0, {"/chars"}},
    {"partition", str_partition<false>, 1, {"/sep"}},
    {"removeprefix", str_remove<false>, 1, {"/prefix"}},
    {"removesuffix", str_remove<true>, 1, {"/suffix"}},
    {"replace", str_replace, 2, {"/old", "/new", "count"}},
    {"rfind", str_find<true, false>, 1, {"/sub", "/start", "/end"}},
    {"rindex", str_find<true, true>, 1, {"/sub", "/start", "/end"}},
    {"rjust", str_justify<kRight>, 1, {"/width", "/fillchar"}},
    {"rpartition", str_partition<true>, 1, {"/sep"}},
    {"rsplit", str_split<true>, 0, {"sep", "maxsplit"}},
    {"rstrip", str_strip<kRight>, 0, {"/chars"}},
    {"split", str_split<false>, 0, {"sep", "maxsplit"}},
    {"splitlines", str_splitlines, 0, {"keepends"}},
    {"startswith", str_affix<false>, 1, {"/prefix", "/start", "/end"}},
    {"strip", str_strip<kBoth>, 0, {"/chars"}},
    {"swapcase", mapped<to_swapcase>, 0, {}},
    {"title", mapped<to_title>, 0, {}},
    {"upper", mapped<to_upper>, 0, {}},
    {"zfill", str_zfill, 1, {"/width"}},
};
constexpr MethodEntry kDictMethods[] = {
    {"copy", itself, 0, {}},
    {"get", dict_get, 1, {"/key", "/default"}},
    {"items", dict_view<View::kItems>, 0, {}},
    {"keys", dict_view<View::kKeys>, 0, {}},
    {"values", dict_view<View::kValues>, 0, {}},
};
constexpr MethodEntry kSequenceMethods[] = {
    {"count", sequence_count, 1, {"/value"}},
    {"index", sequence_index, 1, {"/value", "/start", "/stop"}},
    {"copy", itself, 0, {}},  // of lists
};
constexpr MethodEntry kIntMethods[] = {
    {"bit_length", int_bit_length, 0, {}},
    {"conjugate", itself, 0, {}},
    {"is_integer", is_integer, 0, {}},
};
constexpr MethodEntry kFloatMethods[] = {
    {"conjugate", itself, 0, {}},
    {"is_integer", is_integer, 0, {}},
};
constexpr MethodEntry kLoopMethods[] = {
    {"cycle", nullptr, 0, {}},
    {"changed", nullptr, 0, {}},
};
constexpr MethodEntry kCyclerMethods[] = {
    {"next", cycler_next, 0, {}},
    {"reset", cycler_reset, 0, {}},
};

struct MethodTable {
  const MethodEntry* entries;
  size_t size;
};

// Tables in the order of the high byte of a method's id.
enum Table {
  kStrTable,
  kDictTable,
  kSequenceTable,
  kIntTable,
  kFloatTable,
  kLoopTable,
  kCyclerTable
};
MethodTable table(int index) {
  switch (index) {
    case kStrTable:
      return {kStrMethods, std::size(kStrMethods)};
    case kDictTable:
      return {kDictMethods, std::size(kDictMethods)};
    case kSequenceTable:
      return {kSequenceMethods, std::size(kSequenceMethods)};
    case kIntTable:
      return {kIntMethods, std::size(kIntMethods)};
    case kFloatTable:
      return {kFloatMethods, std::size(kFloatMethods)};
    case kLoopTable:
      return {kLoopMethods, std::size(kLoopMethods)};
    default:
      return {kCyclerMethods, std::size(kCyclerMethods)};
  }
}

int table_of(const Value& self) {
  switch (self.type()) {
    case Type::kStr:
      return kStrTable;
    case Type::kDict:
      return kDictTable;
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
      return kSequenceTable;
    case Type::kBool:
    case Type::kInt:
      return kIntTable;
    case Type::kFloat:
      return kFloatTable;
    case Type::kLoop:
      return kLoopTable;
    case Type::kCycler:
      return kCyclerTable;
    default:
      return -1;
  }
}

// What the sandbox forbids because it would change the object.
bool mutating(const Value& self, absl::string_view name) {
  if (self.is(Type::kDict)) {
    return name == "clear" || name == "pop" || name == "popitem" || name == "setdefault" ||
           name == "update";
  }
  if (self.is(Type::kList)) {
    return name == "append" || name == "clear" || name == "pop" || name == "reverse" ||
           name == "insert" || name == "sort" || name == "extend" || name == "remove";
  }
  return false;
}

const MethodEntry& entry_of(int id) { return table(id >> 8).entries[id & 0xFF]; }

Value loop_cycle(Context& c, const Loop& loop, Args& args) {
  if (!args.named.empty()) return c.type_error("cycle() takes no keyword arguments");
  if (args.positional.empty()) return c.type_error("no items for cycling given");
  const auto n = static_cast<int64_t>(args.positional.size());
  return args.positional[static_cast<size_t>(loop.index0 % n)];
}

Value loop_changed(Context& c, Loop& loop, Args& args) {
  if (!args.named.empty()) return c.type_error("changed() takes no keyword arguments");
  Value now = c.tuple({args.positional.begin(), args.positional.end()});
  if (!c.ok()) return Value();
  const bool changed = loop.changed.missing() || !equal(c, loop.changed, now);
  if (!c.ok()) return Value();
  loop.changed = std::move(now);
  c.keep(&loop);  // the values may hold the loop
  return Value::boolean(changed);
}

}  // namespace

Value find_method(Context& c, const Value& self, absl::string_view name) {
  if (mutating(self, name)) {
    return c.undefined(absl::StrCat("access to attribute '", name, "' of '", type_name(self),
                                    "' object is unsafe."),
                       /*security=*/true);
  }
  const int index = table_of(self);
  if (index < 0) return Value();
  const MethodTable methods = table(index);
  for (size_t i = 0; i < methods.size; ++i) {
    if (methods.entries[i].name != name) continue;
    if (index == kSequenceTable && name == "copy" && !self.is(Type::kList)) return Value();
    auto* method = new Method;
    method->self = self;
    method->id = index << 8 | static_cast<int>(i);
    return c.adopt(Type::kMethod, method, self.depth());
  }
  return Value();
}

Value call_method(Context& c, const Method& method, Args& args) {
  const MethodEntry& entry = entry_of(method.id);
  if (entry.fn == nullptr) {
    if (method.self.is_str()) return str_format(c, method.self.text(), args);
    Loop& loop = method.self.as<Loop>();
    return entry.name == "cycle" ? loop_cycle(c, loop, args) : loop_changed(c, loop, args);
  }
  Value bound[3];
  if (!bind_args(c, entry.name, args, entry.required, parameters(entry.params), bound))
    return Value();
  return entry.fn(c, method.self, bound);
}

absl::string_view method_name(int id) { return entry_of(id).name; }

}  // namespace ponder::jinja
