// tokenizer.json from strangers, and texts from strangers under it. Everything up to the first zero
// byte is the file; what follows is the text, under it or else under a tokenizer known to be good.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "lib/text/stream_decoder.h"
#include "lib/text/tokenizer.h"
#include "lib/text/utf8.h"

namespace {

using ponder::Tokenizer;

void require(bool good) {
  if (!good) std::abort();
}

// All 256 bytes and a few merges, Llama 3's pattern, tokens of every kind.
std::unique_ptr<Tokenizer> make_known() {
  ponder::TokenizerSpec spec;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = byte >= 0x21 && byte <= 0x7E ? byte : 0x100 + byte;
    std::string text;
    ponder::append_utf8(text, c);
    spec.pieces.push_back({text, byte});
  }
  for (const char* pair : {"ab", "bc", "aa"}) {
    spec.merges.emplace_back(std::string(1, pair[0]), std::string(1, pair[1]));
    spec.pieces.push_back({pair, static_cast<int32_t>(spec.pieces.size())});
  }
  ponder::TokenizerSpec::Normalizer nfc;
  spec.normalizers.push_back(nfc);
  ponder::TokenizerSpec::PreTokenizer split;
  split.pattern.regex = true;
  split.pattern.text =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  spec.pre_tokenizers.push_back(split);
  ponder::TokenizerSpec::AddedToken token;
  token.text = "<t>";
  spec.added_tokens.push_back(token);
  token.text = " ";
  token.lstrip = token.rstrip = true;
  spec.added_tokens.push_back(token);
  token.text = "é";
  token.normalized = token.special = true;
  spec.added_tokens.push_back(token);
  auto tokenizer = Tokenizer::create(std::move(spec));
  require(tokenizer.ok());
  return *std::move(tokenizer);
}

void use(const Tokenizer& tokenizer, absl::string_view text) {
  for (const bool parse : {false, true}) {
    const auto ids = tokenizer.encode(text, {.parse_special = parse, .add_special = parse});
    if (!ids.ok()) continue;
    ponder::StreamDecoder decoder(&tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) {
      require(id >= 0 && id < tokenizer.vocabulary_size());
      streamed += decoder.push(id);
    }
    streamed += decoder.flush();
    require(streamed == ponder::replace_invalid_utf8(tokenizer.decode(*ids)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer* const known = make_known().release();
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const absl::string_view text = zero == absl::string_view::npos
                                     ? absl::string_view("the text's 12 é <t>\n")
                                     : input.substr(zero + 1);
  const auto tokenizer = Tokenizer::from_json(input.substr(0, zero));
  if (tokenizer.ok()) {
    use(**tokenizer, text);
  } else {
    require(!tokenizer.status().message().empty());
    use(*known, text);
  }
  return 0;
}
