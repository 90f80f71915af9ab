#include "tokenizer.h"

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

namespace ponder::golden {
namespace {

constexpr const char* kAdded[] = {"<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>",
                                  "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
                                  "<\uFF5CUser\uFF5C>",
                                  "<\uFF5CAssistant\uFF5C>",
                                  "<think>",
                                  "</think>"};
constexpr int64_t kAddedCount = 6;
constexpr int kFirstThatIsNotSpecial = 4;

// How byte-level tokenizers spell a byte: printable Latin-1 as itself, the others from U+0100 on.
std::array<std::string, 256> byte_spellings() {
  std::array<std::string, 256> spelling;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const int code = printable ? byte : next++;
    if (code < 0x80) {
      spelling[byte] = static_cast<char>(code);
    } else {
      spelling[byte] = {static_cast<char>(0xC0 | code >> 6),
                        static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return spelling;
}

}  // namespace

Json tokenizer(int64_t vocabulary) {
  if (vocabulary < kLeastVocabulary || vocabulary > (int64_t{1} << 24)) {
    throw std::invalid_argument("a vocabulary of " + std::to_string(vocabulary) +
                                " cannot be made; the least is " +
                                std::to_string(kLeastVocabulary));
  }
  const auto bytes = byte_spellings();
  std::vector<std::string> tokens(bytes.begin(), bytes.end());
  Json merges = Json::array();
  // Token 256 + n joins token n / 256 and byte n % 256: all pairs, then triples, in order.
  const int64_t joined = vocabulary - 256 - kAddedCount;
  for (int64_t n = 0; n < joined; ++n) {
    const std::string& left = tokens[static_cast<size_t>(n / 256)];
    const std::string& right = bytes[static_cast<size_t>(n % 256)];
    merges.push_back({left, right});
    tokens.push_back(left + right);
  }
  // Keys are distinct by construction, so the object is filled without looking for each.
  Json::object_t vocab;
  vocab.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    static_cast<std::vector<Json::object_t::value_type>&>(vocab).emplace_back(tokens[id], id);
  }

  Json added = Json::array();
  for (int i = 0; i < kAddedCount; ++i) {
    added.push_back({{"id", vocabulary - kAddedCount + i},
                     {"content", kAdded[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", i < kFirstThatIsNotSpecial}});
  }
  // Qwen2's way of cutting a text into words.
  constexpr const char* kWords =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
      "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", Json::array({{{"type", "Split"},
                                                           {"pattern", {{"Regex", kWords}}},
                                                           {"behavior", "Isolated"},
                                                           {"invert", false}},
                                                          byte_level})}};
  json["post_processor"] = nullptr;
  json["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false}};
  json["model"]["vocab"] = std::move(vocab);
  json["model"]["merges"] = std::move(merges);
  return json;
}

Json tokenizer_config(int64_t context) {
  Json json;
  json["add_bos_token"] = false;
  json["add_eos_token"] = false;
  json["bos_token"] = kAdded[0];
  json["eos_token"] = kAdded[1];
  json["pad_token"] = kAdded[1];
  json["clean_up_tokenization_spaces"] = false;
  json["model_max_length"] = context;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  const std::string user = kAdded[2], assistant = kAdded[3];
  json["chat_template"] =
      "{{ bos_token }}{% for message in messages %}"
      "{% if message['role'] == 'system' %}{{ message['content'] }}"
      "{% elif message['role'] == 'user' %}{{ '" +
      user +
      "' + message['content'] }}"
      "{% elif message['role'] == 'assistant' %}{{ '" +
      assistant +
      "' + message['content'].split('</think>')[-1] + eos_token }}"
      "{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '" +
      assistant + "<think>\\n' }}{% endif %}";
  return json;
}

}  // namespace ponder::golden
