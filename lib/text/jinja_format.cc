#include "lib/text/jinja_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

// Wider fields than this are an attack, not formatting.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int kMaxPrecision = 400;

std::string chars(double f, std::chars_format format, int precision) {
  // 309 digits before the point at most, and the precision.
  char buffer[kMaxPrecision + 360];
  const auto [end, ec] =
      std::to_chars(buffer, buffer + sizeof buffer, f, format, std::min(precision, kMaxPrecision));
  return ec == std::errc() ? std::string(buffer, end) : std::string("?");
}

std::string special(double f) {
  if (std::isnan(f)) return "nan";
  return f < 0 ? "-inf" : "inf";
}

// Python writes exponents with at least two digits, as std::to_chars does.
std::string general(double f, int precision, bool alternate) {
  if (precision == 0) precision = 1;
  std::string s = chars(f, std::chars_format::general, precision);
  if (alternate && s.find('.') == std::string::npos) s += '.';
  return s;
}

// One number by a conversion of "%" or of a format specification.
std::string convert_float(double f, char type, int precision, bool alternate) {
  if (!std::isfinite(f)) return special(f);
  switch (type | 0x20) {
    case 'f':
      return chars(f, std::chars_format::fixed, precision);
    case 'e':
      return chars(f, std::chars_format::scientific, precision);
    default:
      return general(f, precision, alternate);
  }
}

std::string digits_of(uint64_t magnitude, int base, bool upper) {
  char buffer[72];
  const auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, magnitude, base);
  std::string s(buffer, end);
  if (upper) {
    for (char& ch : s) ch = static_cast<char>(ch >= 'a' && ch <= 'z' ? ch - 32 : ch);
  }
  return s;
}

uint64_t magnitude(int64_t i) {
  return i < 0 ? uint64_t{0} - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
}

// Python's whole numbers have no upper bound: int(1e30) is refused here.
bool whole(Context& c, const Value& v, int64_t& out) {
  if (v.is(Type::kFloat)) {
    if (!(v.f() > -0x1p63 && v.f() < 0x1p63)) {
      c.error("OverflowError: cannot convert float to a 64-bit integer");
      return false;
    }
    out = static_cast<int64_t>(v.f());
    return true;
  }
  return to_index(c, v, out);
}

bool real(Context& c, const Value& v, double& out) {
  if (v.is(Type::kFloat)) {
    out = v.f();
  } else if (v.is_integral()) {
    out = static_cast<double>(v.i());
  } else if (v.is(Type::kUint)) {
    out = static_cast<double>(v.u());
  } else if (v.is(Type::kUndefined)) {
    c.undefined_error(v);
    return false;
  } else {
    c.type_error("must be real number, not ", type_name(v));
    return false;
  }
  return true;
}

bool pad(Sink& out, int64_t width, absl::string_view text, bool left, char fill = ' ') {
  const auto size = static_cast<int64_t>(count_code_points(text));
  const auto n = static_cast<size_t>(std::max<int64_t>(width - size, 0));
  if (left) return out.append(text) && out.append(n, fill);
  return out.append(n, fill) && out.append(text);
}

// ---- "%"

struct Percent {
  bool minus = false, plus = false, space = false, zero = false, alternate = false;
  int64_t width = 0;
  int64_t precision = -1;
};

class PercentFormatter {
 public:
  PercentFormatter(Context& c, absl::string_view format, const Value& values)
      : c_(c), out_(c), f_(format), values_(values) {}

  Value run() {
    while (at_ < f_.size()) {
      const size_t percent = std::min(f_.find('%', at_), f_.size());
      if (!out_.append(f_.substr(at_, percent - at_))) return Value();
      at_ = percent;
      if (at_ < f_.size() && !conversion()) return Value();
    }
    // One value that is no mapping and was not used is an error.
    const bool tuple = values_.is(Type::kTuple);
    if (tuple ? used_ < values_.items().size()
              : used_ == 0 && !values_.is(Type::kDict) && !values_.is(Type::kList) &&
                    !values_.is(Type::kUndefined)) {
      return c_.type_error("not all arguments converted during string formatting");
    }
    return out_.value();
  }

