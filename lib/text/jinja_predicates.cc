// The tests of "is", select and reject.

#include <cmath>
#include <iterator>

#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_text.h"

namespace ponder::jinja {
namespace {

// a[0] is the value, a[1] the argument if the test has one.
using TestFn = Value (*)(Context& c, Value* a);

template <Op kOp>
Value comparison(Context& c, Value* a) {
  return compare(c, kOp, a[0], a[1]);
}

Value remainder_is(Context& c, const Value& v, const Value& by, int64_t wanted) {
  const Value rest = binary(c, Op::kMod, v, by);
  return c.ok() ? Value::boolean(equal(c, rest, Value::integer(wanted))) : Value();
}

template <Type kType>
Value has_type(Context&, Value* a) {
  return Value::boolean(a[0].is(kType));
}

Value is_boolean(Context&, Value* a) { return Value::boolean(a[0].is(Type::kBool)); }
Value is_callable(Context&, Value* a) {
  switch (a[0].type()) {
    case Type::kFunction:
    case Type::kUndefined:
    case Type::kMacro:
    case Type::kMethod:
    case Type::kLoop:
    case Type::kJoiner:
      return Value::boolean(true);
    default:
      return Value::boolean(false);
  }
}
Value is_defined(Context&, Value* a) { return Value::boolean(!a[0].is(Type::kUndefined)); }
Value is_divisible(Context& c, Value* a) { return remainder_is(c, a[0], a[1], 0); }
Value is_escaped(Context&, Value* a) {
  return Value::boolean(a[0].is_str() && a[0].as<Str>().markup);
}
Value is_even(Context& c, Value* a) { return remainder_is(c, a[0], Value::integer(2), 0); }
Value is_odd(Context& c, Value* a) { return remainder_is(c, a[0], Value::integer(2), 1); }
template <bool kWanted>
Value is_exactly(Context&, Value* a) {
  return Value::boolean(a[0].is(Type::kBool) && a[0].b() == kWanted);
}
Value is_filter(Context& c, Value* a) {
  if (!hashable(c, a[0])) return Value();
  return Value::boolean(a[0].is_str() && find_filter(a[0].text()) >= 0);
}
Value is_test(Context& c, Value* a) {
  if (!hashable(c, a[0])) return Value();
  return Value::boolean(a[0].is_str() && find_test(a[0].text()) >= 0);
}
Value is_integer(Context&, Value* a) {
  return Value::boolean(a[0].is(Type::kInt) || a[0].is(Type::kUint));
}
Value is_iterable(Context&, Value* a) { return Value::boolean(iterable(a[0])); }
Value is_number(Context&, Value* a) { return Value::boolean(a[0].is_number()); }
Value is_sequence(Context&, Value* a) {
  switch (a[0].type()) {
    case Type::kUndefined:
    case Type::kStr:
    case Type::kList:
    case Type::kTuple:
    case Type::kDict:
    case Type::kRange:
      return Value::boolean(true);
    default:
      return Value::boolean(false);
  }
}
Value is_same(Context&, Value* a) {
  if (a[0].type() != a[1].type()) return Value::boolean(false);
  if (!a[0].has_object()) return Value::boolean(same_key(a[0], a[1]));
  // Python keeps one object for each text that is written in a program.
  if (a[0].is_str()) return Value::boolean(a[0].text() == a[1].text());
  return Value::boolean(a[0].obj() == a[1].obj());
}
template <bool kWantUpper>
Value is_case(Context& c, Value* a) {
  const Value text = to_str(c, a[0]);
  return c.ok() ? Value::boolean(has_case(text.text(), kWantUpper)) : Value();
}

struct TestEntry {
  absl::string_view name;
  TestFn fn;
  absl::string_view argument;  // empty: none
};

constexpr TestEntry kTests[] = {
    {"odd", is_odd, ""},
    {"even", is_even, ""},
    {"divisibleby", is_divisible, "num"},
    {"defined", is_defined, ""},
    {"undefined", has_type<Type::kUndefined>, ""},
    {"filter", is_filter, ""},
    {"test", is_test, ""},
    {"none", has_type<Type::kNone>, ""},
    {"boolean", is_boolean, ""},
    {"false", is_exactly<false>, ""},
    {"true", is_exactly<true>, ""},
    {"integer", is_integer, ""},
    {"float", has_type<Type::kFloat>, ""},
    {"lower", is_case<false>, ""},
    {"upper", is_case<true>, ""},
    {"string", has_type<Type::kStr>, ""},
    {"mapping", has_type<Type::kDict>, ""},
    {"number", is_number, ""},
    {"sequence", is_sequence, ""},
    {"iterable", is_iterable, ""},
    {"callable", is_callable, ""},
    {"sameas", is_same, "other"},
    {"escaped", is_escaped, ""},
    {"in", comparison<Op::kIn>, "seq"},
    {"==", comparison<Op::kEq>, "/b"},
    {"eq", comparison<Op::kEq>, "/b"},
    {"equalto", comparison<Op::kEq>, "/b"},
    {"!=", comparison<Op::kNe>, "/b"},
    {"ne", comparison<Op::kNe>, "/b"},
    {">", comparison<Op::kGt>, "/b"},
    {"gt", comparison<Op::kGt>, "/b"},
    {"greaterthan", comparison<Op::kGt>, "/b"},
    {"ge", comparison<Op::kGe>, "/b"},
    {">=", comparison<Op::kGe>, "/b"},
    {"<", comparison<Op::kLt>, "/b"},
    {"lt", comparison<Op::kLt>, "/b"},
    {"lessthan", comparison<Op::kLt>, "/b"},
    {"<=", comparison<Op::kLe>, "/b"},
    {"le", comparison<Op::kLe>, "/b"},
};

}  // namespace

int find_test(absl::string_view name) {
  for (size_t i = 0; i < std::size(kTests); ++i) {
    if (kTests[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value call_test(Context& c, int id, Args& args) {
  const TestEntry& test = kTests[id];
  Value bound[2];
  const bool ok = test.argument.empty()
                      ? bind_args(c, test.name, args, 1, {"/value"}, bound)
                      : bind_args(c, test.name, args, 2, {"/value", test.argument}, bound);
  return ok ? test.fn(c, bound) : Value();
}

}  // namespace ponder::jinja
