// Tokenizer part by part. tests/data/text/tokenizer_cases.json holds what the reference makes of
// each kind of step (make_tokenizer_cases.py beside it); the rest are rules of our own.
#include "lib/text/tokenizer.h"

#include <thread>

#include "lib/text/stream_decoder.h"
#include "lib/text/utf8.h"
#include "tests/lib/text/tokenizer_test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

const Json& reference_cases() {
  static const Json* const cases =
      new Json(read_json_file(std::string(kSourceDir) + "/tests/data/text/tokenizer_cases.json"));
  return *cases;
}

// A base of the reference cases with some of its keys replaced.
Json changed(const std::string& base, const Json& patch) {
  Json spec = reference_cases()["bases"][base];
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      spec["model"].update(value);
    } else {
      spec[key] = value;
    }
  }
  return spec;
}

std::unique_ptr<Tokenizer> load(const Json& spec) {
  auto tokenizer = Tokenizer::from_json(spec.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

Json added(const std::string& text, int id, const Json& flags = Json::object()) {
  Json token = {{"content", text}, {"id", id},        {"special", false},   {"single_word", false},
                {"lstrip", false}, {"rstrip", false}, {"normalized", false}};
  token.update(flags);
  return token;
}

TEST(Tokenizer, DoesEveryStepAsTheReference) {
  size_t variants = 0;
  for (const Json& variant : reference_cases()["variants"]) {
    const std::string name =
        variant["base"].get<std::string>() + ", " + variant["name"].get<std::string>();
    SCOPED_TRACE(name);
    const auto tokenizer = load(changed(variant["base"], variant["patch"]));
    ASSERT_NE(tokenizer, nullptr);
    for (const Json& c : variant["cases"]) {
      const std::string text = c["text"];
      const auto ids = tokenizer->encode(text, {.parse_special = true});
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, c["ids"].get<Ids>()) << text;
      EXPECT_EQ(replace_invalid_utf8(tokenizer->decode(*ids)), c.value("decoded", text));
    }
    const std::string text = variant["cases"][2]["text"];
    EXPECT_EQ(*tokenizer->encode(text, {.parse_special = true, .add_special = true}),
              variant["with_special"].get<Ids>());
    ++variants;
  }
  EXPECT_GT(variants, 50u);
}

TEST(Tokenizer, AddedTokensAreOrdinaryTextUnlessAsked) {
  const Json spec = changed(
      "bytes",
      {{"added_tokens",
        {added("<think>", 1000, {{"special", false}}), added("<s>", 1001, {{"special", true}})}}});
  const auto tokenizer = load(spec);
  const int32_t think = *tokenizer->find("<think>");
  const Ids parsed = *tokenizer->encode("<think><s>", {.parse_special = true});
  EXPECT_EQ(parsed, (Ids{think, think + 1}));
  const Ids plain = *tokenizer->encode("<think><s>");
  EXPECT_GT(plain.size(), 2u);
  for (const int32_t id : plain) EXPECT_FALSE(tokenizer->is_added(id));
  EXPECT_EQ(tokenizer->decode(plain), "<think><s>");
}

TEST(Tokenizer, PlainTextMakesNoControlTokenOutOfAWholePiece) {
  // "hell" is a piece, and declared a control token; ignore_merges would take it as it stands.
  const Json spec = changed("bytes", {{"added_tokens", {added("hell", 0, {{"special", true}})}},
                                      {"pre_tokenizer", nullptr},
                                      {"model", {{"ignore_merges", true}}}});
  const auto tokenizer = load(spec);
  const int32_t hell = *tokenizer->find_added("hell");
  EXPECT_EQ(*tokenizer->encode("hell", {.parse_special = true}), Ids{hell});
  EXPECT_TRUE(tokenizer->is_special(hell));
}

TEST(Tokenizer, IdsOfAddedTokensFollowTheVocabularyInOrder) {
  // The file says 5000; the reference counts on from the vocabulary, and so do we, aloud.
  const Json spec = changed("bytes", {{"added_tokens", {added("<a>", 5000), added("<b>", 5001)}}});
  const int32_t size = static_cast<int32_t>(spec["model"]["vocab"].size());
  std::string heard;
  const LogSink log = {[](void* user, int32_t, const char* text, size_t n) {
                         static_cast<std::string*>(user)->append(text, n);
                       },
                       &heard};
  auto tokenizer = Tokenizer::from_json(spec.dump(), log, "folder/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->find("<a>"), size);
  EXPECT_EQ((*tokenizer)->find("<b>"), size + 1);
  EXPECT_EQ((*tokenizer)->vocabulary_size(), size + 2);
  EXPECT_NE(heard.find("folder/tokenizer.json: added token '<a>'"), std::string::npos) << heard;
}

TEST(Tokenizer, UnknownIdsLeaveNothing) {
  const auto tokenizer = load(changed("bytes", {}));
  for (const int32_t id : {-1, INT32_MIN, tokenizer->vocabulary_size(), INT32_MAX}) {
    EXPECT_EQ(tokenizer->token_bytes(id), "");
    EXPECT_EQ(tokenizer->piece(id), "");
    EXPECT_FALSE(tokenizer->is_added(id));
    EXPECT_FALSE(tokenizer->is_special(id));
    EXPECT_EQ(tokenizer->decode(Ids{id}), "");
  }
  EXPECT_EQ(tokenizer->find("no such piece"), std::nullopt);
  EXPECT_EQ(tokenizer->find_added("hello"), std::nullopt);
}

TEST(Tokenizer, TokenBytesAreWhatATokenSaysInTheMiddle) {
  const auto bytes = load(changed("bytes", {}));
  EXPECT_EQ(bytes->token_bytes(*bytes->find("Ġworld")), " world");
  EXPECT_EQ(bytes->token_bytes(*bytes->find("Ã")), "\xC3");
  const auto pieces = load(changed("pieces", {}));
  EXPECT_EQ(pieces->token_bytes(*pieces->find("▁hello")), " hello");
  EXPECT_EQ(pieces->token_bytes(*pieces->find("<0xE6>")), "\xE6");
  EXPECT_EQ(pieces->token_bytes(*pieces->find("<s>")), "<s>");
  EXPECT_EQ(pieces->decode(Ids{*pieces->find("▁hello")}), "hello");
}

TEST(Tokenizer, LongWordsWithoutEndStayQuick) {
  const auto tokenizer = load(changed("bytes", {}));
  for (const char* unit : {"x", " ", "\n", "ab", "\t ", "'", "1"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const auto ids = tokenizer->encode(text);  // the test's time limit is the assertion
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(tokenizer->decode(*ids), text);
  }
}

TEST(Tokenizer, ShortAndLongWordsMergeAlike) {
  // 48 symbols are merged by looking, more with a heap: both must find the same.
  const auto tokenizer = load(changed("bytes", {{"pre_tokenizer",
                                                 {{"type", "ByteLevel"},
                                                  {"add_prefix_space", false},
                                                  {"trim_offsets", true},
                                                  {"use_regex", false}}}}));
  const std::string unit = "hello world abcabc 123 xxxx ";  // no merge crosses its ends
  const Ids one = *tokenizer->encode(unit);
  Ids many;
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += unit;
    many.insert(many.end(), one.begin(), one.end());
  }
  EXPECT_EQ(*tokenizer->encode(text), many);
}

TEST(Tokenizer, ScoresMergeTheBestPairFirst) {
  TokenizerSpec spec;
  const std::vector<std::pair<std::string, float>> pieces = {
      {"<unk>", 0}, {"<0x0A>", 0}, {"a", -10},  {"b", -10}, {"c", -10},
      {"ab", -3},   {"bc", -2},    {"abc", -1}, {"ca", -4}};
  for (const auto& [text, score] : pieces) {
    spec.pieces.push_back({text, static_cast<int32_t>(spec.pieces.size())});
    spec.scores.push_back(score);
  }
  spec.unmergeable = {true, true};
  spec.byte_fallback = true;
  spec.unknown_piece = "<unk>";
  auto tokenizer = Tokenizer::create(std::move(spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto spell = [&](const char* text) {
    std::string out;
    const Ids ids = *(*tokenizer)->encode(text);
    for (const int32_t id : ids) {
      out += std::string((*tokenizer)->piece(id)) + "|";
    }
    return out;
  };
  EXPECT_EQ(spell("abc"), "abc|");     // bc, then a with it
  EXPECT_EQ(spell("abca"), "abc|a|");  // bc before ca, abc before that
  EXPECT_EQ(spell("cab"), "c|ab|");    // ab before ca
  EXPECT_EQ(spell("a\nz"), "a|<0x0A>|<unk>|");
}

TEST(Tokenizer, AnyNumberOfThreadsUseOne) {
  const auto tokenizer = load(changed("pieces", {}));
  const std::string text = "the hello world 漢字 \xFF";
  const Ids expected = *tokenizer->encode(text, {.parse_special = true, .add_special = true});
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const Ids ids = *tokenizer->encode(text, {.parse_special = true, .add_special = true});
        wrong[t] += ids != expected;
        wrong[t] += tokenizer->decode(ids).empty();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

// The stream decoder.

TEST(Utf8Accumulator, HoldsCodePointsUntilTheyAreWhole) {
  Utf8Accumulator accumulator;
  EXPECT_EQ(accumulator.push("a\xE6"), "a");
  EXPECT_EQ(accumulator.pending(), 1u);
  EXPECT_EQ(accumulator.push("\xBC"), "");
  EXPECT_EQ(accumulator.push("\xA2!"), "漢!");
  EXPECT_EQ(accumulator.flush(), "");
}

TEST(Utf8Accumulator, SaysAtOnceWhatCanNeverBeText) {
  Utf8Accumulator accumulator;
  EXPECT_EQ(accumulator.push("\xFF"), "\uFFFD");
  EXPECT_EQ(accumulator.push("\xE6"), "");
  EXPECT_EQ(accumulator.push("x"), "\uFFFDx");
  EXPECT_EQ(accumulator.push("\xED"), "");
  EXPECT_EQ(accumulator.push("\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(accumulator.push("\xF0\x9F"), "");
  EXPECT_EQ(accumulator.flush(), "\uFFFD");
  EXPECT_EQ(accumulator.pending(), 0u);
}

TEST(Utf8Accumulator, PiecesTogetherAreTheRepairedText) {
  uint64_t state = 7;
  const auto next = [&state](uint64_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % bound;
  };
  const std::string alphabet = "a\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80\xED\xA0\xFF\x80\xC0\xF4\x90";
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (uint64_t i = next(24); i > 0; --i) bytes.push_back(alphabet[next(alphabet.size())]);
    Utf8Accumulator accumulator;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::min<size_t>(1 + next(3), bytes.size() - at);
      text += accumulator.push(absl::string_view(bytes).substr(at, size));
      EXPECT_TRUE(is_valid_utf8(text));
      EXPECT_LE(accumulator.pending(), 3u);
      at += size;
    }
    EXPECT_EQ(text + accumulator.flush(), replace_invalid_utf8(bytes));
  }
}

TEST(StreamDecoder, DropsTheFirstSpaceOnlyAtTheStartOfAText) {
  const auto tokenizer = load(changed("pieces", {}));
  const int32_t hello = *tokenizer->find("▁hello");
  StreamDecoder fresh(tokenizer.get());
  EXPECT_EQ(fresh.push(hello), "hello");
  EXPECT_EQ(fresh.push(hello), " hello");
  StreamDecoder continued(tokenizer.get(), {}, /*continues=*/true);
  EXPECT_EQ(continued.push(hello), " hello");
}

TEST(StreamDecoder, JoinsTheBytesOfOneCharacter) {
  const auto tokenizer = load(changed("pieces", {}));
  StreamDecoder decoder(tokenizer.get());
  const Ids ids = *tokenizer->encode("½");  // <0xC2> <0xBD>, behind the ▁
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.push(ids[2]), "½");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
}

TEST(StreamDecoder, SkipsSpecialTokensWhenAsked) {
  const auto tokenizer = load(changed("pieces", {}));
  StreamDecoder decoder(tokenizer.get(), {.skip_special = true});
  EXPECT_EQ(decoder.push(*tokenizer->find("<s>")), "");
  EXPECT_EQ(decoder.push(*tokenizer->find("▁hello")), "hello");
}

}  // namespace
}  // namespace ponder
