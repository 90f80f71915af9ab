#include "lib/tensor/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace ponder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Four neighbours at a time, spelled out: speed does not hang on the optimiser's mood, and the
// order of every sum is fixed.
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));
constexpr size_t kLanes = 4;

Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

// The last, short group of a row, filled up with what weighs nothing.
Floats load_tail(std::span<const float> x) {
  Floats out = {-kInf, -kInf, -kInf, -kInf};
  std::memcpy(&out, x.data(), x.size_bytes());
  return out;
}

// The largest of `x`, NaNs aside; *nan is raised when there is one.
float block_maximum(std::span<const float> x, bool* nan) {
  Floats largest[4];
  Ints unordered[4] = {};
  for (Floats& v : largest) v = Floats{} - kInf;
  size_t i = 0;
  for (; i + 4 * kLanes <= x.size(); i += 4 * kLanes) {
    for (size_t k = 0; k < 4; ++k) {
      const Floats v = load(x.data() + i + k * kLanes);
      largest[k] = v > largest[k] ? v : largest[k];
      unordered[k] |= v != v;
    }
  }
  for (; i < x.size(); i += kLanes) {
    const Floats v = load_tail(x.subspan(i, std::min(kLanes, x.size() - i)));
    largest[0] = v > largest[0] ? v : largest[0];
    unordered[0] |= v != v;
  }
  float out = -kInf;
  int32_t any = 0;
  for (size_t k = 0; k < 4; ++k) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      out = std::max(out, largest[k][lane]);
      any |= unordered[k][lane];
    }
  }
  *nan |= any != 0;
  return out;
}

// exp((x - max) * scale), for arguments up to 0. exp(a) = 2^k exp(r) with k whole and
// |r| <= ln(2) / 2, where seven terms of the series are as good as a float.
Floats exp_weights(Floats x, float max, float scale) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves k in the low bits
  constexpr float kLowest = -87.0f;      // e^-87 is still a normal float
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const Floats lowest = Floats{} + kLowest;
  const Floats a = (x - max) * scale;
  const Floats c = a < lowest ? lowest : a;
  const Floats shifted = c * 1.44269504f + kRound;
  const Floats k = shifted - kRound;
  const Floats r = (c - k * kLn2High) - k * kLn2Low;
  Floats p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints exponent = std::bit_cast<Ints>(shifted) - std::bit_cast<int32_t>(kRound);
  const Floats weight = p * std::bit_cast<Floats>((exponent + 127) << 23);
  return a < lowest ? Floats{} : weight;
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
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    const Floats w = exp_weights(load(logits.data() + i), max, scale);
    std::memcpy(weights + i, &w, sizeof(w));
  }
  if (i < logits.size()) {
    const Floats w = exp_weights(load_tail(logits.subspan(i)), max, scale);
    std::memcpy(weights + i, &w, (logits.size() - i) * sizeof(float));
  }
}

double exp_sum_block(std::span<const float> logits, float max, float scale) {
  Doubles sum = {};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    sum += __builtin_convertvector(exp_weights(load(logits.data() + i), max, scale), Doubles);
  }
  if (i < logits.size()) {
    const Floats w = exp_weights(load_tail(logits.subspan(i)), max, scale);
    sum += __builtin_convertvector(w, Doubles);
  }
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
