#include "lib/text/tokenizer_regex.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

constexpr uint32_t kUnbounded = UINT32_MAX;
// A pattern is one line of a configuration file; these bounds are far beyond any in use.
constexpr size_t kMaxPatternBytes = 1 << 13;
constexpr size_t kMaxInstructions = 1 << 16;
constexpr size_t kMaxSets = 1 << 8;
constexpr uint32_t kMaxRepeat = 1000;
constexpr uint32_t kMaxLookBehind = 255;
constexpr int kMaxNesting = 50;
// Steps of a search: linear patterns take a few for each byte.
constexpr int64_t kBaseBudget = 5'000'000;
constexpr int64_t kBudgetPerByte = 500;
constexpr size_t kMaxFrames = 4'000'000;

// What a pattern says, before it becomes a program.
struct Node {
  enum class Kind {
    kEmpty,
    kSet,
    kConcatenation,
    kAlternation,
    kRepeat,
    kLook,
    kLookBehind,
    kAtomic,
    kAnchor,
  };
  enum class Repeat { kGreedy, kLazy, kPossessive };

  explicit Node(Kind k) : kind(k) {}

  Kind kind;
  CodePointSet set;
  std::vector<std::unique_ptr<Node>> children;
  uint32_t min = 0, max = 0;
  Repeat repeat = Repeat::kGreedy;
  bool negated = false;
  uint32_t anchor = 0;
};

using NodePtr = std::unique_ptr<Node>;

NodePtr make_set(CodePointSet set) {
  auto node = std::make_unique<Node>(Node::Kind::kSet);
  node->set = std::move(set);
  return node;
}

CodePointSet inverted(CodePointSet set) {
  set.invert();
  return set;
}

// How many code points a node takes.
struct Length {
  uint32_t min = 0;
  uint32_t max = 0;  // kUnbounded: no bound
};

uint32_t saturating_add(uint32_t a, uint32_t b) { return a > kUnbounded - b ? kUnbounded : a + b; }

uint32_t saturating_multiply(uint32_t a, uint32_t b) {
  const uint64_t product = uint64_t{a} * b;
  return product > kUnbounded ? kUnbounded : static_cast<uint32_t>(product);
}

Length length_of(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kSet:
      return {1, 1};
    case Node::Kind::kConcatenation: {
      Length sum;
      for (const NodePtr& child : node.children) {
        const Length l = length_of(*child);
        sum = {saturating_add(sum.min, l.min), saturating_add(sum.max, l.max)};
      }
      return sum;
    }
    case Node::Kind::kAlternation: {
      Length all = {kUnbounded, 0};
      for (const NodePtr& child : node.children) {
        const Length l = length_of(*child);
        all = {std::min(all.min, l.min), std::max(all.max, l.max)};
      }
      return all;
    }
    case Node::Kind::kRepeat: {
      const Length l = length_of(*node.children[0]);
      return {saturating_multiply(l.min, node.min),
              l.max == 0 ? 0 : saturating_multiply(l.max, node.max)};
    }
    case Node::Kind::kAtomic:
      return length_of(*node.children[0]);
    case Node::Kind::kEmpty:
    case Node::Kind::kLook:
    case Node::Kind::kLookBehind:
    case Node::Kind::kAnchor:
      break;
  }
  return {0, 0};
}

// The code points that a node's matches can start with; nothing when one may take none.
std::optional<CodePointSet> first_set_of(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kSet:
      return node.set;
    case Node::Kind::kConcatenation: {
      CodePointSet set;
      for (const NodePtr& child : node.children) {
        const std::optional<CodePointSet> first = first_set_of(*child);
        if (first.has_value()) {
          set.add(*first);
          return set;
        }
        // A repeat that may take none adds its own start to that of what follows; anything else
        // that takes none is no help and no harm.
        const Node* inner = child.get();
        while (inner->kind == Node::Kind::kRepeat || inner->kind == Node::Kind::kAtomic) {
          inner = inner->children[0].get();
        }
        if (inner->kind == Node::Kind::kSet) {
          set.add(inner->set);
        } else if (length_of(*inner).max > 0) {
          return std::nullopt;
        }
      }
      return std::nullopt;
    }
    case Node::Kind::kAlternation: {
      CodePointSet set;
      for (const NodePtr& child : node.children) {
        const std::optional<CodePointSet> first = first_set_of(*child);
        if (!first.has_value()) return std::nullopt;
        set.add(*first);
      }
      return set;
    }
    case Node::Kind::kRepeat:
      if (node.min == 0) return std::nullopt;
      return first_set_of(*node.children[0]);
    case Node::Kind::kAtomic:
      return first_set_of(*node.children[0]);
    case Node::Kind::kEmpty:
    case Node::Kind::kLook:
    case Node::Kind::kLookBehind:
    case Node::Kind::kAnchor:
      break;
  }
  return std::nullopt;
}

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }

int hex_value(char32_t c) {
  if (c >= '0' && c <= '9') return static_cast<int>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<int>(c - 'a') + 10;
  if (c >= 'A' && c <= 'F') return static_cast<int>(c - 'A') + 10;
  return -1;
}

