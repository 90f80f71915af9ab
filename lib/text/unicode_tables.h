// Unicode data as the reference tokenizer has it, written by unicode_tables_generate.py into
// unicode_tables.cc. Only unicode.cc reads it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ponder::unicode_tables {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Up to four characters that match each other without regard to case; the rest are 0.
struct CaseClass {
  char32_t members[4];
};

// Full decomposition: `size` code points at `offset` of kDecompositionPool.
struct Decomposition {
  uint32_t code_point;
  uint16_t offset;
  uint16_t size;
};

struct Composition {
  char32_t first;
  char32_t second;
  char32_t composed;
};

// Runs: from code point (v >> 8) to the next entry's, the value v & 0xFF. Categories are numbered
// Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn.
extern const uint32_t kCategoryRuns[];
extern const size_t kCategoryRunsSize;
extern const uint32_t kCombiningRuns[];  // canonical combining classes
extern const size_t kCombiningRunsSize;

extern const CodePointRange kWord[];
extern const size_t kWordSize;
extern const CodePointRange kAlphabetic[];
extern const size_t kAlphabeticSize;
extern const CodePointRange kPunctuation[];  // of the pre-tokenizer Punctuation
extern const size_t kPunctuationSize;
extern const CodePointRange kLower[];  // pairs: a character and its lower case
extern const size_t kLowerSize;
extern const CaseClass kCaseClasses[];
extern const size_t kCaseClassesSize;

extern const char32_t kDecompositionPool[];
extern const size_t kDecompositionPoolSize;
extern const Decomposition kCanonical[];  // sorted by code point, as the next two
extern const size_t kCanonicalSize;
extern const Decomposition kCompatible[];  // where it differs from kCanonical
extern const size_t kCompatibleSize;
extern const Composition kCompositions[];
extern const size_t kCompositionsSize;

extern const CodePointRange kScriptArabic[];
extern const size_t kScriptArabicSize;
extern const CodePointRange kScriptArmenian[];
extern const size_t kScriptArmenianSize;
extern const CodePointRange kScriptBengali[];
extern const size_t kScriptBengaliSize;
extern const CodePointRange kScriptBopomofo[];
extern const size_t kScriptBopomofoSize;
extern const CodePointRange kScriptCyrillic[];
extern const size_t kScriptCyrillicSize;
extern const CodePointRange kScriptDevanagari[];
extern const size_t kScriptDevanagariSize;
extern const CodePointRange kScriptEthiopic[];
extern const size_t kScriptEthiopicSize;
extern const CodePointRange kScriptGeorgian[];
extern const size_t kScriptGeorgianSize;
extern const CodePointRange kScriptGreek[];
extern const size_t kScriptGreekSize;
extern const CodePointRange kScriptHan[];
extern const size_t kScriptHanSize;
extern const CodePointRange kScriptHangul[];
extern const size_t kScriptHangulSize;
extern const CodePointRange kScriptHebrew[];
extern const size_t kScriptHebrewSize;
extern const CodePointRange kScriptHiragana[];
extern const size_t kScriptHiraganaSize;
extern const CodePointRange kScriptKatakana[];
extern const size_t kScriptKatakanaSize;
extern const CodePointRange kScriptKhmer[];
extern const size_t kScriptKhmerSize;
extern const CodePointRange kScriptLao[];
extern const size_t kScriptLaoSize;
extern const CodePointRange kScriptLatin[];
extern const size_t kScriptLatinSize;
extern const CodePointRange kScriptMyanmar[];
extern const size_t kScriptMyanmarSize;
extern const CodePointRange kScriptTamil[];
extern const size_t kScriptTamilSize;
extern const CodePointRange kScriptThai[];
extern const size_t kScriptThaiSize;
extern const CodePointRange kScriptTibetan[];
extern const size_t kScriptTibetanSize;

}  // namespace ponder::unicode_tables
