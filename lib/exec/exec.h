// Exec: what a model file computes with. Checks shapes, places results, remembers the first failure.
//
// Every op returns a view into the step's arena. A failure (a shape that does not fit, a device that
// breaks) sticks: later ops are no-ops and the runner reads status() once per slice, so a model file
// reads like its paper. Exec is the only caller of Backend.
//
// The arena is two halves used in turn, one per layer, so that layer i's input (made in the other
// half) stays readable while layer i's own results fill this half; plus a part that lives as long as
// the step (rotary tables). Its size is found before anything is allocated by running the model once
// in measuring mode, where ops only count.
//
// Threads: one at a time (the driver). Shapes: see backend.h.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "lib/base/allocator.h"
#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/tensor/tensor.h"

namespace ponder {

// A linear layer: y = x W^T + bias. Views; the weights belong to the WeightStore of the model.
struct Linear {
  const PackedWeight* weight = nullptr;  // [N, K]
  Tensor bias;                           // [N]; rank 0: none
};

// An embedding table [V, D].
struct Embedding {
  const PackedWeight* table = nullptr;
};

// The up-projections of multi-head latent attention.
struct MlaUp {
  const PackedWeight* weight = nullptr;
  int64_t heads = 0, nope_dim = 0, value_dim = 0, rank = 0;
};

// The experts of one layer.
struct Experts {
  PackedExperts* weight = nullptr;
};

// Which experts a row goes to, and how much each of them counts.
struct Routing {
  Tensor ids;      // i32 [T, k], ascending
  Tensor weights;  // [T, k]
};

// Rotary position embedding (RoFormer, arXiv 2104.09864): which angles, and how elements pair.
struct Rope {
  std::vector<float> inv_freq;  // [E/2]
  float magnitude = 1;          // on cos and sin
  bool interleaved = false;     // pairs (2i, 2i+1) instead of (i, i + E/2)
};

// How many bytes the arena's parts take.
struct ArenaSize {
  uint64_t step = 0;     // lives as long as the step
  uint64_t half[2] = {};  // even and odd layers
  uint64_t total() const { return step + half[0] + half[1]; }
};

class Exec {
 public:
  // Measuring mode: no backend is called and no memory touched.
  Exec() = default;
  // `arena` has size.total() bytes of the backend's memory; `kv_layers` are each layer's pages.
  Exec(Backend* backend, std::byte* arena, const ArenaSize& size,
       std::vector<std::byte*> kv_layers, const KvLayout& kv_layout, const KvShape& kv_shape)
      : backend_(backend), arena_(arena), size_(size), kv_layers_(std::move(kv_layers)),
        kv_layout_(kv_layout), kv_shape_(kv_shape) {}

  // ---- for the runner: begin_step, then start_slice(0), (1), ... around begin, each layer, end ----
  void begin_step(const Batch& batch);
  void start_slice(int index);  // also ends the one before
  void end_slice();             // the device begins its work, if it has not
  const Status& status() const { return status_; }
  // Measuring mode: what the calls since construction needed.
  const ArenaSize& measured() const { return size_; }

  // ---- for model files ----
  KvLayer kv(int layer) const;
  Tensor embed(const Embedding& table, std::span<const int32_t> tokens);  // [T, D]
  Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);     // as x
  // Both, each normalised with its own weight, side by side: [T, D] and [T, E] -> [T, D + E].
  Tensor rms_norm_both(const Tensor& a, const Tensor& a_weight, const Tensor& b,
                       const Tensor& b_weight, double eps);
  Tensor linear(const Tensor& x, const Linear& w);                        // [T, N]
  Tensor add(const Tensor& a, const Tensor& b);
  Tensor swiglu(const Tensor& gate_up);  // [T, 2F] -> [T, F]
  // Column ranges of x as views; the widths add up to x's.
  std::vector<Tensor> split(const Tensor& x, std::initializer_list<int64_t> widths);
  Tensor heads(const Tensor& x, int64_t n);  // [T, n*E] as a view [T, n, E]
  void rope(const Tensor& x, const Rope& rope, const Batch& b);  // in place
  void kv_write(const KvLayer& cache, const Tensor& k, const Tensor& v, const Batch& b);
  Tensor attention(const Tensor& q, const KvLayer& cache, const Batch& b, double scale);  // [T, H*E]
  void mla_write(const KvLayer& cache, const Tensor& latent, const Tensor& k_rope, const Batch& b);
  // [T, H*U]
  Tensor mla_attention(const Tensor& q_nope, const Tensor& q_rope, const KvLayer& cache,
                       const MlaUp& up, const Batch& b, double scale);
  Routing route(const Tensor& logits, const Tensor& bias, const RouterParams& router);
  Tensor experts(const Tensor& x, const Routing& routing, const Experts& w);  // [T, D]
  Tensor rows_wanted(const Tensor& x, const Batch& b);  // [R, D]

 private:
  bool expect(bool ok, absl::string_view op, const Tensor& x, absl::string_view wanted);
  void run(Status status) {
    if (status_.ok() && !status.ok()) status_ = std::move(status);
  }
  bool live() const { return backend_ != nullptr && status_.ok(); }
  Tensor result(std::initializer_list<int64_t> dims);
  std::byte* take(uint64_t bytes, bool for_step);

  Backend* backend_ = nullptr;  // null: measuring
  std::byte* arena_ = nullptr;
  ArenaSize size_;
  std::vector<std::byte*> kv_layers_;
  KvLayout kv_layout_;
  KvShape kv_shape_;

  Status status_;
  const Batch* batch_ = nullptr;  // of this step
  bool in_slice_ = false;
  int half_ = 0;
  uint64_t step_used_ = 0, half_used_ = 0;
  std::vector<std::pair<const Rope*, Tensor>> rope_tables_;  // of this step
};

}  // namespace ponder
