#include "lib/kv/block_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "lib/kv/block_cache.h"

namespace ponder {
namespace {

std::vector<int32_t> counting(int32_t n, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes `tokens` into an empty table the way the engine does; returns the tokens found computed.
int32_t fill(BlockTable* table, const std::vector<int32_t>& tokens) {
  const int32_t found = table->adopt_prefix(tokens);
  const int32_t rest = static_cast<int32_t>(tokens.size()) - found;
  if (rest > 0) {
    EXPECT_EQ(table->reserve(rest).missing_pages, 0);
    EXPECT_TRUE(table->advance(rest));
  }
  table->publish(tokens);
  return found;
}

TEST(BlockTable, TakesPagesForTokensAndGivesThemBack) {
  BlockCache cache(8, 4);
  EXPECT_EQ(cache.total_pages(), 8);
  EXPECT_EQ(cache.free_pages(), 8);
  {
    BlockTable table(&cache);
    EXPECT_EQ(table.reserve(9).missing_pages, 0);
    EXPECT_EQ(table.pages().size(), 3u);
    EXPECT_EQ(table.capacity(), 12);
    EXPECT_EQ(table.size(), 0);
    EXPECT_EQ(cache.used_pages(), 3);
    EXPECT_TRUE(table.advance(9));
    EXPECT_EQ(table.size(), 9);
    EXPECT_EQ(table.reserve(3).missing_pages, 0);
    EXPECT_EQ(table.pages().size(), 3u);
    EXPECT_FALSE(table.advance(4));
    EXPECT_FALSE(table.advance(-1));
    EXPECT_EQ(table.size(), 9);
  }
  EXPECT_EQ(cache.free_pages(), 8);
  EXPECT_EQ(cache.cached_pages(), 0);
}

TEST(BlockTable, ReservesAllOrNothingAndSaysHowManyPagesAreMissing) {
  BlockCache cache(4, 4);
  BlockTable a(&cache), b(&cache);
  ASSERT_EQ(a.reserve(9).missing_pages, 0);
  const BlockTable::Room room = b.reserve(13);
  EXPECT_EQ(room.missing_pages, 3);
  EXPECT_FALSE(room.copy.needed());
  EXPECT_TRUE(b.pages().empty());
  EXPECT_EQ(cache.free_pages(), 1);
  EXPECT_EQ(b.reserve(4).missing_pages, 0);
  EXPECT_GT(b.reserve(INT32_MAX).missing_pages, 0);
  EXPECT_EQ(b.pages().size(), 1u);
  EXPECT_EQ(b.reserve(0).missing_pages, 0);
  EXPECT_EQ(b.reserve(-5).missing_pages, 0);
}

TEST(BlockTable, FindsFullBlocksOfAnEqualBeginningOnly) {
  BlockCache cache(32, 4);
  BlockTable first(&cache);
  const std::vector<int32_t> text = counting(14);
  EXPECT_EQ(fill(&first, text), 0);

  EXPECT_EQ(cache.cached_prefix(text), 12);
  BlockTable same(&cache);
  EXPECT_EQ(same.adopt_prefix(text), 12);
  EXPECT_TRUE(std::ranges::equal(same.pages(), first.pages().first(3)));
  EXPECT_EQ(cache.ref_count(first.pages()[0]), 2);
  EXPECT_EQ(cache.ref_count(first.pages()[3]), 1);

  std::vector<int32_t> fork_at_6 = text;
  fork_at_6[6] = 99;
  EXPECT_EQ(cache.cached_prefix(fork_at_6), 4);
  // The same second block behind another first block is another block.
  std::vector<int32_t> shifted = text;
  shifted[0] = 99;
  EXPECT_EQ(cache.cached_prefix(shifted), 0);
  EXPECT_EQ(cache.cached_prefix(std::span(text).subspan(4)), 0);
  EXPECT_EQ(cache.cached_prefix(std::span(text).first(3)), 0);
  EXPECT_EQ(cache.cached_prefix({}), 0);
}

TEST(BlockTable, AdoptsOnlyWhileEmpty) {
  BlockCache cache(32, 4);
  BlockTable first(&cache), second(&cache);
  fill(&first, counting(8));
  ASSERT_EQ(second.reserve(1).missing_pages, 0);
  EXPECT_EQ(second.adopt_prefix(counting(8)), 0);
  EXPECT_EQ(second.pages().size(), 1u);
}

TEST(BlockTable, LeavesItsBlocksFindableUntilPagesRunShort) {
  BlockCache cache(4, 2);
  {
    BlockTable table(&cache);
    fill(&table, counting(8));
  }
  EXPECT_EQ(cache.free_pages(), 4);
  EXPECT_EQ(cache.cached_pages(), 4);
  EXPECT_EQ(cache.cached_prefix(counting(8)), 8);

  // Two pages of something else cost the two blocks at the text's end, not its beginning.
  BlockTable other(&cache);
  fill(&other, counting(4, 100));
  EXPECT_EQ(cache.cached_prefix(counting(8)), 4);
  EXPECT_EQ(cache.cached_pages(), 2);

  cache.drop_cached();
  EXPECT_EQ(cache.cached_pages(), 0);
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(cache.cached_prefix(counting(8)), 0);
  EXPECT_EQ(cache.cached_prefix(counting(4, 100)), 4);
}

TEST(BlockTable, EvictsTheLeastRecentlyUsedTextFirst) {
  BlockCache cache(6, 2);
  for (const int32_t first : {0, 100, 200}) {
    BlockTable table(&cache);
    fill(&table, counting(4, first));
  }
  {
    BlockTable again(&cache);
    EXPECT_EQ(again.adopt_prefix(counting(4, 0)), 4);
  }
  BlockTable fresh(&cache);
  fill(&fresh, counting(4, 300));
  EXPECT_EQ(cache.cached_prefix(counting(4, 0)), 4);
  EXPECT_EQ(cache.cached_prefix(counting(4, 100)), 0);
  EXPECT_EQ(cache.cached_prefix(counting(4, 200)), 4);
}

TEST(BlockTable, EqualBlocksComputedTwiceEndUpShared) {
  BlockCache cache(16, 4);
  BlockTable a(&cache), b(&cache);
  const std::vector<int32_t> text = counting(10);
  for (BlockTable* table : {&a, &b}) {
    ASSERT_EQ(table->reserve(10).missing_pages, 0);
    ASSERT_TRUE(table->advance(10));
  }
  EXPECT_EQ(cache.used_pages(), 6);
  a.publish(text);
  b.publish(text);
  EXPECT_EQ(cache.used_pages(), 4);
  EXPECT_EQ(a.pages()[0], b.pages()[0]);
  EXPECT_EQ(a.pages()[1], b.pages()[1]);
  EXPECT_NE(a.pages()[2], b.pages()[2]);
  b.publish(text);
  EXPECT_EQ(cache.ref_count(a.pages()[0]), 2);
}

TEST(BlockTable, ForkSharesEveryPageAndCopiesThePartialOneOnWrite) {
  BlockCache cache(16, 4);
  BlockTable a(&cache);
  fill(&a, counting(6));
  BlockTable b = a.fork();
  EXPECT_EQ(b.size(), 6);
  EXPECT_EQ(cache.used_pages(), 2);
  const int32_t partial = a.pages()[1];
  EXPECT_EQ(cache.ref_count(partial), 2);

  const BlockTable::Room room = b.reserve(1);
  ASSERT_TRUE(room.copy.needed());
  EXPECT_EQ(room.copy.from, partial);
  EXPECT_EQ(room.copy.to, b.pages()[1]);
  EXPECT_NE(room.copy.to, partial);
  EXPECT_EQ(cache.ref_count(partial), 1);
  EXPECT_FALSE(b.reserve(1).copy.needed()) << "asked again, the page is its own already";
  EXPECT_FALSE(a.reserve(1).copy.needed()) << "the last holder writes in place";
  EXPECT_EQ(a.pages()[1], partial);
  EXPECT_EQ(a.pages()[0], b.pages()[0]);
}

TEST(BlockTable, ForkAtABlockBoundaryCopiesNothing) {
  BlockCache cache(16, 4);
  BlockTable a(&cache);
  fill(&a, counting(8));
  ASSERT_EQ(a.reserve(1).missing_pages, 0);
  BlockTable b = a.fork();
  EXPECT_EQ(b.pages().size(), 2u) << "room reserved by one is not the other's";
  EXPECT_FALSE(b.reserve(1).copy.needed());
  EXPECT_NE(a.pages()[2], b.pages()[2]);
}

TEST(BlockTable, ACopyThatFindsNoPageChangesNothing) {
  BlockCache cache(2, 4);
  BlockTable a(&cache);
  fill(&a, counting(6));
  BlockTable b = a.fork();
  EXPECT_EQ(b.reserve(1).missing_pages, 1);
  EXPECT_EQ(cache.ref_count(a.pages()[1]), 2);
  b.clear();
  EXPECT_FALSE(a.reserve(1).copy.needed());
}

TEST(BlockTable, WritingAfterATruncationHidesTheOldBlock) {
  BlockCache cache(8, 4);
  BlockTable table(&cache);
  fill(&table, counting(8));
  table.truncate(6);
  EXPECT_EQ(table.size(), 6);
  EXPECT_EQ(cache.cached_prefix(counting(8)), 8) << "nothing is overwritten yet";
  EXPECT_FALSE(table.reserve(2).copy.needed());
  EXPECT_EQ(cache.cached_prefix(counting(8)), 4);
  ASSERT_TRUE(table.advance(2));
  std::vector<int32_t> other = counting(8);
  other[6] = 77;
  table.publish(other);
  EXPECT_EQ(cache.cached_prefix(other), 8);
  EXPECT_EQ(cache.cached_prefix(counting(8)), 4);
}

TEST(BlockTable, AChildOfARewrittenBlockIsNotFoundBehindItsSuccessor) {
  BlockCache cache(8, 2);
  BlockTable table(&cache);
  fill(&table, {1, 2, 3, 4});
  table.truncate(1);  // the block {3, 4} stays cached behind {1, 2}
  ASSERT_EQ(table.reserve(1).missing_pages, 0);
  ASSERT_TRUE(table.advance(1));
  table.publish(std::vector<int32_t>{1, 9});
  EXPECT_EQ(cache.cached_prefix(std::vector<int32_t>{1, 9, 3, 4}), 2);
  EXPECT_EQ(cache.cached_prefix(std::vector<int32_t>{1, 2, 3, 4}), 0);
}

TEST(BlockTable, TruncatingToNonsenseIsHarmless) {
  BlockCache cache(8, 4);
  BlockTable table(&cache);
  fill(&table, counting(8));
  table.truncate(100);
  EXPECT_EQ(table.size(), 8);
  table.truncate(-3);
  EXPECT_EQ(table.size(), 0);
  EXPECT_EQ(cache.used_pages(), 0);
}

TEST(BlockTable, MovesItsPages) {
  BlockCache cache(8, 4);
  BlockTable a(&cache);
  fill(&a, counting(8));
  BlockTable b(std::move(a));
  EXPECT_EQ(b.size(), 8);
  EXPECT_EQ(cache.used_pages(), 2);
  BlockTable c(&cache);
  fill(&c, counting(4, 50));
  c = std::move(b);
  EXPECT_EQ(c.size(), 8);
  EXPECT_EQ(cache.used_pages(), 2);
  c.clear();
  EXPECT_EQ(cache.used_pages(), 0);
}

TEST(BlockTable, PublishesOnlyWhatIsComputed) {
  BlockCache cache(8, 4);
  BlockTable table(&cache);
  ASSERT_EQ(table.reserve(8).missing_pages, 0);
  table.publish(counting(8));
  EXPECT_EQ(cache.cached_prefix(counting(8)), 0);
  ASSERT_TRUE(table.advance(7));
  table.publish(counting(8));
  EXPECT_EQ(cache.cached_prefix(counting(8)), 4);
}

TEST(BlockCache, AnswersForPagesThatDoNotExist) {
  BlockCache cache(-1, 0);
  EXPECT_EQ(cache.total_pages(), 1);
  EXPECT_EQ(cache.block_size(), 1);
  EXPECT_EQ(cache.ref_count(-1), 0);
  EXPECT_EQ(cache.ref_count(1), 0);
}

// A stand-in for the engine and the device: every slot of every page holds what attention would
// find there, a hash of the whole text up to that token. Whatever the tables do, each must read its
// own past. Tokens are few and blocks small, so that texts meet, part and meet again all the time.
class World {
 public:
  World(uint32_t seed, int32_t pages, int32_t block, uint64_t hash_mask)
      : random_(seed),
        cache_(pages, block, hash_mask),
        slots_(static_cast<size_t>(pages) * static_cast<size_t>(block)) {}

  void step() {
    switch (pick(10)) {
      case 0:
        if (lines_.size() < 6) start();
        break;
      case 1:
        if (!lines_.empty()) lines_.erase(lines_.begin() + pick(static_cast<int>(lines_.size())));
        break;
      case 2:
        if (!lines_.empty() && lines_.size() < 6) {
          Line& line = any();
          Line copy{line.table.fork(), line.text};
          lines_.push_back(std::move(copy));
        }
        break;
      case 3:
        if (!lines_.empty()) {
          Line& line = any();
          const int32_t n = pick(line.table.size() + 1);
          line.table.truncate(n);
          line.text.resize(static_cast<size_t>(n));
        }
        break;
      case 4:
        if (!lines_.empty()) reserve(&any(), 1 + pick(9));  // a step that is then not run
        break;
      default:
        if (!lines_.empty()) extend(&any());
    }
  }

  void check() {
    std::map<int32_t, int32_t> refs;
    for (const Line& line : lines_) {
      std::set<int32_t> own(line.table.pages().begin(), line.table.pages().end());
      ASSERT_EQ(own.size(), line.table.pages().size()) << "a page twice in one table";
      for (const int32_t page : own) ++refs[page];
      uint64_t past = 0;
      for (int32_t i = 0; i < line.table.size(); ++i) {
        past = hash(past, line.text[static_cast<size_t>(i)]);
        ASSERT_EQ(slot(line.table, i), past) << "position " << i << " of a table";
      }
    }
    for (int32_t page = 0; page < cache_.total_pages(); ++page) {
      ASSERT_EQ(cache_.ref_count(page), refs.contains(page) ? refs[page] : 0);
    }
    ASSERT_EQ(cache_.used_pages(), static_cast<int32_t>(refs.size()));
    ASSERT_EQ(cache_.used_pages() + cache_.free_pages(), cache_.total_pages());
    ASSERT_LE(cache_.cached_pages(), cache_.free_pages());
  }

  void check_empty() {
    lines_.clear();
    ASSERT_EQ(cache_.free_pages(), cache_.total_pages());
    // Every single page can be had again.
    BlockTable all(&cache_);
    ASSERT_EQ(all.reserve(cache_.total_pages() * cache_.block_size()).missing_pages, 0);
    std::set<int32_t> pages(all.pages().begin(), all.pages().end());
    ASSERT_EQ(static_cast<int32_t>(pages.size()), cache_.total_pages());
    ASSERT_EQ(cache_.cached_pages(), 0);
  }

  int64_t hits() const { return hits_; }
  int64_t copies() const { return copies_; }
  int64_t refusals() const { return refusals_; }

 private:
  struct Line {
    BlockTable table;
    std::vector<int32_t> text;
  };

  int pick(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  Line& any() { return lines_[static_cast<size_t>(pick(static_cast<int>(lines_.size())))]; }

  static uint64_t hash(uint64_t past, int32_t token) {
    return (past ^ static_cast<uint64_t>(token + 1)) * 0x9e3779b97f4a7c15u + (past >> 29) + 1;
  }

  uint64_t& slot(const BlockTable& table, int32_t position) {
    const int32_t block = cache_.block_size();
    return slots_[static_cast<size_t>(table.pages()[static_cast<size_t>(position / block)] * block +
                                      position % block)];
  }

  void start() {
    Line line{BlockTable(&cache_), {}};
    std::vector<int32_t> prompt(static_cast<size_t>(pick(14)));
    for (int32_t& token : prompt) token = pick(2);
    const int32_t expected = cache_.cached_prefix(prompt);
    const int32_t found = line.table.adopt_prefix(prompt);
    ASSERT_EQ(found, expected);
    if (found > 0) ++hits_;
    line.text.assign(prompt.begin(), prompt.begin() + found);
    lines_.push_back(std::move(line));
  }

  // Room for n tokens, with the copy that this may take.
  bool reserve(Line* line, int32_t n) {
    const int32_t free_before = cache_.free_pages();
    const size_t pages_before = line->table.pages().size();
    const BlockTable::Room room = line->table.reserve(n);
    if (room.missing_pages > 0) {
      ++refusals_;
      EXPECT_EQ(cache_.free_pages(), free_before);
      EXPECT_EQ(line->table.pages().size(), pages_before);
      EXPECT_FALSE(room.copy.needed());
      return false;
    }
    const size_t block = static_cast<size_t>(cache_.block_size());
    if (room.copy.needed()) {
      ++copies_;
      std::copy_n(slots_.begin() + room.copy.from * static_cast<ptrdiff_t>(block), block,
                  slots_.begin() + room.copy.to * static_cast<ptrdiff_t>(block));
    }
    return true;
  }

  void extend(Line* line) {
    const int32_t n = 1 + pick(7);
    if (!reserve(line, n)) return;
    uint64_t past = 0;
    for (const int32_t token : line->text) past = hash(past, token);
    for (int32_t i = 0; i < n; ++i) {
      line->text.push_back(pick(2));
      past = hash(past, line->text.back());
      slot(line->table, line->table.size() + i) = past;
    }
    ASSERT_TRUE(line->table.advance(n));
    if (pick(4) != 0) line->table.publish(line->text);
  }

  std::mt19937 random_;
  BlockCache cache_;
  std::vector<uint64_t> slots_;
  std::vector<Line> lines_;
  int64_t hits_ = 0, copies_ = 0, refusals_ = 0;
};

TEST(BlockTable, EveryTableReadsItsOwnPastWhateverHappens) {
  int64_t hits = 0, copies = 0, refusals = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const int32_t block = 1 + static_cast<int32_t>(seed % 4);
    const int32_t pages = 6 + static_cast<int32_t>(seed % 17);
    // In a third of the worlds all hashes are equal: hostile prompts may do that.
    World world(seed, pages, block, seed % 3 == 0 ? 0 : ~uint64_t{0});
    for (int i = 0; i < 1500; ++i) {
      world.step();
      world.check();
      if (testing::Test::HasFailure()) {
        FAIL() << "seed " << seed << ", step " << i;
      }
    }
    hits += world.hits();
    copies += world.copies();
    refusals += world.refusals();
    world.check_empty();
    if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
  }
  // The walk must have been where it is interesting.
  EXPECT_GT(hits, 1000);
  EXPECT_GT(copies, 1000);
  EXPECT_GT(refusals, 1000);
}

}  // namespace
}  // namespace ponder
