// What Python's operators and built-in functions do to values.
//
// All take the Context of a rendering and leave it failed where Python would raise. Text is never
// longer, lists never larger, and loops never take more than its budgets allow.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/text/jinja_ast.h"
#include "lib/text/jinja_context.h"
#include "lib/text/jinja_value.h"

namespace ponder::jinja {

// type(v).__name__, for errors.
absl::string_view type_name(const Value& v);

bool truthy(const Value& v);
Value unary(Context& c, Op op, const Value& v);
Value binary(Context& c, Op op, const Value& l, const Value& r);
// A boolean, or Missing.
Value compare(Context& c, Op op, const Value& l, const Value& r);
// False after a failure too.
bool equal(Context& c, const Value& l, const Value& r);
bool less(Context& c, const Value& l, const Value& r);
bool contains(Context& c, const Value& container, const Value& item);

// object.name and object[key], as the sandbox gives them: an undefined value where there is
// nothing.
Value get_attr(Context& c, const Value& object, absl::string_view name);
Value get_item(Context& c, const Value& object, const Value& key);
Value slice(Context& c, const Value& object, const Value& start, const Value& stop,
            const Value& step);

// len(v); -1 on failure.
int64_t length(Context& c, const Value& v);
bool has_length(const Value& v);
bool iterable(const Value& v);
// iter(v); null on failure.
Ref<Iter> iterate(Context& c, const Value& v);
// An iterator over the items of a vector, which it owns.
Ref<Iter> iterate_items(Context& c, std::vector<Value> items, const char* name);
// list(v) into `out`; false on failure.
bool collect(Context& c, const Value& v, std::vector<Value>& out);
// The part of v that cannot be a dict key (v itself, or something in a tuple); null if all can.
// Also not null when the context has failed.
const Value* unhashable_part(Context& c, const Value& v);
// Fails with a TypeError if v cannot be a dict key or a member of a set.
bool hashable(Context& c, const Value& v);
// dict(mapping or pairs) into `out`.
bool fill_dict(Context& c, const Value& from, Dict& out);

// str(v) and repr(v).
bool append_str(Sink& out, const Value& v);
bool append_repr(Sink& out, const Value& v);
Value to_str(Context& c, const Value& v);
// 'text' as Python's repr writes it.
bool append_quoted(Sink& out, absl::string_view text);

// An integer argument: bool counts, nothing else does. False and a TypeError otherwise.
bool to_index(Context& c, const Value& v, int64_t& out);

// markupsafe.escape.
bool append_escaped(Sink& out, absl::string_view text);

}  // namespace ponder::jinja
