#include "lib/text/unicode.h"

#include <algorithm>
#include <iterator>
#include <span>

#include "absl/strings/ascii.h"
#include "lib/text/unicode_tables.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

using unicode_tables::CodePointRange;

struct Script {
  absl::string_view name;
  const CodePointRange* ranges;
  const size_t* size;
};

#define PONDER_SCRIPT(lower, name) \
  { lower, unicode_tables::kScript##name, &unicode_tables::kScript##name##Size }
constexpr Script kScripts[] = {
    PONDER_SCRIPT("arabic", Arabic),     PONDER_SCRIPT("armenian", Armenian),
    PONDER_SCRIPT("bengali", Bengali),   PONDER_SCRIPT("bopomofo", Bopomofo),
    PONDER_SCRIPT("cyrillic", Cyrillic), PONDER_SCRIPT("devanagari", Devanagari),
    PONDER_SCRIPT("ethiopic", Ethiopic), PONDER_SCRIPT("georgian", Georgian),
    PONDER_SCRIPT("greek", Greek),       PONDER_SCRIPT("han", Han),
    PONDER_SCRIPT("hangul", Hangul),     PONDER_SCRIPT("hebrew", Hebrew),
    PONDER_SCRIPT("hiragana", Hiragana), PONDER_SCRIPT("katakana", Katakana),
    PONDER_SCRIPT("khmer", Khmer),       PONDER_SCRIPT("lao", Lao),
    PONDER_SCRIPT("latin", Latin),       PONDER_SCRIPT("myanmar", Myanmar),
    PONDER_SCRIPT("tamil", Tamil),       PONDER_SCRIPT("thai", Thai),
    PONDER_SCRIPT("tibetan", Tibetan),
};
#undef PONDER_SCRIPT

// In the order of the numbers in kCategoryRuns.
constexpr absl::string_view kCategories[] = {
    "lu", "ll", "lt", "lm", "lo", "mn", "mc", "me", "nd", "nl", "no", "pc", "pd", "ps", "pe",
    "pi", "pf", "po", "sm", "sc", "sk", "so", "zs", "zl", "zp", "cc", "cf", "cs", "co", "cn"};

struct LongName {
  absl::string_view name;
  absl::string_view category;
};
constexpr LongName kLongNames[] = {
    {"letter", "l"},
    {"uppercaseletter", "lu"},
    {"lowercaseletter", "ll"},
    {"titlecaseletter", "lt"},
    {"modifierletter", "lm"},
    {"otherletter", "lo"},
    {"mark", "m"},
    {"nonspacingmark", "mn"},
    {"spacingmark", "mc"},
    {"enclosingmark", "me"},
    {"number", "n"},
    {"decimalnumber", "nd"},
    {"letternumber", "nl"},
    {"othernumber", "no"},
    {"punctuation", "p"},
    {"punct", "p"},
    {"connectorpunctuation", "pc"},
    {"dashpunctuation", "pd"},
    {"openpunctuation", "ps"},
    {"closepunctuation", "pe"},
    {"initialpunctuation", "pi"},
    {"finalpunctuation", "pf"},
    {"otherpunctuation", "po"},
    {"symbol", "s"},
    {"mathsymbol", "sm"},
    {"currencysymbol", "sc"},
    {"modifiersymbol", "sk"},
    {"othersymbol", "so"},
    {"separator", "z"},
    {"spaceseparator", "zs"},
    {"lineseparator", "zl"},
    {"paragraphseparator", "zp"},
    {"other", "c"},
    {"control", "cc"},
    {"format", "cf"},
    {"privateuse", "co"},
    {"unassigned", "cn"},
};

constexpr CodePointRange kWhiteSpace[] = {
    {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

CodePointSet to_set(const CodePointRange* ranges, size_t size) {
  CodePointSet set;
  for (size_t i = 0; i < size; ++i) set.add(ranges[i].first, ranges[i].last);
  return set;
}

bool in_ranges(const CodePointRange* ranges, size_t size, char32_t c) {
  const auto* end = ranges + size;
  const auto* it = std::lower_bound(ranges, end, c,
                                    [](const CodePointRange& r, char32_t v) { return r.last < v; });
  return it != end && it->first <= c;
}

uint8_t run_value(const uint32_t* runs, size_t size, char32_t c) {
  const auto* it = std::upper_bound(runs, runs + size, static_cast<uint32_t>(c),
                                    [](uint32_t v, uint32_t run) { return v < run >> 8; });
  return static_cast<uint8_t>(it[-1] & 0xFF);
}

// All categories whose name starts with `prefix`: "l" gives Lu, Ll, Lt, Lm and Lo.
CodePointSet category_set(absl::string_view prefix) {
  CodePointSet set;
  const size_t size = unicode_tables::kCategoryRunsSize;
  for (size_t i = 0; i < size; ++i) {
    const uint32_t run = unicode_tables::kCategoryRuns[i];
    if (kCategories[run & 0xFF].substr(0, prefix.size()) != prefix) continue;
    const char32_t last =
        i + 1 < size ? (unicode_tables::kCategoryRuns[i + 1] >> 8) - 1 : kMaxCodePoint;
    set.add(run >> 8, last);
  }
  return set;
}

}  // namespace

void CodePointSet::add(char32_t first, char32_t last) {
  if (ranges_.empty() || ranges_.back().last + 1 < first) {  // the common order while building
    ranges_.push_back({first, last});
    return;
  }
  auto begin = std::lower_bound(ranges_.begin(), ranges_.end(), first,
                                [](const Range& r, char32_t v) { return r.last + 1 < v; });
  auto end = begin;
  while (end != ranges_.end() && end->first <= last + 1) {
    first = std::min(first, end->first);
    last = std::max(last, end->last);
    ++end;
  }
  begin = ranges_.erase(begin, end);
  ranges_.insert(begin, {first, last});
}

void CodePointSet::add(const CodePointSet& other) {
  std::vector<Range> all;
  all.reserve(ranges_.size() + other.ranges_.size());
  std::merge(ranges_.begin(), ranges_.end(), other.ranges_.begin(), other.ranges_.end(),
             std::back_inserter(all),
             [](const Range& a, const Range& b) { return a.first < b.first; });
  ranges_.clear();
  for (const Range& r : all) {
    if (!ranges_.empty() && r.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, r.last);
    } else {
      ranges_.push_back(r);
    }
  }
}

void CodePointSet::invert() {
  std::vector<Range> inverted;
  char32_t next = 0;
  for (const Range& r : ranges_) {
    if (r.first > next) inverted.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kMaxCodePoint) inverted.push_back({next, kMaxCodePoint});
  ranges_ = std::move(inverted);
}

void CodePointSet::intersect(const CodePointSet& other) {
  CodePointSet inverse = other;
  inverse.invert();
  invert();
  add(inverse);
  invert();
}

void CodePointSet::add_case_variants() {
  CodePointSet variants;
  for (size_t i = 0; i < unicode_tables::kCaseClassesSize; ++i) {
    const auto& members = unicode_tables::kCaseClasses[i].members;
    const bool touched = std::any_of(std::begin(members), std::end(members),
                                     [this](char32_t c) { return c != 0 && contains(c); });
    if (!touched) continue;
    for (const char32_t c : members) {
      if (c != 0) variants.add(c, c);
    }
  }
  add(variants);
}

bool CodePointSet::contains(char32_t c) const {
  const auto it = std::lower_bound(ranges_.begin(), ranges_.end(), c,
                                   [](const Range& r, char32_t v) { return r.last < v; });
  return it != ranges_.end() && it->first <= c;
}

std::optional<CodePointSet> unicode_property(absl::string_view name) {
  std::string key;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-') key.push_back(absl::ascii_tolower(c));
  }
  for (const LongName& long_name : kLongNames) {
    if (key == long_name.name) key = std::string(long_name.category);
  }
  if (key == "any") return CodePointSet(0, kMaxCodePoint);
  if (key == "lc" || key == "casedletter") {
    CodePointSet set = category_set("lu");
    set.add(category_set("ll"));
    set.add(category_set("lt"));
    return set;
  }
  if (key.size() == 1 || key.size() == 2) {
    CodePointSet set = category_set(key);
    if (!set.empty()) return set;
  }
  if (key == "whitespace" || key == "space") return to_set(kWhiteSpace, std::size(kWhiteSpace));
  if (key == "alphabetic" || key == "alpha") {
    return to_set(unicode_tables::kAlphabetic, unicode_tables::kAlphabeticSize);
  }
  for (const Script& script : kScripts) {
    if (key == script.name) return to_set(script.ranges, *script.size);
  }
  return std::nullopt;
}

