#include "lib/base/json.h"

#include <string>

#include "gtest/gtest.h"

namespace ponder {
namespace {

using absl::StatusCode;

::testing::AssertionResult says(const Status& status, absl::string_view words) {
  if (status.code() == StatusCode::kDataLoss &&
      status.message().find(words) != absl::string_view::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << status << "\n  where \"" << words << "\" was expected";
}

// ---- parse_json -------------------------------------------------------------------------------

TEST(ParseJson, ReadsEveryKindOfValue) {
  auto json = parse_json(R"({"a":[1,-2,2.5,true,false,null,"\u00e9\ud83d\ude00"],"b":{}})", "x");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(1, (*json)["a"][0]);
  EXPECT_EQ(-2, (*json)["a"][1]);
  EXPECT_EQ(2.5, (*json)["a"][2]);
  EXPECT_EQ("\xc3\xa9\xf0\x9f\x98\x80", (*json)["a"][6].get<std::string>());
  EXPECT_EQ(18446744073709551615u, parse_json("18446744073709551615", "x")->get<uint64_t>());
}

TEST(ParseJson, RefusesEveryTruncation) {
  const std::string good = R"({"a":[1,{"b":"c\n\u00e9"}],"d":-1.5e3,"e":null})";
  ASSERT_TRUE(parse_json(good, "x").ok());
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_TRUE(says(parse_json(good.substr(0, n), "x.json").status(), "x.json: not valid JSON"))
        << n;
  }
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const char* text : {"",         " ",       "nul",       "{'a':1}",     "{\"a\":1,}",
                           "[1,]",     "[1 2]",   "{\"a\" 1}", "01",          "+1",
                           ".5",       "1.",      "1e",        "NaN",         "Infinity",
                           "-",        "// c\n1", "\"\\x41\"", "\"\\ud800\"", "\"\\u12\"",
                           "\"a\nb\"", "1 1",     "[",         "]",           "\xef\xbb\xbf{",
                           "1e999",    "-1e999"}) {
    EXPECT_TRUE(says(parse_json(text, "x").status(), "not valid JSON")) << text;
  }
  EXPECT_TRUE(says(parse_json(std::string("1\0", 2), "x").status(), "not valid JSON"));
}

TEST(ParseJson, RefusesInvalidUtf8AndStillSpeaksUtf8) {
  for (const char* bytes :
       {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    const Status status = parse_json(std::string("[\"") + bytes + "\"]", "x").status();
    EXPECT_TRUE(says(status, "not valid JSON"));
    for (char c : status.message()) EXPECT_LT(static_cast<unsigned char>(c), 0x80) << status;
  }
}

TEST(ParseJson, KeepsMessagesShort) {
  const Status status = parse_json("[\"" + std::string(1'000'000, 'a'), "x").status();
  EXPECT_EQ(StatusCode::kDataLoss, status.code());
  EXPECT_LT(status.message().size(), 500u);
}

TEST(ParseJson, BoundsDepth) {
  const auto nested = [](int n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_TRUE(parse_json(nested(128), "x").ok());
  EXPECT_TRUE(says(parse_json(nested(129), "x").status(), "deeper than 128"));
  EXPECT_TRUE(says(parse_json(std::string(10'000'000, '['), "x").status(), "deeper than 128"));
  std::string objects;
  for (int i = 0; i < 200; ++i) objects += "{\"a\":";
  EXPECT_TRUE(says(parse_json(objects, "x").status(), "deeper than 128"));
  // Depth is what is open, not what has been.
  std::string flat = "[";
  for (int i = 0; i < 1000; ++i) flat += "[],{},";
  EXPECT_TRUE(parse_json(flat + "0]", "x").ok());
}

TEST(ParseJson, KeepsTheLastOfDuplicateKeys) {
  EXPECT_EQ(2, (*parse_json(R"({"a":1,"a":2})", "x"))["a"]);
}

TEST(ParseJsonObject, NeedsAnObjectAtTheTop) {
  EXPECT_TRUE(parse_json_object("{}", "x").ok());
  for (const char* text : {"[]", "1", "\"a\"", "null"}) {
    EXPECT_TRUE(says(parse_json_object(text, "x.json").status(), "x.json: the top level")) << text;
  }
}

// ---- Config -----------------------------------------------------------------------------------

class ConfigTest : public ::testing::Test {
 protected:
  Config view(const char* text) {
    auto json = parse_json(text, "test");
    EXPECT_TRUE(json.ok()) << json.status();
    json_ = *std::move(json);
    return Config(json_, "c.json");
  }
  Json json_;
};

TEST_F(ConfigTest, ReadsWhatIsThere) {
  const Config c = view(R"({"i":4096,"w":4096.0,"f":1e-6,"n":2,"s":"x","b":true,"o":{"k":1}})");
  EXPECT_EQ(4096, c.i("i"));
  EXPECT_EQ(4096, c.i("w"));
  EXPECT_EQ(1e-6, c.f("f"));
  EXPECT_EQ(2.0, c.f("n"));
  EXPECT_EQ("x", c.s("s"));
  EXPECT_TRUE(c.b("b", false));
  EXPECT_EQ(1, c.at("o").i("k"));
  EXPECT_TRUE(c.status().ok()) << c.status();
}

TEST_F(ConfigTest, UsesTheOtherValueWhereAbsentOrNull) {
  const Config c = view(R"({"null":null})");
  for (const char* key : {"none", "null"}) {
    EXPECT_EQ(0, c.i(key, 0));
    EXPECT_EQ(2.5, c.f(key, 2.5));
    EXPECT_EQ("d", c.s(key, "d"));
    EXPECT_TRUE(c.b(key, true));
    EXPECT_FALSE(c.has(key));
    EXPECT_EQ(nullptr, c.find(key));
  }
  EXPECT_TRUE(c.status().ok()) << c.status();
}

TEST_F(ConfigTest, ReportsWhatIsMissing) {
  EXPECT_EQ(1, view("{}").i("hidden_size"));
  for (int kind = 0; kind < 4; ++kind) {
    const Config c = view("{}");
    if (kind == 0) c.i("key");
    if (kind == 1) c.f("key");
    if (kind == 2) c.s("key");
    if (kind == 3) c.at("key").i("inner");
    EXPECT_TRUE(says(c.status(), "c.json: \"key\"")) << kind;
  }
}

TEST_F(ConfigTest, ReportsAbsurdNumbersAndReturnsHarmlessOnes) {
  for (const char* text : {"0", "-1", "1.5", "2147483648", "1e300", "18446744073709551615", "\"1\"",
                           "[1]", "true", "{}"}) {
    const Config c = view(("{\"k\":" + std::string(text) + "}").c_str());
    EXPECT_EQ(1, c.i("k")) << text;
    EXPECT_TRUE(says(c.status(), "\"k\" must be a whole number")) << text;
  }
  EXPECT_EQ(2147483647, view(R"({"k":2147483647})").i("k"));
  const Config f = view(R"({"k":"1.0"})");
  EXPECT_EQ(1, f.f("k"));
  EXPECT_TRUE(says(f.status(), "finite number"));
  const Config s = view(R"({"k":1})");
  EXPECT_EQ("other", s.s("k", "other"));
  EXPECT_TRUE(says(s.status(), "must be a string"));
  const Config b = view(R"({"k":1})");
  EXPECT_TRUE(b.b("k", true));
  EXPECT_TRUE(says(b.status(), "true or false"));
}

TEST_F(ConfigTest, RemembersTheFirstFailureAlsoOfInnerObjects) {
  const Config c = view(R"({"o":{"k":-1}})");
  c.at("o").i("k");
  c.i("other");
  EXPECT_TRUE(says(c.status(), "c.json.o: \"k\""));
  c.fail(corrupt_error("later"));
  EXPECT_TRUE(says(c.status(), "c.json.o: \"k\""));
}

}  // namespace
}  // namespace ponder
