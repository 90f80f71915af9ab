// Scopes and code generation.
//
// Jinja translates a template to Python functions, and where its variables live follows from that
// translation: a name belongs to the innermost scope that assigns it anywhere; entering a scope
// copies the outer value (so a loop body starts each round afresh and leaves nothing behind); the
// branches of an if are no scope; macros see outer variables by reference, as closures do. This
// compiler derives the same scopes with the same rules, and generates code for our machine.

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_code.h"
#include "lib/text/jinja_lexer.h"

namespace ponder::jinja {
namespace {

// Calls fn on a node's children in the order in which Jinja's tree walkers see them.
template <typename Fn>
void for_each_child(const Node& n, Fn fn) {
  const auto all = [&fn](const std::vector<Node*>& nodes) {
    for (Node* node : nodes) {
      if (node != nullptr) fn(node);
    }
  };
  const auto one = [&fn](Node* node) {
    if (node != nullptr) fn(node);
  };
  one(n.target);
  if (n.kind == Kind::kFilterBlock) {
    all(n.body);
    one(n.expr);
    return;
  }
  one(n.expr);
  if (n.kind == Kind::kWith) all(n.targets);
  all(n.args);
  for (const auto& [name, value] : n.kwargs) one(value);
  one(n.dyn_args);
  one(n.dyn_kwargs);
  all(n.params);
  all(n.defaults);
  all(n.body);
  all(n.branches);
  all(n.else_body);
  one(n.test);
}

// Every node below `roots` in order, without recursion; fn returns false to skip what is below.
template <typename Fn>
void walk(const std::vector<Node*>& roots, Fn fn) {
  std::vector<Node*> stack(roots.rbegin(), roots.rend());
  while (!stack.empty()) {
    Node* const node = stack.back();
    stack.pop_back();
    if (node == nullptr || !fn(*node)) continue;
    const size_t first = stack.size();
    for_each_child(*node, [&stack](Node* child) { stack.push_back(child); });
    std::reverse(stack.begin() + static_cast<ptrdiff_t>(first), stack.end());
  }
}

// Which of `names` are read in `body` before they are assigned there.
std::set<std::string> read_in(const std::vector<Node*>& body, std::set<std::string> names) {
  std::set<std::string> found;
  walk(body, [&](const Node& n) {
    if (n.kind == Kind::kBlock) return false;
    if (n.kind == Kind::kName) {
      if (n.role == Role::kLoad && names.contains(n.name)) {
        found.insert(n.name);
      } else {
        names.erase(n.name);
      }
    }
    return true;
  });
  return found;
}

// What entering a scope does to one of its variables.
struct Load {
  enum Type : uint8_t { kParameter, kResolve, kAlias, kUndefined };
  Type type = kUndefined;
  uint32_t from = 0;                   // kAlias: the outer slot
  const Function* function = nullptr;  // kAlias: whose slot that is
};

struct Place {
  uint32_t slot;
  const Function* function;
};

// Slots by (level, name), per function: scopes side by side at one level of a function share them.
using SlotMap = std::map<std::pair<int, std::string>, uint32_t>;
using SlotMaps = std::map<const Function*, SlotMap>;

// The names of one scope. A branch of an if is an overlay over its scope while it is looked at.
class Symbols {
 public:
  Symbols(Function* function, int level, const Symbols* parent, SlotMaps* slots)
      : function_(function), level_(level), parent_(parent), slot_maps_(slots) {}

  Symbols branch() const {
    Symbols overlay(function_, level_, parent_, slot_maps_);
    overlay.base_ = this;
    return overlay;
  }

  Function* function() const { return function_; }
  int level() const { return level_; }
  const std::map<uint32_t, Load>& loads() const { return loads_; }
  const std::string& name_of(uint32_t slot) const { return function_->slot_names[slot]; }
  bool stores(const std::string& name) const {
    return stores_.contains(name) || (base_ != nullptr && base_->stores(name));
  }

  std::optional<Place> find(const std::string& name) const {
    for (const Symbols* s = this; s != nullptr; s = s->parent_) {
      if (const auto slot = s->own(name)) return Place{*slot, s->function_};
    }
    return std::nullopt;
  }

