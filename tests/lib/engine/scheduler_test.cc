#include "lib/engine/scheduler.h"

#include <gtest/gtest.h>

namespace ponder::engine {
namespace {

using Rows = std::vector<int32_t>;

TEST(PlanRows, GivesEverySpeakerOneRowBeforeAnyPrompt) {
  const std::vector<int64_t> pending = {1000, 1, 1, 300, 1};
  EXPECT_EQ(plan_rows(pending, 512), (Rows{509, 1, 1, 0, 1}));
}

TEST(PlanRows, GivesTheRestToPromptsOldestFirst) {
  const std::vector<int64_t> pending = {100, 300, 1000};
  EXPECT_EQ(plan_rows(pending, 512), (Rows{100, 300, 112}));
}

TEST(PlanRows, NeverExceedsTheBudget) {
  const std::vector<int64_t> speakers(10, 1);
  EXPECT_EQ(plan_rows(speakers, 4), (Rows{1, 1, 1, 1, 0, 0, 0, 0, 0, 0}));
  const std::vector<int64_t> prompts = {5, 5};
  EXPECT_EQ(plan_rows(prompts, 0), (Rows{0, 0}));
}

TEST(PlanRows, GivesNothingToWhoeverHasNothingPending) {
  const std::vector<int64_t> pending = {0, 7, 0};
  EXPECT_EQ(plan_rows(pending, 512), (Rows{0, 7, 0}));
  EXPECT_TRUE(plan_rows({}, 512).empty());
}

}  // namespace
}  // namespace ponder::engine
