// The filters whose result is computed item by item, on demand: map, select and their kin.
#pragma once

#include "absl/strings/string_view.h"
#include "lib/text/jinja_builtins.h"

namespace ponder::jinja {

// One of batch, format, items, map, reject, rejectattr, select, selectattr, slice, unique.
Value call_stream_filter(Context& c, absl::string_view name, Args& args);

}  // namespace ponder::jinja