 private:
  bool next_value(Value& v) {
    if (keyed_) {
      v = key_value_;
      keyed_ = false;
      return true;
    }
    if (values_.is(Type::kTuple)) {
      if (used_ < values_.items().size()) {
        v = values_.items()[used_++];
        return true;
      }
    } else if (used_ == 0) {
      ++used_;
      v = values_;
      return true;
    }
    c_.type_error("not enough arguments for format string");
    return false;
  }

  bool incomplete() {
    c_.value_error("incomplete format");
    return false;
  }

  bool number(int64_t& out) {
    if (at_ < f_.size() && f_[at_] == '*') {
      ++at_;
      Value v;
      return next_value(v) && to_index(c_, v, out) && check_width(out);
    }
    out = 0;
    while (at_ < f_.size() && f_[at_] >= '0' && f_[at_] <= '9') {
      out = out * 10 + (f_[at_++] - '0');
      if (!check_width(out)) return false;
    }
    return true;
  }
  bool check_width(int64_t n) {
    if (n <= kMaxWidth && n >= -kMaxWidth) return true;
    c_.value_error("width or precision too big in format string");
    return false;
  }

  bool key() {
    ++at_;
    size_t depth = 1, end = at_;
    for (; end < f_.size(); ++end) {
      depth += f_[end] == '(' ? 1u : 0u;
      depth -= f_[end] == ')' ? 1u : 0u;
      if (depth == 0) break;
    }
    if (end >= f_.size()) return incomplete();
    if (!values_.is(Type::kDict)) {
      c_.type_error("format requires a mapping");
      return false;
    }
    const absl::string_view name = f_.substr(at_, end - at_);
    const Dict& dict = values_.as<Dict>();
    const ptrdiff_t found = dict.find(name);
    if (found < 0) {
      c_.error("KeyError: '", name, "'");
      return false;
    }
    key_value_ = dict.entries[static_cast<size_t>(found)].second;
    keyed_ = true;
    at_ = end + 1;
    return true;
  }

  bool conversion() {
    ++at_;
    Percent p;
    keyed_ = false;
    if (at_ < f_.size() && f_[at_] == '(' && !key()) return false;
    for (; at_ < f_.size(); ++at_) {
      const char flag = f_[at_];
      if (flag == '-')
        p.minus = true;
      else if (flag == '+')
        p.plus = true;
      else if (flag == ' ')
        p.space = true;
      else if (flag == '0')
        p.zero = true;
      else if (flag == '#')
        p.alternate = true;
      else
        break;
    }
    if (!number(p.width)) return false;
    if (p.width < 0) p.minus = true, p.width = -p.width;
    if (at_ < f_.size() && f_[at_] == '.') {
      ++at_;
      if (!number(p.precision)) return false;
      p.precision = std::max<int64_t>(p.precision, 0);
    }
    while (at_ < f_.size() && (f_[at_] == 'l' || f_[at_] == 'h' || f_[at_] == 'L')) ++at_;
    if (at_ >= f_.size()) return incomplete();
    const char type = f_[at_];
    if (type == '%') {
      ++at_;
      return out_.append("%");
    }
    Value v;
    if (!next_value(v)) return false;
    return value(p, type, v);
  }

