#include "countdown.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>
#include <utility>

namespace ponder::tool {
namespace {

constexpr int kNumbers = 3;
constexpr uint32_t kHighest = 25;
constexpr int64_t kLargestResult = 999;
constexpr int64_t kTargetMin = 10, kTargetMax = 99;
constexpr std::string_view kOperators = "+-*/";

// Seeding takes a C++ seed sequence; this one hands out the state that the reference Mersenne
// Twister code (and so CPython) computes from an array of 32-bit words.
class ArraySeed {
 public:
  using result_type = uint32_t;

  explicit ArraySeed(std::vector<uint32_t> key) : key_(std::move(key)) {}

  template <typename Iterator>
  void generate(Iterator begin, Iterator end) {
    std::vector<uint32_t> s(static_cast<size_t>(end - begin));
    const size_t n = s.size();
    auto mixed = [&s](size_t i) { return s[i - 1] ^ (s[i - 1] >> 30); };
    s[0] = 19650218u;
    for (size_t i = 1; i < n; ++i) s[i] = 1812433253u * mixed(i) + static_cast<uint32_t>(i);
    size_t i = 1, j = 0;
    auto advance = [&] {
      if (++i >= n) {
        s[0] = s[n - 1];
        i = 1;
      }
    };
    for (size_t k = std::max(n, key_.size()); k > 0; --k) {
      s[i] = (s[i] ^ (mixed(i) * 1664525u)) + key_[j] + static_cast<uint32_t>(j);
      advance();
      j = (j + 1) % key_.size();
    }
    for (size_t k = n - 1; k > 0; --k) {
      s[i] = (s[i] ^ (mixed(i) * 1566083941u)) - static_cast<uint32_t>(i);
      advance();
    }
    s[0] = 0x80000000u;
    std::copy(s.begin(), s.end(), begin);
  }

