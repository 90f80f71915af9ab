// Runs a compiled template.
//
// A stack machine: calls of macros and recursive loops are frames on a vector, not on the native
// stack, so a template can exhaust its budgets but nothing else. One Interpreter is one rendering
// on one thread; the Program is shared.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_code.h"
#include "lib/text/jinja_context.h"

namespace ponder::jinja {

class Interpreter {
 public:
  Interpreter(const Program& program, const Limits& limits)
      : program_(program), limits_(limits), c_(limits, this) {}

  Context& context() { return c_; }

  // Renders with variables from `lookup`, which gives Missing for those it does not know. After a
  // failure (see context()) the text is worthless and line() says where it happened.
  std::string run(absl::FunctionRef<Value(Context&, absl::string_view)> lookup);
  int line() const { return line_; }

  // Whether an item passes the test of a filtered loop; false after a failure.
  bool test_item(const Function& test, const Ref<Activation>& activation, const Value& item);
  // Runs the part of a test that comes before its first item.
  bool prepare_test(const Function& test, const Ref<Activation>& activation);

 private:
  struct Call {
    const Function* function;
    Ref<Activation> activation;
    uint32_t pc;
    uint32_t stack;    // operands below belong to the caller
    uint32_t buffers;  // as do these
    int64_t depth0;    // of a recursive loop
    bool captured;     // its output becomes a value
  };

  bool execute(size_t stop_at);
  void step(const Instr& in);
  Ref<Activation> activation(const Function& function, Ref<Activation> parent);
  Activation& outer(uint32_t hops);
  bool push_call(const Function& function, Ref<Activation> activation, bool captured);
  void end_call();
  Value nested(const Function& test, const Ref<Activation>& activation, uint32_t pc);

  void push(Value v);
  Value pop();
  Value& top() { return stack_.back(); }
  std::vector<Value> pop_many(size_t n);
  bool output(absl::string_view text);
  void drop_buffers(size_t keep);

  void load(const Instr& in);
  void concat(size_t n);
  void make_dict(size_t n);
  void unpack(size_t n);
  void make_loop(const Instr& in);
  void make_filter_iter(const Function& test);
  void next_item(const Instr& in);
  bool take_arguments(const Site& site, Args& args);
  void call(const Site& site);
  void call_macro(const Macro& macro, Args& args);
  void call_loop(const Loop& loop, Args& args);
  void enter_loop(const Function& function, const Ref<Activation>& closure, Value items,
                  int64_t depth0);
  void set_attribute(const Instr& in);

  const Program& program_;
  const Limits limits_;
  Context c_;
  std::vector<Value> variables_;  // of the host, by Program::context_names
  std::vector<Value> stack_;
  std::vector<Call> calls_;
  std::vector<std::string> buffers_;  // the last is written to
  int line_ = 0;
  int nested_ = 0;
  Value nested_result_;
};

}  // namespace ponder::jinja
