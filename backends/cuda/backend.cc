#include <algorithm>
#include <vector>

#include "backends/cuda/attention_plan.h"
#include "backends/cuda/cuda.h"
#include "backends/cuda/digest.h"
#include "backends/cuda/pack.h"
#include "backends/cuda/pack_mla.h"
#include "backends/cuda/products.h"
#include "backends/cuda/runtime.h"
#include "backends/cuda/step_inputs.h"

namespace ponder {
namespace {

using cuda::Device;
using cuda::DeviceBuffer;
using cuda::Rows;
using cuda::RowSource;

class DeviceAllocator final : public Allocator {
 public:
  DeviceAllocator(Device* device, uint32_t index)
      : device_(device), name_(absl::StrCat("memory of cuda:", index)) {}
  void* allocate(size_t size, size_t align) override {
    // The driver aligns to 256; nobody asks for more.
    return align <= 256 ? device_->allocate(std::max<size_t>(size, 1)) : nullptr;
  }
  void free(void* ptr, size_t, size_t) override { device_->free(ptr); }
  absl::string_view name() const override { return name_; }

 private:
  Device* const device_;
  const std::string name_;
};

// Steps of more rows than this are launched as they are called: they fill the device for longer
// than their launches take, and rarely come again in the same shape.
constexpr size_t kMostGatheredRows = 256;

// Device memory for one op's intermediate values. The next op may take the same memory: the stream
// keeps them in order.
class Scratch {
 public:
  explicit Scratch(Device* device) : device_(device) {}

  // At least `bytes`, contents undefined; what was reserved before is gone.
  StatusOr<char*> reserve(uint64_t bytes) {
    if (bytes > buffer_.bytes()) {
      PONDER_RETURN_IF_ERROR(device_->drain());  // ops under way may still use the old one
      buffer_ = DeviceBuffer();
      const uint64_t size = std::max<uint64_t>(bytes + bytes / 4, uint64_t{1} << 20);
      PONDER_ASSIGN_OR_RETURN(buffer_, DeviceBuffer::create(device_, size, "a step's scratch"));
    }
    return buffer_.as<char>();
  }

 private:
  Device* const device_;
  DeviceBuffer buffer_;
};

Rows rows_of(const Tensor& t) { return {t.f32(), t.stride[0], t.rank == 3 ? t.stride[1] : 0}; }

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<Device> device, DeviceInfo info, uint32_t index,
              const BackendContext& context)
      : device_(std::move(device)),
        info_(std::move(info)),
        context_(context),
        allocator_(device_.get(), index),
        scratch_(device_.get()),
        formed_(device_.get()),
        inputs_(device_.get()),
        digests_(device_.get(), &inputs_) {}

  // What must be there before the first step.
  Status prepare() {
    PONDER_ASSIGN_OR_RETURN(
        route_fault_,
        DeviceBuffer::create(device_.get(), sizeof(cuda::RouteFault), "what a router finds"));
    PONDER_RETURN_IF_ERROR(device_->zero(route_fault_.data(), sizeof(cuda::RouteFault)));
    return device_->settle();
  }

