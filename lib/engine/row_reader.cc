#include "lib/engine/row_reader.h"

#include <algorithm>
#include <limits>

namespace ponder::engine {

RowReader::RowReader(Backend* backend, int64_t vocabulary, std::span<float> memory)
    : backend_(backend),
      vocabulary_(static_cast<size_t>(vocabulary)),
      memory_(memory),
      digests_(backend->digests_rows()) {}

Status RowReader::download(size_t first, size_t count) {
  const float* const from = logits_.f32() + static_cast<int64_t>(first) * logits_.stride[0];
  const std::span<float> to = memory_.subspan(first * vocabulary_, count * vocabulary_);
  PONDER_RETURN_IF_ERROR(backend_->download(from, to.data(), to.size_bytes()));
  for (size_t i = 0; i < count; ++i) {
    rows_[first + i] = std::span<const float>(to.subspan(i * vocabulary_, vocabulary_));
  }
  return OkStatus();
}

Status RowReader::fetch(size_t i) { return download(i, 1); }

Status RowReader::read(const Tensor& logits, std::span<const RowNeeds> needs) {
  logits_ = logits;
  rows_.assign(needs.size(), LogitRow());
  std::vector<size_t> which;
  // Whole ones in as few pieces as there are runs of them.
  for (size_t i = 0; i < needs.size();) {
    size_t end = i;
    while (end < needs.size() && (!digests_ || needs[end].whole)) ++end;
    if (end > i) PONDER_RETURN_IF_ERROR(download(i, end - i));
    for (i = end; i < needs.size() && digests_ && !needs[i].whole; ++i) which.push_back(i);
  }
  return which.empty() ? OkStatus() : digest(which, needs);
}

Status RowReader::digest(std::span<const size_t> which, std::span<const RowNeeds> needs) {
  // The rows asked for, and whole ones between them: the op takes rows that follow each other.
  const size_t first = which.front(), count = which.back() - first + 1;
  const size_t largest = std::min(kLargest, vocabulary_);
  std::vector<RowDigest> digests(count);
  sent_ids_.resize(count * largest);
  sent_logits_.resize(count * largest);
  if (kept_.size() < count) kept_.resize(count);
  size_t also = 0;
  for (size_t i = 0; i < count; ++i) {
    std::vector<int32_t>& ids = kept_[i].also;
    ids.clear();
    if (needs[first + i].whole) continue;
    for (const int32_t id : needs[first + i].also) {
      if (id >= 0 && static_cast<size_t>(id) < vocabulary_) ids.push_back(id);
    }
    std::ranges::sort(ids);
    ids.erase(std::ranges::unique(ids).begin(), ids.end());
    also += ids.size();
  }
  also_logits_.resize(also);
  also = 0;
  for (size_t i = 0; i < count; ++i) {
    RowDigest& digest = digests[i];
    if (!needs[first + i].whole) digest.scales = needs[first + i].scales;
    digest.also = kept_[i].also;
    digest.also_logits = std::span(also_logits_).subspan(also, digest.also.size());
    digest.ids = std::span(sent_ids_).subspan(i * largest, largest);
    digest.logits = std::span(sent_logits_).subspan(i * largest, largest);
    also += digest.also.size();
  }
  Tensor logits = logits_;
  logits.data = logits_.f32() + static_cast<int64_t>(first) * logits_.stride[0];
  logits.dim[0] = static_cast<int64_t>(count);
  const Status digested = backend_->digest_rows({logits, digests});
  if (digested.code() == absl::StatusCode::kUnimplemented) {  // nor will it be next time
    digests_ = false;
    return download(first, count);
  }
  PONDER_RETURN_IF_ERROR(digested);
  for (const size_t i : which) {
    const RowDigest& digest = digests[i - first];
    // Whole, a damaged row is reported as anywhere else.
    const bool sound = digest.damaged == 0 &&
                       std::ranges::max(digest.logits) > -std::numeric_limits<float>::infinity();
    if (!sound) {
      PONDER_RETURN_IF_ERROR(fetch(i));
    } else {
      rows_[i] = reduced(i - first, digest);
    }
  }
  return OkStatus();
}

// The largest logits and the others asked for, as one list.
LogitRow RowReader::reduced(size_t i, const RowDigest& digest) {
  static_assert(kDigestSums == kRowSums);
  std::array<RowSum, kRowSums> sums;
  for (size_t s = 0; s < kRowSums; ++s) sums[s] = {digest.scales[s], digest.sums[s]};
  Kept& kept = kept_[i];
  kept.ids.clear();
  kept.logits.clear();
  size_t a = 0;
  for (size_t k = 0; k < digest.ids.size(); ++k) {
    for (; a < kept.also.size() && kept.also[a] < digest.ids[k]; ++a) {
      kept.ids.push_back(kept.also[a]);
      kept.logits.push_back(digest.also_logits[a]);
    }
    if (a < kept.also.size() && kept.also[a] == digest.ids[k]) ++a;
    kept.ids.push_back(digest.ids[k]);
    kept.logits.push_back(digest.logits[k]);
  }
  for (; a < kept.also.size(); ++a) {
    kept.ids.push_back(kept.also[a]);
    kept.logits.push_back(digest.also_logits[a]);
  }
  return {kept.ids, kept.logits, vocabulary_, std::ranges::min(digest.logits), sums};
}

}  // namespace ponder::engine