  bool value(const Percent& p, char type, const Value& v) {
    const size_t type_at = at_;
    at_ += utf8_size(type);
    switch (type) {
      case 's':
      case 'r':
      case 'a': {
        Sink text(c_);
        if (!(type == 's' ? append_str(text, v) : append_repr(text, v))) return false;
        std::string s = text.take();
        if (p.precision >= 0) {
          s.resize(offset_of_code_point(s, static_cast<size_t>(p.precision)));
        }
        return pad(out_, p.width, s, p.minus);
      }
      case 'c': {
        std::string s;
        if (v.is_str() && v.as<Str>().length() == 1) {
          s = v.text();
        } else if (v.is_integral() && v.i() >= 0 && v.i() < 0x110000 &&
                   (v.i() < 0xD800 || v.i() >= 0xE000)) {
          append_utf8(s, static_cast<char32_t>(v.i()));
        } else {
          c_.type_error("%c requires int or char");
          return false;
        }
        return pad(out_, p.width, s, p.minus);
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return integer(p, type, v);
      case 'f':
      case 'F':
      case 'e':
      case 'E':
      case 'g':
      case 'G': {
        double f = 0;
        if (!real(c_, v, f)) return false;
        const int precision =
            p.precision < 0 ? 6 : static_cast<int>(std::min<int64_t>(p.precision, kMaxPrecision));
        std::string s = convert_float(std::fabs(f), type, precision, p.alternate);
        if (type < 'a') {
          for (char& ch : s) ch = static_cast<char>(ch >= 'a' && ch <= 'z' ? ch - 32 : ch);
        }
        return signed_number(p, std::signbit(f) && !std::isnan(f), "", s);
      }
      default:
        c_.value_error("unsupported format character '", f_.substr(type_at, utf8_size(type)), "'");
        return false;
    }
  }

  bool integer(const Percent& p, char type, const Value& v) {
    int64_t i = 0;
    std::string s, prefix;
    if (v.is(Type::kUint)) {
      s = digits_of(v.u(), type == 'o' ? 8 : (type | 0x20) == 'x' ? 16 : 10, type == 'X');
    } else {
      const bool decimal = type == 'd' || type == 'i' || type == 'u';
      if (v.is(Type::kUndefined)) return c_.undefined_error(v), false;
      if (!v.is_integral() && !(decimal && v.is(Type::kFloat))) {
        c_.type_error("%", absl::string_view(&type, 1),
                      " format: ", decimal ? "a real number" : "an integer", " is required, not ",
                      type_name(v));
        return false;
      }
      if (!whole(c_, v, i)) return false;
      s = digits_of(magnitude(i), type == 'o' ? 8 : (type | 0x20) == 'x' ? 16 : 10, type == 'X');
    }
    if (p.alternate && type == 'o') prefix = "0o";
    if (p.alternate && (type | 0x20) == 'x') prefix = type == 'x' ? "0x" : "0X";
    if (p.precision > static_cast<int64_t>(s.size())) {
      s.insert(0, static_cast<size_t>(p.precision) - s.size(), '0');
    }
    return signed_number(p, i < 0, prefix, s);
  }

  bool signed_number(const Percent& p, bool negative, absl::string_view prefix,
                     absl::string_view digits) {
    std::string sign = negative ? "-" : p.plus ? "+" : p.space ? " " : "";
    absl::StrAppend(&sign, prefix);
    if (p.zero && !p.minus) {
      const auto used = static_cast<int64_t>(sign.size());
      return out_.append(sign) && pad(out_, p.width - used, digits, false, '0');
    }
    return pad(out_, p.width, absl::StrCat(sign, digits), p.minus);
  }

  Context& c_;
  Sink out_;
  absl::string_view f_;
  const Value& values_;
  size_t at_ = 0;
  size_t used_ = 0;
  bool keyed_ = false;
  Value key_value_;
};

// ---- str.format

// [[fill]align][sign][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = 0, sign = '-', grouping = 0, type = 0;
  bool alternate = false, zero = false;
  int64_t width = 0, precision = -1;
};

bool parse_spec(Context& c, absl::string_view s, Spec& spec) {
  const auto is_align = [](char ch) { return ch == '<' || ch == '>' || ch == '^' || ch == '='; };
  size_t i = 0;
  if (!s.empty()) {
    const size_t first = utf8_size(s[0]);
    if (first < s.size() && is_align(s[first])) {
      spec.fill = std::string(s.substr(0, first));
      spec.align = s[first];
      i = first + 1;
    } else if (is_align(s[0])) {
      spec.align = s[0];
      i = 1;
    }
  }
  const auto at = [&] { return i < s.size() ? s[i] : '\0'; };
  const auto number = [&](int64_t& out) {
    for (out = 0; at() >= '0' && at() <= '9' && out <= kMaxWidth; ++i) out = out * 10 + at() - '0';
    return out <= kMaxWidth;
  };
  if (at() == '+' || at() == '-' || at() == ' ') spec.sign = s[i++];
  if (at() == '#') spec.alternate = true, ++i;
  if (at() == '0') {
    spec.zero = true;
    ++i;
    if (spec.align == 0) spec.fill = "0", spec.align = '=';
  }
  bool ok = number(spec.width);
  if (at() == ',' || at() == '_') spec.grouping = s[i++];
  if (ok && at() == '.') {
    ++i;
    if (at() < '0' || at() > '9') {
      c.value_error("Format specifier missing precision");
      return false;
    }
    ok = number(spec.precision);
  }
  if (!ok) {
    c.value_error("Too many decimal digits in format string");
    return false;
  }
  if (i < s.size()) spec.type = s[i++];
  if (i == s.size()) return true;
  c.value_error("Invalid format specifier '", s, "'");
  return false;
}

