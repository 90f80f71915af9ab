// What a synthetic checkpoint consists of: its config.json and its tensors, by architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace ponder::golden {

using Json = nlohmann::ordered_json;

struct Sizes {
  std::string architecture = "qwen2";  // qwen2, llama or qwen3
  int64_t layers = 2;
  int64_t hidden = 64;
  int64_t intermediate = 128;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 0;  // 0: hidden / heads
  int64_t vocabulary = 512;
  int64_t context = 4096;
  double rope_theta = 10000;
  bool llama3_scaling = false;
  bool tied = false;
};

// A tensor to be written: normal around `mean`.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  double mean = 0;
  double deviation = 0;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// The sizes of well-known models ("qwen2.5-1.5b"); throws std::invalid_argument with the known
// names.
Sizes preset(const std::string& name);

// Throws std::invalid_argument when the sizes cannot make a model.
void check(const Sizes& sizes);

// In the spelling of the repositories of that architecture. `dtype` as torch names it.
Json config(const Sizes& sizes, const std::string& dtype, int64_t bos, int64_t eos);

// In the order in which they are written. Scales are such that activations keep their size.
std::vector<TensorSpec> tensors(const Sizes& sizes);

}  // namespace ponder::golden
