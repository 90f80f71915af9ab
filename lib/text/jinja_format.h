// Python's text forms of numbers, and its two formatting languages: "%" and str.format.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_context.h"

namespace ponder::jinja {

// repr(float): the shortest digits that read back as the same number.
std::string float_repr(double f);
// round(f, digits), by the exact decimal value, ties to even.
double round_to(double f, int64_t digits);
// "%.<precision>f".
std::string fixed(double f, int precision);

// int(text, base) and float(text) of Python; false if the text is no number.
bool parse_int(absl::string_view text, int base, int64_t& out);
bool parse_float(absl::string_view text, double& out);

// format % values; values is a tuple, a dict or one value.
Value percent_format(Context& c, absl::string_view format, const Value& values);
// format.format(*args, **kwargs), in the sandbox.
Value str_format(Context& c, absl::string_view format, const Args& args);

}  // namespace ponder::jinja
