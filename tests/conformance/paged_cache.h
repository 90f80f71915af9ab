// What the tests of both attentions share: the pages of one layer, and steps over several
// timelines.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "tests/conformance/support.h"

namespace ponder {

// One layer's cache on one machine. Pages are given out as timelines grow, in no order, and what
// was never written is NaN, which nobody may notice. A Timeline is one sequence's whole life, its
// values of all positions one after the other.
template <typename Timeline>
class PagedCache {
 public:
  // Rows [first, first + rows) of a timeline; its pages so far, which grow.
  struct Piece {
    const Timeline* timeline;
    std::vector<int32_t>* pages;
    int64_t first, rows;
  };

  const KvLayer& layer() const { return layer_; }

 protected:
  PagedCache(const Machine& machine, const KvShape& shape, DType dtype, int32_t pages)
      : machine_(machine) {
    layer_.shape = shape;
    auto layout = machine->kv_layout(shape, dtype);
    EXPECT_TRUE(layout.ok()) << layout.status();
    layer_.layout = *layout;
    EXPECT_EQ(layer_.layout.page_bytes % 64, 0u);
    memory_ = machine.unwritten(static_cast<uint64_t>(pages) * layer_.layout.page_bytes);
    layer_.base = memory_.as<std::byte>();
    free_.resize(static_cast<size_t>(pages));
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(9));
  }

  // Begins a step that has the pieces' rows in one batch, valid until the next one.
  const Batch& begin(const std::vector<Piece>& pieces) {
    positions_.clear();
    slices_.clear();
    for (const Piece& p : pieces) {
      SequenceSlice slice;
      slice.first_row = static_cast<int32_t>(positions_.size());
      slice.rows = static_cast<int32_t>(p.rows);
      slice.first_position = static_cast<int32_t>(p.first);
      while (static_cast<int64_t>(p.pages->size()) * layer_.layout.page_tokens < p.first + p.rows) {
        p.pages->push_back(free_.back());
        free_.pop_back();
      }
      slice.pages = *p.pages;
      slices_.push_back(slice);
      for (int64_t r = 0; r < p.rows; ++r) {
        positions_.push_back(static_cast<int32_t>(p.first + r));
      }
    }
    batch_.positions = positions_;
    batch_.sequences = slices_;
    EXPECT_TRUE(machine_->begin_step(batch_).ok());
    return batch_;
  }
  // The pieces' values of one kind, [rows, width].
  static std::vector<float> gather(const std::vector<Piece>& pieces,
                                   std::vector<float> Timeline::*values, int64_t width) {
    std::vector<float> rows;
    for (const Piece& p : pieces) {
      const auto from = (p.timeline->*values).begin();
      rows.insert(rows.end(), from + p.first * width, from + (p.first + p.rows) * width);
    }
    return rows;
  }

  const Machine& machine_;
  KvLayer layer_;

 private:
  Buffer memory_;
  std::vector<int32_t> free_;
  std::vector<int32_t> positions_;
  std::vector<SequenceSlice> slices_;
  Batch batch_;
};

// A sequence's share of a step: so many rows behind so many that are cached.
struct Part {
  int64_t cached, rows;
};

// One step of all parts, of a timeline each.
template <typename Cache, typename Timeline>
std::vector<float> step_of(Cache& cache, const std::vector<Timeline>& timelines,
                           const std::vector<Part>& parts) {
  std::vector<std::vector<int32_t>> pages(parts.size());
  std::vector<typename Cache::Piece> cached, step;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].cached > 0) cached.push_back({&timelines[i], &pages[i], 0, parts[i].cached});
    step.push_back({&timelines[i], &pages[i], parts[i].cached, parts[i].rows});
  }
  if (!cached.empty()) cache.step(cached, false);
  return cache.step(step);
}

// Steps over a timeline from position `first` on, in parts of so many rows, each in one batch with
// as many rows of `other` unless that is null. `whole`, [rows, width], is what the same rows gave
// in one step: they must give it again, bit for bit.
template <typename Cache, typename Timeline>
void expect_the_same_in_parts(Cache& cache, const Timeline& timeline, const Timeline* other,
                              int64_t first, const std::vector<int64_t>& parts,
                              const std::vector<float>& whole) {
  const int64_t total = std::accumulate(parts.begin(), parts.end(), int64_t{0});
  const size_t width = whole.size() / static_cast<size_t>(total);
  std::vector<int32_t> mine, others;
  const auto pieces = [&](int64_t at, int64_t rows) {
    std::vector<typename Cache::Piece> all;
    if (other != nullptr) all.push_back({other, &others, at, rows});
    all.push_back({&timeline, &mine, at, rows});
    return all;
  };
  if (first > 0) cache.step(pieces(0, first), false);
  int64_t at = 0;
  for (const int64_t rows : parts) {
    const auto out = cache.step(pieces(first + at, rows));
    const size_t count = static_cast<size_t>(rows) * width;
    ASSERT_TRUE(same_bits(out.data() + out.size() - count,
                          whole.data() + static_cast<size_t>(at) * width, count))
        << "rows " << first + at << " to " << first + at + rows
        << (other != nullptr ? " beside another" : " alone");
    at += rows;
  }
}

}  // namespace ponder
