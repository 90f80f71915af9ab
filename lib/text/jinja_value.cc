#include "lib/text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/hash/hash.h"
#include "lib/text/jinja_context.h"
#include "lib/text/jinja_unicode.h"

namespace ponder::jinja {
namespace {

constexpr size_t kIndexFrom = 9;  // entries; fewer are searched one by one

bool integral_double(double f) { return f >= -0x1p63 && f < 0x1p63 && f == std::floor(f); }

// Numbers by value over all types; the caller knows that both are numbers.
bool same_number(const Value& a, const Value& b) {
  if (a.is(Type::kFloat) || b.is(Type::kFloat)) {
    const Value& f = a.is(Type::kFloat) ? a : b;
    const Value& other = a.is(Type::kFloat) ? b : a;
    if (other.is(Type::kFloat)) return a.f() == b.f();
    if (other.is(Type::kUint)) {
      return f.f() >= 0x1p63 && f.f() < 0x1p64 && static_cast<uint64_t>(f.f()) == other.u();
    }
    return integral_double(f.f()) && static_cast<int64_t>(f.f()) == other.i();
  }
  if (a.is(Type::kUint) || b.is(Type::kUint)) return a.type() == b.type() && a.u() == b.u();
  return a.i() == b.i();
}

}  // namespace

size_t Str::length() {
  if (length_ == kUnknown) length_ = count_code_points(text);
  return length_;
}

bool same_key(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return same_number(a, b) ||
           (a.is(Type::kFloat) && b.is(Type::kFloat) && std::isnan(a.f()) && std::isnan(b.f()));
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kNone:
    case Type::kMissing:
    case Type::kUndefined:
      return true;
    case Type::kStr:
      return a.text() == b.text();
    case Type::kTuple: {
      const auto& x = a.items();
      const auto& y = b.items();
      if (x.size() != y.size()) return false;
      for (size_t i = 0; i < x.size(); ++i) {  // depth is bounded by kMaxDepth
        if (!same_key(x[i], y[i])) return false;
      }
      return true;
    }
    case Type::kRange: {
      const Range& x = a.as<Range>();
      const Range& y = b.as<Range>();
      return x.size == y.size && (x.size == 0 || x.start == y.start) &&
             (x.size < 2 || x.step == y.step);
    }
    case Type::kFunction:
      return a.i() == b.i();
    default:
      return a.obj() == b.obj();
  }
}

size_t hash_key(const Value& v) {
  switch (v.type()) {
    case Type::kBool:
    case Type::kInt:
      return absl::Hash<int64_t>{}(v.i());
    case Type::kFloat:
      if (integral_double(v.f())) return absl::Hash<int64_t>{}(static_cast<int64_t>(v.f()));
      if (v.f() >= 0x1p63 && v.f() < 0x1p64) {
        return absl::Hash<uint64_t>{}(static_cast<uint64_t>(v.f()));
      }
      return std::isnan(v.f()) ? 7 : absl::Hash<double>{}(v.f());
    case Type::kUint:
      return absl::Hash<uint64_t>{}(v.u());
    case Type::kStr:
      return absl::Hash<absl::string_view>{}(v.text());
    case Type::kTuple: {
      size_t h = 17;
      for (const Value& item : v.items()) h = h * 1000003 + hash_key(item);
      return h;
    }
    case Type::kRange:
      return static_cast<size_t>(v.as<Range>().size);
    case Type::kNone:
    case Type::kMissing:
    case Type::kUndefined:
    case Type::kFunction:
      return static_cast<size_t>(v.type());
    default:
      return absl::Hash<const void*>{}(v.obj());
  }
}

ptrdiff_t Dict::find(const Value& key) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (same_key(entries[i].first, key)) return static_cast<ptrdiff_t>(i);
    }
    return -1;
  }
  const size_t mask = index_.size() - 1;
  for (size_t at = hash_key(key) & mask; index_[at] != 0; at = (at + 1) & mask) {
    if (same_key(entries[index_[at] - 1].first, key)) return index_[at] - 1;
  }
  return -1;
}

ptrdiff_t Dict::find(absl::string_view key) const {
  const auto matches = [key](const Value& v) { return v.is_str() && v.text() == key; };
  if (index_.empty()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (matches(entries[i].first)) return static_cast<ptrdiff_t>(i);
    }
    return -1;
  }
  const size_t mask = index_.size() - 1;
  const size_t hash = absl::Hash<absl::string_view>{}(key);
  for (size_t at = hash & mask; index_[at] != 0; at = (at + 1) & mask) {
    if (matches(entries[index_[at] - 1].first)) return index_[at] - 1;
  }
  return -1;
}

void Dict::set(Value key, Value value) {
  const ptrdiff_t at = find(key);
  if (at >= 0) {
    entries[static_cast<size_t>(at)].second = std::move(value);
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() < kIndexFrom) return;
  if (entries.size() * 2 > index_.size()) {
    rebuild_index();
    return;
  }
  const size_t mask = index_.size() - 1;
  size_t slot = hash_key(entries.back().first) & mask;
  while (index_[slot] != 0) slot = (slot + 1) & mask;
  index_[slot] = static_cast<uint32_t>(entries.size());
}

void Dict::rebuild_index() {
  size_t size = 32;
  while (size < entries.size() * 4) size *= 2;
  index_.assign(size, 0);
  for (size_t i = 0; i < entries.size(); ++i) {
    size_t slot = hash_key(entries[i].first) & (size - 1);
    while (index_[slot] != 0) slot = (slot + 1) & (size - 1);
    index_[slot] = static_cast<uint32_t>(i + 1);
  }
}

