#include "stream.h"

#include <bit>
#include <cmath>

namespace ponder::golden {

uint16_t to_bf16(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

uint16_t to_f16(float v) {
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  const float a = std::fabs(v);
  if (a >= 65504.0f) return sign | 0x7bff;
  if (a < 0x1p-14f) return sign | static_cast<uint16_t>(std::lrint(a * 0x1p24f));
  const uint32_t u = std::bit_cast<uint32_t>(a);
  return sign | static_cast<uint16_t>((u + 0xfff + ((u >> 13) & 1) - (112u << 23)) >> 13);
}

std::vector<float> normal_quantiles() {
  constexpr int kSize = 1 << 16;
  std::vector<float> table(kSize);
  for (int i = 0; i < kSize / 2; ++i) {
    const double p = (i + 0.5) / kSize;
    double low = -6, high = 0;
    for (int step = 0; step < 50; ++step) {
      const double middle = (low + high) / 2;
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    table[i] = static_cast<float>(low);
    table[kSize - 1 - i] = static_cast<float>(-low);
  }
  return table;
}

uint64_t seed_of(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u ^ random_bits(seed, 0);
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace ponder::golden