std::string group_digits(absl::string_view digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % every == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

bool aligned(Sink& out, const Spec& spec, char otherwise, absl::string_view sign,
             absl::string_view body) {
  const char align = spec.align != 0 ? spec.align : otherwise;
  const auto size = static_cast<int64_t>(sign.size() + count_code_points(body));
  const auto n = static_cast<size_t>(std::max<int64_t>(spec.width - size, 0));
  const auto fill = [&](size_t count) {
    if (spec.fill.size() == 1) return out.append(count, spec.fill[0]);
    while (count-- > 0) {
      if (!out.append(spec.fill)) return false;
    }
    return true;
  };
  switch (align) {
    case '<':
      return out.append(sign) && out.append(body) && fill(n);
    case '^':
      return fill(n / 2) && out.append(sign) && out.append(body) && fill(n - n / 2);
    case '=':
      return out.append(sign) && fill(n) && out.append(body);
    default:
      return fill(n) && out.append(sign) && out.append(body);
  }
}

bool unknown_code(Context& c, const Spec& spec, const Value& v) {
  c.value_error("Unknown format code '", absl::string_view(&spec.type, 1), "' for object of type '",
                type_name(v), "'");
  return false;
}

bool format_float(Sink& out, const Spec& spec, const Value& v, double f) {
  Context& c = out.context();
  const char type = spec.type;
  std::string body;
  const double abs = std::fabs(f);
  const int precision =
      spec.precision < 0 ? 6 : static_cast<int>(std::min<int64_t>(spec.precision, kMaxPrecision));
  if (type == 0) {
    body = spec.precision < 0 ? float_repr(abs) : general(abs, precision, false);
    if (!std::isfinite(abs)) body = special(abs);
    if (spec.precision >= 0 && std::isfinite(abs) &&
        body.find_first_of(".en") == std::string::npos) {
      body += ".0";
    }
  } else if (type == '%') {
    body = convert_float(abs * 100, 'f', precision, spec.alternate) + "%";
  } else if (std::strchr("fFeEgGn", type) != nullptr) {
    body = convert_float(abs, type == 'n' ? 'g' : type, precision, spec.alternate);
    if (type < 'a') {
      for (char& ch : body) ch = static_cast<char>(ch >= 'a' && ch <= 'z' ? ch - 32 : ch);
    }
  } else {
    return unknown_code(c, spec, v);
  }
  if (spec.grouping != 0 && std::isfinite(f)) {
    const size_t end = std::min(body.find_first_of(".e%"), body.size());
    body =
        group_digits(absl::string_view(body).substr(0, end), spec.grouping, 3) + body.substr(end);
  }
  const bool negative = std::signbit(f) && !std::isnan(f);
  const absl::string_view sign = negative           ? "-"
                                 : spec.sign == '-' ? ""
                                 : spec.sign == '+' ? "+"
                                                    : " ";
  return aligned(out, spec, '>', sign, body);
}

bool format_integer(Sink& out, const Spec& spec, const Value& v) {
  Context& c = out.context();
  const char type = spec.type;
  if (type != 0 && std::strchr("fFeEgG%", type) != nullptr) {
    return format_float(
        out, spec, v, v.is(Type::kUint) ? static_cast<double>(v.u()) : static_cast<double>(v.i()));
  }
  if (spec.precision >= 0) {
    c.value_error("Precision not allowed in integer format specifier");
    return false;
  }
  if (type == 'c') {
    std::string s;
    if (v.i() < 0 || v.i() > 0x10FFFF || (v.i() >= 0xD800 && v.i() < 0xE000)) {
      c.error("OverflowError: %c arg not in range(0x110000)");
      return false;
    }
    append_utf8(s, static_cast<char32_t>(v.i()));
    return aligned(out, spec, '<', "", s);
  }
  int base = 10;
  absl::string_view prefix;
  switch (type) {
    case 0:
    case 'd':
    case 'n':
      break;
    case 'b':
      base = 2, prefix = "0b";
      break;
    case 'o':
      base = 8, prefix = "0o";
      break;
    case 'x':
      base = 16, prefix = "0x";
      break;
    case 'X':
      base = 16, prefix = "0X";
      break;
    default:
      return unknown_code(c, spec, v);
  }
  const bool negative = !v.is(Type::kUint) && v.i() < 0;
  std::string body = digits_of(v.is(Type::kUint) ? v.u() : magnitude(v.i()), base, type == 'X');
  if (spec.grouping != 0) body = group_digits(body, spec.grouping, base == 10 ? 3 : 4);
  std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.alternate) absl::StrAppend(&sign, prefix);
  return aligned(out, spec, '>', sign, body);
}

