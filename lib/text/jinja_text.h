// Work on texts that methods and filters share. Results are views into the text they were given.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "lib/text/jinja_context.h"
#include "lib/text/jinja_value.h"

namespace ponder::jinja {

// Without the characters in *chars (null: white space) at the wanted sides.
absl::string_view strip_chars(absl::string_view text, const Value* chars, bool left, bool right);

// str.split and rsplit, with a separator or at white space; limit < 0: no limit. False on failure.
bool split_by(Context& c, absl::string_view text, absl::string_view separator, int64_t limit,
              bool from_right, std::vector<absl::string_view>& out);
bool split_space(Context& c, absl::string_view text, int64_t limit, bool from_right,
                 std::vector<absl::string_view>& out);
bool split_lines(Context& c, absl::string_view text, bool keep_ends,
                 std::vector<absl::string_view>& out);
Value text_list(Context& c, const std::vector<absl::string_view>& parts, bool markup);

// str.replace; limit < 0: no limit.
Value replace_text(Context& c, absl::string_view text, absl::string_view from, absl::string_view to,
                   int64_t limit, bool markup);

// str.ljust, rjust (one side) and center (both): `at_left` means that the text stands at the left.
Value justify(Context& c, const Value& text, int64_t width, absl::string_view fill, bool at_left,
              bool at_right);

// str.isupper and islower.
bool has_case(absl::string_view text, bool upper);

}  // namespace ponder::jinja
