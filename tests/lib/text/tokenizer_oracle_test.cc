// Tokenizer against the recorded answers of the reference: real vocabularies, 300 texts of every
// kind each, a long one, broken UTF-8, decoding; the shipped model; the story model.
#include <cstring>
#include <memory>

#include "lib/text/stream_decoder.h"
#include "lib/text/tokenizer.h"
#include "lib/text/tokenizer_gguf.h"
#include "lib/text/utf8.h"
#include "tests/lib/text/tokenizer_test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

using Ids = std::vector<int32_t>;

const std::string kShared = kSharedDir;

std::string hex_to_bytes(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string stream_all(const Tokenizer& tokenizer, const Ids& ids, const DecodeOptions& options) {
  StreamDecoder decoder(&tokenizer, options);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    text += part;
  }
  return text + decoder.flush();
}

// What a GGUF file made from this tokenizer.json says.
GgufTokenizer as_gguf(const nlohmann::json& json, const std::string& pre) {
  GgufTokenizer gguf;
  gguf.model = "gpt2";
  gguf.pre = pre;
  const auto put = [&gguf](size_t id, const std::string& text, int32_t type) {
    if (gguf.tokens.size() <= id) {
      gguf.tokens.resize(id + 1, "[PAD]");
      gguf.token_type.resize(id + 1, 5);
    }
    gguf.tokens[id] = text;
    gguf.token_type[id] = type;
  };
  for (const auto& [text, id] : json["model"]["vocab"].items()) put(id, text, 1);
  for (const auto& token : json["added_tokens"]) {
    put(token["id"], token["content"], token["special"].get<bool>() ? 3 : 4);
    if (token["content"] == "<｜begin▁of▁sentence｜>") gguf.bos_token_id = token["id"];
  }
  for (const auto& merge : json["model"]["merges"]) {
    gguf.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  gguf.add_bos_token = true;
  return gguf;
}

class TokenizerOracle : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = kShared + "/oracle/D/";
    const std::string file = folder + "tokenizers/" + GetParam() + ".tokenizer.json.gz";
    PONDER_NEEDS_SHARED(file);
    auto tokenizer = Tokenizer::from_json(read_gzip_file(file));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    cases_ = read_json_file(folder + GetParam() + ".json");
  }

  Ids encode(absl::string_view text, bool add_special = false) const {
    auto ids = tokenizer_->encode(text, {.parse_special = true, .add_special = add_special});
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.ok() ? *ids : Ids();
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json cases_;
};

TEST_P(TokenizerOracle, EncodesEveryCaseAndDecodesItBack) {
  size_t seen = 0;
  for (const auto& c : cases_["cases"]) {
    const std::string text = c["text"];
    const Ids ids = encode(text);
    EXPECT_EQ(ids, c["ids"].get<Ids>()) << c["cat"] << ": " << text;
    const std::string decoded = c["decoded"].is_null() ? text : c["decoded"].get<std::string>();
    EXPECT_EQ(tokenizer_->decode(ids), decoded) << c["cat"];
    EXPECT_EQ(stream_all(*tokenizer_, ids, {}), decoded) << c["cat"];
    ++seen;
  }
  EXPECT_GT(seen, 300u);
}

TEST_P(TokenizerOracle, EncodesTheLongText) {
  const std::string folder = kShared + "/oracle/D/";
  const std::string text = read_test_file(folder + "long.txt");
  const std::string bytes = read_test_file(folder + "long." + GetParam() + ".u32");
  Ids expected(bytes.size() / 4);
  std::memcpy(expected.data(), bytes.data(), expected.size() * 4);
  ASSERT_GT(expected.size(), 10000u);
  EXPECT_EQ(encode(text), expected);
  // As ordinary text the added tokens in it come apart, and nothing is lost.
  const Ids plain = *tokenizer_->encode(text);
  EXPECT_EQ(tokenizer_->decode(plain), tokenizer_->decode(expected));
  for (const int32_t id : plain) ASSERT_FALSE(tokenizer_->is_added(id));
}

TEST_P(TokenizerOracle, ReadsBrokenUtf8AsReplacementCharacters) {
  for (const auto& c : cases_["invalid_utf8"]) {
    const std::string bytes = hex_to_bytes(c["bytes_hex"]);
    EXPECT_EQ(replace_invalid_utf8(bytes), c["lossy_text"].get<std::string>()) << c["bytes_hex"];
    EXPECT_EQ(encode(bytes), c["ids"].get<Ids>()) << c["bytes_hex"];
  }
}

TEST_P(TokenizerOracle, DecodesAnyIds) {
  for (const auto& c : cases_["decode"]) {
    const Ids ids = c["ids"].get<Ids>();
    EXPECT_EQ(replace_invalid_utf8(tokenizer_->decode(ids)), c["text"].get<std::string>());
    EXPECT_EQ(stream_all(*tokenizer_, ids, {}), c["text"].get<std::string>());
    const DecodeOptions skip = {.skip_special = true};
    const std::string skipped = c["text_skip_special"];
    EXPECT_EQ(replace_invalid_utf8(tokenizer_->decode(ids, skip)), skipped);
    EXPECT_EQ(stream_all(*tokenizer_, ids, skip), skipped);
  }
}

TEST_P(TokenizerOracle, AddsTheBeginOfSentence) {
  const auto& c = cases_["with_bos"];
  EXPECT_EQ(encode(c["text"].get<std::string>(), true), c["ids"].get<Ids>());
}

