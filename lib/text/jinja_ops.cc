#include "lib/text/jinja_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_code.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

constexpr absl::string_view kOverflow = "OverflowError: a whole number does not fit in 64 bits";

absl::string_view op_text(Op op) {
  switch (op) {
    case Op::kAdd:
      return "+";
    case Op::kSub:
      return "-";
    case Op::kMul:
      return "*";
    case Op::kDiv:
      return "/";
    case Op::kFloorDiv:
      return "//";
    case Op::kMod:
      return "%";
    case Op::kPow:
      return "** or pow()";
    case Op::kLt:
      return "<";
    case Op::kLe:
      return "<=";
    case Op::kGt:
      return ">";
    case Op::kGe:
      return ">=";
    default:
      return "?";
  }
}

double as_double(const Value& v) {
  if (v.is(Type::kFloat)) return v.f();
  if (v.is(Type::kUint)) return static_cast<double>(v.u());
  return static_cast<double>(v.i());
}

Value unsupported(Context& c, Op op, const Value& l, const Value& r) {
  if (l.is(Type::kUndefined)) return c.undefined_error(l);
  if (r.is(Type::kUndefined)) return c.undefined_error(r);
  return c.type_error("unsupported operand type(s) for ", op_text(op), ": '", type_name(l),
                      "' and '", type_name(r), "'");
}

// ---- numbers

double floor_mod(double a, double b) {
  double mod = std::fmod(a, b);
  if (mod != 0) {
    if ((b < 0) != (mod < 0)) mod += b;
  } else {
    mod = std::copysign(0.0, b);
  }
  return mod;
}

double floor_div(double a, double b) {
  const double mod = std::fmod(a, b);
  double div = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) div -= 1;
  if (div == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(div);
  return div - floor > 0.5 ? floor + 1 : floor;
}

Value int_pow(Context& c, int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (int64_t e = exponent; e > 0; e >>= 1) {
    if ((e & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return c.error(kOverflow);
    if (e > 1 && __builtin_mul_overflow(base, base, &base)) return c.error(kOverflow);
  }
  return Value::integer(result);
}

Value float_pow(Context& c, double base, double exponent) {
  if (base == 0 && exponent < 0) {
    return c.error("ZeroDivisionError: 0.0 cannot be raised to a negative power");
  }
  if (base < 0 && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    return c.value_error("complex numbers are not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    return c.error("OverflowError: (34, 'Numerical result out of range')");
  }
  return Value::number(result);
}

Value int_binary(Context& c, Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &result)) return c.error(kOverflow);
      return Value::integer(result);
    case Op::kSub:
      if (__builtin_sub_overflow(a, b, &result)) return c.error(kOverflow);
      return Value::integer(result);
    case Op::kMul:
      if (__builtin_mul_overflow(a, b, &result)) return c.error(kOverflow);
      return Value::integer(result);
    case Op::kPow:
      if (b < 0) return float_pow(c, static_cast<double>(a), static_cast<double>(b));
      return int_pow(c, a, b);
    default:
      break;
  }
  if (b == 0) {
    return c.error("ZeroDivisionError: ",
                   op == Op::kDiv ? "division by zero" : "integer division or modulo by zero");
  }
  if (op == Op::kDiv) return Value::number(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == Op::kMod ? Value::integer(0) : int_binary(c, Op::kSub, 0, a);
  int64_t div = a / b, mod = a % b;
  if (mod != 0 && (mod < 0) != (b < 0)) div -= 1, mod += b;
  return Value::integer(op == Op::kFloorDiv ? div : mod);
}

Value float_binary(Context& c, Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::number(a + b);
    case Op::kSub:
      return Value::number(a - b);
    case Op::kMul:
      return Value::number(a * b);
    case Op::kPow:
      return float_pow(c, a, b);
    default:
      break;
  }
  if (b == 0) return c.error("ZeroDivisionError: float division by zero");
  if (op == Op::kDiv) return Value::number(a / b);
  return Value::number(op == Op::kFloorDiv ? floor_div(a, b) : floor_mod(a, b));
}

// ---- text and lists

