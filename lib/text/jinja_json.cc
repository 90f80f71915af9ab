#include "lib/text/jinja_json.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lib/text/jinja_format.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_sort.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

Value text_from_json(Context& c, const std::string& text) {
  if (!is_valid_utf8(text)) return c.value_error("a text given to the template is not valid UTF-8");
  return c.str(absl::string_view(text));
}

bool append_string(Sink& out, absl::string_view text, bool ascii) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string s = "\"";
  const auto unicode = [&s](uint32_t c) {
    s += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) s.push_back(kHex[(c >> shift) & 15]);
  };
  for (const char *p = text.data(), *end = p + text.size(); p != end;) {
    const char* const at = p;
    const char32_t c = next_code_point(p);
    switch (c) {
      case '"':
        s += "\\\"";
        break;
      case '\\':
        s += "\\\\";
        break;
      case '\n':
        s += "\\n";
        break;
      case '\r':
        s += "\\r";
        break;
      case '\t':
        s += "\\t";
        break;
      case '\b':
        s += "\\b";
        break;
      case '\f':
        s += "\\f";
        break;
      default:
        if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) {
          unicode(c);
        } else if (ascii && c >= 0x10000) {
          unicode(0xD800 + ((c - 0x10000) >> 10));
          unicode(0xDC00 + ((c - 0x10000) & 0x3FF));
        } else {
          s.append(at, p);
        }
    }
    if (s.size() >= 4096) {
      if (!out.append(s)) return false;
      s.clear();
    }
  }
  s.push_back('"');
  return out.append(s);
}

class Dumper {
 public:
  Dumper(Context& c, const DumpOptions& options) : c_(c), out_(c), options_(options) {}

  Value run(const Value& v) {
    if (!append(v)) return Value();
    return out_.value();
  }

 private:
  bool newline() {
    if (!options_.indented) return true;
    if (!out_.append("\n")) return false;
    for (int i = 0; i < level_; ++i) {
      if (!out_.append(options_.indent)) return false;
    }
    return true;
  }

  std::string number(double f) const {
    if (std::isnan(f)) return "NaN";
    if (std::isinf(f)) return f < 0 ? "-Infinity" : "Infinity";
    return float_repr(f);
  }

  bool append(const Value& v) {
    const NativeScope scope(c_);
    if (!scope || !c_.work(1)) return false;
    switch (v.type()) {
      case Type::kNone:
        return out_.append("null");
      case Type::kBool:
        return out_.append(v.b() ? "true" : "false");
      case Type::kInt:
        return out_.append(absl::StrCat(v.i()));
      case Type::kUint:
        return out_.append(absl::StrCat(v.u()));
      case Type::kFloat:
        return out_.append(number(v.f()));
      case Type::kStr:
        return append_string(out_, v.text(), options_.ensure_ascii);
      case Type::kList:
      case Type::kTuple:
        return append_list(v.items());
      case Type::kDict:
        return append_dict(v.as<Dict>());
      default:
        c_.type_error("Object of type ", type_name(v), " is not JSON serializable");
        return false;
    }
  }

  bool append_list(const std::vector<Value>& items) {
    if (items.empty()) return out_.append("[]");
    if (!out_.append("[")) return false;
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i != 0 && !out_.append(options_.item_separator)) return false;
      if (!newline() || !append(items[i])) return false;
    }
    --level_;
    return newline() && out_.append("]");
  }

  bool append_key(const Value& key) {
    switch (key.type()) {
      case Type::kStr:
        return append_string(out_, key.text(), options_.ensure_ascii);
      case Type::kNone:
        return out_.append("\"null\"");
      case Type::kBool:
        return out_.append(key.b() ? "\"true\"" : "\"false\"");
      case Type::kInt:
        return out_.append(absl::StrCat("\"", key.i(), "\""));
      case Type::kUint:
        return out_.append(absl::StrCat("\"", key.u(), "\""));
      case Type::kFloat:
        return out_.append(absl::StrCat("\"", number(key.f()), "\""));
      default:
        c_.type_error("keys must be str, int, float, bool or None, not ", type_name(key));
        return false;
    }
  }

  bool append_dict(const Dict& dict) {
    if (dict.entries.empty()) return out_.append("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (options_.sort_keys && !stable_sort(c_, entries, [this](const auto* a, const auto* b) {
          return less(c_, a->first, b->first);
        })) {
      return false;
    }
    if (!out_.append("{")) return false;
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i != 0 && !out_.append(options_.item_separator)) return false;
      if (!newline() || !append_key(entries[i]->first) || !out_.append(options_.key_separator) ||
          !append(entries[i]->second)) {
        return false;
      }
    }
    --level_;
    return newline() && out_.append("}");
  }

  Context& c_;
  Sink out_;
  const DumpOptions& options_;
  int level_ = 0;
};

}  // namespace

Value from_json(Context& c, const OrderedJson& json) {
  const NativeScope scope(c);
  if (!scope) return Value();
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      return Value::uint(json.get<uint64_t>());
    case OrderedJson::value_t::number_float:
      return Value::number(json.get<double>());
    case OrderedJson::value_t::string:
      return text_from_json(c, json.get_ref<const std::string&>());
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const OrderedJson& item : json) {
        items.push_back(from_json(c, item));
        if (!c.ok()) return Value();
      }
      return c.list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      Ref<Dict> dict(new Dict);
      dict->entries.reserve(json.size());
      for (const auto& [key, value] : json.items()) {
        Value k = text_from_json(c, key);
        Value v = from_json(c, value);
        if (!c.ok()) return Value();
        dict->set(std::move(k), std::move(v));
      }
      return c.dict(std::move(dict));
    }
    default:
      return Value::none();
  }
}

Value to_json(Context& c, const Value& v, const DumpOptions& options) {
  return Dumper(c, options).run(v);
}

}  // namespace ponder::jinja