TEST_P(TokenizerOracle, TakesNoSpecialTokenFromPlainText) {
  for (const TokenizerSpec::AddedToken& token : tokenizer_->added_tokens()) {
    const Ids ids = *tokenizer_->encode(token.text);
    for (const int32_t id : ids) EXPECT_FALSE(tokenizer_->is_added(id)) << token.text;
    EXPECT_EQ(tokenizer_->decode(ids), token.text);
    EXPECT_EQ(encode(token.text), Ids{token.id});
    EXPECT_EQ(tokenizer_->find_added(token.text), token.id);
    EXPECT_EQ(tokenizer_->is_special(token.id), token.special);
  }
}

TEST_P(TokenizerOracle, FindsEveryPieceByItsSpelling) {
  int32_t known = 0;
  for (int32_t id = 0; id < tokenizer_->vocabulary_size(); ++id) {
    const absl::string_view piece = tokenizer_->piece(id);
    if (piece.empty()) continue;
    ++known;
    ASSERT_EQ(tokenizer_->find(piece), id) << piece;
    ASSERT_FALSE(tokenizer_->token_bytes(id).empty()) << piece;
  }
  EXPECT_GT(known, 100000);
}

TEST_P(TokenizerOracle, GgufMetadataMakeTheSameTokenizer) {
  const std::string name = GetParam();
  const std::string file = kShared + "/oracle/D/tokenizers/" + name + ".tokenizer.json.gz";
  const auto json = nlohmann::json::parse(read_gzip_file(file));
  const std::string pre = name == "r1-distill-qwen"    ? "deepseek-r1-qwen"
                          : name == "r1-distill-llama" ? "llama-bpe"
                                                       : "deepseek-v3";
  auto spec = tokenizer_spec_from_gguf(as_gguf(json, pre));
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::create(*std::move(spec), "model.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const auto& c : cases_["cases"]) {
    const std::string text = c["text"];
    const auto ids = (*tokenizer)->encode(text, {.parse_special = true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, c["ids"].get<Ids>()) << text;
    EXPECT_EQ((*tokenizer)->decode(*ids), tokenizer_->decode(*ids));
  }
  const auto& c = cases_["with_bos"];
  const std::string text = c["text"];
  EXPECT_EQ(*(*tokenizer)->encode(text, {.parse_special = true, .add_special = true}),
            c["ids"].get<Ids>());
}

INSTANTIATE_TEST_SUITE_P(Shared, TokenizerOracle,
                         testing::Values("r1-distill-qwen", "r1-distill-llama",
                                         "deepseek3-standin"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(TokenizerOracleModels, CountdownPromptsAndAnswers) {
  const std::string golden = kShared + "/models/countdown_golden.json";
  PONDER_NEEDS_SHARED(golden);
  auto tokenizer =
      Tokenizer::from_json(read_test_file(kShared + "/models/countdown/tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const nlohmann::json answers = read_json_file(golden);
  for (const auto& c : answers["cases"]) {
    const std::string prompt = "<｜begin▁of▁sentence｜><｜User｜>" +
                               c["message"].get<std::string>() + "<｜Assistant｜><think>\n";
    EXPECT_EQ(*(*tokenizer)->encode(prompt, {.parse_special = true}), c["prompt_ids"].get<Ids>());
    EXPECT_EQ((*tokenizer)->decode(c["greedy_ids"].get<Ids>()), c["text"].get<std::string>());
  }
}

TEST(TokenizerOracleModels, StoriesWithBeginOfSentence) {
  const std::string golden = kShared + "/oracle/C/golden.json";
  PONDER_NEEDS_SHARED(golden);
  auto tokenizer =
      Tokenizer::from_json(read_test_file(kShared + "/oracle/C/stories260K-hf/tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const nlohmann::json answers = read_json_file(golden);
  for (const auto& c : answers["prompts"]) {
    const Ids prompt = c["prompt_ids"].get<Ids>();
    EXPECT_EQ(*(*tokenizer)->encode(c["prompt"].get<std::string>(), {.add_special = true}), prompt);
    Ids all = prompt;
    const Ids greedy = c["greedy"].get<Ids>();
    all.insert(all.end(), greedy.begin(), greedy.end());
    const std::string text = (*tokenizer)->decode(all, {.skip_special = true});
    EXPECT_EQ(text.substr(0, c["prompt"].get<std::string>().size()),
              c["prompt"].get<std::string>());
    EXPECT_EQ(stream_all(**tokenizer, all, {.skip_special = true}), text);
  }
}

TEST(TokenizerOracleModels, EveryToyModelLoads) {
  for (const char* name : {"dsv3-bf16", "dsv3-fp8", "dsv3-noq-bf16", "llama-bf16", "llama-f16",
                           "qwen2-bf16", "qwen2-tied-f32", "qwen3-bf16", "qwen3moe-bf16"}) {
    const std::string file = kShared + "/oracle/A/" + name + "/tokenizer.json";
    PONDER_NEEDS_SHARED(file);
    auto tokenizer = Tokenizer::from_json(read_test_file(file));
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    const std::string text = "Prove that √2 is irrational.\r\n<think>";
    EXPECT_EQ((*tokenizer)->decode(*(*tokenizer)->encode(text, {.parse_special = true})), text);
  }
}

}  // namespace
}  // namespace ponder
