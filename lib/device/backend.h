// The seam between the runtime and the hardware: about two dozen coarse operations.
//
// An op has the size of an equation in a paper and is called eagerly, by lib/exec and nobody else.
// One Backend is one device as one runtime sees it. It is made by a BackendFactory (registry.h) and
// outlives everything packed by or allocated for it.
//
// Threads: ops are called by one thread at a time (the runtime's driver). pack_* and allocator() may
// be called by other threads at the same time (a model loading while another runs).
//
// Numerics, the promise every backend keeps: row t of an op's result depends on row t of its inputs
// (and, in attention, on that row's own cached keys) and on nothing else: not on how many other rows
// the step has, how rows are cut into steps, or how many threads run. So a request gives the same
// tokens alone or in a batch. tests/conformance checks it bit for bit.
//
// Shapes: T rows of the step's flat batch, K inner width, N outer width, H query heads, G key/value
// heads, E head width, D hidden width, V vocabulary, R rows that want logits. Activations are f32.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "lib/base/allocator.h"
#include "lib/base/log.h"
#include "lib/base/status.h"
#include "lib/base/thread_pool.h"
#include "lib/device/row_digest.h"
#include "lib/tensor/tensor.h"

namespace ponder {

// How much rounding a model's linear layers may add to their inputs.
enum class Precision : uint8_t {
  kAuto,  // what is fast on the device: bf16 inputs to bf16 weights where there are instructions
  kF32,   // float32 inputs, weights upcast: for comparisons with a reference
  kF8,    // as kAuto; inputs to f8_e4m3 weights become f8_e4m3, 128 to a scale, where the device
          // multiplies that as it is
};

struct DeviceInfo {
  enum class Kind : int32_t { kCpu = 1, kGpu = 2 };
  Kind kind = Kind::kCpu;
  std::string backend;  // "onednn", "cuda", "ref"
  std::string name;     // "AMD EPYC 9454, 2 threads, avx512_bf16"
  uint64_t memory_total = 0;
  uint64_t memory_free = 0;
};

// A weight in the form that a backend likes best; immutable. Made by pack_*.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  int64_t rows = 0;    // N: outputs (or V: table rows)
  int64_t cols = 0;    // K: inputs (or D)
  uint64_t bytes = 0;  // memory held beyond the mapped file
};

// A mixture's experts in the form that a backend likes best. Made by pack_experts.
class PackedExperts {
 public:
  virtual ~PackedExperts() = default;
  int64_t experts = 0;  // X
  int64_t hidden = 0;   // D
  int64_t width = 0;    // F of one expert
  uint64_t bytes = 0;   // memory held beyond the mapped file, whatever the expert cache holds aside
};

// One expert's matrices: silu(gate x) * (up x), then down.
struct ExpertWeights {
  WeightData gate, up;  // [F, D]
  WeightData down;      // [D, F]
};

// Where the experts of one layer come from, on demand. Any thread may call find at any time while
// the model lives: experts that do not stay in memory are read again when they are chosen.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual int64_t experts() const = 0;
  virtual int64_t hidden() const = 0;  // D
  virtual int64_t width() const = 0;   // F
  // The expert's tensors, shapes checked. io_error: reading failed.
  virtual StatusOr<ExpertWeights> find(int64_t expert) const = 0;
  // The same without data: names, types and shapes, so that memory can be planned.
  virtual StatusOr<ExpertWeights> describe(int64_t expert) const { return find(expert); }
  // The expert will be wanted soon: reading may begin. Neither waits nor fails.
  virtual void prefetch(int64_t expert) const { (void)expert; }
  // The packed copy is made: mapped pages may leave memory.
  virtual void drop(const ExpertWeights& weights) const = 0;
};

// What an expert cache did since it was made.
struct ExpertCacheStats {
  uint64_t budget_bytes = 0;  // 0: everything stays
  uint64_t held_bytes = 0;
  uint64_t hits = 0, misses = 0;  // an expert wanted by a step, whatever the number of its rows
  uint64_t bytes_read = 0;        // from the checkpoint, for misses and read-ahead
};

// Memory for the packed experts of all layers of one model: those used longest ago make room for
// those that are wanted. Made by Backend::make_expert_cache, outlives the PackedExperts that use it.
class ExpertCache {
 public:
  virtual ~ExpertCache() = default;
  virtual ExpertCacheStats stats() const = 0;  // any thread
};

// The up-projection of multi-head latent attention, W^UK and W^UV (DeepSeek-V2, arXiv 2405.04434,
// equations 10, 11), in one of two forms: `kv` [H * (N + U), R], each head's N rows of W^UK and then
// its U rows of W^UV, as Hugging Face's kv_b_proj; or `k_transposed` [H * R, N] and `v` [H * U, R],
// as GGUF's attn_k_b and attn_v_b. The unused form's names are empty.
struct MlaUpWeights {
  WeightData kv;
  WeightData k_transposed, v;
  int64_t heads = 0;      // H
  int64_t nope_dim = 0;   // N: a head's query and key width without rotary part
  int64_t value_dim = 0;  // U
  int64_t rank = 0;       // R: of the latent
};

