// The filters that take fixed arguments and give a value at once.

#include "lib/text/jinja_filters.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_json.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_sort.h"
#include "lib/text/jinja_text.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

bool is_true(const Value& v) { return !v.missing() && truthy(v); }

bool integer_or(Context& c, const Value& v, int64_t otherwise, int64_t& out) {
  out = otherwise;
  return v.missing() || to_index(c, v, out);
}

// ---- text

template <std::string (*kMap)(absl::string_view)>
Value mapped(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  if (!c.ok() || !c.room(text.text().size() * 3) || !c.work(text.text().size() / 4 + 1)) {
    return Value();
  }
  return c.str(kMap(text.text()), text.as<Str>().markup);
}

// Unlike str.title: words begin after spaces, hyphens and opening brackets only.
std::string title_words(absl::string_view text) {
  std::string out;
  const auto breaks = [](char32_t ch) {
    return is_space(ch) || ch == '-' || ch == '(' || ch == '{' || ch == '[' || ch == '<';
  };
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p != end;) {
    const char* const word = p;
    const char* stop = p;
    while (stop != end) {
      const char* next = stop;
      if (breaks(next_code_point(next))) break;
      stop = next;
    }
    if (stop == word) {
      next_code_point(p);
      out.append(word, p);
      continue;
    }
    const size_t first = utf8_size(*word);
    out += to_upper(absl::string_view(word, first));
    out += to_lower(absl::string_view(word + first, static_cast<size_t>(stop - word) - first));
    p = stop;
  }
  return out;
}

Value do_trim(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  if (!c.ok() || !c.work_bytes(text.text().size())) return Value();
  const bool chars = !a[1].missing() && !a[1].is(Type::kNone);
  if (chars && !a[1].is_str()) return c.type_error("strip arg must be None or str");
  return c.str(std::string(strip_chars(text.text(), chars ? &a[1] : nullptr, true, true)),
               text.as<Str>().markup);
}

Value do_replace(Context& c, Value* a) {
  const Value text = to_str(c, a[0]), from = to_str(c, a[1]), to = to_str(c, a[2]);
  int64_t limit = -1;
  if (!a[3].missing() && !a[3].is(Type::kNone) && !to_index(c, a[3], limit)) return Value();
  return c.ok() ? replace_text(c, text.text(), from.text(), to.text(), limit, false) : Value();
}

Value do_center(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  int64_t width = 80;
  if (!c.ok() || !integer_or(c, a[1], 80, width)) return Value();
  return justify(c, text, width, " ", true, true);
}

Value do_string(Context& c, Value* a) { return to_str(c, a[0]); }

Value do_safe(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  return c.ok() ? c.str(std::string(text.text()), true) : Value();
}

Value escaped(Context& c, const Value& v) {
  const Value text = to_str(c, v);
  Sink out(c);
  return c.ok() && append_escaped(out, text.text()) ? out.value(true) : Value();
}
Value do_escape(Context& c, Value* a) {
  return a[0].is_str() && a[0].as<Str>().markup ? a[0] : escaped(c, a[0]);
}
Value do_forceescape(Context& c, Value* a) { return escaped(c, a[0]); }

Value do_striptags(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  if (!c.ok() || !c.work_bytes(text.text().size() * 4)) return Value();
  std::string plain;
  absl::string_view rest = text.text();
  while (!rest.empty()) {
    const size_t open = std::min(rest.find('<'), rest.size());
    plain.append(rest.substr(0, open));
    rest.remove_prefix(open);
    if (rest.empty()) break;
    const bool comment = rest.substr(0, 4) == "<!--";
    const size_t close = comment ? rest.find("-->") : rest.find('>');
    if (close == absl::string_view::npos) {
      plain.append(rest);
      break;
    }
    rest.remove_prefix(close + (comment ? 3 : 1));
  }
  std::vector<absl::string_view> words;
  if (!split_space(c, plain, -1, false, words)) return Value();
  Sink out(c);
  for (size_t i = 0; i < words.size(); ++i) {
    if ((i != 0 && !out.append(" ")) || !out.append(words[i])) return Value();
  }
  return out.value();
}