CodePointSet regex_word_set(bool in_brackets) {
  CodePointSet set = to_set(unicode_tables::kWord, unicode_tables::kWordSize);
  if (!in_brackets) {
    set.add(0xB2, 0xB3);
    set.add(0xB9, 0xB9);
    set.add(0xBC, 0xBE);
  }
  return set;
}

FastCodePointSet::FastCodePointSet(const CodePointSet& set) : block_of_((kMaxCodePoint >> 8) + 1) {
  auto range = set.ranges().begin();
  const auto end = set.ranges().end();
  for (uint32_t index = 0; index < block_of_.size(); ++index) {
    Block block = {};
    const char32_t first = index << 8, last = first | 0xFF;
    while (range != end && range->last < first) ++range;
    for (auto r = range; r != end && r->first <= last; ++r) {
      for (char32_t c = std::max(first, r->first); c <= std::min(last, r->last); ++c) {
        block.bits[(c >> 5) & 7] |= 1u << (c & 31);
      }
    }
    // Neighbours are alike more often than not; the few other repeats are not worth a search
    // through all blocks.
    const size_t known = blocks_.size();
    size_t found = known;
    for (size_t back = 1; back <= 4 && back <= known; ++back) {
      if (blocks_[known - back] == block) found = known - back;
    }
    if (found == known) blocks_.push_back(block);
    block_of_[index] = static_cast<uint16_t>(found);
  }
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x9 && c <= 0xD);
  return in_ranges(kWhiteSpace, std::size(kWhiteSpace), c);
}