  const DeviceInfo& info() const override { return info_; }
  uint64_t memory_free() override { return device_->memory_free(); }
  Allocator* allocator() override { return &allocator_; }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    return cuda::pack(device_.get(), context_.pool, parts, options.precision);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    return cuda::pack(device_.get(), context_.pool, {&table, 1}, Precision::kF32);
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions& options) override {
    if (options.expert_cache != nullptr) {
      return unsupported_error("device ", info_.name, " (cuda) keeps all experts in its memory; ",
                               "a cache of experts is for CPUs");
    }
    return cuda::pack_experts(device_.get(), context_.pool, std::move(source), options.precision);
  }

  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions& options) override {
    return cuda::pack_mla(device_.get(), context_.pool, up, options.precision);
  }

  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    const bool latents = shape.v_dim == 0;
    const bool floats = wanted == DType::kF32 || wanted == DType::kF16 || wanted == DType::kBF16;
    const bool narrow = wanted == DType::kF8_E4M3 || wanted == DType::kQ8_0;
    if (!floats && (!narrow || latents)) {
      return unsupported_error("a KV cache of ", latents ? "latents in " : "", dtype_name(wanted),
                               " is not supported on this device; use f32, f16",
                               latents ? " or bf16" : ", bf16, f8_e4m3 or q8_0");
    }
    const int64_t widest = std::max(shape.k_dim, shape.v_dim);
    const int64_t limit = latents ? cuda::kLargestLatent : cuda::kLargestHead;
    if (widest > limit) {
      return unsupported_error(latents ? "latents of " : "attention heads of ", widest,
                               " numbers are not supported on this device, which takes ", limit,
                               "; choose another device for this model");
    }
    KvLayout layout;
    layout.dtype = wanted;
    layout.page_tokens = cuda::kPageTokens;
    const int64_t elements =
        cuda::cache_row(wanted, shape.k_dim) + cuda::cache_row(wanted, shape.v_dim);
    const int64_t bytes = dtype_bytes(wanted, shape.heads * layout.page_tokens * elements);
    layout.page_bytes = (static_cast<uint64_t>(bytes) + 63) / 64 * 64;
    return layout;
  }
  DType default_kv_dtype(Precision precision) const override {
    return precision == Precision::kF32 ? DType::kF32 : DType::kF16;
  }

  Status upload(const void* host, void* device, uint64_t bytes) override {
    PONDER_RETURN_IF_ERROR(device_->upload(host, device, bytes));
    return device_->settle();
  }
  Status upload_between(const void* host, void* device, uint64_t bytes) override {
    launch_waiting();
    formed_.forget(device, bytes);
    return inputs_.send(host, device, bytes);
  }
  // Where the host waits for the device anyway, it also learns what a router found.
  Status download(const void* device, void* host, uint64_t bytes) override {
    launch_waiting();
    PONDER_RETURN_IF_ERROR(device_->download(device, host, bytes));
    return find_route_fault();
  }
  Status copy_page(const KvLayer& cache, int32_t from, int32_t to) override {
    launch_waiting();
    const uint64_t bytes = cache.layout.page_bytes;
    return device_->copy(cache.base + static_cast<uint64_t>(from) * bytes,
                         cache.base + static_cast<uint64_t>(to) * bytes, bytes);
  }

  Status begin_step(const Batch& batch) override {
    PONDER_RETURN_IF_ERROR(device_->use());
    device_->begin_steps();
    device_->queue().discard();
    turning_.clear();  // of a slice that was broken off
    in_slice_ = false;
    // As the last step's ops would want for these rows, so that nothing is allocated between them.
    const auto rows = static_cast<int64_t>(batch.tokens.size());
    PONDER_RETURN_IF_ERROR(formed_.reserve(needs_.formed_bytes(rows)));
    PONDER_RETURN_IF_ERROR(inputs_.begin(batch));
    const uint64_t bytes = std::max(needs_.scratch_bytes(rows), inputs_.plan_scratch_bytes(batch));
    needs_.clear();
    return scratch_.reserve(bytes).status();
  }
  Status start_slice(const Batch& batch, int) override {
    device_->queue().discard();  // of a slice that was broken off
    turning_.clear();
    formed_.begin();
    in_slice_ = true;
    gathered_ = batch.tokens.size() <= kMostGatheredRows;
    device_->queue().gather(gathered_);
    return OkStatus();
  }
  // Long steps stay at most one slice ahead of the device, or a cancel would come too late.
  Status end_slice() override {
    launch_waiting();
    formed_.end();
    in_slice_ = false;
    device_->queue().gather(false);
    PONDER_RETURN_IF_ERROR(device_->queue().submit());
    if (gathered_) return OkStatus();
    slice_ ^= 1;
    PONDER_RETURN_IF_ERROR(device_->mark(kSliceMark + slice_));
    return device_->pass(kSliceMark + (slice_ ^ 1));
  }

  Status embed(const EmbedParams& p) override {
    const auto& table = static_cast<const cuda::CudaWeight*>(p.table)->stacks[0];
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    PONDER_ASSIGN_OR_RETURN(const int32_t* const tokens, inputs_.find(p.tokens));
    launch_widen_rows(stream(), table.matrix(), tokens, rows_of(p.out),
                      static_cast<int64_t>(p.tokens.size()));
    return device_->check("an embedding");
  }

  Status rms_norm(const RmsNormParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    if (p.x.rank == 2) {
      formed_.make({RowSource::Kind::kNormed, rows_of(p.x), p.weight.f32(), p.eps, rows_of(p.out)},
                   p.x.dim[0], p.x.dim[1]);
    } else {
      launch_rms_norm(stream(), rows_of(p.x), p.weight.f32(), p.eps, rows_of(p.out), p.x.dim[0],
                      p.x.dim[1], p.x.dim[2]);
    }
    return device_->check("a norm");
  }

  Status linear(const LinearParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_product(p.out));
    const auto& weight = *static_cast<const cuda::CudaWeight*>(p.w);
    needs_.note(weight);
    PONDER_RETURN_IF_ERROR(run_linear(stream(), weight, rows_of(p.x),
                                      p.bias.rank > 0 ? p.bias.f32() : nullptr, rows_of(p.out),
                                      p.x.dim[0], formed_));
    return device_->check("a matrix product");
  }

  Status experts(const ExpertsParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_product(p.out));
    const auto& experts = *static_cast<const cuda::CudaExperts*>(p.experts);
    const int64_t rows = p.x.dim[0], top_k = p.ids.dim[1];
    needs_.note(experts, top_k);
    PONDER_ASSIGN_OR_RETURN(char* scratch,
                            scratch_.reserve(cuda::experts_scratch_bytes(experts, rows, top_k)));
    const cuda::ChosenExperts chosen{static_cast<const int32_t*>(p.ids.data), p.ids.stride[0],
                                     rows_of(p.weights), top_k};
    PONDER_RETURN_IF_ERROR(run_experts(stream(), experts, rows_of(p.x), chosen, rows_of(p.out),
                                       rows, formed_, scratch));
    return device_->check("a mixture of experts");
  }

  Status rope_table(const RopeTableParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    PONDER_ASSIGN_OR_RETURN(const float* const inv_freq, inputs_.constant(p.inv_freq));
    PONDER_ASSIGN_OR_RETURN(const int32_t* const positions, inputs_.find(p.positions));
    launch_rope_table(stream(), inv_freq, positions, p.magnitude, rows_of(p.out),
                      static_cast<int64_t>(p.positions.size()),
                      static_cast<int64_t>(p.inv_freq.size()));
    return device_->check("a table of rotations");
  }

  // Waits for the next op, which may be what writes the turned key to the cache, or another turn.
  Status rope(const RopeParams& p) override {
    PONDER_RETURN_IF_ERROR(device_->use());
    formed_.flush();
    forget(p.x);
    const Turning turning{
        {rows_of(p.x), rows_of(p.table), static_cast<int32_t>(p.x.dim[1]),
         static_cast<int32_t>(p.x.dim[2]), static_cast<int32_t>(p.table.dim[1] / 2), p.interleaved},
        p.x.dim[0]};
    const bool again = !turning_.empty() && turning_[0].turn.x.data == turning.turn.x.data;
    if (turning_.size() == 2 || again) launch_turning();
    turning_.push_back(turning);
    if (!in_slice_) launch_turning();
    return device_->check("a rotation");
  }

  Status swiglu(const SwigluParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    formed_.make({RowSource::Kind::kGated, rows_of(p.gate_up), nullptr, 0, rows_of(p.out)},
                 p.out.dim[0], p.out.dim[1]);
    return device_->check("swiglu");
  }

  Status add(const AddParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    launch_add(stream(), rows_of(p.a), rows_of(p.b), rows_of(p.out), p.out.dim[0], p.out.dim[1]);
    return device_->check("an addition");
  }

  Status gather_rows(const GatherRowsParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    PONDER_ASSIGN_OR_RETURN(const int32_t* const rows, inputs_.find(p.rows));
    launch_gather_rows(stream(), rows_of(p.x), rows, rows_of(p.out),
                       static_cast<int64_t>(p.rows.size()), p.x.dim[1]);
    return device_->check("choosing rows");
  }

  Status kv_write(const KvWriteParams& p) override {
    PONDER_RETURN_IF_ERROR(device_->use());
    formed_.flush();
    PONDER_ASSIGN_OR_RETURN(const auto places, inputs_.places(*p.batch));
    const int64_t rows = p.k.dim[0];
    // A query that was turned just before comes along, if a warp can hold it.
    const cuda::Turn key = take_turn(p.k);
    cuda::Turn query;
    if (key.heads > 0 && turning_.size() == 1 && turning_[0].rows == rows &&
        2 * turning_[0].turn.half <= cuda::kLargestHead) {
      query = turning_[0].turn;
      turning_.clear();
    }
    launch_turning();
    launch_kv_write(stream(), cache_of(p.cache), rows_of(p.k), rows_of(p.v), key, query,
                    places.rows, places.pages, rows);
    return device_->check("writing keys and values");
  }

  Status attention(const AttentionParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    const cuda::Cache cache = cache_of(p.cache);
    const int64_t heads = p.q.dim[1];
    Rows out = rows_of(p.out);
    out.head = cache.v_dim;
    if (cache.dtype == DType::kF32) {
      PONDER_ASSIGN_OR_RETURN(const auto places, inputs_.places(*p.batch));
      launch_attention(stream(), cache, rows_of(p.q), places.rows, places.pages, p.scale, out,
                       p.q.dim[0], heads);
      return device_->check("attention");
    }
    PONDER_ASSIGN_OR_RETURN(
        const auto staged,
        inputs_.plan(*p.batch, {false, heads, cache.heads, cache.v_dim, wide_tile(cache)}));
    PONDER_ASSIGN_OR_RETURN(float* scratch, plan_scratch(*staged.plan));
    const cuda::AttentionMma params{
        cache, rows_of(p.q), out, staged.places.pages, p.scale, static_cast<int32_t>(heads)};
    launch_attention_wide(stream(), params, staged.tiles, staged.plan->wide_tiles);
    for (const cuda::SplitRun& run : staged.plan->runs) {
      launch_attention_split(stream(), params, staged.tiles + run.first_tile, run.tiles,
                             staged.rows + run.first_row, run.rows, run.chunks, scratch);
    }
    return device_->check("attention");
  }

  Status mla_write(const MlaWriteParams& p) override {
    PONDER_RETURN_IF_ERROR(device_->use());
    formed_.flush();
    PONDER_ASSIGN_OR_RETURN(const auto places, inputs_.places(*p.batch));
    const int64_t rows = p.latent.dim[0];
    const cuda::Turn key = take_turn(p.k_rope);
    launch_turning();
    launch_mla_write(stream(), cache_of(p.cache), rows_of(p.latent), rows_of(p.k_rope), key,
                     places.rows, places.pages, rows, p.latent.dim[1]);
    return device_->check("writing latents");
  }

  // A run of rows at a time: queries times W^UK, attention over the latents, results times W^UV.
  Status mla_attention(const MlaAttentionParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.out));
    const auto& up = *static_cast<const cuda::CudaMlaWeight*>(p.up);
    const cuda::Cache cache = cache_of(p.cache);
    const int64_t heads = p.q_nope.dim[1], rank = up.keys.outputs;
    // Vectors in a tile; 0: in float32.
    const int64_t tile = up.precise || cache.dtype == DType::kF32
                             ? 0
                             : mla_tile(cache, cuda::shared_memory_limit(stream()));
    PONDER_ASSIGN_OR_RETURN(
        const auto staged,
        inputs_.plan(*p.batch, {true, heads, 1, rank, tile > 0 ? tile : cuda::kNarrowTile}));
    PONDER_ASSIGN_OR_RETURN(float* scratch, plan_scratch(*staged.plan));
    for (const cuda::SplitRun& run : staged.plan->runs) {
      const auto of_run = [&](Rows rows) {
        rows.data += run.step_row * rows.row;
        return rows;
      };
      const Rows latents{scratch, heads * rank, rank};
      Rows out = of_run(rows_of(p.out));
      out.head = up.values.outputs;
      launch_head_products(stream(), up.keys, of_run(rows_of(p.q_nope)), latents, run.rows);
      const cuda::MlaAttention params{cache,
                                      latents,
                                      of_run(rows_of(p.q_rope)),
                                      latents,
                                      staged.places.pages,
                                      p.scale,
                                      static_cast<int32_t>(heads),
                                      static_cast<int32_t>(rank)};
      if (tile > 0) {
        launch_mla_split(stream(), params, staged.tiles + run.first_tile, run.tiles,
                         staged.rows + run.first_row, run.rows, run.chunks,
                         scratch + run.rows * heads * rank);
      } else {
        launch_mla_float(stream(), params, staged.places.rows + run.step_row, run.rows);
      }
      launch_head_products(stream(), up.values, latents, out, run.rows);
    }
    return device_->check("latent attention");
  }

  Status route(const RouteParams& p) override {
    PONDER_RETURN_IF_ERROR(begin_op(p.ids));
    forget(p.weights);
    const RouterParams& r = p.router;
    const cuda::Router router{static_cast<int32_t>(p.logits.dim[1]),
                              r.top_k,
                              r.groups,
                              r.groups_kept,
                              r.sigmoid,
                              r.group_by_top2,
                              r.normalize,
                              r.scale};
    launch_route(stream(), rows_of(p.logits), p.bias.rank > 0 ? p.bias.f32() : nullptr, router,
                 static_cast<int32_t*>(p.ids.data), p.ids.stride[0], rows_of(p.weights),
                 p.logits.dim[0], route_fault_.as<cuda::RouteFault>());
    routed_ = true;
    return device_->check("routing");
  }

  Status digest_rows(const DigestRowsParams& p) override {
    PONDER_RETURN_IF_ERROR(device_->use());
    launch_waiting();
    return digests_.run(p, [this](const void* device, void* host, uint64_t bytes) {
      return download(device, host, bytes);
    });
  }
  bool digests_rows() const override { return true; }

 private:
  // A rotation that waits, of so many rows.
  struct Turning {
    cuda::Turn turn;
    int64_t rows;
  };

  cuda::Stream stream() const { return device_->stream(); }

  // How an op begins whose result is `written`; every op that writes memory has one of these two.
  Status begin_op(const Tensor& written) {
    PONDER_RETURN_IF_ERROR(begin_product(written));
    formed_.flush();
    return OkStatus();
  }
  // The same for one that reads `formed_`, so that what waits there may be done together with it.
  Status begin_product(const Tensor& written) {
    PONDER_RETURN_IF_ERROR(device_->use());
    launch_turning();
    forget(written);
    return OkStatus();
  }
  void forget(const Tensor& written) {
    int64_t last = 0;
    for (int i = 0; i < written.rank; ++i) {
      if (written.dim[i] == 0) return;
      last += (written.dim[i] - 1) * written.stride[i];
    }
    formed_.forget(written.data, static_cast<uint64_t>(last + 1) * sizeof(float));
  }
  void launch_waiting() {
    launch_turning();
    formed_.flush();
  }
  void launch_turning() {
    for (const Turning& t : turning_) launch_rope(stream(), t.turn, t.rows);
    turning_.clear();
  }
  // The rotation of all heads of x [T, G, E] or [T, E], if that waits; then it does so no more.
  cuda::Turn take_turn(const Tensor& x) {
    const Rows rows = rows_of(x);
    const int64_t heads = x.rank == 3 ? x.dim[1] : 1;
    for (size_t i = 0; i < turning_.size(); ++i) {
      const auto [turn, turn_rows] = turning_[i];
      if (turn.x.data != rows.data || turn.x.row != rows.row || turn_rows != x.dim[0] ||
          turn.heads != heads || (heads > 1 && turn.x.head != rows.head) ||
          turn.dim != x.dim[x.rank - 1]) {
        continue;
      }
      turning_.erase(turning_.begin() + static_cast<std::ptrdiff_t>(i));
      return turn;
    }
    return {};
  }

  static cuda::Cache cache_of(const KvLayer& layer) {
    cuda::Cache cache;
    cache.base = reinterpret_cast<uint8_t*>(layer.base);
    cache.dtype = layer.layout.dtype;
    cache.page_bytes = static_cast<int64_t>(layer.layout.page_bytes);
    cache.page_tokens = layer.layout.page_tokens;
    cache.heads = static_cast<int32_t>(layer.shape.heads);
    cache.k_dim = static_cast<int32_t>(layer.shape.k_dim);
    cache.v_dim = static_cast<int32_t>(layer.shape.v_dim);
    cache.k_row = static_cast<int32_t>(cuda::cache_row(cache.dtype, cache.k_dim));
    cache.v_row = static_cast<int32_t>(cuda::cache_row(cache.dtype, cache.v_dim));
    return cache;
  }

  StatusOr<float*> plan_scratch(const cuda::AttentionPlan& plan) {
    PONDER_ASSIGN_OR_RETURN(char* base,
                            scratch_.reserve(static_cast<uint64_t>(plan.scratch_bytes)));
    return reinterpret_cast<float*>(base);
  }

  // Told once: the next step may be of other requests.
  Status find_route_fault() {
    if (!std::exchange(routed_, false)) return OkStatus();
    cuda::RouteFault fault;
    PONDER_RETURN_IF_ERROR(device_->download(route_fault_.data(), &fault, sizeof(fault)));
    if (fault.found == 0) return OkStatus();
    PONDER_RETURN_IF_ERROR(device_->zero(route_fault_.data(), sizeof(fault)));
    return corrupt_error("the router's score of expert ", fault.expert, " for row ", fault.row,
                         " of a step is ", fault.score, "; the model's weights are damaged");
  }

  const std::unique_ptr<Device> device_;
  const DeviceInfo info_;
  const BackendContext context_;
  DeviceAllocator allocator_;
  Scratch scratch_;
  cuda::FormedRows formed_;
  std::vector<Turning> turning_;  // at most two
  bool in_slice_ = false;
  cuda::StepInputs inputs_;
  cuda::Digests digests_;
  cuda::ProductNeeds needs_;
  static constexpr int kSliceMark = Device::kMarks - 2;  // two in turn; inputs_ has those below
  int slice_ = 0;
  bool gathered_ = false;
  DeviceBuffer route_fault_;  // what the kernels that route leave, a RouteFault
  bool routed_ = false;       // since the last download
};