  void load(const std::string& name) {
    if (!find(name)) define(name, Load{Load::kResolve, 0, nullptr});
  }

  void store(const std::string& name) {
    stores_.insert(name);
    if (!own(name)) define(name, from_outside(name, Load::kUndefined));
  }

  uint32_t parameter(const std::string& name) {
    stores_.insert(name);
    return define(name, Load{Load::kParameter, 0, nullptr});
  }

  // Takes over what the branches of an if (overlays over this) have found. A name that only some
  // branch assigns keeps its outer value in the others.
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> assigned;
    for (const Symbols& branch : branches) {
      for (const std::string& name : branch.stores_) {
        if (!stores(name)) assigned.insert(name);
      }
    }
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.slots_) slots_[name] = slot;
      for (const auto& [slot, how] : branch.loads_) loads_[slot] = how;
      stores_.insert(branch.stores_.begin(), branch.stores_.end());
    }
    for (const std::string& name : assigned) {
      loads_[*own(name)] = from_outside(name, Load::kResolve);
    }
  }

 private:
  std::optional<uint32_t> own(const std::string& name) const {
    for (const Symbols* s = this; s != nullptr; s = s->base_) {
      const auto it = s->slots_.find(name);
      if (it != s->slots_.end()) return it->second;
    }
    return std::nullopt;
  }

  Load from_outside(const std::string& name, Load::Type otherwise) const {
    if (parent_ != nullptr) {
      if (const auto outer = parent_->find(name)) {
        return Load{Load::kAlias, outer->slot, outer->function};
      }
    }
    return Load{otherwise, 0, nullptr};
  }

  uint32_t define(const std::string& name, Load how) {
    const auto slot = static_cast<uint32_t>(function_->slot_names.size());
    const auto [it, added] = (*slot_maps_)[function_].try_emplace({level_, name}, slot);
    if (added) function_->slot_names.push_back(name);
    slots_[name] = it->second;
    loads_[it->second] = how;
    return it->second;
  }

  Function* function_;
  int level_;
  const Symbols* parent_;
  SlotMaps* slot_maps_;
  const Symbols* base_ = nullptr;
  std::map<std::string, uint32_t> slots_;
  std::map<uint32_t, Load> loads_;
  std::set<std::string> stores_;
};

// What one scope's names are, by Jinja's rules: the walk stops where an inner scope begins.
class Analysis {
 public:
  explicit Analysis(Symbols* symbols) : symbols_(symbols) {}

  void visit(const std::vector<Node*>& nodes) {
    for (Node* node : nodes) visit(node);
  }

  void visit(Node* node) {
    if (node == nullptr) return;
    switch (node->kind) {
      case Kind::kIf:
        return branches(*node);
      case Kind::kMacro:
        return symbols_->store(node->name);
      case Kind::kSet:
        visit(node->expr);
        return visit(node->target);
      case Kind::kFor:
        return visit(node->expr);
      case Kind::kCallBlock:
        return visit(node->expr);
      case Kind::kFilterBlock:
        return visit(node->expr);
      case Kind::kWith:
        return visit(node->args);
      case Kind::kSetBlock:
        return visit(node->target);
      case Kind::kScope:
      case Kind::kBlock:
      case Kind::kGeneration:
        return;
      default:
        return expression(node);
    }
  }

  void parameters(Node* target) {
    walk({target}, [this](const Node& n) {
      if (n.kind == Kind::kName) symbols_->parameter(n.name);
      return true;
    });
  }

 private:
  void expression(Node* node) {
    walk({node}, [this](const Node& n) {
      if (n.kind == Kind::kNsRef) {
        symbols_->load(n.name);
      } else if (n.kind == Kind::kName) {
        if (n.role == Role::kLoad) symbols_->load(n.name);
        if (n.role == Role::kStore) symbols_->store(n.name);
        if (n.role == Role::kParam) symbols_->parameter(n.name);
      }
      return true;
    });
  }