bool is_word_character(char32_t c) {
  return in_ranges(unicode_tables::kWord, unicode_tables::kWordSize, c) || c == 0x200C ||
         c == 0x200D;
}

CodePointSet punctuation_set() {
  return to_set(unicode_tables::kPunctuation, unicode_tables::kPunctuationSize);
}

void append_lower_case(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(absl::ascii_tolower(static_cast<char>(c)));
    return;
  }
  const CodePointRange* begin = unicode_tables::kLower;
  const CodePointRange* end = begin + unicode_tables::kLowerSize;
  const auto* it = std::lower_bound(
      begin, end, c, [](const CodePointRange& pair, char32_t v) { return pair.first < v; });
  append_utf8(out, it != end && it->first == c ? it->last : c);
  if (c == 0x130) append_utf8(out, 0x307);  // the one lower case of two characters
}

namespace {

// Hangul syllables compose and decompose by arithmetic (Unicode 3.12).
constexpr char32_t kHangulBase = 0xAC00, kHangulEnd = 0xD7A4;
constexpr char32_t kLeadBase = 0x1100, kVowelBase = 0x1161, kTrailBase = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;

uint8_t combining_class(char32_t c) {
  if (c < 0x300) return 0;
  return run_value(unicode_tables::kCombiningRuns, unicode_tables::kCombiningRunsSize, c);
}

struct Scalar {
  char32_t code_point;
  uint8_t combining;
};

std::span<const char32_t> find_decomposition(const unicode_tables::Decomposition* table,
                                             size_t size, char32_t c) {
  const auto* end = table + size;
  const auto* it = std::lower_bound(
      table, end, static_cast<uint32_t>(c),
      [](const unicode_tables::Decomposition& d, uint32_t v) { return d.code_point < v; });
  if (it == end || it->code_point != c) return {};
  return {unicode_tables::kDecompositionPool + it->offset, it->size};
}

void decompose(char32_t c, bool compatible, std::vector<Scalar>& out) {
  if (c < 0xA0) {
    out.push_back({c, 0});
    return;
  }
  if (c >= kHangulBase && c < kHangulEnd) {
    const char32_t index = c - kHangulBase;
    out.push_back({kLeadBase + index / (kVowelCount * kTrailCount), 0});
    out.push_back({kVowelBase + index % (kVowelCount * kTrailCount) / kTrailCount, 0});
    if (index % kTrailCount != 0) out.push_back({kTrailBase + index % kTrailCount, 0});
    return;
  }
  std::span<const char32_t> parts;
  if (compatible) {
    parts = find_decomposition(unicode_tables::kCompatible, unicode_tables::kCompatibleSize, c);
  }
  if (parts.empty()) {
    parts = find_decomposition(unicode_tables::kCanonical, unicode_tables::kCanonicalSize, c);
  }
  if (parts.empty()) {
    out.push_back({c, combining_class(c)});
    return;
  }
  for (const char32_t part : parts) out.push_back({part, combining_class(part)});
}

// 0 where the two do not compose.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLeadBase && first < kLeadBase + kLeadCount) {
    if (second < kVowelBase || second >= kVowelBase + kVowelCount) return 0;
    return kHangulBase + ((first - kLeadBase) * kVowelCount + (second - kVowelBase)) * kTrailCount;
  }
  if (first >= kHangulBase && first < kHangulEnd) {
    const bool open = (first - kHangulBase) % kTrailCount == 0;
    if (!open || second <= kTrailBase || second >= kTrailBase + kTrailCount) return 0;
    return first + (second - kTrailBase);
  }
  const auto* begin = unicode_tables::kCompositions;
  const auto* end = begin + unicode_tables::kCompositionsSize;
  const auto* it = std::lower_bound(
      begin, end, std::make_pair(first, second),
      [](const unicode_tables::Composition& c, const std::pair<char32_t, char32_t>& v) {
        return std::make_pair(c.first, c.second) < v;
      });
  return it != end && it->first == first && it->second == second ? it->composed : 0;
}