bool format_value(Sink& out, const Value& v, absl::string_view text) {
  Context& c = out.context();
  if (text.empty()) return append_str(out, v);
  Spec spec;
  if (v.is(Type::kUndefined) || v.is(Type::kNone) || v.is(Type::kDict) || v.is_sequence()) {
    c.type_error("unsupported format string passed to ", type_name(v), ".__format__");
    return false;
  }
  if (!parse_spec(c, text, spec)) return false;
  if (v.is(Type::kFloat)) return format_float(out, spec, v, v.f());
  if (v.is_integral() || v.is(Type::kUint)) {
    return v.is(Type::kBool) && spec.type == 0 && spec.width == 0 ? out.append(v.b() ? "1" : "0")
                                                                  : format_integer(out, spec, v);
  }
  if (!v.is_str()) {
    c.type_error("unsupported format string passed to ", type_name(v), ".__format__");
    return false;
  }
  if (spec.type != 0 && spec.type != 's') return unknown_code(c, spec, v);
  if (spec.align == '=' && !spec.zero) {
    c.value_error("'=' alignment not allowed in string format specifier");
    return false;
  }
  if (spec.align == '=') spec.align = '<';
  absl::string_view body = v.text();
  if (spec.precision >= 0) {
    body = body.substr(0, offset_of_code_point(body, static_cast<size_t>(spec.precision)));
  }
  return aligned(out, spec, '<', "", body);
}

class BraceFormatter {
 public:
  BraceFormatter(Context& c, const Args& args) : c_(c), args_(args) {}

  bool run(absl::string_view f, Sink& out, int depth) {
    if (depth > 2) {
      c_.value_error("Max string recursion exceeded");
      return false;
    }
    for (size_t i = 0; i < f.size();) {
      const size_t brace = std::min(f.find_first_of("{}", i), f.size());
      if (!out.append(f.substr(i, brace - i))) return false;
      if (brace == f.size()) return true;
      if (brace + 1 < f.size() && f[brace + 1] == f[brace]) {
        if (!out.append(f.substr(brace, 1))) return false;
        i = brace + 2;
        continue;
      }
      if (f[brace] == '}') return wrong("Single '}' encountered in format string");
      size_t end = brace + 1, open = 1;
      for (; end < f.size(); ++end) {
        open += f[end] == '{' ? 1u : 0u;
        open -= f[end] == '}' ? 1u : 0u;
        if (open == 0) break;
      }
      if (end >= f.size()) return wrong("expected '}' before end of string");
      if (!field(f.substr(brace + 1, end - brace - 1), out, depth)) return false;
      i = end + 1;
    }
    return true;
  }

 private:
  bool wrong(absl::string_view what) {
    c_.value_error(what);
    return false;
  }

