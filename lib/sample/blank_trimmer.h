// BlankTrimmer: text around the markers as users expect it.
//
// "<think>\nHm.\n</think>\n\nThe answer" has the thought "Hm." and the answer "The answer". Drops
// blank lines (and spaces on the marker's own line) from the start of a stream and, where
// `trailing` is set, white space from its end, which it holds back until more text follows. Spaces
// that indent the first line of text stay.
//
// One per stream (the thought, the answer), one thread at a time; copies are independent.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace ponder {

class BlankTrimmer {
 public:
  explicit BlankTrimmer(bool trailing) : trailing_(trailing) {}
  // What may be passed on. At the end of the stream what is held is simply dropped.
  std::string feed(absl::string_view piece);

 private:
  bool trailing_;
  bool started_ = false;
  std::string held_;
};

}  // namespace ponder
