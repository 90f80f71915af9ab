// The puzzles that `ponder eval countdown` makes and the check it makes of an answer.
#include "tools/ponder/countdown.h"

#include <string>

#include <gtest/gtest.h>

namespace ponder::tool {
namespace {

// The reference: countdown_puzzles.py with random.Random(seed).
TEST(MakePuzzle, GivesThePuzzlesOfThePythonDefinition) {
  PythonRandom random(31);
  const Puzzle first = make_puzzle(random);
  EXPECT_EQ(first.numbers, (std::vector<int64_t>{1, 16, 4}));
  EXPECT_EQ(first.target, 21);
  EXPECT_EQ(puzzle_prompt(first, random), "Using the numbers 1, 16 and 4, reach 21.");
  const Puzzle second = make_puzzle(random);
  EXPECT_EQ(puzzle_prompt(second, random), "Using the numbers 2, 5 and 4, reach 13.");
  const Puzzle third = make_puzzle(random);
  EXPECT_EQ(puzzle_prompt(third, random), "Use 25, 5 and 5 to make 35.");
}

TEST(MakePuzzle, SeedsOfMoreThan32BitsAreTheirOwn) {
  PythonRandom low(5), high((uint64_t{1} << 32) + 5);
  EXPECT_NE(puzzle_prompt(make_puzzle(low), low), puzzle_prompt(make_puzzle(high), high));
}

TEST(MakePuzzle, NumbersAndTargetsStayInRange) {
  PythonRandom random(7);
  for (int i = 0; i < 2000; ++i) {
    const Puzzle puzzle = make_puzzle(random);
    ASSERT_EQ(puzzle.numbers.size(), 3u);
    for (int64_t n : puzzle.numbers) ASSERT_TRUE(n >= 1 && n <= 25) << n;
    ASSERT_TRUE(puzzle.target >= 10 && puzzle.target <= 99) << puzzle.target;
  }
}

const Puzzle kPuzzle{{3, 7, 21}, 42};

TEST(PuzzleSolved, AcceptsEveryWayOfWritingIt) {
  for (const char* answer : {"21*(7-3)/2 = 42", "(7-3)*21 = 42"}) {
    EXPECT_FALSE(puzzle_solved(answer, kPuzzle))
        << answer;  // right numbers, wrong value; or neither
  }
  const Puzzle sum{{1, 16, 4}, 21};
  for (const char* answer : {"16+1+4 = 21", "16+1+4=21", "  16 + (1+4) = 21 \n", "\n\n4+16+1 =21",
                             "(((16)))+4+1 = 21"}) {
    EXPECT_TRUE(puzzle_solved(answer, sum)) << answer;
  }
}

TEST(PuzzleSolved, ComputesExactly) {
  EXPECT_TRUE(puzzle_solved("8/(3-8/3) = 24", Puzzle{{3, 3, 8, 8}, 24}));
  EXPECT_FALSE(puzzle_solved("7/3*3 = 8", Puzzle{{7, 3, 3}, 8}));
  EXPECT_TRUE(puzzle_solved("7/3*3 = 7", Puzzle{{7, 3, 3}, 7}));
}

TEST(PuzzleSolved, RefusesWhatIsNotAnAnswer) {
  const Puzzle sum{{1, 16, 4}, 21};
  for (const char* answer : {"",
                             "=",
                             "= 21",
                             "21 = 21",
                             "16+1+4",
                             "16+1+4 = ",
                             "16+1+4 = 22",
                             "16+1+4 = 021",
                             "16+4+1+0 = 21",
                             "16+1 = 21",
                             "16+1+4+4-4 = 21",
                             "1+6+1+4 = 21",
                             "16+1+4 = 21 = 21",
                             "The answer is 16+1+4 = 21",
                             "16+1+4 = 21.",
                             "16+1+4 == 21",
                             "16+1+4 = 21 21",
                             "(16+1+4 = 21",
                             "16+1+4) = 21",
                             "16 1+4 = 21",
                             "16+01+4 = 21",
                             "16+1*4/0 = 21",
                             "16**1+4+1 = 21",
                             "16//1+4+1 = 21",
                             "16+1+4\n= 21"}) {
    EXPECT_FALSE(puzzle_solved(answer, sum)) << answer;
  }
}

TEST(Evaluate, FollowsPrecedenceAndParentheses) {
  const auto value = [](const char* text) { return evaluate(text).value().value; };
  EXPECT_EQ(value("2+3*4"), (Fraction{14, 1}));
  EXPECT_EQ(value("(2+3)*4"), (Fraction{20, 1}));
  EXPECT_EQ(value("20-5-3"), (Fraction{12, 1}));
  EXPECT_EQ(value("24/4/3"), (Fraction{2, 1}));
  EXPECT_EQ(value("1/3+1/6"), (Fraction{1, 2}));
  EXPECT_EQ(value("-3+-(4)"), (Fraction{-7, 1}));
}

TEST(Evaluate, SurvivesHostileText) {
  EXPECT_FALSE(evaluate(std::string(1'000'000, '(')));
  EXPECT_FALSE(evaluate(std::string(1'000'000, '-') + "1"));
  EXPECT_FALSE(evaluate(std::string(1'000'000, '9')));
  EXPECT_FALSE(evaluate("1/0"));
  EXPECT_FALSE(evaluate("1/(1-1)"));
  std::string product = "999999999";
  for (int i = 0; i < 50; ++i) product += "*999999999";
  EXPECT_FALSE(evaluate(product)) << "leaves the range of 64 bits";
  std::string fraction = "1";
  for (int i = 0; i < 50; ++i) fraction += "/999999999";
  EXPECT_FALSE(evaluate(fraction));
  EXPECT_FALSE(evaluate(std::string("1+\0 2", 5)));
}

}  // namespace
}  // namespace ponder::tool