// Oniguruma's syntax to nodes, by recursive descent with a bound on nesting.
class Parser {
 public:
  explicit Parser(absl::string_view pattern) : p_(pattern.data()), end_(p_ + pattern.size()) {}

  StatusOr<NodePtr> parse() {
    PONDER_ASSIGN_OR_RETURN(NodePtr node, alternation(0));
    if (!at_end()) return corrupt_error("unmatched ')'");
    return node;
  }

 private:
  struct Flags {
    bool ignore_case = false;
    bool dot_all = false;
    bool extended = false;
  };

  bool at_end() const { return p_ == end_; }
  char32_t peek() const {
    const char* p = p_;
    return next_code_point(p);
  }
  char32_t take() { return next_code_point(p_); }
  bool looking_at(absl::string_view s) const {
    return absl::string_view(p_, end_ - p_).substr(0, s.size()) == s;
  }
  bool skip(absl::string_view s) {
    if (!looking_at(s)) return false;
    p_ += s.size();
    return true;
  }

  NodePtr literal(char32_t c) {
    CodePointSet set(c, c);
    if (flags_.ignore_case) set.add_case_variants();
    return make_set(std::move(set));
  }

  StatusOr<NodePtr> alternation(int depth) {
    if (depth > kMaxNesting) {
      return corrupt_error("groups nested deeper than ", kMaxNesting, " levels");
    }
    const Flags outer = flags_;
    auto node = std::make_unique<Node>(Node::Kind::kAlternation);
    do {
      PONDER_ASSIGN_OR_RETURN(NodePtr branch, concatenation(depth));
      node->children.push_back(std::move(branch));
    } while (skip("|"));
    flags_ = outer;
    if (node->children.size() == 1) return std::move(node->children[0]);
    return node;
  }

  StatusOr<NodePtr> concatenation(int depth) {
    auto node = std::make_unique<Node>(Node::Kind::kConcatenation);
    while (!at_end() && !looking_at("|") && !looking_at(")")) {
      if (flags_.extended) {
        if (is_white_space(peek())) {
          take();
          continue;
        }
        if (skip("#")) {
          while (!at_end() && take() != '\n') {
          }
          continue;
        }
      }
      PONDER_ASSIGN_OR_RETURN(NodePtr atom, this->atom(depth));
      if (atom == nullptr) continue;  // a comment
      PONDER_ASSIGN_OR_RETURN(atom, quantified(std::move(atom)));
      node->children.push_back(std::move(atom));
    }
    if (node->children.size() == 1) return std::move(node->children[0]);
    if (node->children.empty()) node->kind = Node::Kind::kEmpty;
    return node;
  }

  // {n}, {n,}, {n,m} and {,m}; anything else in braces is text.
  bool interval(uint32_t& min, uint32_t& max) {
    const char* const start = p_;
    if (!skip("{")) return false;
    const auto number = [this](uint32_t& value) {
      const char* const digits = p_;
      value = 0;
      while (!at_end() && is_digit(peek())) {
        value = std::min<uint32_t>(value * 10 + (take() - '0'), 1'000'000);
      }
      return p_ != digits;
    };
    const bool lower = number(min);
    bool good = lower;
    max = min;
    if (skip(",")) {
      const bool upper = number(max);
      if (!lower) min = 0;
      if (!upper) max = kUnbounded;
      good = lower || upper;
    }
    if (good && skip("}")) return true;
    p_ = start;
    return false;
  }

  StatusOr<NodePtr> quantified(NodePtr atom) {
    for (int stacked = 0;; ++stacked) {
      uint32_t min = 0, max = kUnbounded;
      bool is_interval = false;
      if (skip("*")) {
      } else if (skip("+")) {
        min = 1;
      } else if (skip("?")) {
        max = 1;
      } else if (interval(min, max)) {
        is_interval = true;
      } else {
        return atom;
      }
      if (stacked >= 8) return corrupt_error("more than 8 quantifiers in a row");
      if (max != kUnbounded && min > max) std::swap(min, max);
      if (min > kMaxRepeat || (max != kUnbounded && max > kMaxRepeat)) {
        return unsupported_error("a repeat count above ", kMaxRepeat);
      }
      auto node = std::make_unique<Node>(Node::Kind::kRepeat);
      node->min = min;
      node->max = max;
      // {n}? is an optional {n}, and {n,m}+ a repeated {n,m}: the loop takes those.
      const bool lazy_means_optional = is_interval && min == max;
      if (!lazy_means_optional && skip("?")) {
        node->repeat = Node::Repeat::kLazy;
      } else if (!is_interval && skip("+")) {
        node->repeat = Node::Repeat::kPossessive;
      }
      node->children.push_back(std::move(atom));
      atom = std::move(node);
    }
  }

  StatusOr<NodePtr> atom(int depth) {
    const char32_t c = take();
    switch (c) {
      case '(':
        return group(depth);
      case '[': {
        PONDER_ASSIGN_OR_RETURN(CodePointSet set, bracket(depth + 1));
        return make_set(std::move(set));
      }
      case '.':
        return make_set(flags_.dot_all ? CodePointSet(0, kMaxCodePoint)
                                       : inverted(CodePointSet('\n', '\n')));
      case '^':
        return anchor(kLineStart);
      case '$':
        return anchor(kLineEnd);
      case '\\':
        return escape();
      case '*':
      case '+':
      case '?':
        return corrupt_error("a quantifier with nothing to repeat");
      default:
        return literal(c);
    }
  }

