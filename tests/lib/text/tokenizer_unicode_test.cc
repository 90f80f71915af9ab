// UTF-8 reading and repair, code point sets, normal forms.
#include <random>

#include "gtest/gtest.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

std::string utf8(std::initializer_list<char32_t> code_points) {
  std::string out;
  for (const char32_t c : code_points) append_utf8(out, c);
  return out;
}

TEST(Utf8, ReadsBackEveryCodePoint) {
  for (char32_t c = 0; c <= kMaxCodePoint; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string text = utf8({c});
    const Utf8Read read = read_utf8(text);
    ASSERT_TRUE(read.valid);
    ASSERT_EQ(read.code_point, c);
    ASSERT_EQ(read.size, text.size());
    ASSERT_EQ(utf8_size(text[0]), text.size());
    const char* p = text.data();
    ASSERT_EQ(next_code_point(p), c);
    ASSERT_EQ(previous_code_point(p), text.data());
    // Cut short it is truncated, not wrong.
    for (size_t n = 1; n < text.size(); ++n) {
      const Utf8Read cut = read_utf8(absl::string_view(text).substr(0, n));
      ASSERT_FALSE(cut.valid);
      ASSERT_TRUE(cut.truncated);
      ASSERT_EQ(cut.size, n);
    }
  }
}

TEST(Utf8, RepairsMaximalParts) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(replace_invalid_utf8("a\x80z"), "a" + r + "z");
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF"), r + r);          // overlong
  EXPECT_EQ(replace_invalid_utf8("\xE0\x80\x80"), r + r + r);  // overlong
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), r + r + r);  // surrogate
  EXPECT_EQ(replace_invalid_utf8("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98 x"), r + " x");  // one part, however long
  EXPECT_EQ(replace_invalid_utf8("\xE6\xBC"), r);
  EXPECT_EQ(replace_invalid_utf8("漢字"), "漢字");
}

TEST(Utf8, RepairedTextIsValid) {
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes(random() % 20, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    const std::string repaired = replace_invalid_utf8(bytes);
    ASSERT_TRUE(is_valid_utf8(repaired));
    ASSERT_EQ(is_valid_utf8(bytes), repaired == bytes);
  }
}

TEST(CodePointSet, KeepsRangesApartAndSorted) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<bool> model(200), other_model(200);
    CodePointSet set, other;
    for (int i = 0; i < 12; ++i) {
      char32_t first = random() % 190, last = first + random() % 10;
      auto& target = i % 2 == 0 ? model : other_model;
      (i % 2 == 0 ? set : other).add(first, last);
      for (char32_t c = first; c <= last; ++c) target[c] = true;
    }
    CodePointSet both = set, either = set, inverse = set;
    both.intersect(other);
    either.add(other);
    inverse.invert();
    const FastCodePointSet fast(set);
    for (char32_t c = 0; c < 200; ++c) {
      ASSERT_EQ(set.contains(c), model[c]);
      ASSERT_EQ(fast.contains(c), model[c]);
      ASSERT_EQ(both.contains(c), model[c] && other_model[c]);
      ASSERT_EQ(either.contains(c), model[c] || other_model[c]);
      ASSERT_EQ(inverse.contains(c), !model[c]);
    }
    for (const CodePointSet* s : {&set, &both, &either, &inverse}) {
      for (size_t i = 1; i < s->ranges().size(); ++i) {
        ASSERT_GT(s->ranges()[i].first, s->ranges()[i - 1].last + 1);
      }
    }
  }
}

TEST(CodePointSet, FastSetsAgreeEverywhere) {
  for (const char* name : {"L", "N", "White_Space", "Han", "Cn", "Any"}) {
    const CodePointSet set = *unicode_property(name);
    const FastCodePointSet fast(set);
    for (char32_t c = 0; c <= kMaxCodePoint; ++c) {
      ASSERT_EQ(fast.contains(c), set.contains(c)) << name << " " << static_cast<uint32_t>(c);
    }
  }
}

TEST(UnicodeProperty, CategoriesPartitionTheCodePoints) {
  CodePointSet all;
  uint64_t total = 0;
  for (const char* name : {"L", "M", "N", "P", "S", "Z", "C"}) {
    const CodePointSet set = *unicode_property(name);
    for (const CodePointSet::Range& r : set.ranges()) total += r.last - r.first + 1;
    all.add(set);
  }
  EXPECT_EQ(total, 0x110000u);
  ASSERT_EQ(all.ranges().size(), 1u);
}

TEST(UnicodeProperty, NamesMayBeSpelledInAnyWay) {
  for (const char* name :
       {"Lu", "lu", "Uppercase_Letter", "uppercase letter", "UPPERCASE-LETTER"}) {
    const auto set = unicode_property(name);
    ASSERT_TRUE(set.has_value()) << name;
    EXPECT_TRUE(set->contains('A'));
    EXPECT_FALSE(set->contains('a'));
  }
  EXPECT_FALSE(unicode_property("Klingon").has_value());
  EXPECT_FALSE(unicode_property("").has_value());
  EXPECT_FALSE(unicode_property("X").has_value());
}

