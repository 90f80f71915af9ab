// JSON from files that nobody vouches for, and typed reading of configuration objects.
//
// parse_json bounds depth and reports where a text is broken. Config reads one JSON object the way
// a model file wants to: `c.i("hidden_size")`; the first missing or absurd value is remembered and
// a harmless one returned, so a constructor may compute on and the loader asks status() once.
// Values only; one thread at a time per object.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/json_memory.h"
#include "lib/base/status.h"
#include "nlohmann/json.hpp"

namespace ponder {

using Json = nlohmann::json;

// `what` names the text in errors ("config.json"). Nesting beyond 128 levels is refused, duplicate
// keys keep the last value, invalid UTF-8 is an error. Never throws anything but std::bad_alloc.
StatusOr<Json> parse_json(absl::string_view text, absl::string_view what);

// As parse_json, and the top level must be an object.
StatusOr<Json> parse_json_object(absl::string_view text, absl::string_view what);

// A view of one JSON object with a memory of the first thing that was wrong with it.
class Config {
 public:
  // `json` must outlive the Config and be an object. `what` names it in errors.
  Config(const Json& json, absl::string_view what)
      : json_(&json), where_(what), status_(std::make_shared<Status>()) {}

  // A whole number in [1, 2^31). Missing: an error, or `otherwise` where given (which may be 0).
  int64_t i(absl::string_view key) const;
  int64_t i(absl::string_view key, int64_t otherwise) const;
  // A whole number in [0, 2^31); missing is 0.
  int64_t count(absl::string_view key) const;
  // A finite number.
  double f(absl::string_view key) const;
  double f(absl::string_view key, double otherwise) const;
  std::string s(absl::string_view key) const;
  std::string s(absl::string_view key, absl::string_view otherwise) const;
  bool b(absl::string_view key, bool otherwise) const;
  // Present and not null.
  bool has(absl::string_view key) const;
  // The object under `key`; shares this object's status. Missing or no object: an error and {}.
  Config at(absl::string_view key) const;

  const Json& json() const { return *json_; }
  // The value under `key`, or nullptr when absent or null.
  const Json* find(absl::string_view key) const;

  // Remembers `status` unless something failed before: model files report their own findings.
  void fail(const Status& status) const;
  const Status& status() const { return *status_; }

 private:
  Config(const Json& json, std::string where, std::shared_ptr<Status> status)
      : json_(&json), where_(std::move(where)), status_(std::move(status)) {}
  int64_t whole(absl::string_view key, int64_t least) const;  // there is one

  const Json* json_;
  std::string where_;
  std::shared_ptr<Status> status_;  // shared with the objects made by at()
};

}  // namespace ponder
