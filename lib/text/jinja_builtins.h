// The tables of filters, tests, global functions and methods, found by name at compile time.
//
// Pure functions on the values of one Context.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "lib/text/jinja_context.h"
#include "lib/text/jinja_value.h"

namespace ponder::jinja {

// The arguments of one call.
struct Args {
  absl::InlinedVector<Value, 4> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Spreads arguments over parameters, as Python does: false after a failure. Parameters that were
// not given are left Missing. `names` of parameters that can only be given by place start with "/".
bool bind_args(Context& c, absl::string_view function, Args& args, size_t required,
               absl::Span<const absl::string_view> names, Value* out);

// The parameters of a built-in as its table holds them: the names up to the first empty one.
template <size_t kMax>
absl::Span<const absl::string_view> parameters(const absl::string_view (&names)[kMax]) {
  size_t n = 0;
  while (n < kMax && !names[n].empty()) ++n;
  return {names, n};
}

// All of these return -1 for names that are not known.
int find_filter(absl::string_view name);
int find_test(absl::string_view name);
int find_global(absl::string_view name);

// args.positional[0] is what stands before the "|" or the "is".
Value call_filter(Context& c, int id, Args& args);
// A boolean, or Missing on failure.
Value call_test(Context& c, int id, Args& args);
Value call_global(Context& c, int id, Args& args);
absl::string_view global_name(int id);

// A method of `self` by name: Missing if there is none. Methods that would change their object give
// an undefined value that says so when it is used.
Value find_method(Context& c, const Value& self, absl::string_view name);
Value call_method(Context& c, const Method& method, Args& args);
absl::string_view method_name(int id);

// Jinja's attribute paths ("function.name", "0.id"), for filters such as map and sort.
class AttributePath {
 public:
  // An index, a dotted path, or none (the item itself).
  static bool parse(Context& c, const Value& attribute, AttributePath& out);
  Value get(Context& c, const Value& item) const;

 private:
  std::vector<Value> parts_;
};

}  // namespace ponder::jinja
