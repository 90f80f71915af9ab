#include "lib/text/jinja.h"

#include <algorithm>
#include <utility>

#include "lib/text/jinja_builtins.h"
#include "lib/text/jinja_code.h"
#include "lib/text/jinja_interpreter.h"
#include "lib/text/jinja_json.h"
#include "lib/text/jinja_parser.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

// Bytes that a JSON value takes as values of the template language, roughly; 0 if it is nested too
// deeply for from_json to take it.
size_t footprint(const nlohmann::ordered_json& json, int depth = 0) {
  if (depth > kMaxDepth) return 0;
  size_t bytes = 2 * sizeof(Value) + sizeof(Str);
  if (json.is_string()) return bytes + json.get_ref<const std::string&>().size();
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      bytes += sizeof(Str) + 48 + key.size() + footprint(value, depth + 1);
    }
  } else if (json.is_array()) {
    for (const auto& value : json) bytes += 16 + footprint(value, depth + 1);
  }
  return bytes;
}

Status failure_status(const Context& c, int line) {
  const std::string where = line > 0 ? absl::StrCat("line ", line, ": ") : "";
  switch (c.failure()) {
    case Failure::kRaised:
      return invalid_argument_error(c.message());
    case Failure::kRuntime:
      return invalid_argument_error(where, c.message());
    case Failure::kMemory:
      return out_of_memory_error(where, c.message());
    default:
      return corrupt_error(where, c.message());
  }
}

}  // namespace

Template::Template(std::unique_ptr<Program> program) : program_(std::move(program)) {
  for (const std::string& name : program_->context_names) {
    if (find_global(name) < 0) variables_.push_back(name);
  }
  std::sort(variables_.begin(), variables_.end());
}

Template::~Template() = default;

StatusOr<std::unique_ptr<Template>> Template::compile(absl::string_view source) {
  if (!is_valid_utf8(source)) return corrupt_error("the template is not valid UTF-8");
  PONDER_ASSIGN_OR_RETURN(const std::unique_ptr<Ast> ast, parse(source));
  PONDER_ASSIGN_OR_RETURN(std::unique_ptr<Program> program, jinja::compile(*ast));
  return std::unique_ptr<Template>(new Template(std::move(program)));
}

StatusOr<std::string> Template::render(const nlohmann::ordered_json& variables,
                                       const RenderOptions& options) const {
  if (!variables.is_object() && !variables.is_null()) {
    return invalid_argument_error("the template's variables must be a JSON object");
  }
  // The inputs, and the output that repeats them, come on top of what the template may use itself.
  const size_t inputs = footprint(variables);
  Limits limits;
  limits.steps = options.max_steps + inputs;
  limits.memory_bytes = options.max_memory_bytes + 4 * inputs;
  Interpreter interpreter(*program_, limits);
  Context& c = interpreter.context();
  c.strftime = options.strftime;
  std::string text = interpreter.run([&variables](Context& context, absl::string_view name) {
    if (!variables.is_object()) return Value();
    const auto it = variables.find(std::string(name));
    return it == variables.end() ? Value() : from_json(context, *it);
  });
  if (!c.ok()) return failure_status(c, interpreter.line());
  return text;
}

}  // namespace ponder::jinja