  void branches(const Node& node) {
    visit(node.expr);
    Symbols* const outer = symbols_;
    std::vector<Symbols> found;
    for (const std::vector<Node*>* nodes : {&node.body, &node.branches, &node.else_body}) {
      found.push_back(outer->branch());
      symbols_ = &found.back();
      visit(*nodes);
      symbols_ = outer;
    }
    outer->merge(found);
  }

  Symbols* symbols_;
};

// A scope while code is generated for it.
struct Frame {
  Symbols symbols;
  bool soft = false;  // inside an if: a filter that does not exist fails when it is used
};

class Compiler {
 public:
  explicit Compiler(const Ast& ast) : ast_(ast), program_(std::make_unique<Program>()) {}

  StatusOr<std::unique_ptr<Program>> run() {
    function_ = &program_->functions.emplace_back();
    Frame root = frame(function_, 0, nullptr);
    Analysis(&root.symbols).visit(ast_.body);
    root_ = &root;
    enter(root);
    statements(ast_.body, root);
    emit(Code::kReturn);
    PONDER_RETURN_IF_ERROR(status_);
    return std::move(program_);
  }

 private:
  struct LoopLabels {
    uint32_t next;
    std::vector<uint32_t> breaks;  // jumps to be sent to the end
    uint32_t buffers;              // open where the loop stands
  };

  // ---- small helpers

  Frame frame(Function* function, int level, const Symbols* parent) {
    return Frame{Symbols(function, level, parent, &slot_maps_), false};
  }
  Frame inner(const Frame& outer) {
    return frame(function_, outer.symbols.level() + 1, &outer.symbols);
  }

  void fail(absl::string_view message, int line) {
    if (status_.ok()) status_ = syntax_error(line, message);
  }

  uint32_t here() const { return static_cast<uint32_t>(function_->code.size()); }
  uint32_t emit(Code code, uint32_t a = 0, uint32_t b = 0, uint32_t c = 0) {
    function_->code.push_back(Instr{code, a, b, c});
    function_->lines.push_back(line_);
    return here() - 1;
  }
  // Sends the jump at `at` to the next instruction.
  void land(uint32_t at) { function_->code[at].a = here(); }

  uint32_t text_constant(const std::string& text) {
    const auto [it, added] =
        texts_.try_emplace(text, static_cast<uint32_t>(program_->constants.size()));
    if (added) {
      auto made = std::make_unique<Str>(text);
      Str* const str = made.get();
      program_->owned.push_back(std::move(made));
      str->length();  // counted now: constants are shared between threads
      str->make_immortal();
      program_->constants.push_back(Value::object(Type::kStr, str));
    }
    return it->second;
  }
  uint32_t constant(const Constant& k) {
    if (k.type == Constant::kStr) return text_constant(k.s);
    Value v = Value::none();
    if (k.type == Constant::kBool) v = Value::boolean(k.i != 0);
    if (k.type == Constant::kInt) v = Value::integer(k.i);
    if (k.type == Constant::kFloat) v = Value::number(k.f);
    program_->constants.push_back(v);
    return static_cast<uint32_t>(program_->constants.size() - 1);
  }
  uint32_t context_name(const std::string& name) {
    const auto [it, added] =
        contexts_.try_emplace(name, static_cast<uint32_t>(program_->context_names.size()));
    if (added) program_->context_names.push_back(name);
    return it->second;
  }

  // How many functions out from the current one `function` is.
  uint32_t hops(const Function* function) const {
    uint32_t n = 0;
    for (const Function* f = function_; f != function && f != nullptr; f = f->parent) ++n;
    return n;
  }

  void enter(const Frame& f) {
    for (const auto& [slot, load] : f.symbols.loads()) {
      switch (load.type) {
        case Load::kParameter:
          break;
        case Load::kResolve:
          resolve(slot, f.symbols.name_of(slot));
          break;
        case Load::kAlias:
          emit(Code::kAlias, slot, load.from, hops(load.function));
          break;
        case Load::kUndefined:
          emit(Code::kClear, slot);
          break;
      }
    }
  }
  void resolve(uint32_t slot, const std::string& name) {
    const uint32_t context = context_name(name);
    if (function_->type == Function::kBlock && root_->symbols.stores(name)) {
      emit(Code::kResolveRoot, slot, context, root_->symbols.find(name)->slot);
    } else {
      emit(Code::kResolve, slot, context);
    }
  }
  void leave(const Frame& f) {
    for (const auto& [slot, load] : f.symbols.loads()) emit(Code::kClear, slot);
  }

