// RowDigest: what of a row of logits travels to the host from a backend that digests rows, instead
// of all V of them. A device chooses which logits travel and adds up what it is asked to as the
// host would, bit for bit; what is made of them is the host's to compute
// (docs/decisions/0080-candidates-from-gpus.md).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "lib/tensor/tensor.h"

namespace ponder {

// So many of a row's largest logits travel.
inline constexpr int32_t kDigestLogits = 128;
inline constexpr size_t kDigestSums = 2;

// Of one row. The spans are host memory of the caller's.
struct RowDigest {
  // Asked for.
  std::array<float, kDigestSums> scales = {};  // of the sums; 0: none
  std::span<const int32_t> also;               // ids in [0, V)

  // Found.
  std::span<float> also_logits;  // [also.size()]
  // [min(kDigestLogits, V)]: the largest logits, among equals those of lower ids; ascending by id.
  std::span<int32_t> ids;
  std::span<float> logits;
  // exp_sum (lib/tensor/rows.h) over the row, of its largest logit and each of the scales.
  std::array<double, kDigestSums> sums = {};
  // Logits that are NaN or plus infinity. Where there are any, or nothing is above minus infinity,
  // what else was found means nothing; ids are in [0, V) still.
  int32_t damaged = 0;
};

struct DigestRowsParams {
  Tensor logits;              // [R, V]
  std::span<RowDigest> rows;  // [R]
};

}  // namespace ponder
