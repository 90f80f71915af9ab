// Countdown puzzles: three numbers, a target, and an exact check of an answer.
//
// The same definition, puzzle for puzzle, as the Python script that the shipped model was trained
// and measured with: a seed gives the puzzles and the prompts that `random.Random(seed)` gives
// there.
//
// Values only; no threads.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ponder::tool {

// CPython's random.Random for the two calls that making puzzles needs.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);
  uint32_t below(uint32_t n);  // uniform in [0, n), n >= 1

 private:
  std::mt19937 engine_;
};

struct Puzzle {
  std::vector<int64_t> numbers;
  int64_t target = 0;
};

// Three integers uniform in 1..25; the target is reached by random legal moves and lies in 10..99.
Puzzle make_puzzle(PythonRandom& random);

// One of three ways to put it into words.
std::string puzzle_prompt(const Puzzle& puzzle, PythonRandom& random);

// True when `answer`, blanks at its ends aside, reads "expression = target", the expression uses
// exactly the puzzle's numbers, each once, with + - * / and parentheses, and its exact value is the
// target. Any text may be given.
bool puzzle_solved(std::string_view answer, const Puzzle& puzzle);

// An exact fraction in lowest terms, den > 0.
struct Fraction {
  int64_t num = 0;
  int64_t den = 1;
  bool operator==(const Fraction&) const = default;
};

struct Evaluated {
  Fraction value;
  std::vector<int64_t> literals;  // in the order of the text
};

// The value of an arithmetic expression of integers, + - * / and parentheses; nullopt when it is
// not one, divides by zero, nests deeper than 64 or leaves the range of 64-bit fractions.
std::optional<Evaluated> evaluate(std::string_view expression);

}  // namespace ponder::tool
