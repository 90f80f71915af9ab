// Files that lie: each is an error that names what is wrong, and none is more than an error.
#include <limits>

#include "lib/text/tokenizer.h"
#include "lib/text/tokenizer_gguf.h"
#include "tests/lib/text/tokenizer_test_files.h"

namespace ponder {
namespace {

using Json = nlohmann::json;

Json small() {
  return Json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 4, "content": "<s>", "special": true, "single_word": false,
                      "lstrip": false, "rstrip": false, "normalized": false}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]}
  })");
}

Status load(const std::string& text) { return Tokenizer::from_json(text).status(); }

struct Case {
  const char* name;
  const char* pointer;  // what is replaced in the small tokenizer
  const char* value;
  const char* words;  // in the message
  absl::StatusCode code = absl::StatusCode::kDataLoss;
};

constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;

const Case kCases[] = {
    {"NoModel", "/model", "null", "model is missing"},
    {"ModelIsNoObject", "/model", "[]", "model must be an object"},
    {"OtherModel", "/model/type", "\"Unigram\"", "model.type is 'Unigram'", kUnsupported},
    {"NoVocabulary", "/model/vocab", "null", "model.vocab is missing"},
    {"EmptyVocabulary", "/model/vocab", "{}", "the vocabulary is empty"},
    {"VocabularyIsAList", "/model/vocab", "[1]", "model.vocab must be an object"},
    {"NegativeId", "/model/vocab/a", "-1", "the id of 'a' is -1"},
    {"HugeId", "/model/vocab/a", "2147483648", "the id of 'a' is 2147483648"},
    {"HugerId", "/model/vocab/a", "123456789012345678901234567890", "the id of 'a'"},
    {"LargeId", "/model/vocab/a", "2147483647", "ids go from 0 to"},
    {"FractionalId", "/model/vocab/a", "1.5", "the id of 'a' is 1.5"},
    {"TextId", "/model/vocab/a", "\"1\"", "the id of 'a' is string"},
    {"IdTwice", "/model/vocab/a", "1", "id 1 is given to"},
    {"NoMerges", "/model/merges", "null", "model.merges is missing"},
    {"MergeOfOne", "/model/merges", R"([["a"]])", "model.merges[0] must be two pieces"},
    {"MergeOfThree", "/model/merges", R"(["a b c"])", "model.merges[0]"},
    {"MergeOfNumbers", "/model/merges", "[[1, 2]]", "model.merges[0]"},
    {"MergeWithoutSpace", "/model/merges", R"(["ab"])", "model.merges[0]"},
    {"MergeOfUnknown", "/model/merges", R"([["a", "z"]])", "'z' is not in the vocabulary"},
    {"MergeToUnknown", "/model/merges", R"([["b", "a"]])", "'ba' is not in the vocabulary"},
    {"MergeShorterThanPrefix", "/model/continuing_subword_prefix", "\"##\"", "shorter than"},
    {"Dropout", "/model/dropout", "0.1", "model.dropout", kUnsupported},
    {"FlagIsANumber", "/model/byte_fallback", "1", "model.byte_fallback must be true or false"},
    {"Version", "/version", "\"2.0\"", "version is '2.0'", kUnsupported},
    {"AddedTokensAreNoList", "/added_tokens", "{}", "added_tokens must be an array"},
    {"AddedTokenWithoutText", "/added_tokens/0/content", "null",
     "added_tokens[0].content is missing"},
    {"AddedTokenNegativeId", "/added_tokens/0/id", "-1", "added_tokens[0].id is -1"},
    {"AddedTokenHugeId", "/added_tokens/0/id", "4294967296", "added_tokens[0].id is 4294967296"},
    {"AddedTokenWithoutId", "/added_tokens/0/id", "null", "added_tokens[0].id is missing"},
    {"UnknownNormalizer", "/normalizer", R"({"type": "Precompiled"})",
     "normalizer.type is 'Precompiled'", kUnsupported},
    {"NormalizerWithoutType", "/normalizer", "{}", "normalizer.type is missing"},
    {"NormalizerIsText", "/normalizer", "\"NFC\"", "normalizer.type is missing"},
    {"ReplaceWithoutPattern", "/normalizer", R"({"type": "Replace", "content": "x"})",
     "normalizer.pattern must have a String or a Regex"},
    {"UnknownPreTokenizer", "/pre_tokenizer", R"({"type": "UnicodeScripts"})",
     "pre_tokenizer.type is 'UnicodeScripts'", kUnsupported},
    {"BrokenRegex", "/pre_tokenizer",
     R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false})",
     "pattern '(a': a group without ')'"},
    {"UnknownBehavior", "/pre_tokenizer",
     R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd", "invert": false})",
     "pre_tokenizer.behavior is 'Odd'"},
    {"LongReplacement", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})",
     "not one character"},
    {"EmptyReplacement", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": ""})",
     "not one character"},
    {"UnknownScheme", "/pre_tokenizer",
     R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "odd"})",
     "pre_tokenizer.prepend_scheme is 'odd'"},
    {"UnknownDecoder", "/decoder", R"({"type": "WordPiece"})", "decoder.type is 'WordPiece'",
     kUnsupported},
    {"StripOfNothing", "/decoder",
     R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
         {"type": "Strip", "content": "", "start": 1, "stop": 0}]})",
     "not one character"},
    {"StripForEver", "/decoder",
     R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
         {"type": "Strip", "content": " ", "start": 18446744073709551615, "stop": 0}]})",
     "too large"},
    {"UnknownPostProcessor", "/post_processor", R"({"type": "Odd"})",
     "post_processor.type is 'Odd'", kUnsupported},
    {"PostProcessorOfUnknownToken", "/post_processor",
     R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>"}},
         {"Sequence": {"id": "A"}}], "special_tokens": {}})",
     "post_processor.special_tokens.<x>.ids is missing"},
    {"PostProcessorOfUnknownId", "/post_processor",
     R"({"type": "BertProcessing", "cls": ["a", 77], "sep": ["b", 1]})",
     "the post-processor adds token id 77"},
};

