#include "lib/text/stream_decoder.h"

#include <utility>

#include "lib/text/utf8.h"

namespace ponder {

std::string Utf8Accumulator::push(absl::string_view bytes) {
  std::string joined;
  if (!pending_.empty()) {
    joined = std::exchange(pending_, std::string());
    joined.append(bytes.data(), bytes.size());
    bytes = joined;
  }
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Read read = read_utf8(bytes);
    if (read.truncated) {
      pending_.assign(bytes.data(), bytes.size());
      break;
    }
    if (read.valid) {
      out.append(bytes.data(), read.size);
    } else {
      append_utf8(out, kReplacementCharacter);
    }
    bytes.remove_prefix(read.size);
  }
  return out;
}

std::string Utf8Accumulator::flush() {
  return replace_invalid_utf8(std::exchange(pending_, std::string()));
}

std::string StreamDecoder::push(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return std::string();
  return accumulator_.push(tokenizer_->token_bytes(id, state_));
}

std::string StreamDecoder::flush() { return accumulator_.flush(); }

}  // namespace ponder
