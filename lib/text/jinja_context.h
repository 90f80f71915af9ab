// One rendering: its budgets, its first failure, and the makers of objects.
//
// Operations of the template language take a Context, and on failure leave it failed and return a
// Missing value; callers look at ok() before they use results whose absence matters. The first
// failure stays. One thread at a time.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "lib/text/jinja_value.h"

namespace ponder::jinja {

// What a rendering may use. The defaults stop any template in well under a second.
struct Limits {
  uint64_t steps = 10'000'000;             // instructions; long texts count by their bytes
  size_t memory_bytes = size_t{48} << 20;  // of live values and output, beyond the inputs
  uint32_t calls = 200;                    // macros and recursive loops inside one another
};

enum class Failure : uint8_t {
  kNone,
  kRaised,    // raise_exception
  kRuntime,   // what Python would raise: TypeError, UndefinedError, ...
  kSecurity,  // forbidden by the sandbox
  kSteps,
  kMemory,
  kNesting,
};

class Interpreter;

class Context {
 public:
  Context(const Limits& limits, Interpreter* interpreter);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  bool ok() const { return failure_ == Failure::kNone; }
  Failure failure() const { return failure_; }
  const std::string& message() const { return message_; }

  // Records the failure unless there is one, and returns Missing.
  Value fail(Failure failure, std::string message);
  template <typename... Parts>
  Value type_error(const Parts&... parts) {
    return fail(Failure::kRuntime, absl::StrCat("TypeError: ", parts...));
  }
  template <typename... Parts>
  Value value_error(const Parts&... parts) {
    return fail(Failure::kRuntime, absl::StrCat("ValueError: ", parts...));
  }
  template <typename... Parts>
  Value error(const Parts&... parts) {
    return fail(Failure::kRuntime, absl::StrCat(parts...));
  }
  // Any use of an undefined value that is not allowed.
  Value undefined_error(const Value& undefined);

  // Takes `n` steps from the budget; false when it is spent.
  bool work(uint64_t n) {
    if (n <= steps_left_) {
      steps_left_ -= n;
      return true;
    }
    return out_of_steps();
  }
  // Work on that many bytes of text.
  bool work_bytes(size_t n) { return work(n / 32 + 1); }
  // True if that many more bytes may be allocated now.
  bool room(size_t bytes);

  // Makers. Missing on failure.
  Value str(std::string text, bool markup = false);
  Value str(absl::string_view text) { return str(std::string(text)); }
  Value str(const char* text) { return str(std::string(text)); }
  Value list(std::vector<Value> items) { return sequence(Type::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Type::kTuple, std::move(items)); }
  Value dict(Ref<Dict> dict);
  Value undefined(std::string message, bool security = false);
  Value undefined_name(absl::string_view name) {
    return undefined(absl::StrCat("'", name, "' is undefined"));
  }
  // Takes charge of a new object that holds something of depth `inside` and `bytes` in all.
  template <typename T>
  Value adopt(Type type, T* object, int inside = 0, size_t bytes = sizeof(T)) {
    Ref<T> owner(object);
    if (!charge(object, inside, bytes)) return Value();
    return Value::object(type, object);
  }
  template <typename T>
  Ref<T> adopt_ref(T* object, int inside = 0, size_t bytes = sizeof(T)) {
    Ref<T> owner(object);
    if (!charge(object, inside, bytes)) return Ref<T>();
    return owner;
  }
  // The object grew by what it now holds (namespaces).
  bool charge_more(Obj* object, size_t bytes);

  // Keeps an object that may be part of a cycle until the end of the rendering, where its contents
  // are dropped.
  void keep(Activation* activation);
  void keep(Namespace* ns);
  void keep(Loop* loop);

  Heap& heap() { return heap_; }
  Interpreter& interpreter() { return *interpreter_; }

  // Bounds native recursion (iterators inside iterators, comparisons, repr).
  bool enter();
  void leave() { --native_depth_; }

  // The time that strftime_now tells.
  std::function<std::string(absl::string_view)> strftime;

 private:
  Value sequence(Type type, std::vector<Value> items);
  bool charge(Obj* object, int inside, size_t bytes);
  bool out_of_steps();

  Heap heap_;
  uint64_t steps_left_;
  uint64_t steps_;
  int native_depth_ = 0;
  Failure failure_ = Failure::kNone;
  std::string message_;
  Interpreter* interpreter_;
  std::vector<Ref<Obj>> kept_;
};

// Native recursion for the time of a scope: if (NativeScope scope(c); scope) ...
class NativeScope {
 public:
  explicit NativeScope(Context& c) : c_(c), entered_(c.enter()) {}
  ~NativeScope() {
    if (entered_) c_.leave();
  }
  NativeScope(const NativeScope&) = delete;
  NativeScope& operator=(const NativeScope&) = delete;
  explicit operator bool() const { return entered_; }

 private:
  Context& c_;
  bool entered_;
};

// Text being put together within the memory and the steps of a rendering.
class Sink {
 public:
  explicit Sink(Context& c) : c_(c) {}
  bool append(absl::string_view text) {
    if (text.size() > free_ && !more(text.size())) return false;
    free_ -= text.size();
    text_.append(text.data(), text.size());
    return c_.work(text.size() / 32);
  }
  bool append(size_t n, char ch) {
    if (n > free_ && !more(n)) return false;
    free_ -= n;
    text_.append(n, ch);
    return c_.work(n / 32);
  }
  size_t size() const { return text_.size(); }
  Context& context() { return c_; }
  std::string take() { return std::move(text_); }
  Value value(bool markup = false) { return c_.str(std::move(text_), markup); }

 private:
  bool more(size_t bytes);

  Context& c_;
  std::string text_;
  size_t free_ = 0;  // known to be allowed
};

}  // namespace ponder::jinja