Value repeat(Context& c, const Value& what, const Value& times) {
  int64_t n = std::max<int64_t>(times.i(), 0);
  const size_t size = what.is_str() ? what.text().size() : what.items().size() * sizeof(Value);
  if (size == 0) n = std::min<int64_t>(n, 1);
  if (static_cast<uint64_t>(n) > (uint64_t{1} << 40) || !c.room(size * static_cast<size_t>(n))) {
    c.room(SIZE_MAX);
    return Value();
  }
  if (!c.work_bytes(size * static_cast<size_t>(n))) return Value();
  if (what.is_str()) {
    std::string out;
    out.reserve(size * static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) out.append(what.text());
    return c.str(std::move(out), what.as<Str>().markup);
  }
  std::vector<Value> out;
  out.reserve(what.items().size() * static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out.insert(out.end(), what.items().begin(), what.items().end());
  return what.is(Type::kList) ? c.list(std::move(out)) : c.tuple(std::move(out));
}

Value add_text(Context& c, const Value& l, const Value& r) {
  const bool markup = l.as<Str>().markup || r.as<Str>().markup;
  Sink out(c);
  for (const Value* part : {&l, &r}) {
    const bool escape = markup && !part->as<Str>().markup;
    if (!(escape ? append_escaped(out, part->text()) : out.append(part->text()))) return Value();
  }
  return out.value(markup);
}

Value add_lists(Context& c, const Value& l, const Value& r) {
  const size_t n = l.items().size() + r.items().size();
  if (!c.room(n * sizeof(Value)) || !c.work(n / 8)) return Value();
  std::vector<Value> out;
  out.reserve(n);
  out.insert(out.end(), l.items().begin(), l.items().end());
  out.insert(out.end(), r.items().begin(), r.items().end());
  return l.is(Type::kList) ? c.list(std::move(out)) : c.tuple(std::move(out));
}

// ---- comparison

// <0, 0, >0; numbers only. NaN compares false to everything, so `op` is applied here.
bool compare_numbers(Op op, const Value& l, const Value& r) {
  const auto by = [op](const auto& a, const auto& b) {
    switch (op) {
      case Op::kLt:
        return a < b;
      case Op::kLe:
        return a <= b;
      case Op::kGt:
        return a > b;
      default:
        return a >= b;
    }
  };
  if (l.is(Type::kFloat) || r.is(Type::kFloat)) return by(as_double(l), as_double(r));
  if (l.is(Type::kUint) || r.is(Type::kUint)) {
    // A Uint is above every Int.
    if (l.is(Type::kUint) && r.is(Type::kUint)) return by(l.u(), r.u());
    return by(l.is(Type::kUint) ? 1 : 0, r.is(Type::kUint) ? 1 : 0);
  }
  return by(l.i(), r.i());
}

bool equal_lists(Context& c, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(c, a[i], b[i])) return false;
  }
  return true;
}

bool equal_dicts(Context& c, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const ptrdiff_t at = b.find(key);
    if (at < 0 || !equal(c, value, b.entries[static_cast<size_t>(at)].second)) return false;
  }
  return true;
}

Value order(Context& c, Op op, const Value& l, const Value& r) {
  if (l.is_number() && r.is_number()) return Value::boolean(compare_numbers(op, l, r));
  if (l.is_str() && r.is_str()) {
    if (!c.work_bytes(std::min(l.text().size(), r.text().size()))) return Value();
    const int sign = l.text().compare(r.text());  // UTF-8 orders as code points do
    return Value::boolean(compare_numbers(op, Value::integer(sign), Value::integer(0)));
  }
  if (l.is_sequence() && l.type() == r.type()) {
    const NativeScope scope(c);
    if (!scope) return Value();
    const auto& a = l.items();
    const auto& b = r.items();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (equal(c, a[i], b[i])) continue;
      return c.ok() ? order(c, op, a[i], b[i]) : Value();
    }
    return Value::boolean(compare_numbers(op, Value::integer(static_cast<int64_t>(a.size())),
                                          Value::integer(static_cast<int64_t>(b.size()))));
  }
  if (l.is(Type::kUndefined)) return c.undefined_error(l);
  if (r.is(Type::kUndefined)) return c.undefined_error(r);
  return c.type_error("'", op_text(op), "' not supported between instances of '", type_name(l),
                      "' and '", type_name(r), "'");
}

// ---- iterators

class ItemsIter final : public Iter {
 public:
  // Over the items of a list or tuple, which it keeps.
  explicit ItemsIter(Value list) : list_(std::move(list)) {}
  bool advance(Context&, Value& item) override {
    if (at_ >= list_.items().size()) return false;
    item = list_.items()[at_++];
    return true;
  }

 private:
  Value list_;
  size_t at_ = 0;
};

class VectorIter final : public Iter {
 public:
  explicit VectorIter(std::vector<Value> items) : items_(std::move(items)) {}
  bool advance(Context&, Value& item) override {
    if (at_ >= items_.size()) return false;
    item = std::move(items_[at_++]);
    return true;
  }

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
};

class TextIter final : public Iter {
 public:
  explicit TextIter(Value text) : text_(std::move(text)) {}
  bool advance(Context& c, Value& item) override {
    const absl::string_view text = text_.text();
    if (at_ >= text.size()) return false;
    const size_t size = utf8_size(text[at_]);
    item = c.str(text.substr(at_, size));
    at_ += size;
    return c.ok();
  }

 private:
  Value text_;
  size_t at_ = 0;
};

class RangeIter final : public Iter {
 public:
  explicit RangeIter(const Range& range) : first_(range.start), step_(range.step), n_(range.size) {}
  bool advance(Context&, Value& item) override {
    if (at_ >= n_) return false;
    item = Value::integer(first_ + step_ * at_++);
    return true;
  }

 private:
  int64_t first_, step_, n_, at_ = 0;
};

class DictIter final : public Iter {
 public:
  DictIter(Ref<Dict> dict, View::Kind kind) : dict_(std::move(dict)), kind_(kind) {}
  bool advance(Context& c, Value& item) override {
    if (at_ >= dict_->entries.size()) return false;
    const auto& [key, value] = dict_->entries[at_++];
    if (kind_ == View::kItems) {
      item = c.tuple({key, value});
      return c.ok();
    }
    item = kind_ == View::kKeys ? key : value;
    return true;
  }

