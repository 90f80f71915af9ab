// Passes over one row of logits that the sampler, the logprobs and backends that reduce rows
// (lib/device/row_digest.h) share.
//
// A row is looked at in blocks of kRowBlock. The first pass notes the largest logit of each block,
// so that the passes after it touch only blocks that matter: a language model's row has a few
// hundred tokens of weight among a hundred thousand.
//
// Pure functions; any thread. Results do not depend on how the compiler vectorises.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/status.h"

namespace ponder {

inline constexpr size_t kRowBlock = 256;

// The largest logit, and that of each block. Fails when the row is empty, holds a NaN or plus
// infinity, or nothing above minus infinity: the words name the logit.
StatusOr<float> scan_row(std::span<const float> logits, std::vector<float>* block_max);

// As scan_row for a row that has passed it once and was changed in ways that add no NaN: minus
// infinity where nothing is left.
float rescan_row(std::span<const float> logits, std::vector<float>* block_max);

// weights[i] = exp((logits[i] - max) * scale) to about 1e-7 relative; below e^-87 exactly 0.
void exp_row(std::span<const float> logits, float max, float scale, float* weights);

// The sum of exp_row over some logits, in double.
double exp_sum_block(std::span<const float> logits, float max, float scale);

// Whether a block with this largest logit can matter to a sum that is at least 1.
inline bool block_matters(float block_max, float max, float scale) {
  return (block_max - max) * scale > -33.0f;  // a million tokens of e^-33 add up to 5e-9
}

// The sum of exp((logits - max) * scale) over the row, in double. At least 1.
double exp_sum(std::span<const float> logits, std::span<const float> block_max, float max,
               float scale);

}  // namespace ponder