Value do_indent(Context& c, Value* a) {
  if (!a[0].is_str()) return binary(c, Op::kAdd, a[0], c.str("\n"));  // fails as Python does
  std::string by;
  int64_t width = 4;
  if (a[1].is_str()) {
    by = a[1].text();
  } else if (!integer_or(c, a[1], 4, width) ||
             !c.room(static_cast<size_t>(std::max<int64_t>(width, 0)))) {
    return Value();
  } else {
    by.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  std::vector<absl::string_view> lines;
  const std::string text = absl::StrCat(a[0].text(), "\n");
  if (!split_lines(c, text, false, lines)) return Value();
  Sink out(c);
  if (is_true(a[2]) && !out.append(by)) return Value();
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i != 0 && !out.append("\n")) return Value();
    const bool indent = i != 0 && (is_true(a[3]) || !lines[i].empty());
    if ((indent && !out.append(by)) || !out.append(lines[i])) return Value();
  }
  return out.value(a[0].as<Str>().markup);
}

Value do_truncate(Context& c, Value* a) {
  int64_t size = 255, leeway = 5;
  const Value end = a[3].missing() ? c.str("...") : a[3];
  if (!c.ok() || !end.is_str()) return c.type_error("truncate() wants a text as end");
  if (!integer_or(c, a[1], 255, size)) return Value();
  if (!a[4].is(Type::kNone) && !integer_or(c, a[4], 5, leeway)) return Value();
  const int64_t end_size = length(c, end);
  if (size < end_size)
    return c.error("AssertionError: expected length >= ", end_size, ", got ", size);
  if (leeway < 0) return c.error("AssertionError: expected leeway >= 0, got ", leeway);
  const int64_t n = length(c, a[0]);
  if (!c.ok() || n <= size + leeway) return a[0];
  if (!a[0].is_str()) {
    return c.error("AttributeError: '", type_name(a[0]), "' object has no attribute 'rsplit'");
  }
  const absl::string_view text = a[0].text();
  absl::string_view kept =
      text.substr(0, offset_of_code_point(text, static_cast<size_t>(size - end_size)));
  if (!is_true(a[2])) kept = kept.substr(0, kept.rfind(' '));
  return c.str(absl::StrCat(kept, end.text()));
}

Value do_wordcount(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  if (!c.ok() || !c.work(text.text().size() / 4 + 1)) return Value();
  int64_t n = 0;
  bool in_word = false;
  for (const char *p = text.text().data(), *end = p + text.text().size(); p != end;) {
    const char32_t ch = next_code_point(p);
    const bool word = ch == '_' || (char_classes(ch) & kAlnum) != 0;
    n += word && !in_word ? 1 : 0;
    in_word = word;
  }
  return Value::integer(n);
}