 private:
  Ref<Dict> dict_;
  View::Kind kind_;
  size_t at_ = 0;
};

class LoopIter final : public Iter {
 public:
  explicit LoopIter(Ref<Loop> loop) : loop_(std::move(loop)) {}
  bool advance(Context& c, Value& item) override {
    Value value;
    if (!loop_->next(c, value)) return false;
    item = c.tuple({value, Value::object(Type::kLoop, loop_.get())});
    return c.ok();
  }

 private:
  Ref<Loop> loop_;
};

// ---- attributes

// object_type_repr of Jinja: for the messages of undefined values.
std::string object_kind(const Value& v) {
  if (v.is(Type::kNone)) return "None";
  switch (v.type()) {
    case Type::kNamespace:
    case Type::kMacro:
    case Type::kLoop:
    case Type::kCycler:
    case Type::kJoiner: {
      const char* module = v.is(Type::kNamespace) || v.is(Type::kCycler) || v.is(Type::kJoiner)
                               ? "jinja2.utils."
                               : "jinja2.runtime.";
      return absl::StrCat(module, type_name(v), " object");
    }
    default:
      return absl::StrCat(type_name(v), " object");
  }
}

Value no_such(Context& c, const Value& object, const Value& key) {
  if (key.is_str()) {
    return c.undefined(
        absl::StrCat("'", object_kind(object), "' has no attribute '", key.text(), "'"));
  }
  Sink repr(c);
  append_repr(repr, key);
  return c.undefined(absl::StrCat(object_kind(object), " has no element ", repr.take()));
}

Value loop_attribute(Context& c, Loop& loop, absl::string_view name) {
  const auto number = [](int64_t i) { return Value::integer(i); };
  if (name == "index") return number(loop.index0 + 1);
  if (name == "index0") return number(loop.index0);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") {
    const bool more = loop.peek(c);
    return c.ok() ? Value::boolean(!more) : Value();
  }
  if (name == "depth") return number(loop.depth0 + 1);
  if (name == "depth0") return number(loop.depth0);
  if (name == "previtem") {
    return loop.before.missing() ? c.undefined("there is no previous item") : loop.before;
  }
  if (name == "nextitem") {
    if (loop.peek(c)) return loop.after;
    return c.ok() ? c.undefined("there is no next item") : Value();
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    const int64_t n = loop.length(c);
    if (n < 0) return Value();
    return number(name == "length"     ? n
                  : name == "revindex" ? n - loop.index0
                                       : n - loop.index0 - 1);
  }
  return Value();
}

Value macro_attribute(Context& c, const Macro& macro, absl::string_view name) {
  const Function& f = *macro.function;
  if (name == "name") return f.name.empty() ? Value::none() : c.str(f.name);
  if (name == "catch_kwargs") return Value::boolean(f.wants_kwargs);
  if (name == "catch_varargs") return Value::boolean(f.wants_varargs);
  if (name == "caller") return Value::boolean(f.wants_caller);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const uint32_t slot : f.params) names.push_back(c.str(f.slot_names[slot]));
    return c.tuple(std::move(names));
  }
  return Value();
}

// The Python attribute of that name, or Missing.
Value own_attribute(Context& c, const Value& v, absl::string_view name) {
  switch (v.type()) {
    case Type::kUndefined:
      return c.undefined_error(v);
    case Type::kNamespace: {
      const Dict* const d = v.as<Namespace>().attributes.get();
      const ptrdiff_t at = d == nullptr ? -1 : d->find(name);
      if (at >= 0) return d->entries[static_cast<size_t>(at)].second;
      break;
    }
    case Type::kLoop:
      if (Value found = loop_attribute(c, v.as<Loop>(), name); !found.missing() || !c.ok()) {
        return found;
      }
      break;
    case Type::kMacro:
      if (Value found = macro_attribute(c, v.as<Macro>(), name); !found.missing() || !c.ok()) {
        return found;
      }
      break;
    case Type::kTuple:
      if (v.as<List>().group && name == "grouper") return v.items()[0];
      if (v.as<List>().group && name == "list") return v.items()[1];
      break;
    case Type::kBool:
    case Type::kInt:
      if (name == "real" || name == "numerator") return Value::integer(v.i());
      if (name == "imag") return Value::integer(0);
      if (name == "denominator") return Value::integer(1);
      break;
    case Type::kFloat:
      if (name == "real") return v;
      if (name == "imag") return Value::number(0);
      break;
    case Type::kRange:
      if (name == "start") return Value::integer(v.as<Range>().start);
      if (name == "stop") return Value::integer(v.as<Range>().stop);
      if (name == "step") return Value::integer(v.as<Range>().step);
      break;
    case Type::kCycler: {
      const Cycler& cycler = v.as<Cycler>();
      if (name == "current") return cycler.items[cycler.position];
      if (name == "pos") return Value::integer(static_cast<int64_t>(cycler.position));
      if (name == "items") return c.tuple(cycler.items);
      break;
    }
    case Type::kJoiner:
      if (name == "sep") return v.as<Joiner>().separator;
      if (name == "used") return Value::boolean(v.as<Joiner>().used);
      break;
    default:
      break;
  }
  if (!c.ok()) return Value();
  return find_method(c, v, name);
}