  // name!conversion:specification
  bool field(absl::string_view text, Sink& out, int depth) {
    size_t name_end = 0, bracket = 0;
    for (; name_end < text.size(); ++name_end) {
      const char ch = text[name_end];
      if (ch == '[') bracket = 1;
      if (ch == ']') bracket = 0;
      if (bracket == 0 && (ch == '!' || ch == ':')) break;
    }
    Value v;
    if (!lookup(text.substr(0, name_end), v)) return false;
    absl::string_view rest = text.substr(name_end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2 || (rest.size() > 2 && rest[2] != ':')) {
        return wrong("expected ':' after conversion specifier");
      }
      const char conversion = rest[1];
      if (conversion != 's' && conversion != 'r' && conversion != 'a') {
        return wrong("Unknown conversion specifier");
      }
      Sink converted(c_);
      if (!(conversion == 's' ? append_str(converted, v) : append_repr(converted, v))) return false;
      v = converted.value();
      if (!c_.ok()) return false;
      rest = rest.substr(2);
    }
    if (!rest.empty()) rest = rest.substr(1);
    if (rest.find('{') == absl::string_view::npos) return format_value(out, v, rest);
    Sink spec(c_);
    if (!run(rest, spec, depth + 1)) return false;
    return format_value(out, v, spec.take());
  }

  bool lookup(absl::string_view name, Value& v) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    if (!first(name.substr(0, end), v)) return false;
    for (size_t i = end; i < name.size();) {
      if (name[i] == '.') {
        const size_t stop = std::min(name.find_first_of(".[", i + 1), name.size());
        if (stop == i + 1) return wrong("Empty attribute in format string");
        v = get_attr(c_, v, name.substr(i + 1, stop - i - 1));
        i = stop;
      } else if (name[i] == '[') {
        const size_t stop = name.find(']', i);
        if (stop == absl::string_view::npos) return wrong("Missing ']' in format string");
        const absl::string_view key = name.substr(i + 1, stop - i - 1);
        if (key.empty()) return wrong("Empty attribute in format string");
        int64_t index = 0;
        const bool number = key[0] != '-' && key[0] != '+' && parse_int(key, 10, index);
        v = get_item(c_, v, number ? Value::integer(index) : c_.str(key));
        i = stop + 1;
      } else {
        return wrong("Only '.' or '[' may follow ']' in format field specifier");
      }
      if (!c_.ok()) return false;
    }
    return true;
  }

  bool first(absl::string_view name, Value& v) {
    int64_t index = 0;
    if (name.empty() || (name[0] >= '0' && name[0] <= '9')) {
      const bool automatic = name.empty();
      if (!automatic && !parse_int(name, 10, index)) return wrong("bad field number");
      if (next_ != 0 && manual_ != !automatic) {
        return wrong(automatic ? "cannot switch from manual field specification to automatic field "
                                 "numbering"
                               : "cannot switch from automatic field numbering to manual field "
                                 "specification");
      }
      manual_ = !automatic;
      if (automatic) index = next_;
      ++next_;
      if (static_cast<size_t>(index) >= args_.positional.size()) {
        c_.error("IndexError: Replacement index ", index,
                 " out of range for positional args tuple");
        return false;
      }
      v = args_.positional[static_cast<size_t>(index)];
      return true;
    }
    for (const auto& [key, value] : args_.named) {
      if (key == name) {
        v = value;
        return true;
      }
    }
    c_.error("KeyError: '", name, "'");
    return false;
  }

  Context& c_;
  const Args& args_;
  int64_t next_ = 0;
  bool manual_ = false;
};

}  // namespace

std::string float_repr(double f) {
  if (!std::isfinite(f)) return special(f);
  // Shortest digits in scientific form: d.ddde[+-]xx.
  char buffer[40];
  const auto [end, ec] =
      std::to_chars(buffer, buffer + sizeof buffer, f, std::chars_format::scientific);
  const std::string s(buffer, end);
  const size_t e = s.find('e');
  int exponent = 0;
  const char* const exponent_text = s.data() + e + (s[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_text, s.data() + s.size(), exponent);
  if (exponent < -4 || exponent >= 16) return s;
  std::string out = s[0] == '-' ? "-" : "";
  std::string digits;
  for (const char ch : s.substr(0, e)) {
    if (ch >= '0' && ch <= '9') digits.push_back(ch);
  }
  if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    return out;
  }
  const auto whole_digits = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole_digits) {
    return out + digits + std::string(whole_digits - digits.size(), '0') + ".0";
  }
  return out + digits.substr(0, whole_digits) + "." + digits.substr(whole_digits);
}