  // Generates a function's code within `generate`, which gets the new function.
  template <typename Generate>
  uint32_t new_function(Function::Type type, const Generate& generate) {
    const auto index = static_cast<uint32_t>(program_->functions.size());
    Function* const outer = function_;
    function_ = &program_->functions.emplace_back();
    function_->type = type;
    function_->parent = type == Function::kBlock ? nullptr : outer;
    std::vector<LoopLabels> loops = std::exchange(loops_, {});
    const uint32_t buffers = std::exchange(buffers_, 0);
    generate(function_);
    loops_ = std::move(loops);
    buffers_ = buffers;
    function_ = outer;
    return index;
  }

  // ---- statements

  void statements(const std::vector<Node*>& nodes, Frame& f) {
    for (const Node* node : nodes) {
      if (!status_.ok()) return;
      line_ = node->line;
      statement(*node, f);
    }
  }

  void statement(const Node& n, Frame& f) {
    switch (n.kind) {
      case Kind::kData:
        emit(Code::kData, text_constant(n.name));
        return;
      case Kind::kOutput:
        for (const Node* item : n.args) {
          expression(item, f);
          emit(Code::kOutput);
        }
        return;
      case Kind::kIf:
        if_statement(n, f);
        return;
      case Kind::kFor:
        for_statement(n, f);
        return;
      case Kind::kSet:
        set(n, f);
        return;
      case Kind::kSetBlock:
        set_block(n, f);
        return;
      case Kind::kMacro:
        emit(Code::kMacro, macro(n, n.body, f));
        emit(Code::kStore, f.symbols.find(n.name)->slot);
        return;
      case Kind::kCallBlock:
        call_block(n, f);
        return;
      case Kind::kGeneration:
        generation(n, f);
        return;
      case Kind::kFilterBlock:
        filter_block(n, f);
        return;
      case Kind::kWith:
        with(n, f);
        return;
      case Kind::kScope: {
        Frame inside = inner(f);
        Analysis(&inside.symbols).visit(n.body);
        enter(inside);
        statements(n.body, inside);
        leave(inside);
        return;
      }
      case Kind::kBlock:
        named_block(n);
        return;
      case Kind::kBreak:
      case Kind::kContinue:
        jump_in_loop(n);
        return;
      case Kind::kNoLoader:
        emit(Code::kFail,
             text_constant(absl::StrCat("TypeError: no loader for this environment specified: '",
                                        n.name, "' cannot be used in a chat template")));
        return;
      default:
        fail("unexpected statement", n.line);
        return;
    }
  }

  void if_statement(const Node& n, Frame& f) {
    const bool soft = std::exchange(f.soft, true);
    std::vector<uint32_t> ends;
    expression(n.expr, f);
    uint32_t otherwise = emit(Code::kJumpIfFalse);
    statements(n.body, f);
    for (const Node* branch : n.branches) {
      ends.push_back(emit(Code::kJump));
      land(otherwise);
      line_ = branch->line;
      expression(branch->expr, f);
      otherwise = emit(Code::kJumpIfFalse);
      statements(branch->body, f);
    }
    if (!n.else_body.empty()) {
      ends.push_back(emit(Code::kJump));
      land(otherwise);
      statements(n.else_body, f);
    } else {
      land(otherwise);
    }
    for (const uint32_t at : ends) land(at);
    f.soft = soft;
  }

  void check_loop_target(const Node& n) {
    walk({const_cast<Node*>(&n)}, [this](const Node& child) {
      if (child.kind == Kind::kName && child.role == Role::kStore && child.name == "loop") {
        fail("Can't assign to special loop variable in for-loop target", child.line);
      }
      return true;
    });
  }