  static NodePtr anchor(uint32_t which) {
    auto node = std::make_unique<Node>(Node::Kind::kAnchor);
    node->anchor = which;
    return node;
  }

  StatusOr<NodePtr> group(int depth) {
    auto node = std::make_unique<Node>(Node::Kind::kConcatenation);
    const Flags outer = flags_;
    if (skip("?")) {
      if (skip("#")) {
        while (!at_end() && take() != ')') {
        }
        return NodePtr();
      }
      if (skip("=")) {
        node->kind = Node::Kind::kLook;
      } else if (skip("!")) {
        node->kind = Node::Kind::kLook;
        node->negated = true;
      } else if (skip("<=")) {
        node->kind = Node::Kind::kLookBehind;
      } else if (skip("<!")) {
        node->kind = Node::Kind::kLookBehind;
        node->negated = true;
      } else if (skip(">")) {
        node->kind = Node::Kind::kAtomic;
      } else if (looking_at("<") || looking_at("'")) {
        const char32_t close = take() == '<' ? '>' : '\'';
        char32_t last = 0;
        while (!at_end() && (last = take()) != close) {
        }
        if (last != close) return corrupt_error("a group name without end");
      } else if (!skip(":")) {
        bool on = true;
        for (;;) {
          if (at_end()) return corrupt_error("group flags without end");
          const char32_t c = take();
          if (c == ':') break;
          if (c == ')') return alternation(depth + 1);  // what follows in the group around
          if (c == '-') {
            on = false;
          } else if (c == 'i') {
            flags_.ignore_case = on;
          } else if (c == 'm') {
            flags_.dot_all = on;
          } else if (c == 'x') {
            flags_.extended = on;
          } else {
            return unsupported_error("the group (?", describe(c));
          }
        }
      }
    }
    PONDER_ASSIGN_OR_RETURN(NodePtr body, alternation(depth + 1));
    if (!skip(")")) return corrupt_error("a group without ')'");
    flags_ = outer;
    if (node->kind == Node::Kind::kConcatenation) return body;
    node->children.push_back(std::move(body));
    return node;
  }

  static std::string describe(char32_t c) {
    std::string text;
    append_utf8(text, c);
    return text;
  }

  // Behind \p or \P.
  StatusOr<CodePointSet> property(bool negated) {
    if (!skip("{")) return corrupt_error("\\p without {name}");
    if (skip("^")) negated = !negated;
    const char* const start = p_;
    while (!at_end() && *p_ != '}') ++p_;
    const absl::string_view name(start, p_ - start);
    if (!skip("}")) return corrupt_error("\\p{ without }");
    std::optional<CodePointSet> set = unicode_property(name);
    if (!set.has_value()) {
      return unsupported_error("the character property '", name.substr(0, 64), "'");
    }
    if (negated) set->invert();
    return *std::move(set);
  }

  // The escapes that stand for a set, in brackets or not; nothing for other ones.
  StatusOr<std::optional<CodePointSet>> set_escape(char32_t c, bool in_brackets) {
    CodePointSet set;
    switch (c) {
      case 'd':
      case 'D':
        set = *unicode_property("Nd");
        break;
      case 's':
      case 'S':
        set = *unicode_property("White_Space");
        break;
      case 'w':
      case 'W':
        set = regex_word_set(in_brackets);
        break;
      case 'h':
      case 'H':
        set.add('0', '9');
        set.add('A', 'F');
        set.add('a', 'f');
        break;
      case 'p':
      case 'P': {
        PONDER_ASSIGN_OR_RETURN(set, property(c == 'P'));
        return std::optional<CodePointSet>(std::move(set));
      }
      default:
        return std::optional<CodePointSet>();
    }
    if (c < 'a') set.invert();
    return std::optional<CodePointSet>(std::move(set));
  }

  // The escapes that stand for one code point, `c` being what follows the backslash.
  StatusOr<char32_t> character_escape(char32_t c) {
    const auto hex = [this](int most) -> StatusOr<char32_t> {
      char32_t value = 0;
      int digits = 0;
      while (digits < most && !at_end() && hex_value(peek()) >= 0) {
        value = value << 4 | static_cast<char32_t>(hex_value(take()));
        ++digits;
      }
      if (digits == 0 || value > kMaxCodePoint) return corrupt_error("a bad hexadecimal escape");
      return value;
    };
    switch (c) {
      case 't':
        return U'\t';
      case 'n':
        return U'\n';
      case 'r':
        return U'\r';
      case 'f':
        return U'\f';
      case 'v':
        return U'\v';
      case 'a':
        return U'\a';
      case 'e':
        return char32_t{0x1B};
      case 'x': {
        if (!skip("{")) {
          PONDER_ASSIGN_OR_RETURN(const char32_t value, hex(2));
          if (value >= 0x80) return unsupported_error("\\x with a byte above 7F");
          return value;
        }
        PONDER_ASSIGN_OR_RETURN(const char32_t value, hex(8));
        if (!skip("}")) return corrupt_error("\\x{ without }");
        return value;
      }
      case 'u':
        return hex(4);
      case '0': {
        char32_t value = 0;
        for (int i = 0; i < 2 && !at_end() && peek() >= '0' && peek() <= '7'; ++i) {
          value = value * 8 + (take() - '0');
        }
        return value;
      }
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter || is_digit(c)) return unsupported_error("the escape \\", describe(c));
    return c;
  }

