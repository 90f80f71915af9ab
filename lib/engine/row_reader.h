// RowReader: rows of logits, from where a step computed them to those who choose from them.
//
// Where the backend digests rows (lib/device/row_digest.h) the host gets each row reduced, and
// whole if its reader finds that the reduced row does not decide; elsewhere the rows come whole.
//
// Owned by the Engine. The driver's, but row() may be called by several threads at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/sample/logit_row.h"
#include "lib/tensor/tensor.h"

namespace ponder::engine {

class RowReader {
 public:
  // How many of a row's largest logits a reduced one has, at the least.
  static constexpr size_t kLargest = kDigestLogits;

  // `memory` is the host's, [n, V]: at most n rows at a time. All outlive this.
  RowReader(Backend* backend, int64_t vocabulary, std::span<float> memory);

  size_t most_rows() const { return memory_.size() / vocabulary_; }

  // `logits` [R, V] on the device must not change as long as rows of them are fetched.
  Status read(const Tensor& logits, std::span<const RowNeeds> needs);  // [R]
  // Valid until the next read, or fetch of this row.
  LogitRow row(size_t i) const { return rows_[i]; }
  // The whole row, for row() from now on.
  Status fetch(size_t i);

 private:
  // `count` whole rows from row `first` on.
  Status download(size_t first, size_t count);
  Status digest(std::span<const size_t> which, std::span<const RowNeeds> needs);
  LogitRow reduced(size_t i, const RowDigest& digest);

  Backend* const backend_;
  const size_t vocabulary_;
  const std::span<float> memory_;
  bool digests_;
  Tensor logits_;
  std::vector<LogitRow> rows_;
  // Of the reduced rows: what the device sent, and by row what is made of it.
  std::vector<int32_t> sent_ids_;
  std::vector<float> sent_logits_, also_logits_;
  struct Kept {
    std::vector<int32_t> also;  // ascending
    std::vector<int32_t> ids;
    std::vector<float> logits;
  };
  std::vector<Kept> kept_;
};

}  // namespace ponder::engine