  void for_statement(const Node& n, Frame& f) {
    check_loop_target(n);
    uint32_t test = 0;
    if (n.test != nullptr) test = loop_test(n, f);
    if (n.recursive) {
      const uint32_t body = new_function(
          Function::kLoop, [&](Function*) { loop_body(n, f, test, /*in_function=*/true); });
      line_ = n.line;
      expression(n.expr, f);
      emit(Code::kCallLoop, body);
      emit(Code::kOutput);
      return;
    }
    loop_body(n, f, test, /*in_function=*/false);
  }

  // The function that tells whether an item of a filtered loop passes.
  uint32_t loop_test(const Node& n, Frame& f) {
    return new_function(Function::kLoopTest, [&](Function* function) {
      Frame test = inner(f);
      Analysis analysis(&test.symbols);
      analysis.parameters(n.target);
      analysis.visit(n.test);
      enter(test);
      emit(Code::kConst, constant(Constant{}));
      emit(Code::kReturnValue);
      function->item_entry = here();
      assign(n.target, test);
      expression(n.test, test);
      emit(Code::kReturnValue);
    });
  }

  void loop_body(const Node& n, Frame& f, uint32_t test, bool in_function) {
    Frame body = inner(f);
    Frame otherwise = inner(f);
    const bool extended = n.recursive || !read_in(n.body, {"loop"}).empty();
    uint32_t loop_slot = 0;
    if (extended) loop_slot = body.symbols.parameter("loop");
    Analysis body_analysis(&body.symbols);
    body_analysis.parameters(n.target);
    body_analysis.visit(n.body);
    Analysis(&otherwise.symbols).visit(n.else_body);

    // In a function of its own the items are on the stack already.
    if (!in_function) expression(n.expr, f);
    if (n.test != nullptr) emit(Code::kFilterIter, test);
    if (extended) {
      emit(Code::kLoop, loop_slot, n.recursive ? 1 : 0);
    } else if (n.test == nullptr) {
      emit(Code::kIter);
    }
    // Set while the loop has not come to the end of its body once: else runs then.
    uint32_t fresh = 0;
    if (!n.else_body.empty()) {
      fresh = static_cast<uint32_t>(function_->slot_names.size());
      function_->slot_names.push_back("else");
      emit(Code::kConst, constant(Constant{}));
      emit(Code::kStore, fresh);
    }
    loops_.push_back(LoopLabels{here(), {}, buffers_});
    const uint32_t next = emit(Code::kForNext);
    assign(n.target, body);
    enter(body);
    statements(n.body, body);
    line_ = n.line;
    if (!n.else_body.empty()) emit(Code::kClear, fresh);
    emit(Code::kJump, next);
    land(next);
    for (const uint32_t at : loops_.back().breaks) land(at);
    loops_.pop_back();
    emit(Code::kForEnd);
    leave(body);
    if (!n.else_body.empty()) {
      const uint32_t run_else = emit(Code::kJumpIfSet, 0, fresh);
      const uint32_t skip = emit(Code::kJump);
      land(run_else);
      enter(otherwise);
      statements(n.else_body, otherwise);
      leave(otherwise);
      land(skip);
    }
    if (in_function) emit(Code::kReturn);
  }

  void jump_in_loop(const Node& n) {
    if (loops_.empty()) {
      fail(n.kind == Kind::kBreak ? "'break' outside loop" : "'continue' outside loop", n.line);
      return;
    }
    LoopLabels& loop = loops_.back();
    if (buffers_ > loop.buffers) emit(Code::kBufferDrop, buffers_ - loop.buffers);
    const uint32_t at = emit(Code::kJump, loop.next);
    if (n.kind == Kind::kBreak) loop.breaks.push_back(at);
  }

  // Stores what is on the stack.
  void assign(const Node* target, Frame& f) {
    if (target->kind == Kind::kTuple) {
      emit(Code::kUnpack, static_cast<uint32_t>(target->args.size()));
      for (const Node* item : target->args) assign(item, f);
      return;
    }
    const Place place = *f.symbols.find(target->name);
    if (target->kind == Kind::kNsRef) {
      emit(Code::kSetAttr, place.slot, hops(place.function), text_constant(target->attribute));
    } else {
      emit(Code::kStore, place.slot);
    }
  }