TEST(UnicodeProperty, WhiteSpaceIsUnicodes) {
  const CodePointSet set = *unicode_property("White_Space");
  for (char32_t c = 0; c <= kMaxCodePoint; ++c) ASSERT_EQ(set.contains(c), is_white_space(c));
  EXPECT_FALSE(is_white_space(0x180E));  // was one until Unicode 6.3
  EXPECT_TRUE(is_white_space(0x85));
  EXPECT_FALSE(is_white_space(0x200B));
}

TEST(CaseVariants, IncludeTheOddOnes) {
  CodePointSet set('k', 'k');
  set.add('s', 's');
  set.add_case_variants();
  for (const char32_t c : {U'k', U'K', U'\u212A', U's', U'S', U'\u017F'}) {
    EXPECT_TRUE(set.contains(c)) << static_cast<uint32_t>(c);
  }
  EXPECT_FALSE(set.contains('t'));
}

TEST(LowerCase, IsFullForTheOneThatNeedsIt) {
  std::string out;
  for (const char32_t c : {U'A', U'z', U'É', U'Σ', U'\u0130', U'漢'}) append_lower_case(out, c);
  EXPECT_EQ(out, "azéσi\u0307漢");
}

TEST(Normalize, KnownAnswers) {
  using enum NormalForm;
  EXPECT_EQ(normalize_unicode("cafe\u0301", kNfc), "café");
  EXPECT_EQ(normalize_unicode("café", kNfd), "cafe\u0301");
  EXPECT_EQ(normalize_unicode("\u212B\uFB01\u2460", kNfc), "\u00C5\uFB01\u2460");
  EXPECT_EQ(normalize_unicode("\u212B\uFB01\u2460", kNfkc), "\u00C5fi1");
  EXPECT_EQ(normalize_unicode("한", kNfd), "\u1112\u1161\u11AB");
  EXPECT_EQ(normalize_unicode("\u1112\u1161\u11AB", kNfc), "한");
  EXPECT_EQ(normalize_unicode("a\u0323\u0307", kNfc), "\u1EA1\u0307");
  EXPECT_EQ(normalize_unicode("a\u0307\u0323", kNfc), "\u1EA1\u0307");  // marks in order first
  EXPECT_EQ(normalize_unicode("\u0958", kNfc), "\u0915\u093C");         // never composed
  EXPECT_EQ(normalize_unicode("", kNfc), "");
  // The reference's normaliser knows Unicode 9: marks that came later stay where they are.
  EXPECT_EQ(normalize_unicode("a\u0334\u08D3", kNfd), "a\u0334\u08D3");
  EXPECT_EQ(normalize_unicode("a\u08D3\u0334", kNfd), "a\u08D3\u0334");
}

TEST(Normalize, FormsAgreeWithEachOther) {
  using enum NormalForm;
  std::mt19937 random(9);
  const auto pick = [&random]() -> char32_t {
    switch (random() % 6) {
      case 0:
        return 'a' + random() % 26;
      case 1:
        return 0xC0 + random() % 0x180;
      case 2:
        return 0x300 + random() % 0x70;
      case 3:
        return 0xAC00 + random() % 0x2BA4;
      case 4:
        return 0x1100 + random() % 0x100;
      default:
        return 0x900 + random() % 0x500;
    }
  };
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint32_t i = random() % 10; i > 0; --i) append_utf8(text, pick());
    const std::string nfc = normalize_unicode(text, kNfc), nfd = normalize_unicode(text, kNfd);
    const std::string nfkc = normalize_unicode(text, kNfkc), nfkd = normalize_unicode(text, kNfkd);
    ASSERT_EQ(normalize_unicode(nfc, kNfc), nfc);
    ASSERT_EQ(normalize_unicode(nfd, kNfd), nfd);
    ASSERT_EQ(normalize_unicode(nfc, kNfd), nfd);
    ASSERT_EQ(normalize_unicode(nfd, kNfc), nfc);
    ASSERT_EQ(normalize_unicode(nfc, kNfkc), nfkc);
    ASSERT_EQ(normalize_unicode(nfkd, kNfkc), nfkc);
    ASSERT_EQ(normalize_unicode(nfkc, kNfkd), nfkd);
  }
}

TEST(Normalize, AMillionMarksAreSortedInTime) {
  std::string text = "a";
  for (int i = 0; i < 250'000; ++i) text += "\u0315\u0316";
  const std::string nfc = normalize_unicode(text, NormalForm::kNfc);
  EXPECT_EQ(nfc.size(), text.size());
  EXPECT_EQ(nfc.substr(0, 5), "a\u0316\u0316");
}

}  // namespace
}  // namespace ponder