bool private_name(absl::string_view name) { return !name.empty() && name[0] == '_'; }

// Python's own attributes (__class__ and so on), which every object has.
bool internal_name(absl::string_view name) {
  return name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__";
}

Value unsafe(Context& c, const Value& object, absl::string_view name) {
  return c.undefined(absl::StrCat("access to attribute '", name, "' of '", type_name(object),
                                  "' object is unsafe."),
                     /*security=*/true);
}

// object[key], or Missing without a failure where Python raises TypeError or LookupError.
Value own_item(Context& c, const Value& object, const Value& key) {
  switch (object.type()) {
    case Type::kUndefined:
      return c.undefined_error(object);
    case Type::kDict: {
      const Dict& dict = object.as<Dict>();
      if (key.is_str()) {
        const ptrdiff_t at = dict.find(key.text());
        return at < 0 ? Value() : dict.entries[static_cast<size_t>(at)].second;
      }
      if (unhashable_part(c, key) != nullptr) return Value();
      const ptrdiff_t at = dict.find(key);
      return at < 0 ? Value() : dict.entries[static_cast<size_t>(at)].second;
    }
    case Type::kList:
    case Type::kTuple:
    case Type::kStr:
    case Type::kRange:
      break;
    default:
      return Value();
  }
  if (!key.is_integral()) return Value();
  const int64_t n = length(c, object);
  const int64_t i = key.i() < 0 ? key.i() + n : key.i();
  if (i < 0 || i >= n) return Value();
  if (object.is_sequence()) return object.items()[static_cast<size_t>(i)];
  if (object.is(Type::kRange)) return Value::integer(object.as<Range>().at(i));
  Str& str = object.as<Str>();
  if (str.ascii()) return c.str(absl::string_view(str.text).substr(static_cast<size_t>(i), 1));
  if (!c.work_bytes(str.text.size())) return Value();
  const size_t at = offset_of_code_point(str.text, static_cast<size_t>(i));
  return c.str(absl::string_view(str.text).substr(at, utf8_size(str.text[at])));
}

bool slice_bound(Context& c, const Value& v, int64_t& out) {
  if (v.is_integral()) {
    out = v.i();
    return true;
  }
  if (v.is(Type::kUndefined)) {
    c.undefined_error(v);
    return false;
  }
  c.type_error("slice indices must be integers or None or have an __index__ method");
  return false;
}

}  // namespace

absl::string_view type_name(const Value& v) {
  switch (v.type()) {
    case Type::kMissing:
      return "missing";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
    case Type::kUint:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kFunction:
      return "function";
    case Type::kUndefined:
      return "Undefined";
    case Type::kStr:
      return v.as<Str>().markup ? "Markup" : "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kRange:
      return "range";
    case Type::kView: {
      const View::Kind kind = v.as<View>().kind;
      return kind == View::kKeys     ? "dict_keys"
             : kind == View::kValues ? "dict_values"
                                     : "dict_items";
    }
    case Type::kIter:
      return v.as<Iter>().name;
    case Type::kNamespace:
      return "Namespace";
    case Type::kMacro:
      return "Macro";
    case Type::kMethod:
      return "builtin_function_or_method";
    case Type::kLoop:
      return "LoopContext";
    case Type::kCycler:
      return "Cycler";
    case Type::kJoiner:
      return "Joiner";
  }
  return "object";
}

bool truthy(const Value& v) {
  switch (v.type()) {
    case Type::kMissing:
    case Type::kNone:
    case Type::kUndefined:
      return false;
    case Type::kBool:
    case Type::kInt:
      return v.i() != 0;
    case Type::kFloat:
      return v.f() != 0;
    case Type::kStr:
      return !v.text().empty();
    case Type::kList:
    case Type::kTuple:
      return !v.items().empty();
    case Type::kDict:
      return !v.as<Dict>().entries.empty();
    case Type::kView:
      return !v.as<View>().dict->entries.empty();
    case Type::kRange:
      return v.as<Range>().size != 0;
    default:
      return true;
  }
}

Value unary(Context& c, Op op, const Value& v) {
  if (op == Op::kNot) return Value::boolean(!truthy(v));
  if (v.is_integral()) {
    if (op == Op::kPos) return Value::integer(v.i());
    return int_binary(c, Op::kSub, 0, v.i());
  }
  if (v.is(Type::kFloat)) return op == Op::kPos ? v : Value::number(-v.f());
  if (v.is(Type::kUint)) return op == Op::kPos ? v : c.error(kOverflow);
  if (v.is(Type::kUndefined)) return c.undefined_error(v);
  return c.type_error("bad operand type for unary ", op == Op::kNeg ? "-" : "+", ": '",
                      type_name(v), "'");
}

