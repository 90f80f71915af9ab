// From template text to tokens, with white-space control settled.
//
// The rules are those of Jinja with trim_blocks and lstrip_blocks set, as chat templates are
// written for: the newline after a block tag goes, and so does the white space between the start of
// a line and a block tag or comment; "-" inside a tag strips all white space on its side, "+" keeps
// what would be trimmed. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"

namespace ponder::jinja {

enum class Tok : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kTilde,
  kLBracket,
  kRBracket,
  kLParen,
  kRParen,
  kLBrace,
  kRBrace,
  kEq,
  kNe,
  kGt,
  kGtEq,
  kLt,
  kLtEq,
  kAssign,
  kDot,
  kColon,
  kPipe,
  kComma,
  kSemicolon,
  kEof,
};

struct Token {
  Tok type = Tok::kEof;
  int line = 0;
  std::string text;     // data, name, string (escapes resolved), or the operator
  int64_t integer = 0;  // kInteger
  double number = 0;    // kFloat
};

// "line 3: Missing end of comment tag".
Status syntax_error(int line, absl::string_view message);

// Real chat templates have up to about 10,000 tokens; more than these are refused.
inline constexpr size_t kMaxSourceBytes = 512 * 1024;
inline constexpr size_t kMaxTokens = 65536;

// The tokens, the last one being kEof. `source` must be valid UTF-8.
StatusOr<std::vector<Token>> tokenize(absl::string_view source);

}  // namespace ponder::jinja
