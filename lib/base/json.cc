#include "lib/base/json.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/quote.h"

namespace ponder {
namespace {

constexpr int kMaxDepth = 128;
constexpr int64_t kMaxInteger = (int64_t{1} << 31) - 1;

const Json& empty_object() {
  static const Json* const empty = new Json(Json::object());  // never destroyed: no exit order
  return *empty;
}

// nlohmann's DOM builder behind a depth limit; its parser keeps its own stack on the heap, so the
// limit is about what readers of the DOM (and its copies) may recurse over.
class BoundedBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit BoundedBuilder(Json& root) : dom_(root, /*allow_exceptions=*/false) {}

  bool null() override { return dom_.null(); }
  bool boolean(bool v) override { return dom_.boolean(v); }
  bool number_integer(number_integer_t v) override { return dom_.number_integer(v); }
  bool number_unsigned(number_unsigned_t v) override { return dom_.number_unsigned(v); }
  bool number_float(number_float_t v, const string_t& s) override {
    return dom_.number_float(v, s);
  }
  bool string(string_t& v) override { return dom_.string(v); }
  bool binary(binary_t& v) override { return dom_.binary(v); }
  bool start_object(size_t n) override { return enter() && dom_.start_object(n); }
  bool key(string_t& v) override { return dom_.key(v); }
  bool end_object() override { return --depth_, dom_.end_object(); }
  bool start_array(size_t n) override { return enter() && dom_.start_array(n); }
  bool end_array() override { return --depth_, dom_.end_array(); }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override {
    error_ = absl::StrCat("byte ", position, ": ", excerpt(e.what(), 200));
    (void)token;
    return false;
  }

  const std::string& error() const { return error_; }

 private:
  bool enter() {
    if (++depth_ <= kMaxDepth) return true;
    error_ = absl::StrCat("nested deeper than ", kMaxDepth, " levels");
    return false;
  }

  nlohmann::detail::json_sax_dom_parser<Json> dom_;
  int depth_ = 0;
  std::string error_;
};

}  // namespace

StatusOr<Json> parse_json(absl::string_view text, absl::string_view what) {
  // The parser takes a NUL for the end of the text and would not see what follows.
  if (const size_t at = text.find('\0'); at != text.npos) {
    return corrupt_error(what, ": not valid JSON: byte ", at, ": a NUL");
  }
  Json root;
  BoundedBuilder builder(root);
  const bool ok = Json::sax_parse(text.begin(), text.end(), &builder);
  if (!ok) return corrupt_error(what, ": not valid JSON: ", builder.error());
  return root;
}

StatusOr<Json> parse_json_object(absl::string_view text, absl::string_view what) {
  PONDER_ASSIGN_OR_RETURN(Json json, parse_json(text, what));
  if (!json.is_object()) return corrupt_error(what, ": the top level must be a JSON object");
  return json;
}

const Json* Config::find(absl::string_view key) const {
  const auto it = json_->find(std::string(key));
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

bool Config::has(absl::string_view key) const { return find(key) != nullptr; }

void Config::fail(const Status& status) const {
  if (status_->ok()) *status_ = status;
}

int64_t Config::i(absl::string_view key) const {
  if (!has(key)) {
    fail(corrupt_error(where_, ": \"", key, "\" is missing"));
    return 1;
  }
  return i(key, 1);
}

int64_t Config::i(absl::string_view key, int64_t otherwise) const {
  return has(key) ? whole(key, 1) : otherwise;
}

int64_t Config::count(absl::string_view key) const { return has(key) ? whole(key, 0) : 0; }

int64_t Config::whole(absl::string_view key, int64_t least) const {
  const Json* v = find(key);
  // Some writers store whole numbers as 4096.0.
  const double d = v->is_number() ? v->get<double>() : -1;
  if (!(d >= static_cast<double>(least) && d <= static_cast<double>(kMaxInteger)) ||
      d != std::floor(d)) {
    fail(corrupt_error(where_, ": \"", key, "\" must be a whole number from ", least, " to ",
                       kMaxInteger, ", found ", v->is_number() ? v->dump() : v->type_name()));
    return 1;
  }
  return static_cast<int64_t>(d);
}

double Config::f(absl::string_view key) const {
  if (!has(key)) {
    fail(corrupt_error(where_, ": \"", key, "\" is missing"));
    return 1;
  }
  return f(key, 1);
}

double Config::f(absl::string_view key, double otherwise) const {
  const Json* v = find(key);
  if (v == nullptr) return otherwise;
  const double d = v->is_number() ? v->get<double>() : std::nan("");
  if (!std::isfinite(d)) {
    fail(corrupt_error(where_, ": \"", key, "\" must be a finite number, found ",
                       v->is_number() ? v->dump() : v->type_name()));
    return 1;
  }
  return d;
}

std::string Config::s(absl::string_view key) const {
  if (!has(key)) fail(corrupt_error(where_, ": \"", key, "\" is missing"));
  return s(key, "");
}

std::string Config::s(absl::string_view key, absl::string_view otherwise) const {
  const Json* v = find(key);
  if (v == nullptr) return std::string(otherwise);
  if (!v->is_string()) {
    fail(corrupt_error(where_, ": \"", key, "\" must be a string, found ", v->type_name()));
    return std::string(otherwise);
  }
  return v->get<std::string>();
}

bool Config::b(absl::string_view key, bool otherwise) const {
  const Json* v = find(key);
  if (v == nullptr) return otherwise;
  if (!v->is_boolean()) {
    fail(corrupt_error(where_, ": \"", key, "\" must be true or false, found ", v->type_name()));
    return otherwise;
  }
  return v->get<bool>();
}

Config Config::at(absl::string_view key) const {
  const Json* v = find(key);
  if (v == nullptr || !v->is_object()) {
    fail(corrupt_error(where_, ": \"", key, "\" must be an object"));
    return Config(empty_object(), absl::StrCat(where_, ".", key), status_);
  }
  return Config(*v, absl::StrCat(where_, ".", key), status_);
}

}  // namespace ponder