Value binary(Context& c, Op op, const Value& l, const Value& r) {
  if (l.is_number() && r.is_number()) {
    if (l.is(Type::kFloat) || r.is(Type::kFloat)) {
      return float_binary(c, op, as_double(l), as_double(r));
    }
    if (l.is(Type::kUint) || r.is(Type::kUint)) return c.error(kOverflow);
    return int_binary(c, op, l.i(), r.i());
  }
  if (op == Op::kAdd) {
    if (l.is_str() && r.is_str()) return add_text(c, l, r);
    if (l.is_sequence() && l.type() == r.type()) return add_lists(c, l, r);
    if (l.is_str() && !r.is(Type::kUndefined)) {
      return c.type_error("can only concatenate str (not \"", type_name(r), "\") to str");
    }
    if (l.is_sequence() && !r.is(Type::kUndefined)) {
      return c.type_error("can only concatenate ", type_name(l), " (not \"", type_name(r),
                          "\") to ", type_name(l));
    }
  }
  if (op == Op::kMul) {
    if ((l.is_str() || l.is_sequence()) && r.is_integral()) return repeat(c, l, r);
    if ((r.is_str() || r.is_sequence()) && l.is_integral()) return repeat(c, r, l);
  }
  if (op == Op::kMod && l.is_str()) return percent_format(c, l.text(), r);
  return unsupported(c, op, l, r);
}

bool equal(Context& c, const Value& l, const Value& r) {
  if (!c.work(1)) return false;
  if (l.is_number() && r.is_number()) {
    return same_key(l, r) && !(l.is(Type::kFloat) && std::isnan(l.f()));
  }
  if (l.type() != r.type()) return false;
  switch (l.type()) {
    case Type::kStr:
      return l.text().size() == r.text().size() && c.work_bytes(l.text().size()) &&
             l.text() == r.text();
    case Type::kList:
    case Type::kTuple: {
      if (l.obj() == r.obj()) return true;
      const NativeScope scope(c);
      return scope && equal_lists(c, l.items(), r.items());
    }
    case Type::kDict: {
      if (l.obj() == r.obj()) return true;
      const NativeScope scope(c);
      return scope && equal_dicts(c, l.as<Dict>(), r.as<Dict>());
    }
    case Type::kMethod: {
      const Method& a = l.as<Method>();
      const Method& b = r.as<Method>();
      return a.id == b.id && a.self.obj() == b.self.obj();
    }
    default:
      return same_key(l, r);
  }
}

bool less(Context& c, const Value& l, const Value& r) {
  const Value result = order(c, Op::kLt, l, r);
  return !result.missing() && result.b();
}

Value compare(Context& c, Op op, const Value& l, const Value& r) {
  bool result = false;
  switch (op) {
    case Op::kEq:
      result = equal(c, l, r);
      break;
    case Op::kNe:
      result = !equal(c, l, r);
      break;
    case Op::kIn:
      result = contains(c, r, l);
      break;
    case Op::kNotIn:
      result = !contains(c, r, l);
      break;
    default:
      return order(c, op, l, r);
  }
  return c.ok() ? Value::boolean(result) : Value();
}

bool contains(Context& c, const Value& container, const Value& item) {
  switch (container.type()) {
    case Type::kStr:
      if (!item.is_str()) {
        c.type_error("'in <string>' requires string as left operand, not ", type_name(item));
        return false;
      }
      if (!c.work_bytes(container.text().size())) return false;
      return container.text().find(item.text()) != absl::string_view::npos;
    case Type::kDict:
      return hashable(c, item) && container.as<Dict>().find(item) >= 0;
    case Type::kView:
      if (container.as<View>().kind == View::kKeys) {
        return hashable(c, item) && container.as<View>().dict->find(item) >= 0;
      }
      break;
    case Type::kRange: {
      const Range& range = container.as<Range>();
      if (!item.is_integral()) break;
      const int64_t offset = item.i() - range.start;
      return range.size > 0 && offset % range.step == 0 && offset / range.step >= 0 &&
             offset / range.step < range.size;
    }
    default:
      break;
  }
  if (!iterable(container)) {
    c.type_error("argument of type '", type_name(container), "' is not iterable");
    return false;
  }
  const Ref<Iter> iter = iterate(c, container);
  Value candidate;
  while (c.ok() && iter->next(c, candidate)) {
    if (candidate.has_object() && candidate.type() == item.type() &&
        candidate.obj() == item.obj()) {
      return true;
    }
    if (equal(c, candidate, item)) return true;
  }
  return false;
}

Value get_attr(Context& c, const Value& object, absl::string_view name) {
  if (private_name(name) && !object.is(Type::kUndefined)) {
    if (internal_name(name)) return unsafe(c, object, name);
  } else {
    Value found = own_attribute(c, object, name);
    if (!found.missing() || !c.ok()) return found;
  }
  if (object.is(Type::kUndefined)) return c.undefined_error(object);
  if (object.is(Type::kDict)) {
    const Dict& dict = object.as<Dict>();
    const ptrdiff_t at = dict.find(name);
    if (at >= 0) return dict.entries[static_cast<size_t>(at)].second;
  }
  if (object.is(Type::kNamespace) && private_name(name)) {
    const Dict* const d = object.as<Namespace>().attributes.get();
    if (d != nullptr && d->find(name) >= 0) return unsafe(c, object, name);
  }
  const Value key = c.str(name);
  return c.ok() ? no_such(c, object, key) : Value();
}

