#include "lib/text/tokenizer_steps.h"

#include <algorithm>
#include <utility>

#include "lib/text/tokenizer_bytes.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

using Behavior = TokenizerSpec::SplitBehavior;

// GPT-2's pattern, which the ByteLevel pre-tokenizer brings along.
constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// The Whitespace pre-tokenizer's \w+|[^\w\s]+ with the \w of Rust, which has the joiners and none
// of Latin-1's number signs.
constexpr absl::string_view kWhitespacePattern =
    R"([[:word:]\x{200C}\x{200D}]+|[^[:word:]\x{200C}\x{200D}\s]+)";

constexpr size_t kMaxContentBytes = 4096;
// Normalizing may make a text this many times longer; one character of Arabic becomes 33 bytes.
constexpr size_t kGrowth = 100;
// Spelling bytes out doubles what is not ASCII, and twice is once too often already.
constexpr int kMaxSpellings = 2;

bool is_one_character(absl::string_view text) {
  return !text.empty() && text.size() == utf8_size(text[0]);
}

absl::string_view strip_white_space(absl::string_view text, bool left, bool right) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  while (left && begin < end) {
    const char* next = begin;
    if (!is_white_space(next_code_point(next))) break;
    begin = next;
  }
  while (right && end > begin) {
    const char* const before = previous_code_point(end);
    const char* read = before;
    if (!is_white_space(next_code_point(read))) break;
    end = before;
  }
  return absl::string_view(begin, static_cast<size_t>(end - begin));
}

}  // namespace

StatusOr<std::string> replace_matches(absl::string_view text, const Regex& pattern,
                                      absl::string_view content, size_t limit) {
  std::vector<Regex::Match> matches;
  // The reference looks for nothing in an empty text.
  if (!text.empty()) PONDER_RETURN_IF_ERROR(pattern.find_all(text, matches));
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    out.append(text.data() + done, match.begin - done);
    out.append(content.data(), content.size());
    done = match.end;
    if (out.size() > limit) {
      return unsupported_error("replacing '", pattern.pattern().substr(0, 80), "' blows a text of ",
                               text.size(), " bytes up to more than ", limit);
    }
  }
  out.append(text.data() + done, text.size() - done);
  return out;
}

StatusOr<NormalizerSteps> NormalizerSteps::create(
    const std::vector<TokenizerSpec::Normalizer>& spec) {
  using Kind = TokenizerSpec::Normalizer::Kind;
  NormalizerSteps steps;
  for (const TokenizerSpec::Normalizer& normalizer : spec) {
    Step step;
    step.spec = normalizer;
    if (normalizer.content.size() > kMaxContentBytes) {
      return unsupported_error("a normalizer inserts ", normalizer.content.size(),
                               " bytes, more than ", kMaxContentBytes);
    }
    if (!is_valid_utf8(normalizer.content)) {
      return corrupt_error("a normalizer inserts bytes that are not UTF-8");
    }
    if (normalizer.kind == Kind::kReplace) {
      PONDER_ASSIGN_OR_RETURN(step.regex,
                              Regex::compile(normalizer.pattern.text, !normalizer.pattern.regex));
    }
    steps.steps_.push_back(std::move(step));
  }
  return steps;
}

StatusOr<std::string> NormalizerSteps::apply(absl::string_view input) const {
  using Kind = TokenizerSpec::Normalizer::Kind;
  const size_t limit = kGrowth * input.size() + kMaxContentBytes * steps_.size();
  std::string text(input);
  for (const Step& step : steps_) {
    switch (step.spec.kind) {
      case Kind::kPrepend:
        if (!text.empty()) text.insert(0, step.spec.content);
        break;
      case Kind::kReplace: {
        PONDER_ASSIGN_OR_RETURN(text, replace_matches(text, step.regex, step.spec.content, limit));
        break;
      }
      case Kind::kNfc:
        text = normalize_unicode(text, NormalForm::kNfc);
        break;
      case Kind::kNfd:
        text = normalize_unicode(text, NormalForm::kNfd);
        break;
      case Kind::kNfkc:
        text = normalize_unicode(text, NormalForm::kNfkc);
        break;
      case Kind::kNfkd:
        text = normalize_unicode(text, NormalForm::kNfkd);
        break;
      case Kind::kStrip:
        text = std::string(strip_white_space(text, step.spec.strip_left, step.spec.strip_right));
        break;
      case Kind::kLowercase: {
        std::string lower;
        lower.reserve(text.size());
        const char* p = text.data();
        const char* const end = p + text.size();
        while (p < end) append_lower_case(lower, next_code_point(p));
        text = std::move(lower);
        break;
      }
      case Kind::kByteLevel:
        text = to_visible(text);
        break;
    }
    if (text.size() > limit) {
      return unsupported_error("the normalizers blow a text of ", input.size(), " bytes up to ",
                               text.size());
    }
  }
  return text;
}

