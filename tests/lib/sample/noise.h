#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace ponder {

// A row of logits without a meaning.
inline std::vector<float> noise(size_t n, float spread, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

}  // namespace ponder
