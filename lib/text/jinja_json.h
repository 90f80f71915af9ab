// JSON in and out of the template language.
#pragma once

#include <string>

#include "lib/base/json_memory.h"
#include "lib/base/status.h"
#include "lib/text/jinja_context.h"
#include "nlohmann/json.hpp"

namespace ponder::jinja {

// Keeps the order of keys: templates print it.
using OrderedJson = nlohmann::ordered_json;

// Missing after a failure: nested too deeply, or text that is not UTF-8.
Value from_json(Context& c, const OrderedJson& json);

// json.dumps of Python.
struct DumpOptions {
  bool ensure_ascii = false;
  bool indented = false;
  std::string indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
Value to_json(Context& c, const Value& v, const DumpOptions& options);

}  // namespace ponder::jinja