StatusOr<PreTokenizerSteps> PreTokenizerSteps::create(
    const std::vector<TokenizerSpec::PreTokenizer>& spec) {
  PreTokenizerSteps steps;
  for (const TokenizerSpec::PreTokenizer& pre_tokenizer : spec) {
    PONDER_RETURN_IF_ERROR(steps.add(pre_tokenizer));
  }
  const auto spellings =
      std::count_if(steps.steps_.begin(), steps.steps_.end(),
                    [](const Step& step) { return step.kind == Step::Kind::kSpellBytes; });
  if (spellings > kMaxSpellings) {
    return unsupported_error(spellings, " ByteLevel pre-tokenizers in a row");
  }
  if (!steps.steps_.empty() && steps.steps_.back().kind == Step::Kind::kSpellBytes) {
    steps.steps_.pop_back();
    steps.spells_bytes_ = true;
  }
  return steps;
}

Status PreTokenizerSteps::add_split(absl::string_view pattern, Behavior behavior, bool invert,
                                    bool literal) {
  Step step = {};
  step.kind = Step::Kind::kSplit;
  PONDER_ASSIGN_OR_RETURN(step.regex, Regex::compile(pattern, literal));
  step.behavior = behavior;
  step.invert = invert;
  steps_.push_back(std::move(step));
  return OkStatus();
}

Status PreTokenizerSteps::add(const TokenizerSpec::PreTokenizer& spec) {
  using Kind = TokenizerSpec::PreTokenizer::Kind;
  Step step = {};
  switch (spec.kind) {
    case Kind::kSplit:
      return add_split(spec.pattern.text, spec.behavior, spec.invert, !spec.pattern.regex);
    case Kind::kByteLevel:
      if (spec.add_prefix_space) {
        step.kind = Step::Kind::kPrefixSpace;
        steps_.push_back(step);
      }
      if (spec.use_regex) PONDER_RETURN_IF_ERROR(add_split(kGpt2Pattern, Behavior::kIsolated));
      step.kind = Step::Kind::kSpellBytes;
      steps_.push_back(std::move(step));
      return OkStatus();
    case Kind::kDigits:
      return add_split("\\p{N}",
                       spec.individual_digits ? Behavior::kIsolated : Behavior::kContiguous);
    case Kind::kWhitespace:
      return add_split(kWhitespacePattern, Behavior::kRemoved, /*invert=*/true);
    case Kind::kWhitespaceSplit:
      return add_split("\\s", Behavior::kRemoved);
    case Kind::kPunctuation: {
      step.kind = Step::Kind::kSplit;
      PONDER_ASSIGN_OR_RETURN(step.regex, Regex::one_of(punctuation_set()));
      step.behavior = spec.behavior;
      steps_.push_back(std::move(step));
      return OkStatus();
    }
    case Kind::kDelimiter:
    case Kind::kMetaspace:
      if (!is_valid_utf8(spec.replacement) || !is_one_character(spec.replacement)) {
        return corrupt_error("a pre-tokenizer's character is '",
                             replace_invalid_utf8(spec.replacement.substr(0, 32)),
                             "', which is not one character");
      }
      if (spec.kind == Kind::kDelimiter) {
        return add_split(spec.replacement, Behavior::kRemoved, false, /*literal=*/true);
      }
      step.kind = Step::Kind::kMetaspace;
      step.replacement = spec.replacement;
      step.prepend = spec.prepend;
      steps_.push_back(std::move(step));
      if (spec.split) {
        return add_split(spec.replacement, Behavior::kMergedWithNext, false, /*literal=*/true);
      }
      return OkStatus();
  }
  return internal_error("an unknown pre-tokenizer");
}

