#include "lib/text/jinja_interpreter.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_ops.h"

namespace ponder::jinja {
namespace {

// Tests of filtered loops that run inside one another: each is a native call of the machine.
constexpr int kMaxNestedRuns = 8;
constexpr size_t kMaxStack = 100000;
constexpr size_t kMaxBuffers = 2000;

// The items of an iterable that pass the test of a filtered loop, one at a time: the test may look
// at what the loop's body has changed.
class FilteredIter final : public Iter {
 public:
  FilteredIter(Ref<Iter> items, const Function& test, Ref<Activation> activation)
      : items_(std::move(items)), test_(test), activation_(std::move(activation)) {}

  bool advance(Context& c, Value& item) override {
    const NativeScope scope(c);
    if (!scope) return false;
    if (!prepared_ && !c.interpreter().prepare_test(test_, activation_)) return false;
    prepared_ = true;
    while (items_->next(c, item)) {
      if (c.interpreter().test_item(test_, activation_, item)) return true;
      if (!c.ok()) return false;
    }
    return false;
  }

 private:
  Ref<Iter> items_;
  const Function& test_;
  Ref<Activation> activation_;
  bool prepared_ = false;
};

}  // namespace

// ---- the stack, the buffers, the calls

void Interpreter::push(Value v) {
  if (stack_.size() >= kMaxStack) {
    c_.fail(Failure::kNesting, "expressions are nested too deeply");
    return;
  }
  stack_.push_back(std::move(v));
}

Value Interpreter::pop() {
  Value v = std::move(stack_.back());
  stack_.pop_back();
  return v;
}

std::vector<Value> Interpreter::pop_many(size_t n) {
  const auto first = stack_.end() - static_cast<ptrdiff_t>(n);
  std::vector<Value> out(std::make_move_iterator(first), std::make_move_iterator(stack_.end()));
  stack_.erase(first, stack_.end());
  return out;
}

bool Interpreter::output(absl::string_view text) {
  std::string& buffer = buffers_.back();
  const size_t before = buffer.capacity();
  // Growing doubles, and the old buffer lives until its text has moved.
  if (text.size() > before - buffer.size() &&
      !c_.room(std::max(before, text.size()) + buffer.size())) {
    return false;
  }
  buffer.append(text.data(), text.size());
  c_.heap().live += buffer.capacity() - before;
  return c_.work(text.size() / 32);
}

void Interpreter::drop_buffers(size_t keep) {
  while (buffers_.size() > keep) {
    c_.heap().live -= buffers_.back().capacity();
    buffers_.pop_back();
  }
}

Ref<Activation> Interpreter::activation(const Function& function, Ref<Activation> parent) {
  auto made = std::make_unique<Activation>();
  made->slots.resize(function.slot_names.size());
  made->parent = std::move(parent);
  const size_t bytes = sizeof(Activation) + made->slots.size() * sizeof(Value);
  return c_.adopt_ref(made.release(), 0, bytes);
}

Activation& Interpreter::outer(uint32_t hops) {
  Activation* a = calls_.back().activation.get();
  while (hops-- > 0) a = a->parent.get();
  return *a;
}

bool Interpreter::push_call(const Function& function, Ref<Activation> activation, bool captured) {
  if (!c_.ok()) return false;
  if (calls_.size() > limits_.calls || buffers_.size() >= kMaxBuffers) {
    c_.fail(Failure::kNesting, absl::StrCat("macros or recursive loops call one another more than ",
                                            limits_.calls, " levels deep"));
    return false;
  }
  calls_.push_back(Call{&function, std::move(activation), 0, static_cast<uint32_t>(stack_.size()),
                        static_cast<uint32_t>(buffers_.size()), 0, captured});
  if (captured) buffers_.emplace_back();
  return true;
}

void Interpreter::end_call() {
  const bool captured = calls_.back().captured;
  const size_t keep = calls_.back().buffers;
  stack_.resize(calls_.back().stack);
  calls_.pop_back();
  if (!captured) return;
  std::string text = std::move(buffers_.back());
  c_.heap().live -= text.capacity();
  buffers_.back() = std::string();
  c_.heap().live += buffers_.back().capacity();
  drop_buffers(keep);
  push(c_.str(std::move(text)));
}

std::string Interpreter::run(absl::FunctionRef<Value(Context&, absl::string_view)> lookup) {
  const Function& root = program_.functions.front();
  for (const std::string& name : program_.context_names) {
    Value v = lookup(c_, name);
    if (v.missing()) {
      if (const int id = find_global(name); id >= 0) v = Value::function(id);
    }
    variables_.push_back(std::move(v));
  }
  buffers_.emplace_back();
  if (push_call(root, activation(root, Ref<Activation>()), false)) execute(0);
  std::string text;
  if (c_.ok()) text = std::move(buffers_.front());
  stack_.clear();
  calls_.clear();
  variables_.clear();
  return text;
}

bool Interpreter::execute(size_t stop_at) {
  while (c_.ok() && calls_.size() > stop_at) {
    Call& call = calls_.back();
    const Instr& in = call.function->code[call.pc++];
    if (!c_.work(1)) break;
    step(in);
  }
  if (!c_.ok() && line_ == 0 && !calls_.empty()) {
    const Call& call = calls_.back();
    if (call.pc > 0) line_ = call.function->lines[call.pc - 1];
  }
  return c_.ok();
}

Value Interpreter::nested(const Function& test, const Ref<Activation>& activation, uint32_t pc) {
  if (nested_ >= kMaxNestedRuns) {
    return c_.fail(Failure::kNesting, "filtered loops are nested too deeply");
  }
  const size_t calls = calls_.size();
  if (!push_call(test, activation, false)) return Value();
  calls_.back().pc = pc;
  ++nested_;
  // An item lies on the caller's part of the stack; it is the test's now.
  if (pc != 0) --calls_.back().stack;
  execute(calls);
  --nested_;
  return std::exchange(nested_result_, Value());
}

bool Interpreter::prepare_test(const Function& test, const Ref<Activation>& activation) {
  nested(test, activation, 0);
  return c_.ok();
}

bool Interpreter::test_item(const Function& test, const Ref<Activation>& activation,
                            const Value& item) {
  push(item);
  if (!c_.ok()) return false;
  const Value result = nested(test, activation, test.item_entry);
  return c_.ok() && truthy(result);
}

// ---- instructions

void Interpreter::step(const Instr& in) {
  Call& call = calls_.back();
  std::vector<Value>& slots = call.activation->slots;
  switch (in.code) {
    case Code::kConst:
      push(program_.constants[in.a]);
      return;
    case Code::kLoad:
      load(in);
      return;
    case Code::kStore:
      slots[in.a] = pop();
      return;
    case Code::kClear:
      slots[in.a] = Value();
      return;
    case Code::kResolve:
      slots[in.a] = variables_[in.b];
      return;
    case Code::kResolveRoot: {
      const Value& own = calls_.front().activation->slots[in.c];
      slots[in.a] = own.missing() ? variables_[in.b] : own;
      return;
    }
    case Code::kAlias:
      slots[in.a] = outer(in.c).slots[in.b];
      return;
    case Code::kPop:
      pop();
      return;
    case Code::kUnary:
      top() = unary(c_, static_cast<Op>(in.a), top());
      return;
    case Code::kBinary:
    case Code::kCompare: {
      // Operands leave the stack first: what is done to them may run a loop's test on it.
      const Value r = pop(), l = pop();
      const auto op = static_cast<Op>(in.a);
      push(in.code == Code::kBinary ? binary(c_, op, l, r) : compare(c_, op, l, r));
      return;
    }
    case Code::kChain: {
      const Value r = top();
      Value l = std::exchange(stack_[stack_.size() - 2], r);
      top() = std::move(l);
      push(r);
      return;
    }
    case Code::kSwapPop: {
      Value v = pop();
      top() = std::move(v);
      return;
    }
    case Code::kJump:
      call.pc = in.a;
      return;
    case Code::kJumpIfFalse:
      if (!truthy(pop())) call.pc = in.a;
      return;
    case Code::kAndJump:
    case Code::kOrJump:
      if (truthy(top()) == (in.code == Code::kOrJump)) {
        call.pc = in.a;
      } else {
        pop();
      }
      return;
    case Code::kJumpIfSet:
      if (!slots[in.b].missing()) call.pc = in.a;
      return;
    case Code::kList:
      push(c_.list(pop_many(in.a)));
      return;
    case Code::kTuple:
      push(c_.tuple(pop_many(in.a)));
      return;
    case Code::kDict:
      make_dict(in.a);
      return;
    case Code::kConcat:
      concat(in.a);
      return;
    case Code::kGetAttr: {
      const Value object = pop();
      push(get_attr(c_, object, program_.constants[in.a].text()));
      return;
    }
    case Code::kGetItem: {
      const Value key = pop(), object = pop();
      push(get_item(c_, object, key));
      return;
    }
    case Code::kSlice: {
      const Value by = pop(), to = pop(), from = pop(), object = pop();
      push(slice(c_, object, from, to, by));
      return;
    }
    case Code::kCall:
      this->call(program_.sites[in.a]);
      return;
    case Code::kFilter:
    case Code::kTest: {
      Args args;
      if (!take_arguments(program_.sites[in.a], args)) return;
      args.positional.insert(args.positional.begin(), pop());
      const int id = static_cast<int>(in.b);
      push(in.code == Code::kFilter ? call_filter(c_, id, args) : call_test(c_, id, args));
      return;
    }
    case Code::kUndefined:
      push(c_.undefined(std::string(program_.constants[in.a].text())));
      return;
    case Code::kFail:
      c_.error(program_.constants[in.a].text());
      return;
    case Code::kOutput: {
      const Value v = pop();
      if (in.a != 0 && !v.is_str()) {
        c_.type_error("expected str instance, ", type_name(v), " found");
        return;
      }
      const Value text = to_str(c_, v);
      if (c_.ok()) output(text.text());
      return;
    }
    case Code::kData:
      output(program_.constants[in.a].text());
      return;
    case Code::kBufferPush:
      if (buffers_.size() >= kMaxBuffers) {
        c_.fail(Failure::kNesting, "blocks are nested too deeply");
        return;
      }
      c_.heap().live += buffers_.emplace_back().capacity();
      return;
    case Code::kBufferPop: {
      std::string text = std::move(buffers_.back());
      c_.heap().live -= text.capacity();
      buffers_.pop_back();
      push(c_.str(std::move(text)));
      return;
    }
    case Code::kBufferDrop:
      drop_buffers(buffers_.size() - in.a);
      return;
    case Code::kIter: {
      const Ref<Iter> iter = iterate(c_, top());
      if (c_.ok()) top() = Value::object(Type::kIter, iter.get());
      return;
    }
    case Code::kFilterIter:
      make_filter_iter(program_.functions[in.a]);
      return;
    case Code::kLoop:
      make_loop(in);
      return;
    case Code::kForNext:
      next_item(in);
      return;
    case Code::kForEnd: {
      const Value it = pop();
      if (it.is(Type::kLoop)) it.as<Loop>().finish();
      return;
    }
    case Code::kUnpack:
      unpack(in.a);
      return;
    case Code::kMacro: {
      auto* macro = new Macro;
      macro->function = &program_.functions[in.a];
      macro->closure = call.activation;
      c_.keep(call.activation.get());
      push(c_.adopt(Type::kMacro, macro));
      return;
    }
    case Code::kCallLoop: {
      Value items = pop();
      c_.keep(call.activation.get());
      enter_loop(program_.functions[in.a], Ref<Activation>(call.activation), std::move(items), 0);
      return;
    }
    case Code::kCallBlock: {
      const Function& block = program_.functions[in.a];
      push_call(block, activation(block, Ref<Activation>()), false);
      return;
    }
    case Code::kNamespace:
      if (!outer(in.b).slots[in.a].is(Type::kNamespace)) {
        c_.error("TemplateRuntimeError: cannot assign attribute on non-namespace object");
      }
      return;
    case Code::kSetAttr:
      set_attribute(in);
      return;
    case Code::kReturn:
      end_call();
      return;
    case Code::kReturnValue:
      nested_result_ = pop();
      end_call();
      return;
  }
}

void Interpreter::load(const Instr& in) {
  const Value& v = outer(in.b).slots[in.a];
  if (!v.missing()) {
    push(v);
    return;
  }
  const Function* function = calls_.back().function;
  for (uint32_t hops = in.b; hops > 0; --hops) function = function->parent;
  push(c_.undefined_name(function->slot_names[in.a]));
}

void Interpreter::concat(size_t n) {
  const std::vector<Value> parts = pop_many(n);
  Sink out(c_);
  for (const Value& part : parts) {
    if (!append_str(out, part)) return;
  }
  push(out.value());
}

void Interpreter::make_dict(size_t n) {
  std::vector<Value> parts = pop_many(2 * n);
  Ref<Dict> dict(new Dict);
  for (size_t i = 0; i < parts.size(); i += 2) {
    if (!hashable(c_, parts[i])) return;
    dict->set(std::move(parts[i]), std::move(parts[i + 1]));
  }
  push(c_.dict(std::move(dict)));
}

void Interpreter::unpack(size_t n) {
  const Value v = pop();
  std::vector<Value> items;
  if (!iterable(v)) {
    c_.type_error("cannot unpack non-iterable ", type_name(v), " object");
    return;
  }
  if (!collect(c_, v, items)) return;
  if (items.size() != n) {
    if (items.size() < n) {
      c_.value_error("not enough values to unpack (expected ", n, ", got ", items.size(), ")");
    } else {
      c_.value_error("too many values to unpack (expected ", n, ")");
    }
    return;
  }
  for (size_t i = n; i-- > 0;) push(std::move(items[i]));
}

void Interpreter::make_loop(const Instr& in) {
  Value iterable = pop();
  Ref<Iter> iter = iterate(c_, iterable);
  if (!c_.ok()) return;
  Call& call = calls_.back();
  auto* loop = new Loop;
  const int inside = std::max<int>(iterable.depth(), iter->depth());
  loop->iterable = std::move(iterable);
  loop->iter = std::move(iter);
  if (in.b != 0) {
    loop->body = call.function;
    loop->closure = call.activation->parent;
    loop->depth0 = call.depth0;
  }
  Value v = c_.adopt(Type::kLoop, loop, inside);
  if (!c_.ok()) return;
  call.activation->slots[in.a] = v;
  push(std::move(v));
}

void Interpreter::make_filter_iter(const Function& test) {
  const Ref<Iter> items = iterate(c_, top());
  if (!c_.ok()) return;
  // The test stands in the text of test.parent: this function, or the one around it.
  Ref<Activation> parent = calls_.back().activation;
  for (const Function* f = calls_.back().function; f != test.parent; f = f->parent) {
    parent = parent->parent;
  }
  c_.keep(parent.get());
  Ref<Activation> own = activation(test, std::move(parent));
  if (!c_.ok()) return;
  const int inside = std::max<int>(items->depth(), top().depth());
  top() = c_.adopt(Type::kIter, new FilteredIter(items, test, std::move(own)), inside);
}

void Interpreter::next_item(const Instr& in) {
  Value item;
  // The iterator stays on the stack; a copy keeps it while the stack may move.
  const Value it = top();
  const bool found =
      it.is(Type::kLoop) ? it.as<Loop>().next(c_, item) : it.as<Iter>().next(c_, item);
  if (!c_.ok()) return;
  if (found) {
    push(std::move(item));
  } else {
    calls_.back().pc = in.a;
  }
}

bool Interpreter::take_arguments(const Site& site, Args& args) {
  Value dyn_kwargs, dyn_args;
  if (site.dyn_kwargs) dyn_kwargs = pop();
  if (site.dyn_args) dyn_args = pop();
  args.named.resize(site.keywords.size());
  for (size_t i = site.keywords.size(); i-- > 0;) {
    args.named[i] = {site.keywords[i], pop()};
  }
  args.positional.resize(site.positional);
  for (size_t i = site.positional; i-- > 0;) args.positional[i] = pop();
  if (site.dyn_args) {
    std::vector<Value> more;
    if (!collect(c_, dyn_args, more)) return false;
    args.positional.insert(args.positional.end(), more.begin(), more.end());
  }
  if (site.dyn_kwargs) {
    if (!dyn_kwargs.is(Type::kDict)) {
      c_.type_error("argument after ** must be a mapping, not ", type_name(dyn_kwargs));
      return false;
    }
    for (const auto& [key, value] : dyn_kwargs.as<Dict>().entries) {
      if (!key.is_str()) {
        c_.type_error("keywords must be strings");
        return false;
      }
      for (const auto& [name, other] : args.named) {
        if (name == key.text()) {
          c_.type_error("got multiple values for keyword argument '", name, "'");
          return false;
        }
      }
      if (!c_.work(args.named.size() + 1)) return false;
      args.named.emplace_back(key.text(), value);
    }
  }
  return true;
}

void Interpreter::call(const Site& site) {
  Args args;
  if (!take_arguments(site, args)) return;
  const Value callee = pop();
  switch (callee.type()) {
    case Type::kMacro:
      call_macro(callee.as<Macro>(), args);
      return;
    case Type::kLoop:
      call_loop(callee.as<Loop>(), args);
      return;
    case Type::kMethod:
      push(call_method(c_, callee.as<Method>(), args));
      return;
    case Type::kFunction:
      push(call_global(c_, static_cast<int>(callee.i()), args));
      return;
    case Type::kUndefined:
      c_.undefined_error(callee);
      return;
    case Type::kJoiner: {
      Joiner& joiner = callee.as<Joiner>();
      push(joiner.used ? joiner.separator : c_.str(""));
      joiner.used = true;
      return;
    }
    default:
      c_.type_error("'", type_name(callee), "' object is not callable");
      return;
  }
}

void Interpreter::call_macro(const Macro& macro, Args& args) {
  const Function& f = *macro.function;
  Ref<Activation> own = activation(f, macro.closure);
  if (!c_.ok()) return;
  const size_t taken = std::min(args.positional.size(), f.params.size());
  for (size_t i = 0; i < taken; ++i) own->slots[f.params[i]] = args.positional[i];
  const auto take_named = [&args](absl::string_view name) {
    for (size_t i = 0; i < args.named.size(); ++i) {
      if (args.named[i].first != name) continue;
      Value v = std::move(args.named[i].second);
      args.named.erase(args.named.begin() + static_cast<ptrdiff_t>(i));
      return v;
    }
    return Value();
  };
  for (size_t i = taken; i < f.params.size(); ++i) {
    own->slots[f.params[i]] = take_named(f.slot_names[f.params[i]]);
  }
  if (f.wants_caller && !f.names_caller) {
    Value caller = take_named("caller");
    if (caller.missing() || caller.is(Type::kNone)) caller = c_.undefined("No caller defined");
    own->slots[f.caller_slot] = std::move(caller);
  }
  if (f.wants_kwargs) {
    Ref<Dict> dict(new Dict);
    for (auto& [name, value] : args.named) {
      dict->set(c_.str(absl::string_view(name)), std::move(value));
    }
    own->slots[f.kwargs_slot] = c_.dict(std::move(dict));
  } else if (!args.named.empty()) {
    c_.type_error("macro '", f.name, "' takes no keyword argument '", args.named[0].first, "'");
    return;
  }
  if (f.wants_varargs) {
    std::vector<Value> rest(args.positional.begin() + static_cast<ptrdiff_t>(taken),
                            args.positional.end());
    own->slots[f.varargs_slot] = c_.tuple(std::move(rest));
  } else if (args.positional.size() > f.params.size()) {
    c_.type_error("macro '", f.name, "' takes not more than ", f.params.size(), " argument(s)");
    return;
  }
  push_call(f, std::move(own), true);
}

void Interpreter::call_loop(const Loop& loop, Args& args) {
  Value a[1];
  if (!bind_args(c_, "loop", args, 1, {"iterable"}, a)) return;
  if (loop.body == nullptr) {
    c_.type_error("The loop must have the 'recursive' marker to be called recursively.");
    return;
  }
  enter_loop(*loop.body, loop.closure, std::move(a[0]), loop.depth0 + 1);
}

void Interpreter::enter_loop(const Function& function, const Ref<Activation>& closure, Value items,
                             int64_t depth0) {
  Ref<Activation> own = activation(function, closure);
  if (!c_.ok() || !push_call(function, std::move(own), true)) return;
  calls_.back().depth0 = depth0;
  push(std::move(items));
}

void Interpreter::set_attribute(const Instr& in) {
  const Value target = outer(in.b).slots[in.a];
  Value v = pop();
  if (!target.is(Type::kNamespace)) {
    c_.error("TemplateRuntimeError: cannot assign attribute on non-namespace object");
    return;
  }
  Namespace& ns = target.as<Namespace>();
  const Value& name = program_.constants[in.c];
  if (ns.attributes->find(name.text()) < 0 && !c_.charge_more(&ns, 64)) return;
  ns.attributes->set(name, std::move(v));
}

}  // namespace ponder::jinja
