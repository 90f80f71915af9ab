#include "lib/base/quote.h"

#include <string>

#include "gtest/gtest.h"

namespace ponder {
namespace {

TEST(Quote, LeavesPlainTextAlone) {
  EXPECT_EQ("\"model.norm.weight\"", quote("model.norm.weight"));
  EXPECT_EQ("\"\"", quote(""));
  EXPECT_EQ("\"<\xef\xbd\x9cUser\xef\xbd\x9c>\"", quote("<\xef\xbd\x9cUser\xef\xbd\x9c>"));
}

TEST(Quote, EscapesWhatWouldSpoilAMessage) {
  EXPECT_EQ("\"a\\nb\\tc\\x00\\x1b\\x7f\"", quote(absl::string_view("a\nb\tc\0\x1b\x7f", 8)));
  EXPECT_EQ("\"\\\"\\\\\"", quote("\"\\"));
  EXPECT_EQ("\"\\", excerpt("\"\\"));
}

TEST(Quote, ShowsBytesThatAreNotUtf8) {
  EXPECT_EQ("\\xff\\xc0\\xaf", excerpt("\xff\xc0\xaf"));
  EXPECT_EQ("\\xed\\xa0\\x80", excerpt("\xed\xa0\x80"));           // a surrogate
  EXPECT_EQ("\\xf4\\x90\\x80\\x80", excerpt("\xf4\x90\x80\x80"));  // above U+10FFFF
  EXPECT_EQ("\\xe0\\x9f\\xbf", excerpt("\xe0\x9f\xbf"));           // an overlong form
  EXPECT_EQ("\\xe2\\x82", excerpt("\xe2\x82"));                    // cut off
  EXPECT_EQ("\xf4\x8f\xbf\xbf", excerpt("\xf4\x8f\xbf\xbf"));
}

TEST(Quote, CutsBetweenCodePoints) {
  EXPECT_EQ("aaaa...", excerpt("aaaaa", 4));
  EXPECT_EQ("aaaa", excerpt("aaaa", 4));
  EXPECT_EQ("a...", excerpt("a\xc3\xa9", 2));
  EXPECT_EQ("a\xc3\xa9", excerpt("a\xc3\xa9", 3));
  EXPECT_EQ("...", excerpt("a", 0));
}

}  // namespace
}  // namespace ponder
