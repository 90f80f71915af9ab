// LogitRow: one row of logits as the sampler, the logprobs and the reasoning gate read it, whole or
// reduced.
//
// A reduced row holds some of the row's logits with their ids, and what is known of the rest: that
// none of it is above `rest`, and sums over the whole row. Whatever is read from it is, bit for
// bit, what the whole row would give; a reader that it does not suffice for says so, and wants the
// whole row then (docs/decisions/0080-candidates-from-gpus.md).
//
// A view: owns nothing. Any thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace ponder {

// exp_sum (lib/tensor/rows.h) over the whole row, of its own largest logit; scale 0: not there.
struct RowSum {
  float scale = 0.0f;
  double sum = 0.0;
};
inline constexpr size_t kRowSums = 2;

class LogitRow {
 public:
  LogitRow() = default;
  // Whole: [V].
  LogitRow(std::span<const float> logits) : logits_(logits), vocabulary_(logits.size()) {}
  LogitRow(const std::vector<float>& logits) : LogitRow(std::span<const float>(logits)) {}
  // Reduced: `logits` of `ids`, which ascend, of a row of `vocabulary` that scan_row accepts. The
  // largest logit of the row is among them; no other than these is above `rest`.
  LogitRow(std::span<const int32_t> ids, std::span<const float> logits, size_t vocabulary,
           float rest, const std::array<RowSum, kRowSums>& sums)
      : ids_(ids), logits_(logits), vocabulary_(vocabulary), rest_(rest), sums_(sums) {}

  bool reduced() const { return !ids_.empty(); }
  size_t vocabulary() const { return vocabulary_; }  // V
  // What is there, ascending by id.
  std::span<const float> logits() const { return logits_; }
  int32_t id(size_t i) const { return reduced() ? ids_[i] : static_cast<int32_t>(i); }
  // Where in logits(); none when the id is not of this vocabulary or is missing.
  std::optional<size_t> find(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= vocabulary_) return std::nullopt;
    if (!reduced()) return static_cast<size_t>(id);
    const auto it = std::ranges::lower_bound(ids_, id);
    if (it == ids_.end() || *it != id) return std::nullopt;
    return static_cast<size_t>(it - ids_.begin());
  }
  // Whether nothing is missing that is `least` or more.
  bool has_all_from(float least) const {
    return !reduced() || ids_.size() == vocabulary_ || least > rest_;
  }
  float rest() const { return rest_; }
  // Of a reduced row.
  std::optional<double> sum(float scale) const {
    for (const RowSum& s : sums_) {
      if (s.scale == scale && scale != 0.0f) return s.sum;
    }
    return std::nullopt;
  }

 private:
  std::span<const int32_t> ids_;
  std::span<const float> logits_;
  size_t vocabulary_ = 0;
  float rest_ = 0.0f;
  std::array<RowSum, kRowSums> sums_ = {};
};

// What a reduced row must have, beside its largest logits, to be of use to a reader.
struct RowNeeds {
  bool whole = false;                       // no reduced row is
  std::array<float, kRowSums> scales = {};  // of the sums; 0: none
  std::vector<int32_t> also = {};           // ids, in any order, that must not be missing

  // False: there is no room for one more.
  bool add_sum(float scale) {
    for (float& s : scales) {
      if (s != 0.0f && s != scale) continue;
      s = scale;
      return true;
    }
    return false;
  }
};

}  // namespace ponder