  void set(const Node& n, Frame& f) {
    walk({n.target}, [&](const Node& target) {
      if (target.kind == Kind::kNsRef) {
        const Place place = *f.symbols.find(target.name);
        emit(Code::kNamespace, place.slot, hops(place.function));
      }
      return true;
    });
    expression(n.expr, f);
    assign(n.target, f);
  }

  // The text of `body` in a scope of its own, left on the stack after the filters.
  void captured(const std::vector<Node*>& body, Node* filters, Frame& f) {
    Frame inside = inner(f);
    Analysis analysis(&inside.symbols);
    analysis.visit(body);
    analysis.visit(filters);
    enter(inside);
    emit(Code::kBufferPush);
    ++buffers_;
    statements(body, inside);
    --buffers_;
    emit(Code::kBufferPop);
    if (filters != nullptr) expression(filters, inside);
    leave(inside);
  }

  void set_block(const Node& n, Frame& f) {
    // A namespace is looked for where the value is stored, so the scope must know the name.
    captured(n.body, n.expr, f);
    assign(n.target, f);
  }

  void filter_block(const Node& n, Frame& f) {
    captured(n.body, n.expr, f);
    emit(Code::kOutput, /*must be text*/ 1);
  }

  void with(const Node& n, Frame& f) {
    Frame inside = inner(f);
    Analysis analysis(&inside.symbols);
    for (Node* target : n.targets) analysis.parameters(target);
    analysis.visit(n.body);
    enter(inside);
    for (size_t i = 0; i < n.targets.size(); ++i) {
      expression(n.args[i], f);
      assign(n.targets[i], inside);
    }
    statements(n.body, inside);
    leave(inside);
  }

  void named_block(const Node& n) {
    const uint32_t body = new_function(Function::kBlock, [&](Function* function) {
      Frame inside = frame(function, 0, nullptr);
      Analysis(&inside.symbols).visit(n.body);
      enter(inside);
      statements(n.body, inside);
      emit(Code::kReturn);
    });
    emit(Code::kCallBlock, body);
  }

  // A macro, or the body of a call block: n.params, n.defaults and `body`.
  uint32_t macro(const Node& n, const std::vector<Node*>& body, const Frame& f) {
    const uint32_t index = new_function(Function::kMacro, [&](Function* function) {
      function->name = n.kind == Kind::kMacro ? n.name : "";
      Frame inside = inner(f);
      for (const Node* param : n.params) {
        function->params.push_back(inside.symbols.parameter(param->name));
        if (param->name == "caller") function->names_caller = true;
      }
      special_parameters(n, body, inside, function);
      Analysis analysis(&inside.symbols);
      analysis.visit(n.defaults);
      analysis.visit(body);
      enter(inside);
      const size_t first_default = n.params.size() - n.defaults.size();
      for (size_t i = 0; i < n.params.size(); ++i) {
        const uint32_t given = emit(Code::kJumpIfSet, 0, function->params[i]);
        if (i >= first_default) {
          expression(n.defaults[i - first_default], inside);
        } else {
          emit(Code::kUndefined,
               text_constant(absl::StrCat("parameter '", n.params[i]->name, "' was not provided")));
        }
        emit(Code::kStore, function->params[i]);
        land(given);
      }
      statements(body, inside);
      emit(Code::kReturn);
    });
    line_ = n.line;
    return index;
  }

  // caller, kwargs and varargs exist where a macro's body reads them.
  void special_parameters(const Node& n, const std::vector<Node*>& body, Frame& inside,
                          Function* function) {
    const auto named = [&n](absl::string_view name) {
      return std::find_if(n.params.begin(), n.params.end(),
                          [name](const Node* p) { return p->name == name; });
    };
    const std::set<std::string> read = read_in(body, {"caller", "kwargs", "varargs"});
    if (read.contains("caller")) {
      function->wants_caller = true;
      const auto at = named("caller");
      if (at == n.params.end()) {
        function->caller_slot = inside.symbols.parameter("caller");
      } else if (static_cast<size_t>(n.params.end() - at) > n.defaults.size()) {
        fail(
            "When defining macros or call blocks the special \"caller\" argument must be omitted "
            "or be given a default.",
            n.line);
      }
    }
    if (read.contains("kwargs") && named("kwargs") == n.params.end()) {
      function->wants_kwargs = true;
      function->kwargs_slot = inside.symbols.parameter("kwargs");
    }
    if (read.contains("varargs") && named("varargs") == n.params.end()) {
      function->wants_varargs = true;
      function->varargs_slot = inside.symbols.parameter("varargs");
    }
  }

