// Values of the template language: Python's objects as far as templates can see them.
//
// A Value is 16 bytes: a scalar, or a counted reference to an Obj. Objects are immutable once
// built, except namespaces, loops and iterators, so strings and lists are shared and never copied.
// Every object is charged to the Heap of one rendering and dies with it at the latest; "immortal"
// objects are the constants of a compiled template, whose counts are never touched, so that
// renderings on several threads may share them. Otherwise one thread at a time.
//
// Nothing here recurses without bound: an object knows its depth, and Context refuses to build one
// that is nested deeper than kMaxDepth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace ponder::jinja {

class Context;
struct Function;  // compiled code, jinja_code.h

enum class Type : uint8_t {
  kMissing,  // no value: a variable never set, an argument not given; templates never see it
  kNone,
  kBool,
  kInt,
  kUint,  // a whole number above INT64_MAX, from JSON: can be printed and compared only
  kFloat,
  kFunction,  // a global function; the payload is its number
  // Everything from here on has an Obj.
  kUndefined,
  kStr,
  kList,
  kTuple,
  kDict,
  kRange,
  kView,
  kIter,
  kNamespace,
  kMacro,
  kMethod,
  kLoop,
  kCycler,
  kJoiner,
};

inline constexpr int kMaxDepth = 100;

// Bytes that live objects of one rendering take, roughly.
struct Heap {
  size_t live = 0;
  size_t limit = 0;
};

class Obj {
 public:
  Obj(const Obj&) = delete;
  Obj& operator=(const Obj&) = delete;
  virtual ~Obj() {
    if (heap_ != nullptr) heap_->live -= charged_;
  }

  void retain() {
    if (!immortal_) ++refs_;
  }
  void release() {
    if (!immortal_ && --refs_ == 0) delete this;
  }

  uint16_t depth() const { return depth_; }
  bool shared() const { return refs_ > 1; }
  // For constants: no counting from now on; the owner deletes.
  void make_immortal() { immortal_ = true; }

 protected:
  Obj() = default;

 private:
  friend class Context;
  uint32_t refs_ = 0;
  uint16_t depth_ = 1;
  bool immortal_ = false;
  Heap* heap_ = nullptr;
  size_t charged_ = 0;
};

