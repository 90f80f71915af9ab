// The fits, from the inside out.
//
// fit_scale: x ~ scale * level. Tries a row of scales that put the largest |x| at or near the last
// level, rounds everything to levels, and keeps the set of levels that leaves the least error when
// its scale is the best one for it (a quotient of two sums). Then levels and scale are improved in
// turn, which can only lower the error, until the levels stay.
//
// fit_affine: x ~ scale * level + min, likewise with the best pair of scale and min, which is a 2 x
// 2 system.
//
// SuperBlockFit: the sub-blocks' own scales and minima become small whole numbers times d and dmin
// (fit_scale again, each weighed by how much an error in it would cost); then, with what the file
// will really say, every sub-block tries the neighbouring numbers, and d and dmin are solved again
// for the levels so found.
//
// Weights lie in [kLeast, 1] and values that matter in [kTiny, 3e8], so sums of their products stay
// within binary32; what is computed from the sums is double.

#include "lib/tensor/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "lib/tensor/blocks.h"
#include "lib/tensor/half.h"

namespace ponder {
namespace {

// Values below this cannot be told from zero in any of the types: the smallest binary16 is 2^-24.
constexpr float kTiny = 0x1p-40f;
constexpr float kLargestF16 = 65504.0f;
// The least weight, as a part of the block's largest: nothing is worthless.
constexpr float kLeast = 1e-9f;

float largest_magnitude(const float* x, int n) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

// The nearest binary16 that is finite. Not zero while `reach`, the largest of the values to express
// in steps between levels, is the smallest binary16 or more: that scale then still does some good.
uint16_t to_f16(double v, double reach) {
  const uint16_t half =
      f32_to_f16(static_cast<float>(std::clamp<double>(v, -kLargestF16, kLargestF16)));
  return (half & 0x7fff) == 0 && v != 0 && reach >= 0x1p-24 ? half | 1 : half;
}

// ---- levels ------------------------------------------------------------------------------------

// The whole numbers kLow to kHigh; a code is the number itself.
template <int kLow, int kHigh>
struct Whole {
  static constexpr int kLast = kHigh;
  static constexpr int8_t kZero = 0;
  static constexpr float kStep = 1;
  // Where the largest |x| may be put: as far as one step around the end of the longer side.
  static constexpr int kTargets = 19;
  static constexpr float target(int i) {
    return static_cast<float>(kLow < 0 ? kLow : kHigh) + 0.1f * static_cast<float>(i - 9);
  }

  // The nearest level to v, which is a number. Adding 1.5 * 2^23 leaves no bits for a fraction:
  // rounds to nearest even.
  static float nearest(float v) {
    v = std::max(v, static_cast<float>(kLow));
    v = std::min(v, static_cast<float>(kHigh));
    return (v + 12582912.0f) - 12582912.0f;
  }
  static int8_t code(float v) { return static_cast<int8_t>(nearest(v)); }
  static float value(int8_t code) { return static_cast<float>(code); }
};

// kIQ4Values; a code is an index.
struct Listed {
  static constexpr int8_t kZero = 8;  // the value 1, the nearest to 0
  static constexpr float kStep = 10;  // to the next
  static constexpr int kTargets = 30;
  static constexpr float target(int i) {
    return i < 15 ? static_cast<float>(kIQ4Values[0] + i - 7)
                  : static_cast<float>(kIQ4Values[15] + i - 22);
  }

