// A compiled template: functions of simple instructions for a stack machine.
//
// Immutable once compiled; any number of threads may run one Program at once.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/text/jinja_ast.h"
#include "lib/text/jinja_value.h"

namespace ponder::jinja {

// What each does to the operand stack stands behind it: before -> after.
enum class Code : uint8_t {
  kConst,        // -> constants[a]
  kLoad,         // -> slot a of the function b levels out; an undefined value if it was never set
  kStore,        // v -> ; slot a
  kClear,        // slot a is unset
  kResolve,      // slot a = context variable b
  kResolveRoot,  // slot a = slot c of the template's own function, or context variable b
  kAlias,        // slot a = slot b of the function c levels out, set or not
  kPop,          // v ->
  kUnary,        // v -> op(a) v
  kBinary,       // l r -> l op(a) r
  kCompare,      // l r -> l op(a) r
  kChain,        // l r -> r l r: keeps the middle of a < b < c
  kSwapPop,      // l r -> r
  kJump,         // to a
  kJumpIfFalse,  // v -> ; to a
  kAndJump,      // v -> v, to a if false; else v ->
  kOrJump,       // v -> v, to a if true; else v ->
  kJumpIfSet,    // to a if slot b is set
  kList,         // a values -> list
  kTuple,        // a values -> tuple
  kDict,         // 2 a values -> dict
  kConcat,       // a values -> text
  kGetAttr,      // o -> o.constants[a]
  kGetItem,      // o i -> o[i]
  kSlice,        // o start stop step -> o[start:stop:step]
  kCall,         // callee arguments -> result; sites[a]
  kFilter,       // value arguments -> result; filter b, sites[a]
  kTest,         // value arguments -> bool; test b, sites[a]
  kUndefined,    // -> undefined with the message constants[a]
  kFail,         // fails with the message constants[a]
  kOutput,       // v -> ; a: it must be text, as what a filter makes of a block must
  kData,         // outputs constants[a]
  kBufferPush,   // output goes to a new buffer
  kBufferPop,    // -> the text of the buffer
  kBufferDrop,   // throws a buffers away
  kIter,         // v -> iterator
  kFilterIter,   // v -> iterator over the items that pass functions[a]
  kLoop,         // v -> loop, also in slot a; b: the loop of a recursive function
  kForNext,      // it -> it item; at the end: it, to a
  kForEnd,       // it ->
  kUnpack,       // v -> a values, the first on top
  kMacro,        // -> macro functions[a]
  kCallLoop,     // v -> the text of the recursive loop functions[a] over v
  kCallBlock,    // outputs functions[a]
  kNamespace,    // fails unless slot a of the function b levels out is a namespace
  kSetAttr,      // v -> ; attribute constants[c] of slot a of the function b levels out
  kReturn,       // ends the function; its buffer becomes the result
  kReturnValue,  // v -> ends a test of a filtered loop
};

struct Instr {
  Code code;
  uint32_t a = 0, b = 0, c = 0;
};

// The shape of the arguments at one call.
struct Site {
  uint32_t positional = 0;
  std::vector<std::string> keywords;  // their values follow the positional ones
  bool dyn_args = false;              // then *args
  bool dyn_kwargs = false;            // then **kwargs
};

struct Function {
  enum Type : uint8_t { kRoot, kMacro, kLoop, kLoopTest, kBlock };
  Type type = kRoot;
  std::string name;  // of a macro; empty for the caller of a call block
  const Function* parent = nullptr;
  std::vector<Instr> code;
  std::vector<int> lines;               // of each instruction
  std::vector<std::string> slot_names;  // what each slot is called in the template
  uint32_t item_entry = 0;              // kLoopTest: where the work for one item begins
  // kMacro: the slots of the named parameters, then of the special ones.
  std::vector<uint32_t> params;
  bool wants_caller = false, wants_kwargs = false, wants_varargs = false, names_caller = false;
  uint32_t caller_slot = 0, kwargs_slot = 0, varargs_slot = 0;
};

struct Program {
  ~Program();

  std::deque<Function> functions;  // the first is the template itself
  std::vector<Value> constants;    // immortal
  std::vector<Site> sites;
  std::vector<std::string> context_names;   // variables that the host may give
  std::vector<std::unique_ptr<Obj>> owned;  // the objects of the constants
};

StatusOr<std::unique_ptr<Program>> compile(const Ast& ast);

}  // namespace ponder::jinja
