#include "lib/sample/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace ponder {
namespace {

StopMatcher make(std::vector<std::string> stops) {
  auto matcher = StopMatcher::create(std::move(stops));
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  return matcher.ok() ? *std::move(matcher) : StopMatcher();
}

TEST(StopMatcher, PassesEverythingWithoutStopStrings) {
  StopMatcher matcher;
  EXPECT_EQ(matcher.feed("abc").text, "abc");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, CutsAtTheBeginningOfTheStopString) {
  StopMatcher matcher = make({"END"});
  const auto result = matcher.feed("one END two");
  EXPECT_EQ(result.text, "one ");
  EXPECT_EQ(result.matched, 0);
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.feed("more").text, "");
  EXPECT_EQ(matcher.feed("more").matched, 0);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopMatcher matcher = make({"\n\nUser:"});
  EXPECT_EQ(matcher.feed("Hi.\n").text, "Hi.");
  EXPECT_EQ(matcher.held(), 1u);
  EXPECT_EQ(matcher.feed("\nUs").text, "");
  EXPECT_EQ(matcher.held(), 4u);
  EXPECT_EQ(matcher.feed("eful").text, "\n\nUseful");
  EXPECT_EQ(matcher.feed("\n\n\nUser: x").text, "\n");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopMatcher, GivesWhatIsHeldAtTheEnd) {
  StopMatcher matcher = make({"stop"});
  EXPECT_EQ(matcher.feed("a sto").text, "a ");
  EXPECT_EQ(matcher.finish(), "sto");
  EXPECT_EQ(matcher.held(), 0u);
  EXPECT_EQ(matcher.feed("p").text, "p") << "the stream before is over";
}

TEST(StopMatcher, TheFirstToBeCompleteWins) {
  StopMatcher matcher = make({"abcd", "bc"});
  const auto result = matcher.feed("xabcd");
  EXPECT_EQ(result.text, "xa");
  EXPECT_EQ(result.matched, 1);
}

TEST(StopMatcher, OfThoseThatEndTogetherTheLongestWins) {
  StopMatcher matcher = make({"bc", "abc", "c"});
  const auto result = matcher.feed("xabc");
  EXPECT_EQ(result.text, "x");
  EXPECT_EQ(result.matched, 1);
}

TEST(StopMatcher, CopiesAreIndependent) {
  StopMatcher matcher = make({"abc"});
  matcher.feed("ab");
  StopMatcher saved = matcher;
  EXPECT_TRUE(matcher.feed("c").matched == 0);
  EXPECT_EQ(saved.feed("d").text, "abd");
}

TEST(StopMatcher, RefusesNonsense) {
  EXPECT_EQ(StopMatcher::create({"a", ""}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(StopMatcher::create({"a", ""}).status().message().find("stop string 1"),
            absl::string_view::npos);
  EXPECT_FALSE(StopMatcher::create({std::string(70000, 'x')}).ok());
  EXPECT_FALSE(StopMatcher::create(std::vector<std::string>(300, "x")).ok());
}

TEST(StopMatcher, FindsStopStringsOfThousandsOfBytes) {
  std::string stop;
  for (int i = 0; i < 5000; ++i) stop += static_cast<char>('a' + i % 7 + (i % 91 == 0 ? 7 : 0));
  StopMatcher matcher = make({stop, std::string(4000, 'z')});
  const std::string text = "before " + stop.substr(0, 4999) + "!" + stop + " after";
  std::string out;
  for (size_t i = 0; i < text.size() && !matcher.matched(); i += 3) {
    out += matcher.feed(text.substr(i, 3)).text;
  }
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(out, "before " + stop.substr(0, 4999) + "!");
}

// Against the plain definition: the stop string that ends first, the longest of those.
TEST(StopMatcher, AgreesWithSearchingTheWholeTextHoweverItArrives) {
  std::mt19937 random(4);
  const auto letters = [&](size_t max) {
    std::string s(1 + random() % max, ' ');
    for (char& c : s) c = static_cast<char>('a' + random() % 2);
    return s;
  };
  int matches = 0, passes = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = letters(9);
    const std::string text = letters(30);

    size_t cut = std::string::npos, length = 0;
    for (size_t end = 1; end <= text.size() && length == 0; ++end) {
      for (const std::string& stop : stops) {
        if (stop.size() > length && text.substr(0, end).ends_with(stop)) length = stop.size();
      }
      cut = end - length;
    }
    StopMatcher matcher = make(stops);
    std::string out;
    for (size_t i = 0; i < text.size() && !matcher.matched();) {
      const size_t n = std::min<size_t>(1 + random() % 5, text.size() - i);
      out += matcher.feed(text.substr(i, n)).text;
      i += n;
      // What is out is a prefix of the right answer, and what is held a prefix of a stop string.
      ASSERT_TRUE(text.starts_with(out));
      if (length > 0) {
        ASSERT_LE(out.size(), cut);
      }
      if (!matcher.matched()) {
        const std::string held = text.substr(out.size(), i - out.size());
        ASSERT_EQ(held.size(), matcher.held());
        ASSERT_TRUE(std::ranges::any_of(
            stops, [&](const std::string& stop) { return stop.starts_with(held); }));
      }
    }
    if (length > 0) {
      ++matches;
      ASSERT_TRUE(matcher.matched());
      ASSERT_EQ(out, text.substr(0, cut));
    } else {
      ++passes;
      ASSERT_FALSE(matcher.matched());
      ASSERT_EQ(out + matcher.finish(), text);
    }
  }
  EXPECT_GT(matches, 1000);
  EXPECT_GT(passes, 1000);
}

}  // namespace
}  // namespace ponder