Value get_item(Context& c, const Value& object, const Value& key) {
  Value found = own_item(c, object, key);
  if (!found.missing() || !c.ok()) return found;
  if (key.is_str()) {
    const absl::string_view name = key.text();
    if (private_name(name)) {
      if (internal_name(name)) return unsafe(c, object, name);
    } else {
      found = own_attribute(c, object, name);
      if (!found.missing() || !c.ok()) return found;
    }
  }
  return no_such(c, object, key);
}

Value slice(Context& c, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  if (object.is(Type::kUndefined)) return c.undefined_error(object);
  if (!object.is_str() && !object.is_sequence() && !object.is(Type::kRange)) {
    return object.is(Type::kDict)
               ? c.type_error("unhashable type: 'slice'")
               : c.type_error("'", type_name(object), "' object is not subscriptable");
  }
  const int64_t n = length(c, object);
  int64_t by = 1;
  if (!step.is(Type::kNone) && !slice_bound(c, step, by)) return Value();
  if (by == 0) return c.value_error("slice step cannot be zero");
  by = std::clamp<int64_t>(by, -INT64_MAX, INT64_MAX);
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? n - 1 : n;
  const auto bound = [&](const Value& v, int64_t otherwise, int64_t& out) {
    if (v.is(Type::kNone)) {
      out = otherwise;
      return true;
    }
    if (!slice_bound(c, v, out)) return false;
    if (out < 0) out += n;
    out = std::clamp(out, low, high);
    return true;
  };
  int64_t from = 0, to = 0;
  if (!bound(start, by < 0 ? high : low, from) || !bound(stop, by < 0 ? low : high, to)) {
    return Value();
  }
  int64_t count = 0;
  if (by > 0 && from < to) count = (to - from - 1) / by + 1;
  if (by < 0 && from > to) count = (from - to - 1) / -by + 1;

  if (object.is(Type::kRange)) {
    const Range& range = object.as<Range>();
    const int64_t new_step = count > 1 ? range.step * by : range.step;
    return c.adopt(Type::kRange,
                   new Range(range.at(from), range.at(from) + new_step * count, new_step));
  }
  if (object.is_sequence()) {
    if (!c.room(static_cast<size_t>(count) * sizeof(Value)) ||
        !c.work(static_cast<uint64_t>(count) / 8)) {
      return Value();
    }
    std::vector<Value> out;
    out.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      out.push_back(object.items()[static_cast<size_t>(from + i * by)]);
    }
    return object.is(Type::kList) ? c.list(std::move(out)) : c.tuple(std::move(out));
  }
  Str& str = object.as<Str>();
  const absl::string_view text = str.text;
  if (!c.work_bytes(text.size()) || !c.room(text.size())) return Value();
  if (count == 0) return c.str("", str.markup);
  if (by == 1) {
    const size_t first = str.ascii() ? static_cast<size_t>(from)
                                     : offset_of_code_point(text, static_cast<size_t>(from));
    const absl::string_view rest = text.substr(first);
    const size_t size = str.ascii() ? static_cast<size_t>(count)
                                    : offset_of_code_point(rest, static_cast<size_t>(count));
    return c.str(std::string(rest.substr(0, size)), str.markup);
  }
  std::vector<uint32_t> offsets;  // of every code point
  if (!c.room(str.length() * sizeof(uint32_t))) return Value();
  offsets.reserve(str.length());
  for (size_t i = 0; i < text.size(); i += utf8_size(text[i])) {
    offsets.push_back(static_cast<uint32_t>(i));
  }
  std::string out;
  for (int64_t i = 0; i < count; ++i) {
    const size_t at = offsets[static_cast<size_t>(from + i * by)];
    out.append(text.substr(at, utf8_size(text[at])));
  }
  return c.str(std::move(out), str.markup);
}

int64_t Loop::length(Context& c) {
  if (size >= 0) return size;
  if (has_length(iterable)) return size = jinja::length(c, iterable);
  std::vector<Value> rest;
  Value item;
  while (iter && iter->next(c, item)) {
    if (!c.room((rest.size() + 1) * sizeof(Value)) || !c.work(1)) return -1;
    rest.push_back(std::move(item));
  }
  if (!c.ok()) return -1;
  const auto n = static_cast<int64_t>(rest.size());
  iter = iterate_items(c, std::move(rest), "list_iterator");
  if (!c.ok()) return -1;
  return size = n + index0 + 1 + (after.missing() ? 0 : 1);
}

bool has_length(const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
    case Type::kStr:
    case Type::kList:
    case Type::kTuple:
    case Type::kDict:
    case Type::kRange:
    case Type::kView:
    case Type::kLoop:
      return true;
    default:
      return false;
  }
}

int64_t length(Context& c, const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kStr:
      return static_cast<int64_t>(v.as<Str>().length());
    case Type::kList:
    case Type::kTuple:
      return static_cast<int64_t>(v.items().size());
    case Type::kDict:
      return static_cast<int64_t>(v.as<Dict>().entries.size());
    case Type::kRange:
      return v.as<Range>().size;
    case Type::kView:
      return static_cast<int64_t>(v.as<View>().dict->entries.size());
    case Type::kLoop:
      return v.as<Loop>().length(c);
    default:
      c.type_error("object of type '", type_name(v), "' has no len()");
      return -1;
  }
}

