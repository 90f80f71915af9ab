#include "lib/sample/rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// Comparisons of sixteen neighbours do not wait for one another, and compilers see that.
constexpr size_t kLanes = 16;

// The largest of `x`, NaNs aside; *nan is raised when there is one.
float block_maximum(std::span<const float> x, bool* nan) {
  float largest[kLanes];
  uint32_t unordered[kLanes] = {};
  std::fill_n(largest, kLanes, -kInf);
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    const float* p = x.data() + i;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      largest[lane] = p[lane] > largest[lane] ? p[lane] : largest[lane];
      unordered[lane] |= p[lane] != p[lane] ? 1u : 0u;
    }
  }
  for (; i < x.size(); ++i) {
    largest[0] = x[i] > largest[0] ? x[i] : largest[0];
    unordered[0] |= x[i] != x[i] ? 1u : 0u;
  }
  for (size_t lane = 1; lane < kLanes; ++lane) {
    largest[0] = std::max(largest[0], largest[lane]);
    unordered[0] |= unordered[lane];
  }
  *nan |= unordered[0] != 0;
  return largest[0];
}

float scan(std::span<const float> logits, std::vector<float>* block_max, bool* nan) {
  block_max->clear();
  block_max->reserve((logits.size() + kRowBlock - 1) / kRowBlock);
  float max = -kInf;
  for (size_t begin = 0; begin < logits.size(); begin += kRowBlock) {
    const size_t n = std::min(kRowBlock, logits.size() - begin);
    block_max->push_back(block_maximum(logits.subspan(begin, n), nan));
    max = std::max(max, block_max->back());
  }
  return max;
}

}  // namespace

StatusOr<float> scan_row(std::span<const float> logits, std::vector<float>* block_max) {
  if (logits.empty()) return internal_error("a row of logits is empty");
  bool nan = false;
  const float max = scan(logits, block_max, &nan);
  if (!nan && max < kInf && max > -kInf) return max;
  if (!nan && max == -kInf) {
    return corrupt_error("all ", logits.size(), " logits of the model are minus infinity: its ",
                         "weights are damaged, or an activation overflowed");
  }
  const auto bad = std::ranges::find_if(logits, [](float x) { return !(x < kInf); });
  return corrupt_error("the model produced ", nan ? "NaN" : "infinite",
                       " logits (the first at token ", bad - logits.begin(), " of ", logits.size(),
                       "): its weights are damaged, or an activation overflowed; check the model's "
                       "files, or try a wider compute type");
}

float rescan_row(std::span<const float> logits, std::vector<float>* block_max) {
  bool nan = false;
  return scan(logits, block_max, &nan);
}

void exp_row(std::span<const float> logits, float max, float scale, float* weights) {
  // exp(a) = 2^k exp(r) with k whole and |r| <= ln(2) / 2, where seven terms of the series are as
  // good as a float. Adding kRound leaves k in the low bits of the sum.
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  constexpr float kLowest = -87.0f;      // e^-87 is still a normal float
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float a = (logits[i] - max) * scale;
    const float c = a < kLowest ? kLowest : a;
    const float shifted = c * 1.44269504f + kRound;
    const float k = shifted - kRound;
    const float r = (c - k * kLn2High) - k * kLn2Low;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound);
    const float power = std::bit_cast<float>((exponent + 127) << 23);
    weights[i] = a < kLowest ? 0.0f : p * power;
  }
}

double exp_sum_block(std::span<const float> logits, float max, float scale) {
  float weights[kRowBlock];
  exp_row(logits, max, scale, weights);
  double sum[4] = {};
  size_t i = 0;
  for (; i + 4 <= logits.size(); i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) sum[lane] += static_cast<double>(weights[i + lane]);
  }
  for (; i < logits.size(); ++i) sum[0] += static_cast<double>(weights[i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double exp_sum(std::span<const float> logits, std::span<const float> block_max, float max,
               float scale) {
  double sum = 0.0;
  for (size_t b = 0; b < block_max.size(); ++b) {
    if (!block_matters(block_max[b], max, scale)) continue;
    const size_t begin = b * kRowBlock;
    sum += exp_sum_block(logits.subspan(begin, std::min(kRowBlock, logits.size() - begin)), max,
                         scale);
  }
  return sum;
}

}  // namespace ponder
