#include "lib/engine/drafter.h"

#include <gtest/gtest.h>

#include <vector>

namespace ponder::engine {
namespace {

using Tokens = std::vector<int32_t>;

TEST(NgramDrafter, ProposesWhatFollowedBefore) {
  NgramDrafter drafter;
  Tokens draft;
  const Tokens text = {1, 2, 3, 4, 5, 6, 7, 9, 9, 2, 3};
  EXPECT_EQ(drafter.propose(text, 3, &draft), 0);
  EXPECT_EQ(draft, (Tokens{4, 5, 6}));
}

TEST(NgramDrafter, TakesThePlaceThatAgreesLongestAndSaysHowMuch) {
  NgramDrafter drafter;
  Tokens draft;
  // "3 4" stands twice; before the older one stands what stands before the end.
  const Tokens text = {7, 1, 2, 3, 4, 50, 8, 3, 4, 60, 1, 2, 3, 4};
  EXPECT_EQ(drafter.propose(text, 2, &draft), 1) << "4 tokens agree";
  EXPECT_EQ(draft, (Tokens{50, 8}));
  Tokens repeated;
  for (int turn = 0; turn < 2; ++turn) {
    for (int32_t i = 0; i < 10; ++i) repeated.push_back(i);
  }
  NgramDrafter other;
  EXPECT_EQ(other.propose(repeated, 1, &draft), 2) << "10 tokens agree";
  EXPECT_EQ(draft, (Tokens{0}));
}

TEST(NgramDrafter, FollowsARepetitionPastTheEndOfTheText) {
  NgramDrafter drafter;
  Tokens draft;
  drafter.propose(Tokens{5, 1, 2, 3, 1, 2, 3, 1, 2}, 8, &draft);
  EXPECT_EQ(draft, (Tokens{3, 1, 2, 3, 1, 2, 3, 1}));
}

TEST(NgramDrafter, HasNothingToSayOfANewEnd) {
  NgramDrafter drafter;
  Tokens draft = {1};
  drafter.propose(Tokens{1, 2, 3, 4, 5}, 8, &draft);
  EXPECT_TRUE(draft.empty());
  draft = {1};
  drafter.propose(Tokens{1, 1}, 8, &draft);
  EXPECT_TRUE(draft.empty());
  drafter.propose(Tokens{}, 8, &draft);
  drafter.propose(Tokens{1, 1, 1, 1}, 0, &draft);
  EXPECT_TRUE(draft.empty());
}

TEST(NgramDrafter, FindsOldPlacesInATextThatGrewPastItsTable) {
  NgramDrafter drafter;
  Tokens draft, text = {100001, 100002, 100003, 100004};
  for (int32_t i = 0; i < 3000; ++i) {
    text.push_back(i);
    drafter.propose(text, 4, &draft);
    EXPECT_TRUE(draft.empty());
  }
  text.push_back(100001);
  drafter.propose(text, 4, &draft);
  text.push_back(100002);
  drafter.propose(text, 2, &draft);
  EXPECT_EQ(draft, (Tokens{100003, 100004}));
}

}  // namespace
}  // namespace ponder::engine