  static int8_t code(float v) {
    // Halfway points between whole numbers are multiples of 1/2, so the answer is the same on
    // [k / 2, (k + 1) / 2), but for a tie at its lower end.
    static constexpr std::array<int8_t, 512> kNearest = [] {
      std::array<int8_t, 512> table = {};
      for (int k = 0; k < 512; ++k) {
        const int quadruple = 2 * (k - 256) + 1;  // four times the middle of the interval
        int best = 0;
        for (int j = 1; j < 16; ++j) {
          const int now = quadruple - 4 * kIQ4Values[j], then = quadruple - 4 * kIQ4Values[best];
          if (now * now < then * then) best = j;
        }
        table[static_cast<size_t>(k)] = static_cast<int8_t>(best);
      }
      return table;
    }();
    const float doubled = std::clamp(2 * v, -256.0f, 255.0f);
    return kNearest[static_cast<size_t>(static_cast<int>(doubled + 256.0f))];
  }
  static float nearest(float v) { return value(code(v)); }
  static float value(int8_t code) { return static_cast<float>(kIQ4Values[code]); }
};

// Sums in so many parts that their order is the same however wide the machine's registers are.
constexpr int kLanes = 8;
struct Lanes {
  float lane[kLanes] = {};
  double sum() const {
    double total = 0;
    for (const float v : lane) total += v;
    return total;
  }
};

// Codes of x / scale; a scale of nothing gives zeros.
template <typename Levels>
void round_all(const float* x, int n, float scale, float min, int8_t* codes) {
  const float inverse = 1.0f / scale;
  if (!(std::abs(inverse) < std::numeric_limits<float>::infinity())) {
    std::fill_n(codes, n, Levels::kZero);
    return;
  }
  for (int i = 0; i < n; ++i) codes[i] = Levels::code((x[i] - min) * inverse);
}

// ---- x ~ scale * level -------------------------------------------------------------------------

// The sums that decide about a choice of levels.
struct ScaleSums {
  double xv = 0;  // of w * x * level
  double vv = 0;  // of w * level^2
  double scale() const { return vv > 0 ? xv / vv : 0; }
  double gain() const { return vv > 0 ? xv * xv / vv : 0; }  // error taken away from sum w * x^2
};

template <typename Levels>
ScaleSums scale_sums(const float* x, const float* w, int n, double inverse) {
  Lanes xv, vv;
  const auto factor = static_cast<float>(inverse);
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float v = Levels::nearest(x[i + j] * factor), weighed = w[i + j] * v;
      xv.lane[j] += weighed * x[i + j];
      vv.lane[j] += weighed * v;
    }
  }
  return {xv.sum(), vv.sum()};
}

template <typename Levels>
double fit_scale(const float* x, const float* w, int n, int8_t* codes) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  if (std::abs(extreme) < kTiny) {
    std::fill_n(codes, n, Levels::kZero);
    return 0;
  }
  ScaleSums best;
  for (int i = 0; i < Levels::kTargets; ++i) {
    const ScaleSums sums = scale_sums<Levels>(x, w, n, double{Levels::target(i)} / extreme);
    if (sums.gain() > best.gain()) best = sums;
  }
  for (int turn = 0; turn < 4 && best.scale() != 0; ++turn) {
    const ScaleSums sums = scale_sums<Levels>(x, w, n, 1 / best.scale());
    if (!(sums.gain() > best.gain())) break;
    best = sums;
  }
  round_all<Levels>(x, n, static_cast<float>(best.scale()), 0, codes);
  return best.scale();
}

// ---- x ~ scale * level + min -------------------------------------------------------------------

struct Affine {
  double scale = 0;
  double min = 0;
};

// Levels 0 to kHigh. With `below_zero`, min is not above zero: the file stores it as a magnitude.
template <int kHigh>
Affine fit_affine(const float* x, const float* w, int n, bool below_zero) {
  using Levels = Whole<0, kHigh>;
  float low = *std::min_element(x, x + n);
  const float high = *std::max_element(x, x + n);
  if (below_zero) low = std::min(low, 0.0f);
  if (high - low < kTiny) return {0, low};

  // u = x - low: the sums do not suffer when the block is far from zero.
  double w_sum = 0, wu = 0;
  for (int i = 0; i < n; ++i) {
    w_sum += w[i];
    wu += double{w[i]} * (x[i] - low);
  }
  Affine best;
  double best_gain = -std::numeric_limits<double>::infinity();  // error less than that of zeros
  const auto attempt = [&](double scale, double offset) {
    Lanes q_lanes, qq_lanes, uq_lanes;
    const auto inverse = static_cast<float>(1 / scale), shift = static_cast<float>(offset);
    for (int i = 0; i < n; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const float u = x[i + j] - low;
        const float q = Levels::nearest((u - shift) * inverse), weighed = w[i + j] * q;
        q_lanes.lane[j] += weighed;
        qq_lanes.lane[j] += weighed * q;
        uq_lanes.lane[j] += weighed * u;
      }
    }
    const double wq = q_lanes.sum(), wqq = qq_lanes.sum(), wuq = uq_lanes.sum();
    // All levels alike (but for rounding) leave no choice but a min of `low`.
    const double determinant = w_sum * wqq - wq * wq;
    const bool singular = !(determinant > 1e-5 * w_sum * wqq);
    double s = singular ? 0 : (w_sum * wuq - wu * wq) / determinant;
    double o = singular ? 0 : (wqq * wu - wq * wuq) / determinant;
    if (singular || (below_zero && low + o > 0)) {
      o = singular ? 0 : -double{low};
      s = wqq > 0 ? (wuq - o * wq) / wqq : 0;
    }
    if (!(s > 0)) return false;
    const double gain = 2 * s * wuq + 2 * o * wu - s * s * wqq - o * o * w_sum - 2 * s * o * wq;
    if (!(gain > best_gain)) return false;
    best_gain = gain;
    best = {s, o};
    return true;
  };
  for (int i = -10; i <= 10; ++i) attempt((double{high} - low) / (kHigh + 0.1 * i), 0);
  if (best.scale == 0) return {0, low};
  for (int turn = 0; turn < 4 && attempt(best.scale, best.min); ++turn) {
  }
  return {best.scale, low + best.min};
}