  StatusOr<NodePtr> escape() {
    if (at_end()) return corrupt_error("a backslash at the end");
    const char32_t c = take();
    switch (c) {
      case 'A':
        return anchor(kTextStart);
      case 'z':
        return anchor(kTextEnd);
      case 'Z':
        return anchor(kTextEndOrNewline);
      case 'b':
        return anchor(kWordBoundary);
      case 'B':
        return anchor(kNoWordBoundary);
      case 'N':
        return make_set(inverted(CodePointSet('\n', '\n')));
      case 'O':
        return make_set(CodePointSet(0, kMaxCodePoint));
      case 'R': {
        // (?>\r\n|[\n-\r\x85\x{2028}\x{2029}])
        auto crlf = std::make_unique<Node>(Node::Kind::kConcatenation);
        crlf->children.push_back(make_set(CodePointSet('\r', '\r')));
        crlf->children.push_back(make_set(CodePointSet('\n', '\n')));
        CodePointSet one('\n', '\r');
        one.add(0x85, 0x85);
        one.add(0x2028, 0x2029);
        auto either = std::make_unique<Node>(Node::Kind::kAlternation);
        either->children.push_back(std::move(crlf));
        either->children.push_back(make_set(std::move(one)));
        auto atomic = std::make_unique<Node>(Node::Kind::kAtomic);
        atomic->children.push_back(std::move(either));
        return atomic;
      }
      default:
        break;
    }
    PONDER_ASSIGN_OR_RETURN(std::optional<CodePointSet> set, set_escape(c, /*in_brackets=*/false));
    // Outside of brackets these know their case: (?i) leaves \p{Lu} alone.
    if (set.has_value()) return make_set(*std::move(set));
    PONDER_ASSIGN_OR_RETURN(const char32_t value, character_escape(c));
    return literal(value);
  }

  StatusOr<CodePointSet> posix_bracket() {
    const bool negated = skip("^");
    const char* const start = p_;
    while (!at_end() && *p_ != ':') ++p_;
    const absl::string_view name(start, p_ - start);
    if (!skip(":]")) return corrupt_error("[: without :]");
    CodePointSet set;
    if (name == "alpha" || name == "alnum") {
      set = *unicode_property("Alphabetic");
      if (name == "alnum") set.add(*unicode_property("Nd"));
    } else if (name == "digit") {
      set = *unicode_property("Nd");
    } else if (name == "space") {
      set = *unicode_property("White_Space");
    } else if (name == "punct") {
      set = *unicode_property("P");
      set.add(*unicode_property("S"));
    } else if (name == "cntrl") {
      set = *unicode_property("Cc");
    } else if (name == "word") {
      set = regex_word_set(/*in_brackets=*/true);
    } else if (name == "xdigit") {
      set.add('0', '9');
      set.add('A', 'F');
      set.add('a', 'f');
    } else {
      return unsupported_error("the bracket expression [:", name.substr(0, 64), ":]");
    }
    if (negated) set.invert();
    return set;
  }

  // Behind '[': sets in sets, && for what both sides have.
  StatusOr<CodePointSet> bracket(int depth) {
    if (depth > kMaxNesting) {
      return corrupt_error("brackets nested deeper than ", kMaxNesting, " levels");
    }
    const bool negated = skip("^");
    std::optional<CodePointSet> both;  // the sides of && so far
    CodePointSet set;
    bool first = true;
    for (;; first = false) {
      if (at_end()) return corrupt_error("'[' without ']'");
      // A ']' in front is itself where another one follows.
      if (looking_at("]")) {
        const bool closes_later =
            absl::string_view(p_ + 1, end_ - p_ - 1).find(']') != absl::string_view::npos;
        if (!first) break;
        if (!closes_later) return corrupt_error("empty brackets");
      }
      if (skip("[:")) {
        PONDER_ASSIGN_OR_RETURN(const CodePointSet named, posix_bracket());
        set.add(named);
        continue;
      }
      if (skip("[")) {
        PONDER_ASSIGN_OR_RETURN(const CodePointSet inner, bracket(depth + 1));
        set.add(inner);
        continue;
      }
      if (skip("&&")) {
        if (both.has_value()) {
          both->intersect(set);
        } else {
          both = std::move(set);
        }
        set = CodePointSet();
        continue;
      }
      PONDER_ASSIGN_OR_RETURN(const std::optional<char32_t> low, bracket_character(set));
      if (!low.has_value()) continue;
      // A range, unless the '-' is the last thing or the other end is a set.
      char32_t high = *low;
      if (looking_at("-") && !looking_at("-]") && !looking_at("-[") && p_ + 1 < end_) {
        skip("-");
        PONDER_ASSIGN_OR_RETURN(const std::optional<char32_t> other, bracket_character(set));
        if (other.has_value()) {
          high = *other;
          if (high < *low) return corrupt_error("an empty range in brackets");
        } else {
          set.add('-', '-');
        }
      }
      set.add(*low, high);
    }
    skip("]");
    if (both.has_value()) {
      both->intersect(set);
      set = *std::move(both);
    }
    if (flags_.ignore_case) set.add_case_variants();
    if (negated) set.invert();
    return set;
  }