// Canonical ordering: every run of marks by class, equal classes in the order they came.
void order_marks(std::vector<Scalar>& scalars) {
  for (size_t i = 0; i < scalars.size();) {
    if (scalars[i].combining == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < scalars.size() && scalars[end].combining != 0) ++end;
    std::stable_sort(scalars.begin() + i, scalars.begin() + end,
                     [](const Scalar& a, const Scalar& b) { return a.combining < b.combining; });
    i = end;
  }
}

void compose_all(std::vector<Scalar>& scalars) {
  size_t out = 0;
  size_t starter = SIZE_MAX;  // where the last starter went
  uint8_t last_class = 0;     // of what was kept after it
  for (const Scalar s : scalars) {
    if (starter != SIZE_MAX) {
      // Blocked when something of class 0, or of no lower class, stands in between.
      const bool adjacent = out == starter + 1;
      if (adjacent || (last_class < s.combining && last_class != 0)) {
        const char32_t composed = compose(scalars[starter].code_point, s.code_point);
        if (composed != 0) {
          scalars[starter].code_point = composed;
          continue;
        }
      }
    }
    if (s.combining == 0) starter = out;
    last_class = s.combining;
    scalars[out++] = s;
  }
  scalars.resize(out);
}

}  // namespace

std::string normalize_unicode(absl::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool composed = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  // Below this nothing changes and nothing before it can: such stretches are copied.
  const char32_t inert_end = form == NormalForm::kNfc ? 0x300 : 0xA0;
  std::string out;
  out.reserve(text.size());
  std::vector<Scalar> scalars;
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    // A stretch of inert characters, less its last one: what follows may combine with that.
    const char* const stretch = p;
    const char* last = p;
    while (p < end) {
      const char* next = p;
      if (next_code_point(next) >= inert_end) break;
      last = p;
      p = next;
    }
    if (p == end) {
      out.append(stretch, end);
      break;
    }
    out.append(stretch, last);
    // From there to where two inert characters meet again: the second starts a new stretch.
    scalars.clear();
    p = last;
    bool previous_inert = false;
    while (p < end) {
      const char* next = p;
      const char32_t c = next_code_point(next);
      const bool inert = c < inert_end;
      if (inert && previous_inert) break;
      decompose(c, compatible, scalars);
      previous_inert = inert;
      p = next;
    }
    order_marks(scalars);
    if (composed) compose_all(scalars);
    for (const Scalar s : scalars) append_utf8(out, s.code_point);
  }
  return out;
}

}  // namespace ponder
