// The regular expressions: every pattern and text of tests/data/text/regex_cases.json as Oniguruma
// has it, and what becomes of patterns that are broken, unknown or endless.
#include "lib/text/tokenizer_regex.h"

#include "lib/text/tokenizer_steps.h"
#include "tests/lib/text/tokenizer_test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

TEST(Regex, MatchesWhatTheReferenceMatches) {
  const auto cases = read_json_file(std::string(kSourceDir) + "/tests/data/text/regex_cases.json");
  size_t seen = 0;
  for (const auto& c : cases["patterns"]) {
    const std::string pattern = c["pattern"];
    const auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    for (size_t i = 0; i < cases["texts"].size(); ++i) {
      const std::string text = cases["texts"][i];
      const auto replaced = replace_matches(text, *regex, "¦", 10000);
      ASSERT_TRUE(replaced.ok()) << replaced.status();
      EXPECT_EQ(*replaced, c["replaced"][i].get<std::string>()) << pattern << " on " << text;
      ++seen;
    }
  }
  EXPECT_GT(seen, 1800u);
}

TEST(Regex, LiteralsAreNoPatterns) {
  const auto regex = Regex::compile("a.b*", /*literal=*/true);
  ASSERT_TRUE(regex.ok());
  EXPECT_EQ(*replace_matches("a.b* axb", *regex, "-", 1000), "- axb");
  const auto nothing = Regex::compile("", /*literal=*/true);
  EXPECT_EQ(*replace_matches("", *nothing, "-", 1000), "");
}

TEST(Regex, BrokenPatternsAreErrorsThatNameThem) {
  for (const char* pattern :
       {"(",     ")",           "a)",   "(?:a",    "[",       "[a",  "[]",  "[a-",
        "[z-a]", "[[:alpha",    "*a",   "+",       "a|?",     "\\",  "[\\", "\\p",
        "\\p{L", "\\x{110000}", "\\x{", "\\x{zz}", "(?<name", "(?i", "\xFF"}) {
    const auto regex = Regex::compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kDataLoss) << pattern;
    EXPECT_NE(std::string(regex.status().message()).find("pattern '"), std::string::npos)
        << regex.status();
  }
}

TEST(Regex, UnknownConstructsAreErrorsRatherThanGuesses) {
  for (const char* pattern :
       {"\\1", "(a)\\k<1>", "\\X", "\\K", "\\G", "(?~a)", "(?s:a)", "\\p{Foo}", "[[:blank:]]",
        "a{1001}", "(?<=a*)b", "\\xE9", "(?(1)a|b)"}) {
    const auto regex = Regex::compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kUnimplemented)
        << pattern << ": " << regex.status();
  }
}

TEST(Regex, HugePatternsAreRefused) {
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "(";
  for (int i = 0; i < 1000; ++i) deep += ")";
  EXPECT_FALSE(Regex::compile(deep).ok());
  std::string brackets(1000, '[');
  EXPECT_FALSE(Regex::compile(brackets + "a" + std::string(1000, ']')).ok());
  EXPECT_FALSE(Regex::compile("(((((a{1000}){1000}){1000}){1000}){1000}){1000}b").ok());
  EXPECT_FALSE(Regex::compile(std::string(1 << 20, 'a')).ok());
  // Nothing repeated is nothing, however often.
  EXPECT_TRUE(Regex::compile("(?:(?:(?:(?:){1000}){1000}){1000}){1000}").ok());
  std::string sets;
  for (int i = 0; i < 600; ++i) {
    sets += "[a\\x{" + std::string(1, "123456789"[i % 9]) + std::to_string(100 + i) + "}]";
  }
  EXPECT_FALSE(Regex::compile(sets).ok());
}

TEST(Regex, EndlessBacktrackingIsAnErrorAndNotAHang) {
  const std::string text(5000, 'a');
  for (const char* pattern : {"(a*)*b", "(a|a)*b", "(?:a+)+$b", "(a|aa)+b", "(?:.*){20}b"}) {
    const auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    std::vector<Regex::Match> matches;
    const Status status = regex->find_all(text, matches);
    ASSERT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pattern;
    EXPECT_NE(std::string(status.message()).find(pattern), std::string::npos) << status;
  }
}

TEST(Regex, LongTextsNeedNoStack) {
  const std::string text(1'000'000, 'a');
  for (const char* pattern : {"(?:a|b)*", "(?:ab?)*?$", "(?>a|b)+", "a*", "(?:(?=a)a)*"}) {
    const auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    std::vector<Regex::Match> matches;
    ASSERT_TRUE(regex->find_all(text, matches).ok()) << pattern;
    ASSERT_FALSE(matches.empty());
    EXPECT_EQ(matches[0].end, text.size()) << pattern;
  }
}

}  // namespace
}  // namespace ponder
