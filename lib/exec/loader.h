// Loader: finds tensors by the names that the checkpoint gives them and hands them to the backend.
//
// A weight stored as f8_e4m3 comes with its scales, the tensor "<name>_scale_inv", one f32 for each
// 128 x 128 elements; blocks at the edges are cut off. Missing, misshaped or non-finite scales are
// corrupt_error.
//
// A model's constructor asks for its weights with the shapes it expects; the first thing that is
// missing or does not fit is remembered and harmless placeholders are returned, so constructors
// stay plain and the caller reads status() once. in() makes a Loader for a scope of names; all
// Loaders made from one share its status and its store.
//
// Threads: one at a time. What it made lives in the WeightStore, which outlives the model.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/allocator.h"
#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/exec/exec.h"
#include "lib/format/checkpoint.h"

namespace ponder {

// Owner of everything that a model's views point at.
struct WeightStore {
  // Where experts are read on demand: what they are read from, and where they are kept. Outlive
  // `experts`.
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<ExpertCache> expert_cache;
  std::vector<std::unique_ptr<PackedWeight>> weights;
  std::vector<std::unique_ptr<PackedExperts>> experts;
  std::vector<Buffer> vectors;
  uint64_t parameters = 0;
  uint64_t bytes = 0;  // in the checkpoint
};

class Loader {
 public:
  // Nonzero stops the load with cancelled_error. In bytes of the checkpoint.
  using Progress = std::function<int32_t(uint64_t done, uint64_t total)>;

  // Everything passed must outlive the Loader; `store` also outlives the model, and so does
  // `checkpoint` where options.expert_cache is set: experts are then read while the model runs.
  Loader(const Checkpoint& checkpoint, Backend* backend, PackOptions options, WeightStore* store,
         Progress progress);

  Loader in(absl::string_view scope) const;          // names get "scope." in front
  Loader in(absl::string_view scope, int64_t i) const;  // "scope.i."

  bool has(absl::string_view name) const;
  // "name.weight" [rows, cols] and "name.bias" [rows] where the checkpoint has one.
  Linear linear(absl::string_view name, int64_t rows, int64_t cols) const;
  // The same for several, stacked by rows in the order given: one GEMM, not three.
  struct Part {
    absl::string_view name;
    int64_t rows;
  };
  Linear fused(std::initializer_list<Part> parts, int64_t cols) const;
  // "name.weight" [rows, cols] for looking up rows.
  Embedding embedding(absl::string_view name, int64_t rows, int64_t cols) const;
  // The up-projections of latent attention in whichever form the checkpoint has them: "kv_b_proj"
  // [H * (N + U), R], or "k_b_proj" [H, R, N] and "v_b_proj" [H, U, R] (GGUF's split form).
  MlaUp mla_up(int64_t heads, int64_t nope_dim, int64_t value_dim, int64_t rank) const;
  // "name.<e>.gate_proj", "up_proj" and "down_proj" of each expert (Hugging Face), or one tensor
  // [count, rows, cols] for each of the three (GGUF). All shapes are checked now, whenever the data
  // is read.
  Experts experts(absl::string_view name, int64_t count, int64_t width, int64_t hidden) const;
  // A vector such as a norm's weight, by its full name; becomes f32.
  Tensor vector(absl::string_view name, int64_t size) const;

  void fail(const Status& status) const;
  const Status& status() const;

 private:
  struct Shared;
  Loader(std::shared_ptr<Shared> shared, std::string prefix)
      : shared_(std::move(shared)), prefix_(std::move(prefix)) {}
  // The tensor, if it is there and has this shape.
  StatusOr<WeightData> find(absl::string_view name, std::initializer_list<int64_t> shape) const;
  Tensor load_vector(const std::vector<WeightData>& parts) const;
  void count(const WeightData& data) const;
  void count(uint64_t parameters, uint64_t bytes) const;

  std::shared_ptr<Shared> shared_;
  std::string prefix_;
};

// Rotary angles as config.json (normalised by read_model_config) describes them: rope_theta and
// rope_scaling of type "linear", "llama3" (Llama 3.1) or "yarn"; the reference is transformers'
// modeling_rope_utils.py. An unknown type is remembered in config as unsupported_error.
Rope make_rope(const Config& config, int64_t dim);

}  // namespace ponder
