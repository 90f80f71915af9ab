// Random numbers and files, a piece at a time: what the writers of all formats share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "architectures.h"

namespace ponder::golden {

uint16_t to_bf16(float v);
// For finite values of moderate size only, which is all that is made here; rounds to nearest even.
uint16_t to_f16(float v);

// Quantiles of the standard normal distribution at the middles of 65,536 equal parts: a random
// index into the table is a normal number, at the price of a load.
std::vector<float> normal_quantiles();

// splitmix64: the n-th number of a stream is a function of the stream's seed and n.
inline uint64_t random_bits(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The stream of a tensor.
uint64_t seed_of(uint64_t seed, const std::string& name);

class File {
 public:
  explicit File(const std::filesystem::path& path) : path_(path), out_(path, std::ios::binary) {
    check();
  }
  void write(const void* data, size_t size) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
    check();
  }
  void close() {
    out_.close();
    check();
  }

 private:
  void check() const {
    if (!out_) throw std::runtime_error("cannot write " + path_.string());
  }
  std::filesystem::path path_;
  std::ofstream out_;
};

constexpr int64_t kChunk = 1 << 18;  // elements made at a time

// One tensor's values, already scaled and rounded: table[i] is the i-th quantile.
template <typename T, typename Convert>
void write_tensor(File& file, const TensorSpec& spec, uint64_t seed,
                  const std::vector<float>& quantiles, const Convert& convert,
                  const std::function<void(uint64_t)>& wrote) {
  std::vector<T> table(quantiles.size());
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = convert(static_cast<float>(spec.mean + spec.deviation * quantiles[i]));
  }
  std::vector<T> chunk(kChunk);
  const int64_t elements = spec.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const int64_t count = std::min(kChunk, elements - begin);
    for (int64_t i = 0; i < count; i += 4) {
      const uint64_t bits = random_bits(seed, static_cast<uint64_t>(begin + i) / 4);
      for (int64_t j = 0; j < 4 && i + j < count; ++j)
        chunk[i + j] = table[bits >> 16 * j & 0xffff];
    }
    file.write(chunk.data(), static_cast<size_t>(count) * sizeof(T));
    wrote(static_cast<uint64_t>(count) * sizeof(T));
  }
}

}  // namespace ponder::golden
