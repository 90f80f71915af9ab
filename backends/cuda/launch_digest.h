// The launcher of what reduces rows of logits; what launch.h says of launchers holds here too.
#pragma once

#include "backends/cuda/launch.h"

namespace ponder::cuda {

// As the seam has them (lib/device/row_digest.h) and the host adds up rows (lib/tensor/rows.h).
inline constexpr int kDigestLogits = 128, kDigestSums = 2, kDigestBlock = 256;

// What is asked of one row; `also` ids and their logits are [also_begin, also_end) of all rows'.
struct DigestAsked {
  float scales[kDigestSums];
  int32_t also_begin, also_end;
};
// And what is found.
struct DigestFound {
  double sums[kDigestSums];
  int32_t damaged;
  int32_t unused;
  int32_t ids[kDigestLogits];
  float logits[kDigestLogits];
};

// A part of a row is one block's; its largest logits are candidates for the row's.
inline constexpr int kDigestPart = 4096;
// The candidates of a row must fit one block's registers.
inline constexpr int64_t kMostDigestParts = 128;
inline constexpr int64_t kLargestDigestRow = kMostDigestParts * kDigestPart;

// Intermediate values, for each row P parts and B blocks of kDigestBlock logits.
struct DigestScratch {
  double* sums;      // [R, kDigestSums, B]
  float* block_max;  // [R, B]
  uint32_t* keys;    // [R, P, kDigestLogits]: of candidates, ascending by id; 0: none
  int32_t* ids;      // the same
  int32_t* damaged;  // [R, P]
};

// `vocabulary` is at most kLargestDigestRow.
void launch_digest(Stream s, Rows logits, int64_t rows, int64_t vocabulary,
                   const DigestAsked* asked, const int32_t* also, const DigestScratch& scratch,
                   DigestFound* found, float* also_logits);

}  // namespace ponder::cuda
