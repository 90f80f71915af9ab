// Scheduler: how many tokens of each sequence the next step computes. Pure: no device, no clock.
//
// One equation: tokens to compute = tokens owned - tokens computed, cut to the step's budget. Prefill,
// chunking, prefix hits and decoding are all that; there is no prefill mode and no decode mode.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ponder::engine {

// Rows for each of `pending` (tokens owned - computed, oldest sequence first), at most `budget` in
// all. Sequences that wait for one token only come first, so that a long prompt never holds up
// those that are speaking; what is left goes to the others, oldest first.
std::vector<int32_t> plan_rows(std::span<const int64_t> pending, int64_t budget);

}  // namespace ponder::engine