StatusOr<DeviceInfo> describe(int index) {
  PONDER_ASSIGN_OR_RETURN(cuda::DeviceProperties properties, cuda::device_properties(index));
  DeviceInfo info;
  info.kind = DeviceInfo::Kind::kGpu;
  info.backend = "cuda";
  info.name = std::move(properties.name);
  info.memory_total = properties.memory_total;
  // What is free is known only to a context on the device, and making one takes memory and time:
  // create() does, a list of devices does not.
  info.memory_free = properties.memory_total;
  return info;
}

class CudaFactory final : public BackendFactory {
 public:
  std::vector<DeviceInfo> devices(const BackendContext& context) const override {
    std::vector<DeviceInfo> found;
    for (int i = 0; i < cuda::device_count(); ++i) {
      // A device that cannot be described keeps its number: create() says what is wrong with it.
      StatusOr<DeviceInfo> info = describe(i);
      if (!info.ok()) {
        context.log.log(LogLevel::kWarning, info.status().message());
        info = DeviceInfo{DeviceInfo::Kind::kGpu, "cuda", "unusable", 0, 0};
      }
      found.push_back(*std::move(info));
    }
    return found;
  }
  StatusOr<std::unique_ptr<Backend>> create(uint32_t index,
                                            const BackendContext& context) const override {
    const int count = cuda::device_count();
    if (index >= static_cast<uint32_t>(count)) {
      return internal_error("backend cuda has ", count, " devices; number ", index,
                            " was asked for");
    }
    PONDER_ASSIGN_OR_RETURN(DeviceInfo info, describe(static_cast<int>(index)));
    PONDER_ASSIGN_OR_RETURN(auto device, Device::open(static_cast<int>(index)));
    info.memory_free = device->memory_free();
    auto backend =
        std::make_unique<CudaBackend>(std::move(device), std::move(info), index, context);
    PONDER_RETURN_IF_ERROR(backend->prepare());
    return backend;
  }
};

}  // namespace

const BackendFactory* cuda_factory() {
  static const CudaFactory factory;  // no state, nothing to destroy
  return &factory;
}

}  // namespace ponder