  // One item of a bracket: a code point, or a set that goes into `set` (then nothing).
  StatusOr<std::optional<char32_t>> bracket_character(CodePointSet& set) {
    const char32_t c = take();
    if (c != '\\') return std::optional<char32_t>(c);
    if (at_end()) return corrupt_error("a backslash at the end");
    const char32_t escaped = take();
    if (escaped == 'b') return std::optional<char32_t>(U'\b');
    PONDER_ASSIGN_OR_RETURN(const std::optional<CodePointSet> inner,
                            set_escape(escaped, /*in_brackets=*/true));
    if (inner.has_value()) {
      set.add(*inner);
      return std::optional<char32_t>();
    }
    PONDER_ASSIGN_OR_RETURN(const char32_t value, character_escape(escaped));
    return std::optional<char32_t>(value);
  }

 public:
  enum AnchorNumber : uint32_t {  // as Regex::Anchor
    kTextStart,
    kTextEnd,
    kTextEndOrNewline,
    kLineStart,
    kLineEnd,
    kWordBoundary,
    kNoWordBoundary,
  };

 private:
  const char* p_;
  const char* end_;
  Flags flags_;
};

}  // namespace

// Nodes to instructions.
class RegexCompiler {
 public:
  explicit RegexCompiler(Regex& regex) : regex_(regex) {}

  Status compile(const Node& root) {
    if (const std::optional<CodePointSet> first = first_set_of(root)) {
      PONDER_ASSIGN_OR_RETURN(const uint32_t set, add_set(*first));
      regex_.first_set_ = static_cast<int32_t>(set);
    }
    PONDER_RETURN_IF_ERROR(emit(root));
    return emit({Regex::Op::kAccept}).status();
  }

 private:
  using Instruction = Regex::Instruction;
  using Op = Regex::Op;
  using Mode = Regex::Mode;

  uint32_t here() const { return static_cast<uint32_t>(regex_.program_.size()); }
  Instruction& at(uint32_t pc) { return regex_.program_[pc]; }

  // The place of the instruction.
  StatusOr<uint32_t> emit(const Instruction& instruction) {
    if (regex_.program_.size() >= kMaxInstructions) {
      return unsupported_error("a pattern of more than ", kMaxInstructions, " steps");
    }
    regex_.program_.push_back(instruction);
    return here() - 1;
  }

  StatusOr<uint32_t> add_set(const CodePointSet& set) {
    for (size_t i = 0; i < known_.size(); ++i) {
      const auto& a = known_[i].ranges();
      const auto& b = set.ranges();
      const bool same = std::equal(a.begin(), a.end(), b.begin(), b.end(),
                                   [](const CodePointSet::Range& x, const CodePointSet::Range& y) {
                                     return x.first == y.first && x.last == y.last;
                                   });
      if (same) return static_cast<uint32_t>(i);
    }
    if (known_.size() >= kMaxSets) {
      return unsupported_error("a pattern of more than ", kMaxSets, " character sets");
    }
    known_.push_back(set);
    regex_.sets_.emplace_back(set);
    return static_cast<uint32_t>(known_.size() - 1);
  }

  static std::optional<char32_t> single(const CodePointSet& set) {
    const auto& ranges = set.ranges();
    if (ranges.size() != 1 || ranges[0].first != ranges[0].last) return std::nullopt;
    return ranges[0].first;
  }

  Status emit(const Node& node) {
    switch (node.kind) {
      case Node::Kind::kEmpty:
        return OkStatus();
      case Node::Kind::kSet: {
        if (const std::optional<char32_t> c = single(node.set)) {
          return emit({Op::kChar, Mode::kGreedy, static_cast<uint32_t>(*c)}).status();
        }
        PONDER_ASSIGN_OR_RETURN(const uint32_t set, add_set(node.set));
        return emit({Op::kSet, Mode::kGreedy, set}).status();
      }
      case Node::Kind::kConcatenation:
        for (const NodePtr& child : node.children) PONDER_RETURN_IF_ERROR(emit(*child));
        return OkStatus();
      case Node::Kind::kAlternation:
        return emit_alternation(node);
      case Node::Kind::kRepeat:
        return emit_repeat(node);
      case Node::Kind::kLook:
        return emit_part(node, {Op::kLook, node.negated ? Mode::kNegated : Mode::kGreedy});
      case Node::Kind::kLookBehind: {
        const Length length = length_of(*node.children[0]);
        if (length.max > kMaxLookBehind) {
          return unsupported_error("a look behind of more than ", kMaxLookBehind, " characters");
        }
        return emit_part(node, {Op::kLookBehind, node.negated ? Mode::kNegated : Mode::kGreedy, 0,
                                0, length.min, length.max});
      }
      case Node::Kind::kAtomic:
        return emit_part(node, {Op::kAtomic});
      case Node::Kind::kAnchor:
        if (node.anchor >= Parser::kWordBoundary && regex_.word_set_ < 0) {
          PONDER_ASSIGN_OR_RETURN(const uint32_t set, add_set(regex_word_set(false)));
          regex_.word_set_ = static_cast<int32_t>(set);
        }
        return emit({Op::kAssert, Mode::kGreedy, node.anchor}).status();
    }
    return internal_error("an unknown node");
  }