struct PackOptions {
  Precision precision = Precision::kAuto;
  // Where experts live when not all of them stay in memory; null: all stay.
  ExpertCache* expert_cache = nullptr;
};

// ---- the step --------------------------------------------------------------------------------

// One sequence's rows within a step. Rows are consecutive, as are their positions.
struct SequenceSlice {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_position = 0;        // of first_row; earlier positions are cached already
  std::span<const int32_t> pages;    // page of positions [i*P, (i+1)*P), covers all rows' positions
};

// All that a step computes: plain data, valid until the step ends.
struct Batch {
  std::span<const int32_t> tokens;     // [T]
  std::span<const int32_t> positions;  // [T] position of each row in its own sequence
  std::span<const SequenceSlice> sequences;
  std::span<const int32_t> logit_rows;  // [R] ascending rows of the flat batch that want logits
};

// ---- the key/value cache -----------------------------------------------------------------------

// What one token leaves in the cache, per layer.
struct KvShape {
  int64_t layers = 0;
  int64_t heads = 0;  // G
  int64_t k_dim = 0;  // E of keys
  int64_t v_dim = 0;  // E of values; 0: multi-head latent attention, whose "key" of k_dim = R + P
                      // numbers is the latent and then the rotary key that all heads share
};

// How a backend arranges it. The bytes inside a page are the backend's own affair.
struct KvLayout {
  DType dtype = DType::kF32;
  int32_t page_tokens = 32;
  uint64_t page_bytes = 0;  // of one page of one layer; a multiple of 64
};

// The pages of one layer: page p lies at base + p * layout.page_bytes.
struct KvLayer {
  std::byte* base = nullptr;
  KvLayout layout;
  KvShape shape;
};

// ---- parameters of the ops -----------------------------------------------------------------------

struct EmbedParams {
  const PackedWeight* table;        // [V, D], by pack_table
  std::span<const int32_t> tokens;  // [T], each in [0, V): checked by Exec
  Tensor out;                       // [T, D]
};

struct RmsNormParams {
  Tensor x;       // [T, D] or [T, H, E]: the last dimension is normalised
  Tensor weight;  // [D] or [E]
  float eps;
  Tensor out;     // as x; may be x itself
};

struct LinearParams {
  Tensor x;                // [T, K]
  const PackedWeight* w;   // [N, K], by pack_linear
  Tensor bias;             // [N]; rank 0: none
  Tensor out;              // [T, N]
};

struct RopeTableParams {
  std::span<const float> inv_freq;     // [E/2]
  float magnitude;                     // cos and sin are multiplied by it (YaRN); else 1
  std::span<const int32_t> positions;  // [T]
  // [T, E]: cos of the E/2 angles float(position) * inv_freq[i] (a float32 product, as the reference
  // implementations compute it), then the E/2 sines.
  Tensor out;
};

struct RopeParams {
  Tensor x;           // [T, H, E], in place; only the first table.dim[1] of E turn
  Tensor table;       // [T, E'], by rope_table, E' <= E
  bool interleaved;   // pairs are (2i, 2i+1) instead of (i, i + E'/2)
};

struct SwigluParams {
  Tensor gate_up;  // [T, 2F]: gate, then up
  Tensor out;      // [T, F] = silu(gate) * up
};

struct AddParams {
  Tensor a, b;  // [T, D]
  Tensor out;   // may be a or b
};

struct KvWriteParams {
  KvLayer cache;
  Tensor k;  // [T, G, E]
  Tensor v;  // [T, G, E]
  const Batch* batch;
};

struct AttentionParams {
  Tensor q;  // [T, H, E]; head h reads key/value head h / (H/G)
  KvLayer cache;
  const Batch* batch;  // row t sees positions 0 .. positions[t] of its own sequence
  float scale;
  Tensor out;  // [T, H*E of values]
};

struct MlaWriteParams {
  KvLayer cache;
  Tensor latent;  // [T, R], after its norm
  Tensor k_rope;  // [T, P], turned already
  const Batch* batch;
};

// Multi-head latent attention over cached latents (DeepSeek-V2, arXiv 2405.04434, section 2.1).
// Per head: softmax(scale * (q_nope . (W^UK c) + q_rope . k_rope)) over the W^UV c. A backend may
// expand the latents to keys and values or fold W^UK into the query and W^UV into the result; the
// values are the same but for rounding, and which one it does for a row depends on nothing that the
// promise above rules out.
struct MlaAttentionParams {
  Tensor q_nope;  // [T, H, N]
  Tensor q_rope;  // [T, H, P], turned already
  KvLayer cache;
  const PackedWeight* up;  // by pack_mla
  const Batch* batch;      // row t sees positions 0 .. positions[t] of its own sequence
  float scale;
  Tensor out;  // [T, H * U]
};

// How a mixture's router chooses. DeepSeek-V3 (arXiv 2412.19437, equations 12 to 16, and
// inference/model.py, class Gate), DeepSeek-V2 and Qwen3 (softmax).
struct RouterParams {
  int32_t top_k = 1;
  int32_t groups = 1;       // the X experts fall into so many equal runs
  int32_t groups_kept = 1;  // experts outside the best so many groups are not chosen
  bool sigmoid = false;     // else softmax over all X
  // A group's score: the sum of its two best (V3) instead of its best (V2).
  bool group_by_top2 = false;
  bool normalize = false;  // the chosen weights are divided by their sum
  float scale = 1;         // then multiplied by this
};