bool iterable(const Value& v) { return has_length(v) || v.is(Type::kIter); }

Ref<Iter> iterate(Context& c, const Value& v) {
  switch (v.type()) {
    case Type::kIter:
      return Ref<Iter>(&v.as<Iter>());
    case Type::kUndefined:
      return iterate_items(c, {}, "generator");
    case Type::kStr:
      return c.adopt_ref<Iter>(new TextIter(v), 1);
    case Type::kList:
    case Type::kTuple:
      return c.adopt_ref<Iter>(new ItemsIter(v), v.depth());
    case Type::kDict:
      return c.adopt_ref<Iter>(new DictIter(Ref<Dict>(&v.as<Dict>()), View::kKeys), v.depth());
    case Type::kView:
      return c.adopt_ref<Iter>(new DictIter(v.as<View>().dict, v.as<View>().kind), v.depth());
    case Type::kRange:
      return c.adopt_ref<Iter>(new RangeIter(v.as<Range>()));
    case Type::kLoop:
      return c.adopt_ref<Iter>(new LoopIter(Ref<Loop>(&v.as<Loop>())), v.depth());
    default:
      c.type_error("'", type_name(v), "' object is not iterable");
      return Ref<Iter>();
  }
}

Ref<Iter> iterate_items(Context& c, std::vector<Value> items, const char* name) {
  int inside = 0;
  for (const Value& item : items) inside = std::max(inside, item.depth());
  const size_t bytes = sizeof(VectorIter) + items.capacity() * sizeof(Value);
  auto* iter = new VectorIter(std::move(items));
  iter->name = name;
  return c.adopt_ref<Iter>(iter, inside, bytes);
}

bool collect(Context& c, const Value& v, std::vector<Value>& out) {
  if (v.is_sequence()) {
    if (!c.room(v.items().size() * sizeof(Value)) || !c.work(v.items().size() / 8)) return false;
    out = v.items();
    return true;
  }
  const Ref<Iter> iter = iterate(c, v);
  Value item;
  while (c.ok() && iter->next(c, item)) {
    if (!c.work(1) || !c.room((out.size() + 1) * sizeof(Value))) return false;
    out.push_back(std::move(item));
  }
  return c.ok();
}

const Value* unhashable_part(Context& c, const Value& v) {
  // Tuples may share parts, so that walking them takes time exponential in their depth: every part
  // is charged, and with it what hashing and comparing it will take.
  if (!c.work(1)) return &v;
  if (v.is(Type::kList) || v.is(Type::kDict) || v.is(Type::kView)) return &v;
  if (v.is(Type::kTuple)) {
    for (const Value& item : v.items()) {
      if (const Value* const part = unhashable_part(c, item)) return part;
    }
  }
  return v.is_str() && !c.work_bytes(v.text().size()) ? &v : nullptr;
}

bool hashable(Context& c, const Value& v) {
  const Value* const part = unhashable_part(c, v);
  if (part != nullptr) c.type_error("unhashable type: '", type_name(*part), "'");
  return part == nullptr;
}

bool fill_dict(Context& c, const Value& from, Dict& out) {
  if (from.is(Type::kDict)) {
    for (const auto& [key, value] : from.as<Dict>().entries) {
      if (!c.work(1)) return false;
      out.set(key, value);
    }
    return true;
  }
  const Ref<Iter> iter = iterate(c, from);
  Value item;
  while (c.ok() && iter->next(c, item)) {
    std::vector<Value> pair;
    if (!iterable(item)) {
      c.type_error("cannot convert dictionary update sequence element to a sequence");
      return false;
    }
    if (!collect(c, item, pair)) return false;
    if (pair.size() != 2) {
      c.value_error("dictionary update sequence element has length ", pair.size(),
                    "; 2 is required");
      return false;
    }
    if (!hashable(c, pair[0]) || !c.room((out.entries.size() + 1) * 64)) return false;
    out.set(std::move(pair[0]), std::move(pair[1]));
  }
  return c.ok();
}

bool append_quoted(Sink& out, absl::string_view text) {
  const bool single = text.find('\'') != absl::string_view::npos;
  const char quote = single && text.find('"') == absl::string_view::npos ? '"' : '\'';
  std::string s(1, quote);
  static constexpr char kHex[] = "0123456789abcdef";
  const auto hex = [&s](char32_t c, int digits) {
    while (digits-- > 0) s.push_back(kHex[(c >> (4 * digits)) & 15]);
  };
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    const char* const at = p;
    const char32_t c = next_code_point(p);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      s.push_back('\\');
      s.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      s += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if ((char_classes(c) & kPrintable) != 0) {
      s.append(at, p);
    } else if (c < 0x100) {
      s += "\\x", hex(c, 2);
    } else if (c < 0x10000) {
      s += "\\u", hex(c, 4);
    } else {
      s += "\\U", hex(c, 8);
    }
    if (s.size() >= 4096) {
      if (!out.append(s)) return false;
      s.clear();
    }
  }
  s.push_back(quote);
  return out.append(s);
}

