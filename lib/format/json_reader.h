// JSON as a stream of events, for tables too long to build a tree of. Private to lib/format.
//
// A reader derives from JsonReader, overrides the events it expects and calls fail() at the first
// thing that is wrong; events it does not override are failures. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/base/json.h"
#include "lib/base/quote.h"
#include "lib/base/status.h"

namespace ponder {

class JsonReader : public nlohmann::json_sax<Json> {
 public:
  // `what` names the text in errors and outlives the reader.
  explicit JsonReader(absl::string_view what) : what_(what) {}

  // Reads all of `text`; the first failure ends it.
  Status read(absl::string_view text) {
    // The parser takes a NUL for the end of the text and would not see what follows.
    if (const size_t at = text.find('\0'); at != text.npos) {
      return corrupt_error(what_, ": is not valid JSON at byte ", at, ": a NUL");
    }
    // The parser reports its own findings through parse_error, so `false` always has a status.
    if (!Json::sax_parse(text.begin(), text.end(), this) && status_.ok()) {
      return corrupt_error(what_, ": is not valid JSON");
    }
    return status_;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t v) override { return unexpected(absl::StrCat(v)); }
  bool number_unsigned(number_unsigned_t v) override { return unexpected(absl::StrCat(v)); }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected(excerpt(text));
  }
  bool string(string_t& v) override { return unexpected(quote(v)); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool start_object(size_t) override { return unexpected("an object"); }
  bool key(string_t& v) override { return unexpected(quote(v)); }
  bool end_object() override { return unexpected("the end of an object"); }
  bool start_array(size_t) override { return unexpected("an array"); }
  bool end_array() override { return unexpected("the end of an array"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    return fail("is not valid JSON at byte ", position, ": ", excerpt(e.what(), 200));
  }

 protected:
  // Where in the text the reader is: `"model.norm.weight": "shape"`; for unexpected().
  virtual std::string place() const = 0;

  template <typename... Parts>
  bool fail(const Parts&... parts) {
    if (status_.ok()) status_ = corrupt_error(what_, ": ", parts...);
    return false;
  }
  bool fail_with(const Status& status) {
    if (status_.ok()) status_ = status;
    return false;
  }
  bool unexpected(absl::string_view found) {
    return fail(place(), ": found ", found, " where it does not belong");
  }
  absl::string_view what() const { return what_; }

 private:
  absl::string_view what_;
  Status status_;
};

}  // namespace ponder
