// Finds added tokens ("<think>") in a text: always the leftmost, and of those the longest.
//
// Immutable once made; any number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/hash_map.h"
#include "lib/base/status.h"

namespace ponder {

class AddedTokenMatcher {
 public:
  struct Options {
    bool lstrip = false;
    bool rstrip = false;
    bool single_word = false;
  };
  // A stretch of the text: an added token, or with id -1 the text in between.
  struct Part {
    size_t begin;
    size_t end;
    int32_t id;
  };

  // Of equal texts the first counts. Fails when the text is longer than tokens ever are.
  Status add(absl::string_view text, int32_t id, Options options);
  bool empty() const { return tokens_.empty(); }

  // Cuts a text. Parts come in order and none is empty; added tokens may overlap where one of them
  // strips white space that others consist of.
  void cut(absl::string_view text, std::vector<Part>& parts) const;

 private:
  struct Token {
    int32_t id;
    Options options;
  };
  struct Node {
    int32_t token = -1;  // index into tokens_ of the token that ends here
  };

  std::vector<Token> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  HashMap<uint64_t, uint32_t> children_;  // node << 8 | byte
  bool starts_[256] = {};
};

}  // namespace ponder