class HostileTokenizer : public testing::TestWithParam<Case> {};

TEST_P(HostileTokenizer, IsAnErrorThatSaysWhat) {
  const Case& c = GetParam();
  Json spec = small();
  ASSERT_TRUE(load(spec.dump()).ok()) << load(spec.dump());
  spec[Json::json_pointer(c.pointer)] = Json::parse(c.value);
  const Status status = load(spec.dump());
  EXPECT_EQ(status.code(), c.code) << status;
  EXPECT_NE(std::string(status.message()).find(c.words), std::string::npos) << status;
  EXPECT_EQ(std::string(status.message()).rfind("tokenizer.json: ", 0), 0u) << status;
}

INSTANTIATE_TEST_SUITE_P(Files, HostileTokenizer, testing::ValuesIn(kCases),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(HostileTokenizerText, IsNoJson) {
  const std::string deep(100'000, '[');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("null"), std::string("[1]"), deep,
        std::string("{\"model\": \"\xFF\"}"), small().dump().substr(0, 150)}) {
    const Status status = load(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  }
}

TEST(HostileTokenizerText, TruncationAnywhereIsAnError) {
  const std::string text = small().dump();
  for (size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(load(text.substr(0, n)).ok()) << n;
}

TEST(HostileTokenizerText, SequencesInSequencesAreBounded) {
  Json shallow = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  for (int i = 0; i < 1000; ++i) shallow["normalizers"].push_back({{"type", "NFC"}});
  Json spec = small();
  spec["normalizer"] = shallow;
  EXPECT_EQ(load(spec.dump()).code(), kUnsupported) << load(spec.dump());
  std::string nested = "null";
  for (int i = 0; i < 5000; ++i)
    nested = R"({"type": "Sequence", "normalizers": [)" + nested + "]}";
  std::string text = small().dump();
  const std::string key = "\"normalizer\":null";
  ASSERT_NE(text.find(key), std::string::npos);
  text.replace(text.find(key), key.size(), "\"normalizer\":" + nested);
  EXPECT_FALSE(load(text).ok());
}

TEST(HostileTokenizerText, LongAddedTokensAreRefused) {
  Json spec = small();
  spec["added_tokens"][0]["content"] = std::string(5000, 'a');
  EXPECT_EQ(load(spec.dump()).code(), kUnsupported);
}

TEST(HostileTokenizerText, EndlessPatternsFailTheCallAndNotTheProcess) {
  Json spec = small();
  spec["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(a*)*b"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  auto tokenizer = Tokenizer::from_json(spec.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->encode(std::string(3000, 'a'));
  EXPECT_EQ(ids.status().code(), kUnsupported) << ids.status();
  EXPECT_TRUE((*tokenizer)->encode("abc").ok());
}

TEST(HostileTokenizerText, ReplacingCannotBlowATextUpWithoutEnd) {
  Json spec = small();
  const Json grow = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(4000, 'a')}};
  spec["normalizer"] = {{"type", "Sequence"}, {"normalizers", {grow, grow, grow, grow}}};
  auto tokenizer = Tokenizer::from_json(spec.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->encode("aaaa").status().code(), kUnsupported);
  Json doubled = Json::array();
  for (int i = 0; i < 30; ++i) doubled.push_back({{"type", "ByteLevel"}});
  spec["normalizer"] = {{"type", "Sequence"}, {"normalizers", doubled}};
  tokenizer = Tokenizer::from_json(spec.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->encode("é").status().code(), kUnsupported);
  spec["normalizer"] = nullptr;
  spec["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", doubled}};
  EXPECT_EQ(load(spec.dump()).code(), kUnsupported);
}

TEST(HostileTokenizerText, DecodersCannotBlowTheVocabularyUp) {
  Json spec = small();
  for (int i = 0; i < 1000; ++i) {
    spec["model"]["vocab"][std::string("a") + std::to_string(i)] = 4 + i;
  }
  spec["decoder"] = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(60000, 'b')}};
  EXPECT_EQ(load(spec.dump()).code(), kUnsupported) << load(spec.dump());
}

