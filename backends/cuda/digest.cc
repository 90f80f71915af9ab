#include "backends/cuda/digest.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/tensor/rows.h"

namespace ponder::cuda {

static_assert(kDigestLogits == ponder::kDigestLogits && kDigestSums == ponder::kDigestSums);
static_assert(kDigestBlock == kRowBlock);

Status Digests::run(const DigestRowsParams& p,
                    absl::FunctionRef<Status(const void*, void*, uint64_t)> download) {
  const size_t rows = p.rows.size();
  const int64_t vocabulary = p.logits.dim[1];
  if (rows == 0) return OkStatus();
  if (vocabulary > kLargestDigestRow) {
    return unsupported_error("rows of ", vocabulary,
                             " logits are not reduced on this device, which ", "takes ",
                             kLargestDigestRow);
  }
  size_t also = 0;
  for (const RowDigest& row : p.rows) also += row.also.size();

  // One piece of memory: what is asked, what is found, what is in between.
  uint64_t bytes = 0;
  const auto place = [&bytes](uint64_t size) {
    const uint64_t at = bytes;
    bytes += (size + 15) / 16 * 16;
    return at;
  };
  const auto blocks = (static_cast<uint64_t>(vocabulary) + kRowBlock - 1) / kRowBlock;
  const auto parts = (static_cast<uint64_t>(vocabulary) + kDigestPart - 1) / kDigestPart;
  const uint64_t candidates = rows * parts * kDigestLogits;
  const uint64_t asked_at = place(rows * sizeof(DigestAsked));
  const uint64_t also_at = place(also * sizeof(int32_t));
  const uint64_t asked_bytes = bytes;
  const uint64_t found_at = place(rows * sizeof(DigestFound));
  const uint64_t also_found_at = place(also * sizeof(float));
  const uint64_t found_bytes = bytes - found_at;
  const uint64_t sums_at = place(rows * kDigestSums * blocks * sizeof(double));
  const uint64_t block_max_at = place(rows * blocks * sizeof(float));
  const uint64_t keys_at = place(candidates * sizeof(uint32_t));
  const uint64_t ids_at = place(candidates * sizeof(int32_t));
  const uint64_t damaged_at = place(rows * parts * sizeof(int32_t));
  if (bytes > buffer_.bytes()) {
    PONDER_RETURN_IF_ERROR(device_->drain());
    buffer_ = DeviceBuffer();
    asked_.clear();
    PONDER_ASSIGN_OR_RETURN(buffer_, DeviceBuffer::create(device_, bytes, "reduced logits"));
  }
  char* const base = buffer_.as<char>();

  std::vector<char> all_asked(asked_bytes, 0);
  int32_t next = 0;
  for (size_t r = 0; r < rows; ++r) {
    const RowDigest& row = p.rows[r];
    DigestAsked asked{};
    std::ranges::copy(row.scales, asked.scales);
    asked.also_begin = next;
    if (!row.also.empty()) {
      std::memcpy(&all_asked[also_at + static_cast<size_t>(next) * sizeof(int32_t)],
                  row.also.data(), row.also.size_bytes());
    }
    next += static_cast<int32_t>(row.also.size());
    asked.also_end = next;
    std::memcpy(&all_asked[asked_at + r * sizeof(asked)], &asked, sizeof(asked));
  }
  if (all_asked != asked_) {  // most steps ask what the last one did
    asked_.clear();
    PONDER_RETURN_IF_ERROR(inputs_->send(all_asked.data(), base, asked_bytes));
    asked_ = std::move(all_asked);
  }

  const auto at = [base](uint64_t offset) { return static_cast<void*>(base + offset); };
  const DigestScratch scratch{
      static_cast<double*>(at(sums_at)), static_cast<float*>(at(block_max_at)),
      static_cast<uint32_t*>(at(keys_at)), static_cast<int32_t*>(at(ids_at)),
      static_cast<int32_t*>(at(damaged_at))};
  launch_digest(device_->stream(), {p.logits.f32(), p.logits.stride[0], 0},
                static_cast<int64_t>(rows), vocabulary, static_cast<DigestAsked*>(at(asked_at)),
                static_cast<int32_t*>(at(also_at)), scratch,
                static_cast<DigestFound*>(at(found_at)), static_cast<float*>(at(also_found_at)));
  PONDER_RETURN_IF_ERROR(device_->check("reducing logits"));

  found_.resize(found_bytes);
  PONDER_RETURN_IF_ERROR(download(base + found_at, found_.data(), found_bytes));
  size_t taken = also_found_at - found_at;
  for (size_t r = 0; r < rows; ++r) {
    RowDigest& row = p.rows[r];
    DigestFound found;
    std::memcpy(&found, &found_[r * sizeof(found)], sizeof(found));
    std::ranges::copy(found.sums, row.sums.begin());
    row.damaged = found.damaged;
    std::copy_n(found.ids, row.ids.size(), row.ids.begin());
    std::copy_n(found.logits, row.logits.size(), row.logits.begin());
    if (!row.also.empty()) {
      std::memcpy(row.also_logits.data(), &found_[taken], row.also_logits.size_bytes());
      taken += row.also_logits.size_bytes();
    }
  }
  return OkStatus();
}

}  // namespace ponder::cuda