// ---- 256 elements with quantised scales --------------------------------------------------------

// Sub-blocks of kSub elements; scales kScaleLow to kScaleHigh, minima 0 to kMinHigh (0: none).
template <typename Levels, int kSub, int kScaleLow, int kScaleHigh, int kMinHigh>
struct SuperBlockFit {
  static constexpr int kSubs = kSuperBlock / kSub;

  // What goes into the file.
  uint16_t d = 0, dmin = 0;
  int scale[kSubs] = {};
  int min[kSubs] = {};
  int8_t code[kSuperBlock] = {};

  SuperBlockFit(const float* x, const float* w)
      : x_(x), w_(w), reach_(largest_magnitude(x, kSuperBlock) / Levels::kStep) {
    start();
    double error = quantize_all();
    for (int round = 0; round < 3; ++round) {
      const SuperBlockFit before = *this;
      try_neighbours();
      solve();
      const double now = quantize_all();
      if (!(now < error)) {
        *this = before;
        break;
      }
      if (now > 0.999 * error) break;
      error = now;
    }
  }

 private:
  // Every sub-block by itself, then the whole numbers nearest to what came out.
  void start() {
    float scales[kSubs], minima[kSubs], scale_weights[kSubs], min_weights[kSubs];
    for (int b = 0; b < kSubs; ++b) {
      const float *x = x_ + b * kSub, *w = w_ + b * kSub;
      Affine fit;
      if constexpr (kMinHigh > 0) {
        fit = fit_affine<Levels::kLast>(x, w, kSub, true);
        round_all<Levels>(x, kSub, static_cast<float>(fit.scale), static_cast<float>(fit.min),
                          code + b * kSub);
      } else {
        fit.scale = fit_scale<Levels>(x, w, kSub, code + b * kSub);
      }
      scales[b] = static_cast<float>(fit.scale);
      minima[b] = static_cast<float>(-fit.min);
      // An error e in the scale costs e^2 times this, one in the minimum e^2 times that.
      double by_scale = 0, by_min = 0;
      for (int i = 0; i < kSub; ++i) {
        const double v = Levels::value(code[b * kSub + i]);
        by_scale += w[i] * v * v;
        by_min += w[i];
      }
      scale_weights[b] = static_cast<float>(by_scale);
      min_weights[b] = static_cast<float>(by_min);
    }
    d = fit_numbers<Whole<kScaleLow, kScaleHigh>>(scales, scale_weights, scale);
    if constexpr (kMinHigh > 0) dmin = fit_numbers<Whole<0, kMinHigh>>(minima, min_weights, min);
  }

  template <typename Numbers>
  uint16_t fit_numbers(const float* wanted, const float* weights, int* numbers) const {
    int8_t codes[kSubs];
    const uint16_t unit = to_f16(fit_scale<Numbers>(wanted, weights, kSubs, codes), reach_);
    round_all<Numbers>(wanted, kSubs, f16_to_f32(unit), 0, codes);
    std::copy_n(codes, kSubs, numbers);
    return unit;
  }