  void call_block(const Node& n, Frame& f) {
    const uint32_t body = macro(n, n.body, f);
    const Node& call = *n.expr;
    expression(call.expr, f);
    call_arguments(call, f);
    // The caller comes as one more keyword argument, before **kwargs.
    Site site = call_site(call);
    if (site.dyn_args || site.dyn_kwargs) {
      fail("a call block cannot pass * or ** arguments", n.line);
      return;
    }
    site.keywords.push_back("caller");
    emit(Code::kMacro, body);
    emit(Code::kCall, add_site(std::move(site)));
    emit(Code::kOutput);
  }

  // {% generation %} marks what the assistant wrote, for training; it renders its body.
  void generation(const Node& n, Frame& f) {
    emit(Code::kMacro, macro(n, n.body, f));
    emit(Code::kCall, add_site(Site{}));
    emit(Code::kOutput);
  }

  // ---- expressions

  void expression(const Node* node, Frame& f) {
    // Down the first operands to the leaf, then back up.
    std::vector<const Node*> chain;
    while (node->expr != nullptr && node->kind != Kind::kCond) {
      chain.push_back(node);
      node = node->expr;
    }
    if (node->kind == Kind::kFilter) {  // of a block: its text is on the stack
      filter(*node, f);
    } else {
      leaf(*node, f);
    }
    for (size_t i = chain.size(); i-- > 0;) rest(*chain[i], f);
  }

  void operands(const std::vector<Node*>& nodes, Frame& f) {
    for (const Node* node : nodes) expression(node, f);
  }

  void leaf(const Node& n, Frame& f) {
    line_ = n.line;
    const auto count = static_cast<uint32_t>(n.args.size());
    switch (n.kind) {
      case Kind::kConst:
        emit(Code::kConst, constant(n.constant));
        return;
      case Kind::kName: {
        const Place place = *f.symbols.find(n.name);
        emit(Code::kLoad, place.slot, hops(place.function));
        return;
      }
      case Kind::kTuple:
        operands(n.args, f), emit(Code::kTuple, count);
        return;
      case Kind::kList:
        operands(n.args, f), emit(Code::kList, count);
        return;
      case Kind::kDict:
        operands(n.args, f), emit(Code::kDict, count / 2);
        return;
      case Kind::kConcat:
        operands(n.args, f), emit(Code::kConcat, count);
        return;
      case Kind::kCond:
        conditional(n, f);
        return;
      default:
        fail("unexpected expression", n.line);
        return;
    }
  }

  void conditional(const Node& n, Frame& f) {
    const bool soft = std::exchange(f.soft, true);
    expression(n.expr, f);
    const uint32_t otherwise = emit(Code::kJumpIfFalse);
    expression(n.args[0], f);
    const uint32_t end = emit(Code::kJump);
    land(otherwise);
    if (n.args[1] != nullptr) {
      expression(n.args[1], f);
    } else {
      emit(Code::kUndefined,
           text_constant(absl::StrCat("the inline if-expression on line ", n.line,
                                      " evaluated to false and no else section was defined.")));
    }
    land(end);
    f.soft = soft;
  }