  // The instruction, its part, and the part's end; b leads behind it.
  Status emit_part(const Node& node, const Instruction& instruction) {
    PONDER_ASSIGN_OR_RETURN(const uint32_t start, emit(instruction));
    PONDER_RETURN_IF_ERROR(emit(*node.children[0]));
    PONDER_RETURN_IF_ERROR(emit({Op::kAccept}).status());
    at(start).b = here();
    return OkStatus();
  }

  Status emit_alternation(const Node& node) {
    std::vector<uint32_t> jumps;
    for (size_t i = 0; i + 1 < node.children.size(); ++i) {
      Instruction choice = {Op::kSplit};
      if (const std::optional<CodePointSet> first = first_set_of(*node.children[i])) {
        choice.op = Op::kBranch;
        PONDER_ASSIGN_OR_RETURN(choice.a, add_set(*first));
      }
      PONDER_ASSIGN_OR_RETURN(const uint32_t split, emit(choice));
      PONDER_RETURN_IF_ERROR(emit(*node.children[i]));
      PONDER_ASSIGN_OR_RETURN(const uint32_t jump, emit({Op::kJump}));
      jumps.push_back(jump);
      at(split).b = here();
    }
    PONDER_RETURN_IF_ERROR(emit(*node.children.back()));
    for (const uint32_t jump : jumps) at(jump).b = here();
    return OkStatus();
  }

  Status emit_repeat(const Node& node) {
    const Node& body = *node.children[0];
    if (body.kind == Node::Kind::kSet) {
      PONDER_ASSIGN_OR_RETURN(const uint32_t set, add_set(body.set));
      const Mode mode = node.repeat == Node::Repeat::kGreedy ? Mode::kGreedy
                        : node.repeat == Node::Repeat::kLazy ? Mode::kLazy
                                                             : Mode::kPossessive;
      return emit({Op::kRepeat, mode, set, 0, node.min, node.max}).status();
    }
    if (node.repeat == Node::Repeat::kPossessive) {
      PONDER_ASSIGN_OR_RETURN(const uint32_t start, emit({Op::kAtomic}));
      PONDER_RETURN_IF_ERROR(emit_loop(body, node.min, node.max, /*lazy=*/false));
      PONDER_RETURN_IF_ERROR(emit({Op::kAccept}).status());
      at(start).b = here();
      return OkStatus();
    }
    return emit_loop(body, node.min, node.max, node.repeat == Node::Repeat::kLazy);
  }

  // A choice between going on and leaving for a place set later.
  StatusOr<uint32_t> emit_exit(bool lazy) {
    if (!lazy) return emit({Op::kSplit});
    // Lazy: leaving comes first. split L1; jump out; L1:
    PONDER_ASSIGN_OR_RETURN(const uint32_t split, emit({Op::kSplit}));
    PONDER_ASSIGN_OR_RETURN(const uint32_t jump, emit({Op::kJump}));
    at(split).b = here();
    return jump;
  }

  // The body as often as it must be there, then the optional rest.
  Status emit_loop(const Node& body, uint32_t min, uint32_t max, bool lazy) {
    if (length_of(body).max == 0) {  // a second time at the same place says nothing new
      min = std::min(min, 1u);
      max = std::min(max, 1u);
    }
    for (uint32_t i = 0; i < min; ++i) PONDER_RETURN_IF_ERROR(emit(body));
    if (max == kUnbounded) {
      const bool may_be_empty = length_of(body).min == 0;
      const uint32_t slot = regex_.slots_;
      if (may_be_empty) ++regex_.slots_;
      const uint32_t loop = here();
      PONDER_ASSIGN_OR_RETURN(const uint32_t exit, emit_exit(lazy));
      uint32_t check = 0;
      if (may_be_empty) PONDER_RETURN_IF_ERROR(emit({Op::kMark, Mode::kGreedy, slot}).status());
      PONDER_RETURN_IF_ERROR(emit(body));
      if (may_be_empty) {
        PONDER_ASSIGN_OR_RETURN(check, emit({Op::kProgress, Mode::kGreedy, slot}));
      }
      PONDER_RETURN_IF_ERROR(emit({Op::kJump, Mode::kGreedy, 0, loop}).status());
      at(exit).b = here();
      if (may_be_empty) at(check).b = here();
      return OkStatus();
    }
    std::vector<uint32_t> exits;
    for (uint32_t i = min; i < max; ++i) {
      PONDER_ASSIGN_OR_RETURN(const uint32_t exit, emit_exit(lazy));
      exits.push_back(exit);
      PONDER_RETURN_IF_ERROR(emit(body));
    }
    for (const uint32_t exit : exits) at(exit).b = here();
    return OkStatus();
  }

  Regex& regex_;
  std::vector<CodePointSet> known_;
};