double round_to(double f, int64_t digits) {
  if (!std::isfinite(f) || f == 0 || digits > 323) return f;
  if (digits < -308) return std::copysign(0.0, f);
  if (digits >= 0) {
    double out = f;
    parse_float(chars(f, std::chars_format::fixed, static_cast<int>(digits)), out);
    return out;
  }
  // Round the decimal digits of the whole part by hand.
  std::string text = chars(std::fabs(f), std::chars_format::fixed, kMaxPrecision);
  const size_t point = text.find('.');
  const auto cut = static_cast<int64_t>(point) + digits;  // digits kept
  if (cut < 0) return std::copysign(0.0, f);
  const auto keep = static_cast<size_t>(cut);
  std::string rest = text.substr(keep);
  rest.erase(std::remove(rest.begin(), rest.end(), '.'), rest.end());
  std::string kept = "0" + text.substr(0, keep);
  const bool tie = rest[0] == '5' && rest.find_first_not_of('0', 1) == std::string::npos;
  const bool up = tie ? (kept.back() - '0') % 2 == 1 : rest[0] >= '5';
  if (up) {
    size_t i = kept.size() - 1;
    while (kept[i] == '9') kept[i--] = '0';
    ++kept[i];
  }
  kept.append(static_cast<size_t>(-digits), '0');
  double out = 0;
  parse_float(kept, out);
  return std::copysign(out, f);
}

std::string fixed(double f, int precision) {
  return std::isfinite(f) ? chars(f, std::chars_format::fixed, precision) : special(f);
}

bool parse_int(absl::string_view text, int base, int64_t& out) {
  text = strip_left(strip_right(text));
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 2 && text[0] == '0') {
    const char prefix = static_cast<char>(text[1] | 0x20);
    const int named = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (named != 0 && (base == named || base == 0)) {
      base = named;
      text.remove_prefix(2);
      if (!text.empty() && text[0] == '_') text.remove_prefix(1);
    }
  }
  if (base == 0) {
    if (text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of("0_") != absl::string_view::npos) {
      return false;
    }
    base = 10;
  }
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits.push_back(text[i]);
    } else if (i == 0 || i + 1 == text.size() || text[i - 1] == '_') {
      return false;
    }
  }
  uint64_t value = 0;
  const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (digits.empty() || ec != std::errc() || end != digits.data() + digits.size()) return false;
  if (value > uint64_t{INT64_MAX} + (negative ? 1 : 0)) return false;
  out = negative ? static_cast<int64_t>(uint64_t{0} - value) : static_cast<int64_t>(value);
  return true;
}

bool parse_float(absl::string_view text, double& out) {
  text = strip_left(strip_right(text));
  std::string s;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '9';
    };
    if (text[i] != '_') {
      s.push_back(static_cast<char>(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]));
    } else if (i == 0 || !digit(i - 1) || !digit(i + 1)) {
      return false;
    }
  }
  bool negative = false;
  if (!s.empty() && (s[0] == '-' || s[0] == '+')) {
    negative = s[0] == '-';
    s.erase(0, 1);
  }
  if (s.empty() || s[0] == '-' || s[0] == '+') return false;
  if (s == "nan" || s == "inf" || s == "infinity") {
    out = s == "nan" ? std::nan("") : HUGE_VAL;
  } else {
    if ((s[0] < '0' || s[0] > '9') && s[0] != '.') return false;
    const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), out);
    if (end != s.data() + s.size()) return false;
    if (ec == std::errc::result_out_of_range) {
      // Too large or too small: the sign of the exponent says which.
      const size_t e = s.find('e');
      out = e != std::string::npos && s[e + 1] == '-' ? 0.0 : HUGE_VAL;
    } else if (ec != std::errc()) {
      return false;
    }
  }
  if (negative) out = -out;
  return true;
}

Value percent_format(Context& c, absl::string_view format, const Value& values) {
  return PercentFormatter(c, format, values).run();
}

Value str_format(Context& c, absl::string_view format, const Args& args) {
  Sink out(c);
  if (!BraceFormatter(c, args).run(format, out, 1)) return Value();
  return out.value();
}

}  // namespace ponder::jinja