namespace {

// The pieces of `word` around and between the matches, by the rules of the behavior; empty ones are
// dropped.
void split_word(const PreTokenizerSteps::Word& word, const std::vector<Regex::Match>& matches,
                Behavior behavior, bool invert, std::vector<PreTokenizerSteps::Word>& out) {
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end)
      out.push_back({word.text.substr(begin, end - begin), word.at_start && begin == 0});
  };
  if (behavior == Behavior::kIsolated) {  // the usual one, and the plainest
    size_t done = 0;
    for (const Regex::Match& match : matches) {
      emit(done, match.begin);
      emit(match.begin, match.end);
      done = match.end;
    }
    emit(done, word.text.size());
    return;
  }
  // All stretches in order, matches and what lies between them.
  struct Stretch {
    size_t begin, end;
    bool is_match;
  };
  std::vector<Stretch> stretches;
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    if (done != match.begin) stretches.push_back({done, match.begin, invert});
    stretches.push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done != word.text.size()) stretches.push_back({done, word.text.size(), invert});

  std::vector<Stretch> merged;
  bool previous_match = false;
  switch (behavior) {
    case Behavior::kIsolated:
      break;
    case Behavior::kRemoved:
      for (const Stretch& s : stretches) {
        if (!s.is_match) merged.push_back(s);
      }
      break;
    case Behavior::kContiguous:
      for (const Stretch& s : stretches) {
        if (s.is_match == previous_match && !merged.empty()) {
          merged.back().end = s.end;
        } else {
          merged.push_back(s);
        }
        previous_match = s.is_match;
      }
      break;
    case Behavior::kMergedWithPrevious:
      for (const Stretch& s : stretches) {
        if (s.is_match && !previous_match && !merged.empty()) {
          merged.back().end = s.end;
        } else {
          merged.push_back(s);
        }
        previous_match = s.is_match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto s = stretches.rbegin(); s != stretches.rend(); ++s) {
        if (s->is_match && !previous_match && !merged.empty()) {
          merged.back().begin = s->begin;
        } else {
          merged.push_back(*s);
        }
        previous_match = s->is_match;
      }
      std::reverse(merged.begin(), merged.end());
      break;
  }
  for (const Stretch& s : merged) emit(s.begin, s.end);
}

}  // namespace

Status PreTokenizerSteps::apply(absl::string_view text, bool at_start, Words& out) const {
  using Prepend = TokenizerSpec::PreTokenizer::Prepend;
  out.words.clear();
  out.rewritten.clear();
  out.words.push_back({text, at_start});
  const auto keep = [&out](std::string rewritten) {
    out.rewritten.push_back(std::move(rewritten));
    return absl::string_view(out.rewritten.back());
  };
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kSplit:
        out.previous.swap(out.words);
        out.words.clear();
        for (const Word& word : out.previous) {
          PONDER_RETURN_IF_ERROR(step.regex.find_all(word.text, out.matches));
          split_word(word, out.matches, step.behavior, step.invert, out.words);
        }
        break;
      case Step::Kind::kPrefixSpace:
        for (Word& word : out.words) {
          if (word.text[0] != ' ') word.text = keep(absl::StrCat(" ", word.text));
        }
        break;
      case Step::Kind::kSpellBytes:
        for (Word& word : out.words) word.text = keep(to_visible(word.text));
        break;
      case Step::Kind::kMetaspace:
        for (Word& word : out.words) {
          std::string replaced;
          replaced.reserve(word.text.size() + 16);
          for (const char c : word.text) {
            if (c == ' ') {
              replaced += step.replacement;
            } else {
              replaced.push_back(c);
            }
          }
          const bool wanted = step.prepend == Prepend::kAlways ||
                              (step.prepend == Prepend::kFirst && word.at_start);
          const bool there =
              absl::string_view(replaced).substr(0, step.replacement.size()) == step.replacement;
          if (wanted && !there) replaced.insert(0, step.replacement);
          word.text = keep(std::move(replaced));
        }
        break;
    }
  }
  return OkStatus();
}

}  // namespace ponder