// urllib.parse.quote.
bool append_url(Sink& out, const Value& v, bool query) {
  const Value text = to_str(out.context(), v);
  if (!out.context().ok()) return false;
  static constexpr char kHex[] = "0123456789ABCDEF";
  for (const char ch : text.text()) {
    const bool alnum =
        (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
    const bool plain =
        alnum || ch == '_' || ch == '.' || ch == '-' || ch == '~' || (ch == '/' && !query);
    const auto u = static_cast<unsigned char>(ch);
    const char coded[] = {'%', kHex[u >> 4], kHex[u & 15]};
    if (!out.append(plain                ? absl::string_view(&ch, 1)
                    : query && ch == ' ' ? absl::string_view("+")
                                         : absl::string_view(coded, 3))) {
      return false;
    }
  }
  return out.context().work_bytes(text.text().size());
}

Value do_urlencode(Context& c, Value* a) {
  Sink out(c);
  if (a[0].is_str() || !iterable(a[0])) {
    return append_url(out, a[0], false) ? out.value() : Value();
  }
  Ref<Dict> pairs(new Dict);
  if (!fill_dict(c, a[0], *pairs)) return Value();
  bool first = true;
  for (const auto& [key, value] : pairs->entries) {
    if ((!first && !out.append("&")) || !append_url(out, key, true) || !out.append("=") ||
        !append_url(out, value, true)) {
      return Value();
    }
    first = false;
  }
  return out.value();
}

Value do_xmlattr(Context& c, Value* a) {
  if (!a[0].is(Type::kDict)) return c.type_error("xmlattr wants a mapping");
  Sink out(c);
  bool first = true;
  for (const auto& [key, value] : a[0].as<Dict>().entries) {
    if (value.is(Type::kNone) || value.is(Type::kUndefined)) continue;
    const Value name = to_str(c, key);
    if (!c.ok()) return Value();
    if (name.text().find_first_of(" \t\n\r\f\v/>=") != absl::string_view::npos) {
      return c.value_error("Invalid character in attribute name");
    }
    const Value text = escaped(c, value);
    const bool space = !first || a[1].missing() || truthy(a[1]);
    if (!c.ok() || (space && !out.append(" ")) || !append_escaped(out, name.text()) ||
        !out.append("=\"") || !out.append(text.text()) || !out.append("\"")) {
      return Value();
    }
    first = false;
  }
  return out.value();
}

Value do_filesizeformat(Context& c, Value* a) {
  double bytes = 0;
  if (a[0].is_str() ? !parse_float(a[0].text(), bytes) : !a[0].is_number()) {
    return c.type_error("filesizeformat wants a number");
  }
  if (!a[0].is_str()) {
    bytes = a[0].is(Type::kFloat)  ? a[0].f()
            : a[0].is(Type::kUint) ? static_cast<double>(a[0].u())
                                   : static_cast<double>(a[0].i());
  }
  const bool binary_units = is_true(a[1]);
  const double base = binary_units ? 1024 : 1000;
  if (bytes == 1) return c.str("1 Byte");
  if (bytes < base) return c.str(absl::StrCat(fixed(std::trunc(bytes), 0), " Bytes"));
  static constexpr char kUnits[] = "kMGTPEZY";
  double unit = base * base;
  for (size_t i = 0;; ++i, unit *= base) {
    if (bytes >= unit && kUnits[i + 1] != '\0') continue;
    const char prefix = binary_units && i == 0 ? 'K' : kUnits[i];
    return c.str(absl::StrCat(fixed(base * bytes / unit, 1), " ", std::string(1, prefix),
                              binary_units ? "iB" : "B"));
  }
}

Value do_tojson(Context& c, Value* a) {
  DumpOptions options;
  options.ensure_ascii = is_true(a[1]);
  options.sort_keys = is_true(a[4]);
  if (!a[2].missing() && !a[2].is(Type::kNone)) {
    options.indented = true;
    options.item_separator = ",";
    int64_t width = 0;
    if (a[2].is_str()) {
      options.indent = a[2].text();
    } else if (!to_index(c, a[2], width) ||
               !c.room(static_cast<size_t>(std::max<int64_t>(width, 0)))) {
      return Value();
    } else {
      options.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (!a[3].missing() && !a[3].is(Type::kNone)) {
    std::vector<Value> separators;
    if (!collect(c, a[3], separators)) return Value();
    if (separators.size() != 2 || !separators[0].is_str() || !separators[1].is_str()) {
      return c.value_error("tojson: separators must be two texts");
    }
    options.item_separator = separators[0].text();
    options.key_separator = separators[1].text();
  }
  return to_json(c, a[0], options);
}

// ---- numbers

Value do_abs(Context& c, Value* a) {
  if (a[0].is(Type::kFloat)) return Value::number(std::fabs(a[0].f()));
  if (a[0].is(Type::kUint)) return a[0];
  if (a[0].is_integral()) {
    return a[0].i() < 0 ? unary(c, Op::kNeg, a[0]) : Value::integer(a[0].i());
  }
  return c.type_error("bad operand type for abs(): '", type_name(a[0]), "'");
}

Value int_from_float(Context& c, double f, const Value& otherwise, bool from_text) {
  if (std::isnan(f)) return otherwise;
  if (std::isinf(f)) {
    return from_text ? otherwise
                     : c.error("OverflowError: cannot convert float infinity to integer");
  }
  if (!(f > -0x1p63 && f < 0x1p63)) {
    return c.error("OverflowError: a whole number does not fit in 64 bits");
  }
  return Value::integer(static_cast<int64_t>(f));
}

Value do_int(Context& c, Value* a) {
  const Value otherwise = a[1].missing() ? Value::integer(0) : a[1];
  int64_t base = 10, i = 0;
  if (!integer_or(c, a[2], 10, base)) return Value();
  if (a[0].is_integral()) return Value::integer(a[0].i());
  if (a[0].is(Type::kUint)) return a[0];
  if (a[0].is(Type::kFloat)) return int_from_float(c, a[0].f(), otherwise, false);
  if (a[0].is(Type::kUndefined)) return c.undefined_error(a[0]);
  if (!a[0].is_str()) return otherwise;
  if (!c.work(a[0].text().size() + 1)) return Value();
  if ((base == 0 || (base >= 2 && base <= 36)) &&
      parse_int(a[0].text(), static_cast<int>(base), i)) {
    return Value::integer(i);
  }
  double f = 0;
  return parse_float(a[0].text(), f) ? int_from_float(c, f, otherwise, true) : otherwise;
}

Value do_float(Context& c, Value* a) {
  if (a[0].is(Type::kFloat)) return a[0];
  if (a[0].is_integral()) return Value::number(static_cast<double>(a[0].i()));
  if (a[0].is(Type::kUint)) return Value::number(static_cast<double>(a[0].u()));
  if (a[0].is(Type::kUndefined)) return c.undefined_error(a[0]);
  double f = 0;
  if (a[0].is_str() && c.work(a[0].text().size() + 1) && parse_float(a[0].text(), f)) {
    return Value::number(f);
  }
  return a[1].missing() ? Value::number(0) : a[1];
}

Value round_integer(Context& c, int64_t value, int64_t digits) {
  if (digits >= 0) return Value::integer(value);
  if (digits < -18) return Value::integer(0);
  int64_t unit = 1;
  for (int64_t i = digits; i < 0; ++i) unit *= 10;
  int64_t rest = value % unit;
  if (rest < 0) rest += unit;
  const int64_t down = value - rest;  // cannot overflow: |down| is below |value| + unit
  const bool up = rest * 2 > unit || (rest * 2 == unit && (down / unit) % 2 != 0);
  return up ? binary(c, Op::kAdd, Value::integer(down), Value::integer(unit))
            : Value::integer(down);
}

Value do_round(Context& c, Value* a) {
  absl::string_view method = "common";
  if (!a[2].missing()) {
    if (a[2].is_str()) method = a[2].text();
    if (!a[2].is_str() || (method != "common" && method != "ceil" && method != "floor")) {
      return c.error("FilterArgumentError: method must be common, ceil or floor");
    }
  }
  const bool no_digits = a[1].is(Type::kNone);
  int64_t digits = 0;
  if (!no_digits && !integer_or(c, a[1], 0, digits)) return Value();
  if (a[0].is(Type::kUndefined) || !a[0].is_number()) {
    return a[0].is(Type::kUndefined) && method != "common"
               ? c.undefined_error(a[0])
               : c.type_error("type ", type_name(a[0]), " doesn't define __round__ method");
  }
  if (a[0].is(Type::kUint)) return digits < 0 ? do_abs(c, a) : a[0];
  if (method == "common") {
    if (a[0].is_integral()) return round_integer(c, a[0].i(), digits);
    const double rounded = round_to(a[0].f(), digits);
    return no_digits ? int_from_float(c, rounded, Value::integer(0), false)
                     : Value::number(rounded);
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = (a[0].is(Type::kFloat) ? a[0].f() : static_cast<double>(a[0].i())) * scale;
  if (!std::isfinite(scaled) || scale == 0) {
    return c.error("OverflowError: cannot convert float infinity to integer");
  }
  return Value::number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

// ---- any value

Value do_default(Context& c, Value* a) {
  const bool use = a[0].is(Type::kUndefined) || (is_true(a[2]) && !truthy(a[0]));
  if (!use) return a[0];
  return a[1].missing() ? c.str("") : a[1];
}

Value do_attr(Context& c, Value* a) {
  if (!a[1].is_str()) return c.type_error("attribute name must be string");
  // Attributes only, no items: a dict's keys do not count.
  if (a[0].is(Type::kDict)) {
    const Value method = find_method(c, a[0], a[1].text());
    if (!method.missing() || !c.ok()) return method;
    return c.undefined(absl::StrCat("'dict object' has no attribute '", a[1].text(), "'"));
  }
  return get_attr(c, a[0], a[1].text());
}

Value do_length(Context& c, Value* a) {
  const int64_t n = length(c, a[0]);
  return c.ok() ? Value::integer(n) : Value();
}

// ---- sequences

Value do_first(Context& c, Value* a) {
  const Ref<Iter> iter = iterate(c, a[0]);
  Value item;
  if (c.ok() && iter->next(c, item)) return item;
  return c.ok() ? c.undefined("No first item, sequence was empty.") : Value();
}

bool reversible(const Value& v) {
  return v.is_str() || v.is_sequence() || v.is(Type::kDict) || v.is(Type::kRange) ||
         v.is(Type::kView);
}

Value do_last(Context& c, Value* a) {
  if (a[0].is(Type::kUndefined)) return c.undefined("No last item, sequence was empty.");
  if (!reversible(a[0])) return c.type_error("'", type_name(a[0]), "' object is not reversible");
  std::vector<Value> items;
  if (a[0].is_sequence()) {
    if (!a[0].items().empty()) return a[0].items().back();
  } else if (!collect(c, a[0], items)) {
    return Value();
  }
  return items.empty() ? c.undefined("No last item, sequence was empty.") : items.back();
}

Value do_list(Context& c, Value* a) {
  std::vector<Value> items;
  return collect(c, a[0], items) ? c.list(std::move(items)) : Value();
}

Value do_reverse(Context& c, Value* a) {
  if (a[0].is_str()) return slice(c, a[0], Value::none(), Value::none(), Value::integer(-1));
  if (!iterable(a[0])) return c.error("FilterArgumentError: argument must be iterable");
  std::vector<Value> items;
  if (!collect(c, a[0], items)) return Value();
  std::reverse(items.begin(), items.end());
  if (!reversible(a[0])) return c.list(std::move(items));
  const Ref<Iter> iter = iterate_items(c, std::move(items),
                                       a[0].is(Type::kList) ? "list_reverseiterator" : "reversed");
  return c.ok() ? Value::object(Type::kIter, iter.get()) : Value();
}

Value do_join(Context& c, Value* a) {
  const Value separator = a[1].missing() ? c.str("") : to_str(c, a[1]);
  AttributePath path;
  if (!c.ok() || !AttributePath::parse(c, a[2], path)) return Value();
  const Ref<Iter> iter = iterate(c, a[0]);
  Sink out(c);
  Value item;
  bool first = true;
  while (c.ok() && iter->next(c, item)) {
    item = path.get(c, item);
    if (!c.ok() || !c.work(1) || (!first && !out.append(separator.text())) ||
        !append_str(out, item)) {
      return Value();
    }
    first = false;
  }
  return c.ok() ? out.value() : Value();
}

Value do_sum(Context& c, Value* a) {
  AttributePath path;
  if (!AttributePath::parse(c, a[1], path)) return Value();
  Value total = a[2].missing() ? Value::integer(0) : a[2];
  if (total.is_str()) return c.type_error("sum() can't sum strings [use ''.join(seq) instead]");
  const Ref<Iter> iter = iterate(c, a[0]);
  Value item;
  double lost = 0;  // Python 3.12 and later compensate what float additions round away
  while (c.ok() && iter->next(c, item)) {
    item = path.get(c, item);
    if (!c.ok() || !c.work(1)) return Value();
    if (total.is(Type::kFloat) && (item.is(Type::kFloat) || item.is_integral())) {
      const double x = item.is(Type::kFloat) ? item.f() : static_cast<double>(item.i());
      const double sum = total.f() + x;
      lost += std::fabs(total.f()) >= std::fabs(x) ? (total.f() - sum) + x : (x - sum) + total.f();
      total = Value::number(sum);
    } else {
      total = binary(c, Op::kAdd, total, item);
    }
  }
  if (!c.ok()) return Value();
  if (total.is(Type::kFloat) && lost != 0 && std::isfinite(lost)) {
    return Value::number(total.f() + lost);
  }
  return total;
}

// ---- sorting

// What an item is sorted by: its attribute, in lower case unless case matters.
struct SortKey {
  AttributePath path;
  bool case_sensitive = false;
  Value otherwise;  // for undefined attributes

  bool parse(Context& c, const Value& attribute, const Value& sensitive) {
    case_sensitive = is_true(sensitive);
    return AttributePath::parse(c, attribute, path);
  }
  Value raw(Context& c, const Value& item) const {
    Value key = path.get(c, item);
    if (c.ok() && key.is(Type::kUndefined) && !otherwise.missing() && !otherwise.is(Type::kNone)) {
      return otherwise;
    }
    return key;
  }
  Value of(Context& c, const Value& item) const { return folded(c, raw(c, item)); }
  Value folded(Context& c, Value key) const {
    if (!c.ok()) return Value();
    if (!case_sensitive && key.is_str()) {
      if (!c.room(key.text().size() * 3) || !c.work(key.text().size() / 4 + 1)) return Value();
      return c.str(to_lower(key.text()));
    }
    return key;
  }
};

struct Keyed {
  Value key;
  Value item;
};

bool sort_keyed(Context& c, std::vector<Keyed>& items, bool reverse) {
  // Reversed before and after, so that equal items keep their order, as in Python.
  if (reverse) std::reverse(items.begin(), items.end());
  if (!stable_sort(c, items,
                   [&c](const Keyed& x, const Keyed& y) { return less(c, x.key, y.key); })) {
    return false;
  }
  if (reverse) std::reverse(items.begin(), items.end());
  return true;
}

bool keyed_items(Context& c, const Value& v, const SortKey& key, std::vector<Keyed>& out) {
  const Ref<Iter> iter = iterate(c, v);
  Value item;
  while (c.ok() && iter->next(c, item)) {
    Value k = key.of(c, item);
    if (!c.ok() || !c.work(1) || !c.room((out.size() + 1) * sizeof(Keyed))) return false;
    out.push_back(Keyed{std::move(k), std::move(item)});
  }
  return c.ok();
}

Value items_of(Context& c, std::vector<Keyed>& keyed) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (Keyed& entry : keyed) items.push_back(std::move(entry.item));
  return c.list(std::move(items));
}

Value do_sort(Context& c, Value* a) {
  // Several attributes, separated by commas, become one list to compare.
  std::vector<SortKey> keys;
  if (a[3].is_str()) {
    std::vector<absl::string_view> parts;
    if (!split_by(c, a[3].text(), ",", -1, false, parts)) return Value();
    for (const absl::string_view part : parts) {
      if (!keys.emplace_back().parse(c, c.str(part), a[2])) return Value();
    }
  } else if (!keys.emplace_back().parse(c, a[3], a[2])) {
    return Value();
  }
  std::vector<Keyed> items;
  const Ref<Iter> iter = iterate(c, a[0]);
  Value item;
  while (c.ok() && iter->next(c, item)) {
    std::vector<Value> list;
    for (const SortKey& key : keys) list.push_back(key.of(c, item));
    if (!c.ok() || !c.work(1) || !c.room((items.size() + 1) * sizeof(Keyed))) return Value();
    Value key = keys.size() == 1 ? std::move(list[0]) : c.list(std::move(list));
    items.push_back(Keyed{std::move(key), std::move(item)});
  }
  if (!c.ok() || !sort_keyed(c, items, is_true(a[1]))) return Value();
  return items_of(c, items);
}

Value do_dictsort(Context& c, Value* a) {
  bool by_value = false;
  if (!a[2].missing()) {
    by_value = a[2].is_str() && a[2].text() == "value";
    if (!by_value && !(a[2].is_str() && a[2].text() == "key")) {
      return c.error("FilterArgumentError: You can only sort by either \"key\" or \"value\"");
    }
  }
  if (a[0].is(Type::kUndefined)) return c.undefined_error(a[0]);
  if (!a[0].is(Type::kDict)) {
    return c.error("AttributeError: '", type_name(a[0]), "' object has no attribute 'items'");
  }
  SortKey key;
  key.case_sensitive = is_true(a[1]);
  std::vector<Keyed> items;
  for (const auto& [name, value] : a[0].as<Dict>().entries) {
    Value k = key.folded(c, by_value ? value : name);
    Value pair = c.tuple({name, value});
    if (!c.ok() || !c.work(1)) return Value();
    items.push_back(Keyed{std::move(k), std::move(pair)});
  }
  if (!sort_keyed(c, items, is_true(a[3]))) return Value();
  return items_of(c, items);
}

template <bool kMax>
Value do_extreme(Context& c, Value* a) {
  SortKey key;
  std::vector<Keyed> items;
  if (!key.parse(c, a[2], a[1]) || !keyed_items(c, a[0], key, items)) return Value();
  if (items.empty()) return c.undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    const bool better =
        kMax ? less(c, items[best].key, items[i].key) : less(c, items[i].key, items[best].key);
    if (!c.ok()) return Value();
    if (better) best = i;
  }
  return items[best].item;
}

Value do_groupby(Context& c, Value* a) {
  SortKey key;
  key.otherwise = a[2];
  std::vector<Keyed> items;
  if (!key.parse(c, a[1], a[3]) || !keyed_items(c, a[0], key, items) ||
      !sort_keyed(c, items, false)) {
    return Value();
  }
  std::vector<Value> groups;
  for (size_t i = 0; i < items.size();) {
    std::vector<Value> members;
    const Value group_key = items[i].key;
    for (; i < items.size() && equal(c, items[i].key, group_key); ++i) {
      members.push_back(items[i].item);
    }
    if (!c.ok()) return Value();
    Value name = key.case_sensitive ? group_key : key.raw(c, members[0]);
    if (!c.ok()) return Value();
    Value group = c.tuple({std::move(name), c.list(std::move(members))});
    if (!c.ok()) return Value();
    group.as<List>().group = true;
    groups.push_back(std::move(group));
  }
  return c.ok() ? c.list(std::move(groups)) : Value();
}

Value not_supported(Context& c, Value*) {
  return c.error("this filter is not supported in chat templates");
}

using FilterFn = Value (*)(Context& c, Value* a);
struct FilterEntry {
  absl::string_view name;
  FilterFn fn;  // null: see call_stream_filter
  uint8_t required;
  absl::string_view params[5];  // the value itself first
};

constexpr FilterEntry kFilters[] = {
    {"abs", do_abs, 1, {"/value"}},
    {"attr", do_attr, 2, {"/obj", "name"}},
    {"batch", nullptr, 0, {}},
    {"capitalize", mapped<to_capitalized>, 1, {"s"}},
    {"center", do_center, 1, {"value", "width"}},
    {"count", do_length, 1, {"/obj"}},
    {"d", do_default, 1, {"value", "default_value", "boolean"}},
    {"default", do_default, 1, {"value", "default_value", "boolean"}},
    {"dictsort", do_dictsort, 1, {"value", "case_sensitive", "by", "reverse"}},
    {"e", do_escape, 1, {"/s"}},
    {"escape", do_escape, 1, {"/s"}},
    {"filesizeformat", do_filesizeformat, 1, {"value", "binary"}},
    {"first", do_first, 1, {"seq"}},
    {"float", do_float, 1, {"value", "default"}},
    {"forceescape", do_forceescape, 1, {"value"}},
    {"format", nullptr, 0, {}},
    {"groupby", do_groupby, 2, {"value", "attribute", "default", "case_sensitive"}},
    {"indent", do_indent, 1, {"s", "width", "first", "blank"}},
    {"int", do_int, 1, {"value", "default", "base"}},
    {"items", nullptr, 0, {}},
    {"join", do_join, 1, {"value", "d", "attribute"}},
    {"last", do_last, 1, {"seq"}},
    {"length", do_length, 1, {"/obj"}},
    {"list", do_list, 1, {"value"}},
    {"lower", mapped<to_lower>, 1, {"s"}},
    {"map", nullptr, 0, {}},
    {"max", do_extreme<true>, 1, {"value", "case_sensitive", "attribute"}},
    {"min", do_extreme<false>, 1, {"value", "case_sensitive", "attribute"}},
    {"pprint", not_supported, 1, {"value"}},
    {"random", not_supported, 1, {"seq"}},
    {"reject", nullptr, 0, {}},
    {"rejectattr", nullptr, 0, {}},
    {"replace", do_replace, 3, {"s", "old", "new", "count"}},
    {"reverse", do_reverse, 1, {"value"}},
    {"round", do_round, 1, {"value", "precision", "method"}},
    {"safe", do_safe, 1, {"value"}},
    {"select", nullptr, 0, {}},
    {"selectattr", nullptr, 0, {}},
    {"slice", nullptr, 0, {}},
    {"sort", do_sort, 1, {"value", "reverse", "case_sensitive", "attribute"}},
    {"string", do_string, 1, {"s"}},
    {"striptags", do_striptags, 1, {"value"}},
    {"sum", do_sum, 1, {"iterable", "attribute", "start"}},
    {"title", mapped<title_words>, 1, {"s"}},
    {"tojson", do_tojson, 1, {"x", "ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", do_trim, 1, {"value", "chars"}},
    {"truncate", do_truncate, 1, {"s", "length", "killwords", "end", "leeway"}},
    {"unique", nullptr, 0, {}},
    {"upper", mapped<to_upper>, 1, {"s"}},
    {"urlencode", do_urlencode, 1, {"value"}},
    {"urlize", not_supported, 1, {"value"}},
    {"wordcount", do_wordcount, 1, {"s"}},
    {"wordwrap",
     not_supported,
     1,
     {"s", "width", "break_long_words", "wrapstring", "break_on_hyphens"}},
    {"xmlattr", do_xmlattr, 1, {"d", "autospace"}},
};

}  // namespace

int find_filter(absl::string_view name) {
  for (size_t i = 0; i < std::size(kFilters); ++i) {
    if (kFilters[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value call_filter(Context& c, int id, Args& args) {
  const FilterEntry& filter = kFilters[id];
  if (filter.fn == nullptr) return call_stream_filter(c, filter.name, args);
  Value bound[5];
  if (!bind_args(c, filter.name, args, filter.required, parameters(filter.params), bound))
    return Value();
  return filter.fn(c, bound);
}

}  // namespace ponder::jinja