// A counted reference.
template <typename T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) {
    if (object_ != nullptr) object_->retain();
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->release();
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

struct Str;
struct List;
struct Dict;

class Value {
 public:
  Value() : type_(Type::kMissing), i_(0) {}
  Value(const Value& other) : type_(other.type_), i_(other.i_) {
    if (has_object()) object_->retain();
  }
  Value(Value&& other) noexcept : type_(other.type_), i_(other.i_) { other.type_ = Type::kMissing; }
  Value& operator=(Value other) noexcept {
    std::swap(type_, other.type_);
    std::swap(i_, other.i_);
    return *this;
  }
  ~Value() {
    if (has_object()) object_->release();
  }

  static Value none() { return Value(Type::kNone, 0); }
  static Value boolean(bool b) { return Value(Type::kBool, b ? 1 : 0); }
  static Value integer(int64_t i) { return Value(Type::kInt, i); }
  static Value uint(uint64_t u) {
    return u <= INT64_MAX ? integer(static_cast<int64_t>(u))
                          : Value(Type::kUint, static_cast<int64_t>(u));
  }
  static Value number(double f) {
    Value v;
    v.type_ = Type::kFloat;
    v.f_ = f;
    return v;
  }
  static Value function(int id) { return Value(Type::kFunction, id); }
  static Value object(Type type, Obj* object) {
    object->retain();
    Value v;
    v.type_ = type;
    v.object_ = object;
    return v;
  }

  Type type() const { return type_; }
  bool is(Type type) const { return type_ == type; }
  bool missing() const { return type_ == Type::kMissing; }
  bool is_str() const { return type_ == Type::kStr; }
  bool is_sequence() const { return type_ == Type::kList || type_ == Type::kTuple; }
  // bool counts as a whole number, as in Python.
  bool is_integral() const { return type_ == Type::kInt || type_ == Type::kBool; }
  bool is_number() const { return is_integral() || is(Type::kFloat) || is(Type::kUint); }
  bool has_object() const { return type_ >= Type::kUndefined; }

  int64_t i() const { return i_; }
  uint64_t u() const { return static_cast<uint64_t>(i_); }
  double f() const { return f_; }
  bool b() const { return i_ != 0; }
  Obj* obj() const { return object_; }
  // The object as what its type says; the caller has looked at type().
  template <typename T>
  T& as() const {
    return *static_cast<T*>(object_);
  }
  inline absl::string_view text() const;
  inline const std::vector<Value>& items() const;
  int depth() const { return has_object() ? object_->depth() : 0; }

 private:
  Value(Type type, int64_t i) : type_(type), i_(i) {}

  Type type_;
  union {
    int64_t i_;
    double f_;
    Obj* object_;
  };
};

struct Str final : Obj {
  explicit Str(std::string s, bool markup_in = false) : text(std::move(s)), markup(markup_in) {}
  // Code points; counted on first use (for constants: when they are made).
  size_t length();
  bool ascii() { return length() == text.size(); }

  std::string text;
  // markupsafe.Markup: what `safe` and `escape` give. Adding plain text to it escapes the text.
  bool markup;

 private:
  static constexpr size_t kUnknown = ~size_t{0};
  size_t length_ = kUnknown;
};

// A list or a tuple: the Value's type says which.
struct List final : Obj {
  explicit List(std::vector<Value> v) : items(std::move(v)) {}
  std::vector<Value> items;
  bool group = false;  // groupby's tuple: also .grouper and .list
};

// Keeps insertion order. Keys are hashable; 1, 1.0 and true are the same key, as in Python.
struct Dict final : Obj {
  // The value's position, or -1. `key` must be hashable.
  ptrdiff_t find(const Value& key) const;
  ptrdiff_t find(absl::string_view key) const;
  // A known key keeps its place and gets the new value. Only while the dict is being built, and for
  // namespaces.
  void set(Value key, Value value);

  std::vector<std::pair<Value, Value>> entries;

 private:
  void rebuild_index();
  std::vector<uint32_t> index_;  // open addressing, entry + 1; empty for few entries
};

struct Range final : Obj {
  Range(int64_t start_in, int64_t stop_in, int64_t step_in);
  int64_t at(int64_t i) const { return start + i * step; }
  int64_t start, stop, step, size;
};

// What dict.keys(), .values() and .items() give.
struct View final : Obj {
  enum Kind : uint8_t { kKeys, kValues, kItems };
  View(Ref<Dict> d, Kind k) : dict(std::move(d)), kind(k) {}
  Ref<Dict> dict;
  Kind kind;
};

// A Python iterator or generator: gives each item once, computing it on demand.
class Iter : public Obj {
 public:
  // False at the end and after a failure (which the context knows). Asking again while an item is
  // being computed is a failure.
  bool next(Context& c, Value& item);
  const char* name = "generator";

 protected:
  virtual bool advance(Context& c, Value& item) = 0;

 private:
  bool running_ = false;
};

struct Namespace final : Obj {
  Ref<Dict> attributes;
};

// The variables of one call of a function: of the template itself, a macro, a recursive loop.
struct Activation final : Obj {
  std::vector<Value> slots;
  Ref<Activation> parent;   // of the function in whose text this one stands
  bool registered = false;  // kept by the context until the end: something captured it
};

struct Macro final : Obj {
  const Function* function = nullptr;
  Ref<Activation> closure;
};

// A method taken from its object but not called yet.
struct Method final : Obj {
  Value self;
  int id = 0;
};

struct Undefined final : Obj {
  std::string message;
  bool security = false;  // using it is a violation of the sandbox
};

// The variable `loop`.
struct Loop final : Obj {
  bool next(Context& c, Value& item);
  // False when there is no further item, or on failure.
  bool peek(Context& c);
  int64_t length(Context& c);
  void finish();  // drops items and iterator

  Value iterable;
  Ref<Iter> iter;
  int64_t index0 = -1;
  int64_t size = -1;  // once asked for
  int64_t depth0 = 0;
  const Function* body = nullptr;  // of a recursive loop
  Ref<Activation> closure;
  Value before, current, after, changed;
  bool registered = false;
};

struct Cycler final : Obj {
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner final : Obj {
  Value separator;
  bool used = false;
};

inline absl::string_view Value::text() const { return as<Str>().text; }
inline const std::vector<Value>& Value::items() const { return as<List>().items; }

// Equality and hash of dict keys and set members: Python's, and never failing.
bool same_key(const Value& a, const Value& b);
size_t hash_key(const Value& v);

}  // namespace ponder::jinja
