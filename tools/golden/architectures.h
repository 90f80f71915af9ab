// What a synthetic checkpoint consists of: its config.json and its tensors, by architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace ponder::golden {

using Json = nlohmann::ordered_json;

// Multi-head latent attention.
struct LatentSizes {
  int64_t q_rank = 24;  // 0: queries have no latent
  int64_t kv_rank = 32;
  int64_t nope_dim = 16;
  int64_t rope_dim = 8;
  int64_t value_dim = 16;
};

// A mixture of experts.
struct MixtureSizes {
  int64_t experts = 8;
  int64_t chosen = 2;
  int64_t intermediate = 32;  // of one expert
  int64_t shared = 1;         // deepseek only, as are the rest
  int64_t groups = 1;
  int64_t groups_kept = 1;
  int64_t dense_layers = 1;
  double scale = 1;
  bool draft_layer = false;  // for multi-token prediction
};

struct Sizes {
  std::string architecture = "qwen2";  // one of known_architectures()
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
  LatentSizes latent = {};
  MixtureSizes mixture = {};

  bool is_deepseek() const { return architecture.starts_with("deepseek"); }
};

std::string known_architectures();  // "qwen2, llama, ..."

enum class ElementType { kF32, kF16, kBF16, kF8 };

// A tensor to be written: normal around `mean`.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  double mean = 0;
  double deviation = 0;
  // kModel: the type that the whole checkpoint was asked for in, f8 in linear layers only.
  enum class Storage { kModel, kLinear, kF32 } storage = Storage::kModel;

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

// In the spelling of the repositories of that architecture.
Json config(const Sizes& sizes, ElementType type, int64_t bos, int64_t eos);

// In the order in which they are written. Scales are such that activations keep their size.
std::vector<TensorSpec> tensors(const Sizes& sizes);

}  // namespace ponder::golden