struct RouteParams {
  Tensor logits;  // [T, X]
  Tensor bias;    // [X], added to the scores for choosing, not for weighing; rank 0: none
  RouterParams router;
  Tensor ids;      // i32 [T, k], ascending expert numbers; among equal scores the lower one is chosen
  Tensor weights;  // [T, k]
};
// route is corrupt_error when a row's scores are not finite.

struct ExpertsParams {
  Tensor x;                // [T, D]
  Tensor ids;              // i32 [T, k], by route
  Tensor weights;          // [T, k]
  PackedExperts* experts;  // by pack_experts
  // [T, D]: the sum over a row's experts, in ascending order, of weight * down(silu(gate x) * up x)
  Tensor out;
};
// experts is io_error when an expert could not be read; the step has failed, the model lives on.

struct GatherRowsParams {
  Tensor x;                       // [T, D]
  std::span<const int32_t> rows;  // [R]
  Tensor out;                     // [R, D]
};

// ---- the backend -----------------------------------------------------------------------------------

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;
  // Now, where info() says what it was when the backend was made. Any thread.
  virtual uint64_t memory_free();

  // Memory that the ops can reach; what KV pages, arenas and vectors are made of.
  virtual Allocator* allocator() = 0;
  // The same for the pages of one layer.
  virtual Allocator* page_allocator(int layer);

  // Weights. Parts are stacked by rows into one matrix: one GEMM, not three. All [n_i, K] with the
  // same K, checked by the caller. A NaN or infinity in a weight is corrupt_error naming the tensor.
  // The mapped bytes may be dropped from memory afterwards unless the packed form still uses them.
  virtual StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                              const PackOptions& options) = 0;
  // An embedding table [V, D]; keeps the mapped bytes where the device can read them.
  virtual StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) = 0;
  virtual StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                           const PackOptions& options);
  // With options.expert_cache nothing is read now; else all of `source` is, and source is let go.
  virtual StatusOr<std::unique_ptr<PackedExperts>> pack_experts(
      std::unique_ptr<ExpertSource> source, const PackOptions& options);
  // A cache that never holds more than `budget_bytes` of packed experts.
  virtual StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t budget_bytes);

  // Which cache types the backend can read; `wanted` unsupported is unsupported_error.
  virtual StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const = 0;
  virtual DType default_kv_dtype(Precision precision) const = 0;
  // The same for a cache of latents (KvShape::v_dim is 0).
  virtual DType default_latent_dtype(Precision precision) const {
    return default_kv_dtype(precision);
  }

  // Host to device and back; on a CPU plain copies. download waits for the ops before it.
  virtual Status upload(const void* host, void* device, uint64_t bytes) = 0;
  virtual Status download(const void* device, void* host, uint64_t bytes) = 0;
  // As upload, in the order of the ops: after those before it, before those after it.
  virtual Status upload_between(const void* host, void* device, uint64_t bytes);
  virtual Status copy_page(const KvLayer& cache, int32_t from, int32_t to) = 0;

  // Called before the first op of a step; `batch` stays valid until the step's last op.
  virtual Status begin_step(const Batch& batch) = 0;
  // A step's ops come in slices, a layer each, and between two slices may come those of other
  // models' steps. A backend may gather a slice's calls and begin their work at its end; end_slice
  // does not wait for it, but may wait for earlier slices. A slice that failed has no end.
  // Slice 0 comes before the layers, slice i + 1 is layer i.
  virtual Status start_slice(const Batch& batch, int index);
  virtual Status end_slice();

  virtual Status embed(const EmbedParams& p) = 0;
  virtual Status rms_norm(const RmsNormParams& p) = 0;
  virtual Status linear(const LinearParams& p) = 0;
  virtual Status rope_table(const RopeTableParams& p) = 0;
  virtual Status rope(const RopeParams& p) = 0;
  virtual Status swiglu(const SwigluParams& p) = 0;
  virtual Status add(const AddParams& p) = 0;
  virtual Status kv_write(const KvWriteParams& p) = 0;
  virtual Status attention(const AttentionParams& p) = 0;
  virtual Status gather_rows(const GatherRowsParams& p) = 0;
  // These, and the packing for them, are unsupported_error on a backend that does not have them.
  virtual Status mla_write(const MlaWriteParams& p);
  virtual Status mla_attention(const MlaAttentionParams& p);
  virtual Status route(const RouteParams& p);
  virtual Status experts(const ExpertsParams& p);

  // Reduces rows of logits for the host, which reads what was found when this returns: it waits as
  // download does. `logits` stay as they are: a row whose digest does not suffice is downloaded.
  virtual Status digest_rows(const DigestRowsParams& p);
  // Whether that is less work than downloading the rows. Where it is not, as on CPUs, nobody asks.
  virtual bool digests_rows() const { return false; }
};

}  // namespace ponder
