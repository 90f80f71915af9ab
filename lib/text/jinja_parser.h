// From tokens to the syntax tree, by Jinja's grammar. Pure function; any thread.
#pragma once

#include <memory>

#include "lib/base/status.h"
#include "lib/text/jinja_ast.h"

namespace ponder::jinja {

// Statements and expressions inside one another, at most: bounds the native stack of the parser and
// of everything that walks the tree.
inline constexpr int kMaxNesting = 64;

StatusOr<std::unique_ptr<Ast>> parse(absl::string_view source);

}  // namespace ponder::jinja
