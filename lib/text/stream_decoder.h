// Token ids in, whole code points out: the text of a generation while it is being generated.
//
// A token may end inside a code point; its bytes wait for the rest. What is certainly not UTF-8
// comes out as U+FFFD at once, and flush() gives what waits at the end. All pieces and the flush
// together are replace_invalid_utf8(tokenizer.decode(ids)). One thread at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/text/tokenizer.h"

namespace ponder {

// The part without a tokenizer: bytes in, whole code points out.
class Utf8Accumulator {
 public:
  // Takes bytes and returns the text that is complete by now.
  std::string push(absl::string_view bytes);
  // What is left over is cut off: U+FFFD for it, or nothing. Ready for a new text afterwards.
  std::string flush();
  // Bytes that wait for the rest of their code point: at most 3.
  size_t pending() const { return pending_.size(); }

 private:
  std::string pending_;
};

class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder. `continues` says that text went before (the prompt), so
  // nothing is taken off the front.
  explicit StreamDecoder(const Tokenizer* tokenizer, const DecodeOptions& options = {},
                         bool continues = false)
      : tokenizer_(tokenizer), options_(options) {
    state_.at_start = !continues;
  }

  std::string push(int32_t id);
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  DecodeState state_;
  Utf8Accumulator accumulator_;
};

}  // namespace ponder