 private:
  std::vector<uint32_t> key_;
};

std::mt19937 seeded(uint64_t seed) {
  std::vector<uint32_t> key{static_cast<uint32_t>(seed)};
  if (seed >> 32 != 0) key.push_back(static_cast<uint32_t>(seed >> 32));
  ArraySeed sequence(std::move(key));
  return std::mt19937(sequence);
}

struct Move {
  size_t left, right;
  int64_t value;
};

std::optional<int64_t> apply(int64_t a, int64_t b, char op) {
  switch (op) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    default:
      return b != 0 && a % b == 0 ? std::optional(a / b) : std::nullopt;
  }
}

// The order matters: a seed picks moves by their place in this list.
std::vector<Move> legal_moves(std::span<const int64_t> numbers) {
  std::vector<Move> moves;
  for (size_t i = 0; i < numbers.size(); ++i) {
    for (size_t j = 0; j < numbers.size(); ++j) {
      const int64_t a = numbers[i], b = numbers[j];
      if (i == j || a < b || (a == b && i > j)) continue;
      for (char op : kOperators) {
        const std::optional<int64_t> value = apply(a, b, op);
        if (!value) continue;
        if ((op == '*' || op == '/') && b == 1) continue;
        if (op == '-' && *value == 0) continue;
        if (*value > kLargestResult) continue;
        moves.push_back({i, j, *value});
      }
    }
  }
  return moves;
}

// ---- exact arithmetic ------------------------------------------------------------------------

__extension__ typedef __int128 Wide;  // an extension of GCC and Clang

std::optional<Fraction> reduced(Wide num, Wide den) {
  if (den == 0) return std::nullopt;
  if (den < 0) {
    num = -num;
    den = -den;
  }
  Wide a = num < 0 ? -num : num, b = den;
  while (b != 0) a = std::exchange(b, a % b);
  num /= a;
  den /= a;
  constexpr Wide kLimit = std::numeric_limits<int64_t>::max();
  if (num > kLimit || num < -kLimit || den > kLimit) return std::nullopt;
  return Fraction{static_cast<int64_t>(num), static_cast<int64_t>(den)};
}

// Products of two 63-bit numbers, and sums of two such, fit in 128 bits.
std::optional<Fraction> combine(Fraction a, Fraction b, char op) {
  const Wide an = a.num, ad = a.den, bn = b.num, bd = b.den;
  switch (op) {
    case '+':
      return reduced(an * bd + bn * ad, ad * bd);
    case '-':
      return reduced(an * bd - bn * ad, ad * bd);
    case '*':
      return reduced(an * bn, ad * bd);
    default:
      return reduced(an * bd, ad * bn);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Evaluated> whole() {
    const std::optional<Fraction> value = sum(0);
    skip_blanks();
    if (!value || at_ != text_.size()) return std::nullopt;
    return Evaluated{*value, std::move(literals_)};
  }

 private:
  static constexpr int kMaxDepth = 64;

  void skip_blanks() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }

  // The next operator if it is one of `wanted`, else 0.
  char take(std::string_view wanted) {
    skip_blanks();
    if (at_ >= text_.size() || wanted.find(text_[at_]) == std::string_view::npos) return 0;
    return text_[at_++];
  }

  std::optional<Fraction> sum(int depth) {
    std::optional<Fraction> left = product(depth);
    while (left) {
      const char op = take("+-");
      if (op == 0) break;
      const std::optional<Fraction> right = product(depth);
      left = right ? combine(*left, *right, op) : std::nullopt;
    }
    return left;
  }

  std::optional<Fraction> product(int depth) {
    std::optional<Fraction> left = operand(depth);
    while (left) {
      const char op = take("*/");
      if (op == 0) break;
      const std::optional<Fraction> right = operand(depth);
      left = right ? combine(*left, *right, op) : std::nullopt;
    }
    return left;
  }

  std::optional<Fraction> operand(int depth) {
    if (depth >= kMaxDepth) return std::nullopt;
    if (const char sign = take("+-")) {
      const std::optional<Fraction> value = operand(depth + 1);
      if (!value || sign == '+') return value;
      return Fraction{-value->num, value->den};
    }
    if (take("(")) {
      const std::optional<Fraction> value = sum(depth + 1);
      return value && take(")") ? value : std::nullopt;
    }
    return literal();
  }

  std::optional<Fraction> literal() {
    const size_t begin = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      if (at_ - begin >= 18) return std::nullopt;  // 18 digits always fit
      value = value * 10 + (text_[at_++] - '0');
    }
    if (at_ == begin || (text_[begin] == '0' && at_ - begin > 1)) return std::nullopt;
    literals_.push_back(value);
    return Fraction{value, 1};
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<int64_t> literals_;
};

std::string_view stripped(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) : engine_(seeded(seed)) {}

uint32_t PythonRandom::below(uint32_t n) {
  const int bits = std::bit_width(n);
  uint32_t value;
  do {
    value = static_cast<uint32_t>(engine_()) >> (32 - bits);
  } while (value >= n);
  return value;
}

Puzzle make_puzzle(PythonRandom& random) {
  for (;;) {
    Puzzle puzzle;
    for (int i = 0; i < kNumbers; ++i) puzzle.numbers.push_back(1 + random.below(kHighest));
    std::vector<int64_t> left = puzzle.numbers;
    while (left.size() > 1) {
      const std::vector<Move> moves = legal_moves(left);
      if (moves.empty()) break;
      const Move move = moves[random.below(static_cast<uint32_t>(moves.size()))];
      std::vector<int64_t> rest;
      for (size_t i = 0; i < left.size(); ++i) {
        if (i != move.left && i != move.right) rest.push_back(left[i]);
      }
      rest.push_back(move.value);
      left = std::move(rest);
    }
    puzzle.target = left.back();
    if (left.size() == 1 && puzzle.target >= kTargetMin && puzzle.target <= kTargetMax)
      return puzzle;
  }
}

std::string puzzle_prompt(const Puzzle& puzzle, PythonRandom& random) {
  std::string numbers;
  for (size_t i = 0; i < puzzle.numbers.size(); ++i) {
    if (i > 0) numbers += i + 1 == puzzle.numbers.size() ? " and " : ", ";
    numbers += std::to_string(puzzle.numbers[i]);
  }
  const std::string target = std::to_string(puzzle.target);
  switch (random.below(3)) {
    case 0:
      return "Use " + numbers + " to make " + target + ".";
    case 1:
      return "Make " + target + " from " + numbers + ".";
    default:
      return "Using the numbers " + numbers + ", reach " + target + ".";
  }
}

bool puzzle_solved(std::string_view answer, const Puzzle& puzzle) {
  const std::string_view text = stripped(answer);
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return false;
  if (stripped(text.substr(equals + 1)) != std::to_string(puzzle.target)) return false;
  std::optional<Evaluated> result = evaluate(text.substr(0, equals));
  if (!result || result->value != Fraction{puzzle.target, 1}) return false;
  std::vector<int64_t> wanted = puzzle.numbers;
  std::sort(wanted.begin(), wanted.end());
  std::sort(result->literals.begin(), result->literals.end());
  return result->literals == wanted;
}

std::optional<Evaluated> evaluate(std::string_view expression) {
  return Parser(expression).whole();
}

}  // namespace ponder::tool