  // Levels of a sub-block for these numbers, and the error they leave.
  double quantize_sub(int b, int s, int m, int8_t* codes) const {
    const float *x = x_ + b * kSub, *w = w_ + b * kSub;
    const float step = f16_to_f32(d) * static_cast<float>(s);
    const float low = -(f16_to_f32(dmin) * static_cast<float>(m));
    round_all<Levels>(x, kSub, step, low, codes);
    Lanes error;
    for (int i = 0; i < kSub; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const float off = step * Levels::value(codes[i + j]) + low - x[i + j];
        error.lane[j] += w[i + j] * off * off;
      }
    }
    return error.sum();
  }

  double quantize_all() {
    double error = 0;
    for (int b = 0; b < kSubs; ++b) error += quantize_sub(b, scale[b], min[b], code + b * kSub);
    return error;
  }

  void try_neighbours() {
    for (int b = 0; b < kSubs; ++b) {
      int8_t codes[kSub];
      const int s0 = scale[b], m0 = min[b];
      double best = quantize_sub(b, s0, m0, code + b * kSub);
      for (int s = std::max(s0 - 1, kScaleLow); s <= std::min(s0 + 1, kScaleHigh); ++s) {
        for (int m = std::max(m0 - 1, 0); m <= std::min(m0 + 1, kMinHigh); ++m) {
          const double error = quantize_sub(b, s, m, codes);
          if (!(error < best)) continue;
          best = error;
          scale[b] = s;
          min[b] = m;
          std::copy_n(codes, kSub, code + b * kSub);
        }
      }
    }
  }

  // d and dmin for the numbers and levels as they are: x ~ d * (scale * level) - dmin * min.
  void solve() {
    double aa = 0, ac = 0, cc = 0, ax = 0, cx = 0;
    for (int i = 0; i < kSuperBlock; ++i) {
      const int b = i / kSub;
      const double a = scale[b] * Levels::value(code[i]), c = -min[b];
      const double wa = w_[i] * a, wc = w_[i] * c;
      aa += wa * a;
      ac += wa * c;
      cc += wc * c;
      ax += wa * x_[i];
      cx += wc * x_[i];
    }
    const double determinant = aa * cc - ac * ac;
    if (determinant > 1e-9 * aa * cc) {
      const double new_d = (ax * cc - cx * ac) / determinant;
      const double new_dmin = (aa * cx - ac * ax) / determinant;
      if (new_dmin < 0 || (kMinHigh > 0 && new_d < 0)) return;
      d = to_f16(new_d, reach_);
      dmin = to_f16(new_dmin, reach_);
    } else if (aa > 0 && cc == 0) {
      d = to_f16(ax / aa, reach_);
    }
  }

  const float* x_;
  const float* w_;
  float reach_;  // the largest magnitude, in steps
};

// ---- one function per type: 32 or 256 values and their weights to a block ----------------------

// Halves of bytes: elements j and j + 16 of 32 codes, from 0 to 15 once `bias` is added.
void put_nibbles(const int8_t codes[kBlock], int bias, uint8_t qs[16]) {
  for (int j = 0; j < 16; ++j) {
    qs[j] = static_cast<uint8_t>(((codes[j] + bias) & 15) | ((codes[j + 16] + bias) & 15) << 4);
  }
}

void put_fifth_bits(const int8_t codes[kBlock], int bias, uint8_t qh[4]) {
  std::fill_n(qh, 4, uint8_t{0});
  for (int i = 0; i < kBlock; ++i) {
    qh[i / 8] = static_cast<uint8_t>(qh[i / 8] | ((codes[i] + bias) >> 4 & 1) << (i % 8));
  }
}

// Two bits each, as blocks.h says for q2_k.
void put_two_bits(const int8_t codes[kSuperBlock], int bias, uint8_t qs[64]) {
  for (int j = 0; j < 64; ++j) {
    int byte = 0;
    for (int k = 0; k < 4; ++k) {
      byte |= ((codes[j / 32 * 128 + 32 * k + j % 32] + bias) & 3) << (2 * k);
    }
    qs[j] = static_cast<uint8_t>(byte);
  }
}

// Four bits each, as for q4_k.
void put_k_nibbles(const int8_t codes[kSuperBlock], uint8_t qs[128]) {
  for (int j = 0; j < 128; ++j) {
    const int8_t* pair = codes + j / 32 * 64 + j % 32;
    qs[j] = static_cast<uint8_t>((pair[0] & 15) | (pair[32] & 15) << 4);
  }
}

// The inverse of k_scale_min.
void put_k_scales(const int scale[8], const int min[8], uint8_t scales[12]) {
  for (int b = 0; b < 4; ++b) {
    scales[b] = static_cast<uint8_t>(scale[b] | scale[b + 4] >> 4 << 6);
    scales[b + 4] = static_cast<uint8_t>(min[b] | min[b + 4] >> 4 << 6);
    scales[b + 8] = static_cast<uint8_t>((scale[b + 4] & 15) | (min[b + 4] & 15) << 4);
  }
}