TEST(HostileTokenizerText, UnknownCharactersWithoutUnknownToken) {
  Json spec = small();
  auto tokenizer = Tokenizer::from_json(spec.dump());
  EXPECT_EQ(*(*tokenizer)->encode("axbab"), (std::vector<int32_t>{2, 2}));  // x is no token: gone
  spec["model"]["unk_token"] = "<unk>";  // named, and nowhere to be found
  tokenizer = Tokenizer::from_json(spec.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->encode("axb");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(ids.status().message()).find("'<unk>'"), std::string::npos);
}

GgufTokenizer small_gguf() {
  GgufTokenizer gguf;
  gguf.model = "llama";
  gguf.tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab"};
  gguf.scores = {0, 0, 0, 0, -5, -5, -5, -2, -1};
  gguf.token_type = {2, 3, 3, 6, 1, 1, 1, 1, 1};
  gguf.bos_token_id = 1;
  gguf.eos_token_id = 2;
  gguf.unknown_token_id = 0;
  return gguf;
}

Status load(GgufTokenizer gguf) {
  auto spec = tokenizer_spec_from_gguf(std::move(gguf));
  if (!spec.ok()) return spec.status();
  return Tokenizer::create(*std::move(spec), "model.gguf").status();
}

TEST(GgufTokenizer, MergesByScoreBehindASpace) {
  auto spec = tokenizer_spec_from_gguf(small_gguf());
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::create(*std::move(spec), "model.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->encode("ab a\nx", {.add_special = true});
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, (std::vector<int32_t>{1, 4, 8, 7, 3, 0}));  // <s> ▁ ab ▁a \n <unk>
  EXPECT_EQ((*tokenizer)->decode(*ids, {.skip_special = true}), "ab a\n");
}

TEST(GgufTokenizer, LiesAreErrorsThatNameTheKey) {
  const auto expect = [](const GgufTokenizer& gguf, const char* words) {
    const Status status = load(gguf);
    EXPECT_FALSE(status.ok()) << words;
    EXPECT_NE(std::string(status.message()).find(words), std::string::npos) << status;
  };
  ASSERT_TRUE(load(small_gguf()).ok()) << load(small_gguf());
  GgufTokenizer gguf = small_gguf();
  gguf.model = "bert";
  expect(gguf, "tokenizer.ggml.model is 'bert'");
  gguf = small_gguf();
  gguf.scores.pop_back();
  expect(gguf, "tokenizer.ggml.scores has 8 entries for 9");
  gguf = small_gguf();
  gguf.scores[4] = std::numeric_limits<float>::quiet_NaN();
  expect(gguf, "is not a number");
  gguf = small_gguf();
  gguf.token_type.push_back(1);
  expect(gguf, "tokenizer.ggml.token_type has 10 entries for 9");
  gguf = small_gguf();
  gguf.bos_token_id = 9;
  expect(gguf, "tokenizer.ggml.bos_token_id is 9 in a vocabulary of 9");
  gguf = small_gguf();
  gguf.bos_token_id.reset();
  expect(gguf, "tokenizer.ggml.bos_token_id is missing");
  gguf = small_gguf();
  gguf.unknown_token_id = -1;
  expect(gguf, "tokenizer.ggml.unknown_token_id is -1");
  gguf = small_gguf();
  gguf.tokens[5] = "\xFF";
  expect(gguf, "not valid UTF-8");
  gguf = GgufTokenizer();
  gguf.model = "gpt2";
  expect(gguf, "the vocabulary is empty");
  gguf.tokens = {"a"};
  gguf.pre = "no-such-thing";
  expect(gguf, "tokenizer.ggml.pre is 'no-such-thing'");
  gguf.pre = "qwen2";
  gguf.merges = {"ab"};
  expect(gguf, "tokenizer.ggml.merges[0]");
  gguf.merges = {""};
  expect(gguf, "tokenizer.ggml.merges[0]");
}

}  // namespace
}  // namespace ponder
