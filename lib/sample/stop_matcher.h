// StopMatcher: finds stop strings in text that arrives in pieces.
//
// Text is passed on as soon as it cannot be part of a stop string any more; what might still be
// the beginning of one is held back. The stop string that is complete first wins (of those that end
// at the same byte, the longest), and the text is cut where it begins. Given whole code points
// and valid stop strings, what comes out is whole code points too.
//
// One per stream, one thread at a time; copies are independent (rollback keeps a copy).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"

namespace ponder {

class StopMatcher {
 public:
  // No stop strings: everything passes.
  StopMatcher() = default;
  // Refuses an empty stop string, more than 256 of them, and one longer than 64 KiB.
  static StatusOr<StopMatcher> create(std::vector<std::string> stops);

  struct Result {
    std::string text;      // may be passed on
    int32_t matched = -1;  // index of the stop string found: the stream ends here
  };
  // After a match every further piece is swallowed, until reset().
  Result feed(absl::string_view piece);

  // The stream ends without a match: what was held back is text after all.
  std::string finish();

  // Bytes held back now.
  size_t held() const { return held_.size(); }
  bool matched() const { return matched_ >= 0; }
  // Forgets the stream, keeps the stop strings.
  void reset();

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t> fallback;  // [i]: longest proper border of text[0, i + 1)
    uint32_t state = 0;              // bytes of text that the stream ends with
  };

  std::vector<Stop> stops_;
  std::string held_;
  int32_t matched_ = -1;
};

}  // namespace ponder