void fill(const float* x, const float*, BlockQ8_0* out) {
  const float largest = largest_magnitude(x, kBlock);
  out->d = to_f16(largest / 127, largest);
  int8_t codes[kBlock];
  round_all<Whole<-127, 127>>(x, kBlock, f16_to_f32(out->d), 0, codes);
  std::copy_n(codes, kBlock, out->qs);
}

// The types with a scale alone; the codes are those of the scale as stored.
template <typename Levels>
uint16_t fit_symmetric(const float* x, const float* w, int8_t codes[kBlock]) {
  const uint16_t d =
      to_f16(fit_scale<Levels>(x, w, kBlock, codes), largest_magnitude(x, kBlock) / Levels::kStep);
  round_all<Levels>(x, kBlock, f16_to_f32(d), 0, codes);
  return d;
}

void fill(const float* x, const float* w, BlockQ4_0* out) {
  int8_t codes[kBlock];
  out->d = fit_symmetric<Whole<-8, 7>>(x, w, codes);
  put_nibbles(codes, 8, out->qs);
}

void fill(const float* x, const float* w, BlockQ5_0* out) {
  int8_t codes[kBlock];
  out->d = fit_symmetric<Whole<-16, 15>>(x, w, codes);
  put_nibbles(codes, 16, out->qs);
  put_fifth_bits(codes, 16, out->qh);
}

void fill(const float* x, const float* w, BlockIQ4_NL* out) {
  int8_t codes[kBlock];
  out->d = fit_symmetric<Listed>(x, w, codes);
  put_nibbles(codes, 0, out->qs);
}

// The types with a minimum of either sign.
template <int kHigh, typename Block>
void fit_with_minimum(const float* x, const float* w, int8_t codes[kBlock], Block* out) {
  const Affine fit = fit_affine<kHigh>(x, w, kBlock, false);
  const float largest = largest_magnitude(x, kBlock);
  out->d = to_f16(fit.scale, largest);
  out->m = to_f16(fit.min, 0);
  round_all<Whole<0, kHigh>>(x, kBlock, f16_to_f32(out->d), f16_to_f32(out->m), codes);
}

void fill(const float* x, const float* w, BlockQ4_1* out) {
  int8_t codes[kBlock];
  fit_with_minimum<15>(x, w, codes, out);
  put_nibbles(codes, 0, out->qs);
}

void fill(const float* x, const float* w, BlockQ5_1* out) {
  int8_t codes[kBlock];
  fit_with_minimum<31>(x, w, codes, out);
  put_nibbles(codes, 0, out->qs);
  put_fifth_bits(codes, 0, out->qh);
}

void fill(const float* x, const float* w, BlockQ2_K* out) {
  const SuperBlockFit<Whole<0, 3>, 16, 0, 15, 15> fit(x, w);
  out->d = fit.d;
  out->dmin = fit.dmin;
  for (int b = 0; b < 16; ++b) {
    out->scales[b] = static_cast<uint8_t>(fit.scale[b] | fit.min[b] << 4);
  }
  put_two_bits(fit.code, 0, out->qs);
}

void fill(const float* x, const float* w, BlockQ3_K* out) {
  const SuperBlockFit<Whole<-4, 3>, 16, -32, 31, 0> fit(x, w);
  out->d = fit.d;
  std::fill_n(out->scales, 12, uint8_t{0});
  for (int b = 0; b < 16; ++b) {
    const int number = fit.scale[b] + 32;
    uint8_t &low = out->scales[b % 8], &high = out->scales[8 + b % 4];
    low = static_cast<uint8_t>(low | (number & 15) << (b / 8 * 4));
    high = static_cast<uint8_t>(high | number >> 4 << (b / 4 * 2));
  }
  put_two_bits(fit.code, 4, out->qs);
  std::fill_n(out->hmask, 32, uint8_t{0});
  for (int i = 0; i < kSuperBlock; ++i) {
    const int third = (fit.code[i] + 4) >> 2;
    out->hmask[i % 32] = static_cast<uint8_t>(out->hmask[i % 32] | third << (i / 32));
  }
}