// One search. What remains to be tried is on a heap-allocated stack; only the parts of look-arounds
// and atomic groups recurse, as deep as the pattern nests them.
class RegexMatcher {
 public:
  RegexMatcher(const Regex& regex, absl::string_view text)
      : regex_(regex),
        begin_(text.data()),
        end_(begin_ + text.size()),
        slots_(regex.slots_, nullptr),
        budget_(kBaseBudget + kBudgetPerByte * static_cast<int64_t>(text.size())) {}

  // The end of the match at `p`, or nullptr.
  const char* match(const char* p) {
    frames_.clear();
    return run(0, p, nullptr);
  }
  bool exhausted() const { return budget_ < 0; }

 private:
  using Op = Regex::Op;
  using Mode = Regex::Mode;

  struct Frame {
    enum class Kind : uint32_t {
      kResume,   // at pc with p
      kShorter,  // a greedy repeat from low to p: give back one and go on behind it
      kLonger,   // a lazy repeat at p: take one more (count so far in low)
      kSlot,     // pc is the slot, p its old value
    };
    Kind kind;
    uint32_t pc;
    const char* p;
    const char* low;
  };

  bool push(Frame::Kind kind, uint32_t pc, const char* p, const char* low = nullptr) {
    if (frames_.size() >= kMaxFrames) {
      budget_ = -1;
      return false;
    }
    frames_.push_back({kind, pc, p, low});
    return true;
  }

  bool in_set(uint32_t set, const char* p) const {
    return p < end_ && regex_.sets_[set].contains(next_code_point(p));
  }

  // Runs from pc at p to the kAccept of this part; `exact_end` asks the match to end there.
  const char* run(uint32_t pc, const char* p, const char* exact_end) {
    const size_t base = frames_.size();
    const Regex::Instruction* const program = regex_.program_.data();
    for (;;) {
      if (--budget_ < 0) return nullptr;
      const Regex::Instruction& i = program[pc];
      bool good = true;
      switch (i.op) {
        case Op::kChar: {
          const char* next = p;
          good = p < end_ && next_code_point(next) == i.a;
          p = next;
          ++pc;
          break;
        }
        case Op::kSet: {
          const char* next = p;
          good = p < end_ && regex_.sets_[i.a].contains(next_code_point(next));
          p = next;
          ++pc;
          break;
        }
        case Op::kRepeat:
          good = repeat(i, pc, p);
          ++pc;
          break;
        case Op::kBranch:
          if (in_set(i.a, p)) {
            good = push(Frame::Kind::kResume, i.b, p);
            ++pc;
          } else {
            pc = i.b;
          }
          break;
        case Op::kSplit:
          good = push(Frame::Kind::kResume, i.b, p);
          ++pc;
          break;
        case Op::kJump:
          pc = i.b;
          break;
        case Op::kLook:
          good = (run(pc + 1, p, nullptr) != nullptr) == (i.mode != Mode::kNegated);
          pc = i.b;
          break;
        case Op::kLookBehind:
          good = look_behind(i, pc, p) == (i.mode != Mode::kNegated);
          pc = i.b;
          break;
        case Op::kAtomic:
          p = run(pc + 1, p, nullptr);
          good = p != nullptr;
          pc = i.b;
          break;
        case Op::kAssert:
          good = holds(static_cast<Regex::Anchor>(i.a), p);
          ++pc;
          break;
        case Op::kMark:
          good = push(Frame::Kind::kSlot, i.a, slots_[i.a]);
          slots_[i.a] = p;
          ++pc;
          break;
        case Op::kProgress:
          pc = slots_[i.a] == p ? i.b : pc + 1;
          break;
        case Op::kAccept:
          if (exact_end == nullptr || p == exact_end) {
            frames_.resize(base);
            return p;
          }
          good = false;
          break;
      }
      if (!good && !backtrack(base, pc, p)) return nullptr;
    }
  }

  // Takes as many as the mode wants and leaves a frame for the other counts.
  bool repeat(const Regex::Instruction& i, uint32_t pc, const char*& p) {
    const FastCodePointSet& set = regex_.sets_[i.a];
    const uint32_t want = i.mode == Mode::kLazy ? i.min : i.max;
    const char* low = i.min == 0 ? p : nullptr;
    uint32_t count = 0;
    while (count < want && p < end_) {
      const char* next = p;
      if (!set.contains(next_code_point(next))) break;
      p = next;
      if (++count == i.min) low = p;
    }
    budget_ -= count;
    if (count < i.min) return false;
    if (i.mode == Mode::kGreedy && p > low) return push(Frame::Kind::kShorter, pc + 1, p, low);
    if (i.mode == Mode::kLazy && count < i.max) {
      // The count is bounded only where max is: it rides in `low`, as a distance from begin_.
      return push(Frame::Kind::kLonger, pc, p, begin_ + std::min<size_t>(count, end_ - begin_));
    }
    return true;
  }

  bool look_behind(const Regex::Instruction& i, uint32_t pc, const char* p) {
    const char* start = p;
    for (uint32_t length = 0;; ++length) {
      if (length >= i.min && run(pc + 1, start, p) != nullptr) return true;
      if (length == i.max || start == begin_ || budget_ < 0) return false;
      start = previous_code_point(start);
    }
  }