Range::Range(int64_t start_in, int64_t stop_in, int64_t step_in)
    : start(start_in), stop(stop_in), step(step_in), size(0) {
  // The caller has bounded all three, so nothing overflows.
  if (step > 0 && start < stop) size = (stop - start - 1) / step + 1;
  if (step < 0 && start > stop) size = (start - stop - 1) / -step + 1;
}

bool Iter::next(Context& c, Value& item) {
  if (running_) {
    c.value_error("generator already executing");
    return false;
  }
  const Ref<Iter> self(this);  // computing the item may drop what else refers to this
  running_ = true;
  const bool found = advance(c, item);
  running_ = false;
  return found;
}

bool Loop::peek(Context& c) {
  if (!after.missing()) return true;
  if (!iter) return false;
  Value item;
  if (!iter->next(c, item)) return false;
  after = std::move(item);
  return true;
}

bool Loop::next(Context& c, Value& item) {
  if (!after.missing()) {
    item = std::exchange(after, Value());
  } else if (!iter || !iter->next(c, item)) {
    return false;
  }
  ++index0;
  before = std::exchange(current, item);
  return true;
}

void Loop::finish() {
  iter = Ref<Iter>();
  before = current = after = changed = iterable = Value();
}

Context::Context(const Limits& limits, Interpreter* interpreter)
    : steps_left_(limits.steps), steps_(limits.steps), interpreter_(interpreter) {
  heap_.limit = limits.memory_bytes;
}

Context::~Context() {
  // Break the cycles first: nothing is destroyed while it is still in kept_.
  for (Ref<Obj>& object : kept_) {
    if (auto* activation = dynamic_cast<Activation*>(object.get())) {
      activation->slots.clear();
    } else if (auto* ns = dynamic_cast<Namespace*>(object.get())) {
      ns->attributes = Ref<Dict>();
    } else if (auto* loop = dynamic_cast<Loop*>(object.get())) {
      loop->finish();
    }
  }
}

Value Context::fail(Failure failure, std::string message) {
  if (failure_ == Failure::kNone) {
    failure_ = failure;
    message_ = std::move(message);
  }
  return Value();
}

Value Context::undefined_error(const Value& undefined) {
  const auto& u = undefined.as<Undefined>();
  if (u.security) return fail(Failure::kSecurity, absl::StrCat("SecurityError: ", u.message));
  return fail(Failure::kRuntime, absl::StrCat("UndefinedError: ", u.message));
}

bool Context::out_of_steps() {
  steps_left_ = 0;
  fail(Failure::kSteps, absl::StrCat("stopped after ", steps_,
                                     " steps: the template loops without end or does far more work "
                                     "than a chat template should"));
  return false;
}

bool Context::room(size_t bytes) {
  if (!ok()) return false;
  if (heap_.live <= heap_.limit && bytes <= heap_.limit - heap_.live) return true;
  fail(Failure::kMemory, absl::StrCat("the template wants more than ", heap_.limit >> 20,
                                      " MiB for its values and output"));
  return false;
}

bool Context::charge(Obj* object, int inside, size_t bytes) {
  if (inside >= kMaxDepth) {
    fail(Failure::kNesting, absl::StrCat("values are nested deeper than ", kMaxDepth, " levels"));
    return false;
  }
  object->depth_ = static_cast<uint16_t>(inside + 1);
  // Counted even when it is too much: the object exists until its owner lets go.
  const bool fits = room(bytes + 16);
  object->heap_ = &heap_;
  object->charged_ = bytes + 16;  // the allocator's own part
  heap_.live += object->charged_;
  return fits;
}

bool Context::charge_more(Obj* object, size_t bytes) {
  const bool fits = room(bytes);
  object->charged_ += bytes;
  heap_.live += bytes;
  return fits;
}

Value Context::str(std::string text, bool markup) {
  const size_t bytes = sizeof(Str) + (text.capacity() > 15 ? text.capacity() + 1 : 0);
  return adopt(Type::kStr, new Str(std::move(text), markup), 0, bytes);
}

Value Context::sequence(Type type, std::vector<Value> items) {
  int inside = 0;
  for (const Value& item : items) inside = std::max(inside, item.depth());
  const size_t bytes = sizeof(List) + items.capacity() * sizeof(Value);
  return adopt(type, new List(std::move(items)), inside, bytes);
}

Value Context::dict(Ref<Dict> dict) {
  int inside = 0;
  for (const auto& [key, value] : dict->entries) {
    inside = std::max({inside, key.depth(), value.depth()});
  }
  const size_t n = dict->entries.size();
  const size_t bytes = sizeof(Dict) + n * 2 * sizeof(Value) + (n >= kIndexFrom ? n * 24 : 0);
  if (!charge(dict.get(), inside, bytes)) return Value();
  return Value::object(Type::kDict, dict.get());
}

Value Context::undefined(std::string message, bool security) {
  auto* object = new Undefined;
  object->message = std::move(message);
  object->security = security;
  return adopt(Type::kUndefined, object, 0, sizeof(Undefined) + object->message.capacity());
}

void Context::keep(Activation* activation) {
  if (activation->registered) return;
  activation->registered = true;
  kept_.emplace_back(activation);
}

void Context::keep(Namespace* ns) { kept_.emplace_back(ns); }

void Context::keep(Loop* loop) {
  if (loop->registered) return;
  loop->registered = true;
  kept_.emplace_back(loop);
}

bool Context::enter() {
  constexpr int kMaxNative = 100;
  if (!ok()) return false;
  if (native_depth_ < kMaxNative) return ++native_depth_, true;
  fail(Failure::kNesting, "operations are nested too deeply");
  return false;
}

bool Sink::more(size_t bytes) {
  if (!c_.room(text_.size() + bytes)) return false;
  free_ = std::max(bytes, size_t{4096});
  return true;
}

}  // namespace ponder::jinja