void fill(const float* x, const float* w, BlockQ4_K* out) {
  const SuperBlockFit<Whole<0, 15>, 32, 0, 63, 63> fit(x, w);
  out->d = fit.d;
  out->dmin = fit.dmin;
  put_k_scales(fit.scale, fit.min, out->scales);
  put_k_nibbles(fit.code, out->qs);
}

void fill(const float* x, const float* w, BlockQ5_K* out) {
  const SuperBlockFit<Whole<0, 31>, 32, 0, 63, 63> fit(x, w);
  out->d = fit.d;
  out->dmin = fit.dmin;
  put_k_scales(fit.scale, fit.min, out->scales);
  put_k_nibbles(fit.code, out->qs);
  std::fill_n(out->qh, 32, uint8_t{0});
  for (int i = 0; i < kSuperBlock; ++i) {
    out->qh[i % 32] = static_cast<uint8_t>(out->qh[i % 32] | fit.code[i] >> 4 << (i / 32));
  }
}

void fill(const float* x, const float* w, BlockQ6_K* out) {
  const SuperBlockFit<Whole<-32, 31>, 16, -128, 127, 0> fit(x, w);
  out->d = fit.d;
  for (int b = 0; b < 16; ++b) out->scales[b] = static_cast<int8_t>(fit.scale[b]);
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 32; ++j) {
      int q[4];
      for (int k = 0; k < 4; ++k) q[k] = fit.code[128 * half + 32 * k + j] + 32;
      out->ql[64 * half + j] = static_cast<uint8_t>((q[0] & 15) | (q[2] & 15) << 4);
      out->ql[64 * half + 32 + j] = static_cast<uint8_t>((q[1] & 15) | (q[3] & 15) << 4);
      out->qh[32 * half + j] =
          static_cast<uint8_t>(q[0] >> 4 | q[1] >> 4 << 2 | q[2] >> 4 << 4 | q[3] >> 4 << 6);
    }
  }
}

void fill(const float* x, const float* w, BlockIQ4_XS* out) {
  const SuperBlockFit<Listed, 32, -32, 31, 0> fit(x, w);
  out->d = fit.d;
  int high = 0;
  std::fill_n(out->scales_l, 4, uint8_t{0});
  for (int b = 0; b < 8; ++b) {
    const int number = fit.scale[b] + 32;
    out->scales_l[b / 2] =
        static_cast<uint8_t>(out->scales_l[b / 2] | (number & 15) << (b % 2 * 4));
    high |= number >> 4 << (2 * b);
    put_nibbles(fit.code + 32 * b, 0, out->qs + 16 * b);
  }
  out->scales_h = static_cast<uint16_t>(high);
}

// ---- rows --------------------------------------------------------------------------------------

template <typename Block, int kElements>
void fill_row(const float* x, int64_t cols, const float* importance, char* out) {
  double squares = 0;
  for (int64_t i = 0; i < cols; ++i) squares += double{x[i]} * x[i];
  const auto mean_square = static_cast<float>(squares / static_cast<double>(cols));
  for (int64_t i = 0; i < cols; i += kElements, x += kElements, out += sizeof(Block)) {
    float w[kElements];
    float largest = 0;
    for (int j = 0; j < kElements; ++j) {
      w[j] = std::sqrt(mean_square + x[j] * x[j]);
      if (importance != nullptr) w[j] *= importance[i + j];
      largest = std::max(largest, w[j]);
    }
    // Where nothing matters to anybody, all does alike.
    for (float& v : w) v = largest > 0 ? std::max(v / largest, kLeast) : 1.0f;
    Block block = {};
    fill(x, w, &block);
    std::memcpy(out, &block, sizeof(block));
  }
}

template <uint16_t (*kConvert)(float)>
void fill_plain_16(const float* x, int64_t cols, const float*, char* out) {
  for (int64_t i = 0; i < cols; ++i) {
    const uint16_t v = kConvert(x[i]);
    std::memcpy(out + 2 * i, &v, sizeof(v));
  }
}

void fill_plain_32(const float* x, int64_t cols, const float*, char* out) {
  std::memcpy(out, x, static_cast<size_t>(cols) * sizeof(float));
}

struct Quantizer {
  void (*fill_row)(const float* x, int64_t cols, const float* importance, char* out) = nullptr;
  // The largest |x| that is surely expressible: 65504 times the largest scale number and level, or
  // the largest minimum.
  float limit = std::numeric_limits<float>::max();
};