  // What remains of a node once its first operand is on the stack.
  void rest(const Node& n, Frame& f) {
    line_ = n.line;
    switch (n.kind) {
      case Kind::kUnary:
        emit(Code::kUnary, static_cast<uint32_t>(n.op));
        return;
      case Kind::kBinary:
        expression(n.args[0], f);
        line_ = n.line;
        emit(Code::kBinary, static_cast<uint32_t>(n.op));
        return;
      case Kind::kAnd:
      case Kind::kOr: {
        const uint32_t end = emit(n.kind == Kind::kAnd ? Code::kAndJump : Code::kOrJump);
        expression(n.args[0], f);
        land(end);
        return;
      }
      case Kind::kCompare:
        compare(n, f);
        return;
      case Kind::kGetAttr:
        emit(Code::kGetAttr, text_constant(n.name));
        return;
      case Kind::kGetItem:
        expression(n.args[0], f);
        emit(Code::kGetItem);
        return;
      case Kind::kSlice:
        for (const Node* bound : n.args) {
          if (bound != nullptr) {
            expression(bound, f);
          } else {
            emit(Code::kConst, constant(Constant{}));
          }
        }
        emit(Code::kSlice);
        return;
      case Kind::kCall: {
        call_arguments(n, f);
        line_ = n.line;
        emit(Code::kCall, add_site(call_site(n)));
        return;
      }
      case Kind::kFilter:
        filter(n, f);
        return;
      case Kind::kTest: {
        const int id = find_test(n.name);
        if (id < 0) return no_such("test", n, f);
        call_arguments(n, f);
        line_ = n.line;
        emit(Code::kTest, add_site(call_site(n)), static_cast<uint32_t>(id));
        return;
      }
      default:
        fail("unexpected expression", n.line);
        return;
    }
  }

  void filter(const Node& n, Frame& f) {
    const int id = find_filter(n.name);
    if (id < 0) return no_such("filter", n, f);
    call_arguments(n, f);
    line_ = n.line;
    emit(Code::kFilter, add_site(call_site(n)), static_cast<uint32_t>(id));
  }

  void no_such(absl::string_view what, const Node& n, const Frame& f) {
    if (!f.soft) return fail(absl::StrCat("No ", what, " named '", n.name, "'."), n.line);
    emit(Code::kFail, text_constant(absl::StrCat("TemplateRuntimeError: No ", what, " named '",
                                                 n.name, "' found.")));
  }

  void compare(const Node& n, Frame& f) {
    std::vector<uint32_t> ends;
    for (size_t i = 0; i < n.args.size(); ++i) {
      expression(n.args[i], f);
      const bool last = i + 1 == n.args.size();
      if (!last) emit(Code::kChain);
      emit(Code::kCompare, static_cast<uint32_t>(n.ops[i]));
      if (!last) ends.push_back(emit(Code::kAndJump));
    }
    if (ends.empty()) return;
    // The result is on top; where the chain broke off, the middle operand lies under it.
    const uint32_t skip = emit(Code::kJump);
    for (const uint32_t at : ends) land(at);
    emit(Code::kSwapPop);
    land(skip);
  }

  void call_arguments(const Node& n, Frame& f) {
    operands(n.args, f);
    for (const auto& [name, value] : n.kwargs) expression(value, f);
    if (n.dyn_args != nullptr) expression(n.dyn_args, f);
    if (n.dyn_kwargs != nullptr) expression(n.dyn_kwargs, f);
  }

  Site call_site(const Node& n) const {
    Site site;
    site.positional = static_cast<uint32_t>(n.args.size());
    for (const auto& [name, value] : n.kwargs) site.keywords.push_back(name);
    site.dyn_args = n.dyn_args != nullptr;
    site.dyn_kwargs = n.dyn_kwargs != nullptr;
    return site;
  }
  uint32_t add_site(Site site) {
    program_->sites.push_back(std::move(site));
    return static_cast<uint32_t>(program_->sites.size() - 1);
  }

  const Ast& ast_;
  std::unique_ptr<Program> program_;
  Function* function_ = nullptr;
  const Frame* root_ = nullptr;
  int line_ = 1;
  uint32_t buffers_ = 0;  // open in the current function
  std::vector<LoopLabels> loops_;
  SlotMaps slot_maps_;
  std::map<std::string, uint32_t> texts_;
  std::map<std::string, uint32_t> contexts_;
  Status status_;
};

}  // namespace

Program::~Program() { constants.clear(); }

StatusOr<std::unique_ptr<Program>> compile(const Ast& ast) { return Compiler(ast).run(); }

}  // namespace ponder::jinja