namespace {

bool append_list(Sink& out, const std::vector<Value>& items, absl::string_view open,
                 absl::string_view close) {
  if (!out.append(open)) return false;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i != 0 && !out.append(", ")) return false;
    if (!append_repr(out, items[i])) return false;
  }
  return out.append(close);
}

bool append_dict(Sink& out, const Dict& dict) {
  if (!out.append("{")) return false;
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first && !out.append(", ")) return false;
    first = false;
    if (!append_repr(out, key) || !out.append(": ") || !append_repr(out, value)) return false;
  }
  return out.append("}");
}

bool append_view(Sink& out, const View& view) {
  if (!out.append(view.kind == View::kKeys     ? "dict_keys(["
                  : view.kind == View::kValues ? "dict_values(["
                                               : "dict_items([")) {
    return false;
  }
  bool first = true;
  for (const auto& [key, value] : view.dict->entries) {
    if (!first && !out.append(", ")) return false;
    first = false;
    if (view.kind == View::kItems) {
      if (!out.append("(") || !append_repr(out, key) || !out.append(", ") ||
          !append_repr(out, value) || !out.append(")")) {
        return false;
      }
    } else if (!append_repr(out, view.kind == View::kKeys ? key : value)) {
      return false;
    }
  }
  return out.append("])");
}

}  // namespace

bool append_repr(Sink& out, const Value& v) {
  Context& c = out.context();
  if (!c.work(1)) return false;
  const NativeScope scope(c);
  if (!scope) return false;
  switch (v.type()) {
    case Type::kNone:
      return out.append("None");
    case Type::kBool:
      return out.append(v.b() ? "True" : "False");
    case Type::kInt:
      return out.append(absl::StrCat(v.i()));
    case Type::kUint:
      return out.append(absl::StrCat(v.u()));
    case Type::kFloat:
      return out.append(float_repr(v.f()));
    case Type::kUndefined:
      return out.append("Undefined");
    case Type::kStr:
      if (!v.as<Str>().markup) return append_quoted(out, v.text());
      return out.append("Markup(") && append_quoted(out, v.text()) && out.append(")");
    case Type::kList:
      return append_list(out, v.items(), "[", "]");
    case Type::kTuple:
      return append_list(out, v.items(), "(", v.items().size() == 1 ? ",)" : ")");
    case Type::kDict:
      return append_dict(out, v.as<Dict>());
    case Type::kRange: {
      const Range& r = v.as<Range>();
      if (r.step == 1) return out.append(absl::StrCat("range(", r.start, ", ", r.stop, ")"));
      return out.append(absl::StrCat("range(", r.start, ", ", r.stop, ", ", r.step, ")"));
    }
    case Type::kView:
      return append_view(out, v.as<View>());
    case Type::kNamespace: {
      if (!out.append("<Namespace ")) return false;
      // A copy: writing a loop out may run code of the template, which may set attributes.
      Dict attributes;
      if (v.as<Namespace>().attributes) {
        attributes.entries = v.as<Namespace>().attributes->entries;
      }
      return append_dict(out, attributes) && out.append(">");
    }
    case Type::kMacro: {
      const std::string& name = v.as<Macro>().function->name;
      if (name.empty()) return out.append("<Macro anonymous>");
      return out.append("<Macro ") && append_quoted(out, name) && out.append(">");
    }
    case Type::kLoop: {
      const int64_t n = v.as<Loop>().length(c);
      return c.ok() &&
             out.append(absl::StrCat("<LoopContext ", v.as<Loop>().index0 + 1, "/", n, ">"));
    }
    case Type::kFunction:
      return out.append(absl::StrCat("<function ", global_name(static_cast<int>(v.i())), ">"));
    case Type::kMethod:
      return out.append(absl::StrCat("<built-in method ", method_name(v.as<Method>().id), " of ",
                                     type_name(v.as<Method>().self), " object>"));
    default:
      return out.append(absl::StrCat("<", type_name(v), " object>"));
  }
}

bool append_str(Sink& out, const Value& v) {
  if (v.is_str()) return out.append(v.text());
  if (v.is(Type::kUndefined)) return true;
  return append_repr(out, v);
}

Value to_str(Context& c, const Value& v) {
  if (v.is_str()) return v;
  Sink out(c);
  append_str(out, v);
  return c.ok() ? out.value() : Value();
}

bool to_index(Context& c, const Value& v, int64_t& out) {
  if (v.is_integral()) {
    out = v.i();
    return true;
  }
  if (v.is(Type::kUndefined)) {
    c.undefined_error(v);
  } else {
    c.type_error("'", type_name(v), "' object cannot be interpreted as an integer");
  }
  return false;
}

bool append_escaped(Sink& out, absl::string_view text) {
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    absl::string_view with;
    switch (text[i]) {
      case '&':
        with = "&amp;";
        break;
      case '<':
        with = "&lt;";
        break;
      case '>':
        with = "&gt;";
        break;
      case '\'':
        with = "&#39;";
        break;
      case '"':
        with = "&#34;";
        break;
      default:
        continue;
    }
    if (!out.append(text.substr(start, i - start)) || !out.append(with)) return false;
    start = i + 1;
  }
  return out.append(text.substr(start));
}

}  // namespace ponder::jinja
