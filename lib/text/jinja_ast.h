// The syntax tree of a template: plain nodes in one arena, made by the parser, read by the
// compiler.
//
// The first operand of an operator, filter, attribute and so on is `expr`, and long chains of those
// ("a" + b + c ..., x | f | g ...) lean on it: code that walks trees follows `expr` in a loop, so
// only real nesting, which the parser bounds, costs native stack.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace ponder::jinja {

enum class Kind : uint8_t {
  // Expressions.
  kConst,    // constant
  kName,     // name; role says what happens to it
  kNsRef,    // name.attribute as a target of set
  kTuple,    // args
  kList,     // args
  kDict,     // args: key, value, key, value ...
  kUnary,    // op expr
  kBinary,   // expr op args[0]
  kAnd,      // expr args[0]
  kOr,       // expr args[0]
  kConcat,   // args
  kCompare,  // expr ops[0] args[0] ops[1] args[1] ...
  kGetAttr,  // expr.name
  kGetItem,  // expr[args[0]]
  kSlice,    // expr[args[0]:args[1]:args[2]], each may be null
  kCall,     // expr(args, kwargs, *dyn_args, **dyn_kwargs)
  kFilter,   // expr | name(args ...); expr is null for the text of a block
  kTest,     // expr is name(args ...)
  kCond,     // args[0] if expr else args[1]; args[1] may be null
  // Statements.
  kData,         // name is the text
  kOutput,       // args
  kFor,          // target in expr if test: body, else_body
  kIf,           // if expr: body; branches (kIf); else_body
  kMacro,        // name(params = defaults): body
  kCallBlock,    // call params: body; expr is the call
  kFilterBlock,  // expr is the filter chain: body
  kWith,         // targets = args: body
  kSet,          // target = expr
  kSetBlock,     // target | expr (may be null): body
  kScope,        // body in a scope of its own
  kBlock,        // name: body
  kGeneration,   // body, a call block of its own
  kBreak,
  kContinue,
  kNoLoader,  // include, import, extends: there is nowhere to load from; name is the tag
};

enum class Op : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,  // binary
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,  // comparisons
  kNeg,
  kPos,
  kNot,  // unary
};

enum class Role : uint8_t { kLoad, kStore, kParam };

struct Constant {
  enum Type : uint8_t { kNone, kBool, kInt, kFloat, kStr };
  Type type = kNone;
  int64_t i = 0;
  double f = 0;
  std::string s;
};

struct Node {
  Kind kind;
  Op op = Op::kAdd;
  Role role = Role::kLoad;
  bool recursive = false;
  int line = 0;
  std::string name;       // or the text of kData
  std::string attribute;  // of kNsRef
  Constant constant;
  Node* expr = nullptr;
  Node* target = nullptr;
  Node* test = nullptr;
  Node* dyn_args = nullptr;
  Node* dyn_kwargs = nullptr;
  std::vector<Node*> args;
  std::vector<std::pair<std::string, Node*>> kwargs;
  std::vector<Op> ops;
  std::vector<Node*> params, defaults;  // of macros and call blocks
  std::vector<Node*> targets;           // of kWith
  std::vector<Node*> body, branches, else_body;
};

struct Ast {
  std::deque<Node> nodes;   // owns them all
  std::vector<Node*> body;  // of the template

  Node* make(Kind kind, int line) {
    nodes.push_back(Node{});
    nodes.back().kind = kind;
    nodes.back().line = line;
    return &nodes.back();
  }
};

}  // namespace ponder::jinja
