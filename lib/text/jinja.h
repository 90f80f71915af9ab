// The template language of chat templates: Jinja, as the reference implementation sets it up
// (trim_blocks, lstrip_blocks, loop controls, an immutable sandbox, tojson without HTML escapes,
// raise_exception, strftime_now, {% generation %}).
//
// A Template is compiled once and rendered any number of times, from any threads at once. Templates
// come with model files and are not trusted: compiling and rendering take bounded time, memory and
// native stack, whatever the text says (docs: lib/text/README.md).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/json_memory.h"
#include "lib/base/status.h"
#include "nlohmann/json.hpp"

namespace ponder::jinja {

struct Program;

struct RenderOptions {
  // strftime_now's clock: the text for a format. Without one, a template that asks the time fails.
  std::function<std::string(absl::string_view format)> strftime;
  // Budgets beyond what the inputs themselves take.
  uint64_t max_steps = 10'000'000;
  size_t max_memory_bytes = size_t{48} << 20;
};

class Template {
 public:
  // Fails with corrupt_error and the line where the text is no template.
  static StatusOr<std::unique_ptr<Template>> compile(absl::string_view source);
  ~Template();

  // `variables` is an object, or null for none; it may hold "messages" and so on. Fails with
  // invalid_argument_error for raise_exception (the message is the template's own) and for what
  // Python would raise, with corrupt_error when the template breaks the sandbox or works without
  // end, with out_of_memory_error when it wants too much memory.
  StatusOr<std::string> render(const nlohmann::ordered_json& variables,
                               const RenderOptions& options) const;

  // The names that the template looks up in its variables, sorted.
  const std::vector<std::string>& variables() const { return variables_; }

 private:
  explicit Template(std::unique_ptr<Program> program);

  std::unique_ptr<Program> program_;
  std::vector<std::string> variables_;
};

}  // namespace ponder::jinja