Quantizer find_quantizer(DType dtype) {
  constexpr float kMax = kLargestF16;
  switch (dtype) {
    case DType::kF32: return {fill_plain_32};
    case DType::kF16: return {fill_plain_16<f32_to_f16>, kMax};
    case DType::kBF16: return {fill_plain_16<f32_to_bf16>, bf16_to_f32(0x7f7f)};
    case DType::kQ8_0: return {fill_row<BlockQ8_0, kBlock>, kMax * 127};
    case DType::kQ4_0: return {fill_row<BlockQ4_0, kBlock>, kMax * 7};
    case DType::kQ4_1: return {fill_row<BlockQ4_1, kBlock>, kMax};
    case DType::kQ5_0: return {fill_row<BlockQ5_0, kBlock>, kMax * 15};
    case DType::kQ5_1: return {fill_row<BlockQ5_1, kBlock>, kMax};
    case DType::kQ2_K: return {fill_row<BlockQ2_K, kSuperBlock>, kMax * 15};
    case DType::kQ3_K: return {fill_row<BlockQ3_K, kSuperBlock>, kMax * 31 * 3};
    case DType::kQ4_K: return {fill_row<BlockQ4_K, kSuperBlock>, kMax * 63};
    case DType::kQ5_K: return {fill_row<BlockQ5_K, kSuperBlock>, kMax * 63};
    case DType::kQ6_K: return {fill_row<BlockQ6_K, kSuperBlock>, kMax * 127 * 31};
    case DType::kIQ4_NL: return {fill_row<BlockIQ4_NL, kBlock>, kMax * 113};
    case DType::kIQ4_XS: return {fill_row<BlockIQ4_XS, kSuperBlock>, kMax * 31 * 113};
    default: return {};
  }
}

// The first value that is not finite or beyond the limit.
Status check_values(DType dtype, const float* values, int64_t rows, int64_t cols, float limit) {
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (std::abs(values[i]) <= limit) continue;
    const bool finite = std::isfinite(values[i]);
    return corrupt_error("the value at row ", i / cols, ", column ", i % cols, " is ",
                         std::isnan(values[i]) ? "not a number"
                         : !finite             ? "infinite"
                                               : absl::StrCat(values[i]),
                         finite ? absl::StrCat(", and ", dtype_name(dtype), " reaches to ", limit)
                                : "; the weights are damaged");
  }
  return OkStatus();
}

}  // namespace

bool can_quantize(DType dtype) { return find_quantizer(dtype).fill_row != nullptr; }

Status quantize(DType dtype, const float* values, int64_t rows, int64_t cols,
                std::span<const float> importance, void* blocks) {
  const Quantizer quantizer = find_quantizer(dtype);
  if (quantizer.fill_row == nullptr) {
    return unsupported_error("weights of type ", dtype_name(dtype),
                             " can be read but not made; use q8_0, q6_k, q5_k, q4_k or iq4_xs");
  }
  const int64_t block = dtype_info(dtype).block;
  if (rows < 0 || cols < 1 || cols % block != 0) {
    return invalid_argument_error("rows of ", cols, " values do not fit ", dtype_name(dtype),
                                  ", whose blocks are ", block, " long");
  }
  float largest = 0;
  if (!importance.empty()) {
    if (static_cast<int64_t>(importance.size()) != cols) {
      return invalid_argument_error("importances of ", importance.size(), " columns for rows of ",
                                    cols, " values; they were made for another tensor or model");
    }
    for (size_t i = 0; i < importance.size(); ++i) {
      if (!(importance[i] >= 0) || !std::isfinite(importance[i])) {
        return invalid_argument_error("the importance of column ", i, " is ", importance[i],
                                      "; it must be a number that is not negative");
      }
      largest = std::max(largest, importance[i]);
    }
  }
  PONDER_RETURN_IF_ERROR(check_values(dtype, values, rows, cols, quantizer.limit));

  // Their size means nothing, so it may as well be harmless.
  std::vector<float> relative;
  if (largest > 0) {
    relative.assign(importance.begin(), importance.end());
    for (float& v : relative) v /= largest;
  }
  auto* out = static_cast<char*>(blocks);
  for (int64_t row = 0; row < rows; ++row) {
    quantizer.fill_row(values + row * cols, cols, relative.empty() ? nullptr : relative.data(),
                       out);
    out += dtype_bytes(dtype, cols);
  }
  return OkStatus();
}

}  // namespace ponder
