// The functions that every template can call: range, dict, namespace, cycler, joiner, and the two
// that chat templates expect, raise_exception and strftime_now.

#include <iterator>
#include <utility>

#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_ops.h"

namespace ponder::jinja {
namespace {

using GlobalFn = Value (*)(Context& c, Args& args);

constexpr int64_t kMaxRange = 100000;  // as in Jinja's sandbox

Value make_range(Context& c, Args& args) {
  Value a[3];
  if (!bind_args(c, "range", args, 1, {"/start", "/stop", "/step"}, a)) return Value();
  int64_t start = 0, stop = 0, step = 1;
  if (a[1].missing()) {
    if (!to_index(c, a[0], stop)) return Value();
  } else if (!to_index(c, a[0], start) || !to_index(c, a[1], stop) ||
             (!a[2].missing() && !to_index(c, a[2], step))) {
    return Value();
  }
  if (step == 0) return c.value_error("range() arg 3 must not be zero");
  constexpr int64_t kBound = int64_t{1} << 60;
  const bool far = start > kBound || start < -kBound || stop > kBound || stop < -kBound ||
                   step > kBound || step < -kBound;
  if (!far) {
    auto* range = new Range(start, stop, step);
    const Value v = c.adopt(Type::kRange, range);
    if (!c.ok() || range->size <= kMaxRange) return v;
  }
  return c.error("OverflowError: Range too big. The sandbox blocks ranges larger than MAX_RANGE=",
                 kMaxRange, ".");
}

// dict(mapping or pairs, **more).
bool dict_from(Context& c, absl::string_view function, Args& args, Dict& dict) {
  if (args.positional.size() > 1) {
    c.type_error(function, " expected at most 1 argument, got ", args.positional.size());
    return false;
  }
  if (!args.positional.empty() && !fill_dict(c, args.positional[0], dict)) return false;
  for (auto& [name, value] : args.named) dict.set(c.str(absl::string_view(name)), std::move(value));
  return c.ok();
}

Value make_dict(Context& c, Args& args) {
  Ref<Dict> dict(new Dict);
  return dict_from(c, "dict", args, *dict) ? c.dict(std::move(dict)) : Value();
}

Value make_namespace(Context& c, Args& args) {
  Ref<Dict> dict(new Dict);
  if (!dict_from(c, "namespace", args, *dict) || c.dict(dict).missing()) return Value();
  auto* ns = new Namespace;
  const Value v = c.adopt(Type::kNamespace, ns);
  if (!c.ok()) return Value();
  ns->attributes = std::move(dict);
  c.keep(ns);
  return v;
}

Value make_cycler(Context& c, Args& args) {
  if (!args.named.empty()) return c.type_error("cycler() takes no keyword arguments");
  if (args.positional.empty()) return c.error("RuntimeError: at least one item has to be provided");
  auto* cycler = new Cycler;
  Ref<Cycler> owner(cycler);
  int inside = 0;
  for (Value& item : args.positional) {
    inside = std::max(inside, item.depth());
    cycler->items.push_back(std::move(item));
  }
  return c.adopt(Type::kCycler, cycler, inside,
                 sizeof(Cycler) + cycler->items.size() * sizeof(Value));
}

Value make_joiner(Context& c, Args& args) {
  Value a[1];
  if (!bind_args(c, "joiner", args, 0, {"sep"}, a)) return Value();
  auto* joiner = new Joiner;
  joiner->separator = a[0].missing() ? c.str(", ") : a[0];
  return c.adopt(Type::kJoiner, joiner, joiner->separator.depth());
}

Value raise_exception(Context& c, Args& args) {
  Value a[1];
  if (!bind_args(c, "raise_exception", args, 1, {"message"}, a)) return Value();
  const Value message = to_str(c, a[0]);
  return c.ok() ? c.fail(Failure::kRaised, std::string(message.text())) : Value();
}

Value strftime_now(Context& c, Args& args) {
  Value a[1];
  if (!bind_args(c, "strftime_now", args, 1, {"format"}, a)) return Value();
  if (!a[0].is_str())
    return c.type_error("strftime() argument 1 must be str, not ", type_name(a[0]));
  if (!c.strftime) return c.error("no clock was given to the template");
  if (!c.work(a[0].text().size() + 1) || !c.room(a[0].text().size() * 16)) return Value();
  return c.str(c.strftime(a[0].text()));
}

Value lipsum(Context& c, Args&) { return c.error("lipsum() is not supported: its text is random"); }

struct GlobalEntry {
  absl::string_view name;
  GlobalFn fn;
};
constexpr GlobalEntry kGlobals[] = {
    {"range", make_range},          {"dict", make_dict},     {"namespace", make_namespace},
    {"cycler", make_cycler},        {"joiner", make_joiner}, {"raise_exception", raise_exception},
    {"strftime_now", strftime_now}, {"lipsum", lipsum},
};

}  // namespace

int find_global(absl::string_view name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i) {
    if (kGlobals[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Value call_global(Context& c, int id, Args& args) { return kGlobals[id].fn(c, args); }

absl::string_view global_name(int id) { return kGlobals[id].name; }

}  // namespace ponder::jinja
