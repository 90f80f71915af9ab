#include "lib/sample/blank_trimmer.h"

#include <gtest/gtest.h>

#include <string>

namespace ponder {
namespace {

std::string trim(const std::string& text, bool trailing, size_t piece) {
  BlankTrimmer trimmer(trailing);
  std::string out;
  for (size_t i = 0; i < text.size(); i += piece) out += trimmer.feed(text.substr(i, piece));
  return out;
}

TEST(BlankTrimmer, TrimsTheSameHoweverTheTextArrives) {
  const struct {
    const char *text, *leading, *both;
  } cases[] = {
      {"", "", ""},
      {"\n\n", "", ""},
      {"  \t", "", ""},
      {"\n\nThe answer\n", "The answer\n", "The answer"},
      {" The answer", "The answer", "The answer"},
      {"  \n\n    indented\n", "    indented\n", "    indented"},
      {"a\n\n b \n", "a\n\n b \n", "a\n\n b"},
      {"\r\n\r\nx", "x", "x"},
      {"\nx  y\n\n\nz\n\n", "x  y\n\n\nz\n\n", "x  y\n\n\nz"},
  };
  for (const auto& c : cases) {
    for (const size_t piece : {1, 2, 3, 100}) {
      EXPECT_EQ(trim(c.text, false, piece), c.leading) << c.text << " by " << piece;
      EXPECT_EQ(trim(c.text, true, piece), c.both) << c.text << " by " << piece;
    }
  }
}

TEST(BlankTrimmer, PassesTextOnAtOnce) {
  BlankTrimmer trimmer(true);
  EXPECT_EQ(trimmer.feed("\n"), "");
  EXPECT_EQ(trimmer.feed("Hm"), "Hm");
  EXPECT_EQ(trimmer.feed(", "), ",");
  EXPECT_EQ(trimmer.feed("so"), " so");
}

}  // namespace
}  // namespace ponder