  bool holds(Regex::Anchor anchor, const char* p) const {
    switch (anchor) {
      case Regex::Anchor::kTextStart:
        return p == begin_;
      case Regex::Anchor::kTextEnd:
        return p == end_;
      case Regex::Anchor::kTextEndOrNewline:
        return p == end_ || (p + 1 == end_ && *p == '\n');
      case Regex::Anchor::kLineStart:
        return p == begin_ || (p[-1] == '\n' && p != end_);
      case Regex::Anchor::kLineEnd:
        return p == end_ || *p == '\n';
      case Regex::Anchor::kWordBoundary:
      case Regex::Anchor::kNoWordBoundary: {
        const uint32_t word = static_cast<uint32_t>(regex_.word_set_);
        const bool before = p > begin_ && in_set(word, previous_code_point(p));
        const bool after = in_set(word, p);
        return (before != after) == (anchor == Regex::Anchor::kWordBoundary);
      }
    }
    return false;
  }

  // The latest choice above `base` that has something left.
  bool backtrack(size_t base, uint32_t& pc, const char*& p) {
    while (frames_.size() > base && budget_ >= 0) {
      Frame& frame = frames_.back();
      switch (frame.kind) {
        case Frame::Kind::kResume:
          pc = frame.pc;
          p = frame.p;
          frames_.pop_back();
          return true;
        case Frame::Kind::kShorter:
          frame.p = previous_code_point(frame.p);
          pc = frame.pc;
          p = frame.p;
          if (frame.p == frame.low) frames_.pop_back();
          return true;
        case Frame::Kind::kLonger: {
          const Regex::Instruction& i = regex_.program_[frame.pc];
          const size_t count = static_cast<size_t>(frame.low - begin_) + 1;
          const bool more = in_set(i.a, frame.p);
          if (!more) {
            frames_.pop_back();
            break;
          }
          next_code_point(frame.p);
          pc = frame.pc + 1;
          p = frame.p;
          if (count >= i.max) {
            frames_.pop_back();
          } else if (frame.low < end_) {
            ++frame.low;
          }
          return true;
        }
        case Frame::Kind::kSlot:
          slots_[frame.pc] = frame.p;
          frames_.pop_back();
          break;
      }
    }
    return false;
  }

  const Regex& regex_;
  const char* const begin_;
  const char* const end_;
  std::vector<Frame> frames_;
  std::vector<const char*> slots_;
  int64_t budget_;
};

StatusOr<Regex> Regex::compile(absl::string_view pattern, bool literal) {
  Regex regex;
  const auto fail = [&pattern](const Status& status) {
    std::string shown(pattern.substr(0, 80));
    if (pattern.size() > 80) shown += "...";
    return in_context(status, absl::StrCat("pattern '", replace_invalid_utf8(shown), "'"));
  };
  if (!is_valid_utf8(pattern)) return fail(corrupt_error("not valid UTF-8"));
  if (pattern.size() > kMaxPatternBytes) {
    return fail(unsupported_error(pattern.size(), " bytes, more than ", kMaxPatternBytes));
  }
  regex.pattern_ = std::string(pattern);
  NodePtr root;
  if (literal) {
    root = std::make_unique<Node>(Node::Kind::kConcatenation);
    const char* p = pattern.data();
    while (p < pattern.data() + pattern.size()) {
      const char32_t c = next_code_point(p);
      root->children.push_back(make_set(CodePointSet(c, c)));
    }
  } else {
    StatusOr<NodePtr> parsed = Parser(pattern).parse();
    if (!parsed.ok()) return fail(parsed.status());
    root = *std::move(parsed);
  }
  if (Status status = RegexCompiler(regex).compile(*root); !status.ok()) return fail(status);
  return regex;
}

StatusOr<Regex> Regex::one_of(const CodePointSet& set) {
  Regex regex;
  regex.pattern_ = "a character set";
  PONDER_RETURN_IF_ERROR(RegexCompiler(regex).compile(*make_set(set)));
  return regex;
}

Status Regex::find_all(absl::string_view text, std::vector<Match>& matches) const {
  matches.clear();
  RegexMatcher matcher(*this, text);
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* p = begin;
  const char* last_end = nullptr;
  const FastCodePointSet* first =
      first_set_ >= 0 ? &sets_[static_cast<size_t>(first_set_)] : nullptr;
  while (p <= end) {
    if (first != nullptr) {
      while (p < end) {
        const char* next = p;
        if (first->contains(next_code_point(next))) break;
        p = next;
      }
      if (p == end) break;
    }
    const char* const match_end = matcher.match(p);
    if (matcher.exhausted()) {
      return unsupported_error("the pattern '", pattern_.substr(0, 80),
                               "' takes too many steps on a text of ", text.size(),
                               " bytes: it backtracks without end");
    }
    if (match_end != nullptr && !(match_end == p && last_end == p)) {
      matches.push_back({static_cast<size_t>(p - begin), static_cast<size_t>(match_end - begin)});
      last_end = match_end;
      // An empty match is looked at again, and refused, before the next code point.
      p = match_end;
      if (matches.back().begin != matches.back().end) continue;
    }
    if (p == end) break;
    next_code_point(p);
  }
  return OkStatus();
}

}  // namespace ponder
