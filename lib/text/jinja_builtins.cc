#include "lib/text/jinja_builtins.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_ops.h"

namespace ponder::jinja {

bool bind_args(Context& c, absl::string_view function, Args& args, size_t required,
               absl::Span<const absl::string_view> names, Value* out) {
  if (args.positional.size() > names.size()) {
    c.type_error(function, "() takes at most ", names.size(), " arguments (",
                 args.positional.size(), " given)");
    return false;
  }
  for (size_t i = 0; i < args.positional.size(); ++i) out[i] = std::move(args.positional[i]);
  for (auto& [name, value] : args.named) {
    size_t at = 0;
    for (const absl::string_view parameter : names) {
      if (parameter == name) break;
      ++at;
    }
    if (at == names.size()) {
      c.type_error(function, "() got an unexpected keyword argument '", name, "'");
      return false;
    }
    if (!out[at].missing()) {
      c.type_error(function, "() got multiple values for argument '", name, "'");
      return false;
    }
    out[at] = std::move(value);
  }
  for (size_t i = 0; i < required; ++i) {
    if (!out[i].missing()) continue;
    absl::string_view name = names[i];
    if (absl::StartsWith(name, "/")) name.remove_prefix(1);
    c.type_error(function, "() missing required argument: '", name, "'");
    return false;
  }
  return true;
}

bool AttributePath::parse(Context& c, const Value& attribute, AttributePath& out) {
  if (attribute.missing() || attribute.is(Type::kNone)) return true;
  if (!attribute.is_str()) {
    out.parts_.push_back(attribute);
    return true;
  }
  if (!c.work_bytes(attribute.text().size() * 8)) return false;
  for (const absl::string_view part : absl::StrSplit(attribute.text(), '.')) {
    int64_t index = 0;
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    if (number && parse_int(part, 10, index)) {
      out.parts_.push_back(Value::integer(index));
    } else {
      out.parts_.push_back(c.str(part));
    }
    if (!c.room((out.parts_.size() + 1) * sizeof(Value))) return false;
  }
  return c.ok();
}

Value AttributePath::get(Context& c, const Value& item) const {
  Value value = item;
  for (const Value& part : parts_) {
    value = get_item(c, value, part);
    if (!c.ok()) return Value();
  }
  return value;
}

}  // namespace ponder::jinja
