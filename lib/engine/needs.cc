#include "lib/engine/needs.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "lib/engine/engine.h"
#include "lib/engine/placement.h"
#include "lib/engine/plan.h"
#include "lib/exec/loader.h"
#include "lib/models/registry.h"

namespace ponder::engine {
namespace {

uint64_t bytes_of(const WeightData& weight) {
  return static_cast<uint64_t>(dtype_bytes(weight.dtype, weight.elements()));
}

// A checkpoint whose large tensors come without their data: files that cannot be mapped are not
// read.
class Outline final : public Checkpoint {
 public:
  explicit Outline(const Checkpoint& whole) : whole_(whole) {}

  bool has(absl::string_view name) const override { return whole_.has(name); }
  StatusOr<WeightData> find(absl::string_view name) const override {
    constexpr uint64_t kLarge = 1 << 20;  // vectors and scales are smaller
    PONDER_ASSIGN_OR_RETURN(const TensorInfo known, whole_.info(name));
    return known.bytes > kLarge ? whole_.describe(name) : whole_.find(name);
  }
  StatusOr<WeightData> find_slice(absl::string_view, int64_t) const override {
    return internal_error("an outline has no parts");
  }
  StatusOr<WeightData> describe(absl::string_view name) const override {
    return whole_.describe(name);
  }
  StatusOr<WeightData> load(absl::string_view, int64_t) const override {
    return internal_error("an outline has no data");
  }
  void prefetch(absl::string_view, int64_t) const override {}
  Status read(absl::string_view name, uint64_t offset, void* dst, uint64_t n) const override {
    return whole_.read(name, offset, dst, n);
  }
  void drop(const WeightData& weight) const override { whole_.drop(weight); }
  StatusOr<TensorInfo> info(absl::string_view name) const override { return whole_.info(name); }
  std::vector<std::string> names() const override { return whole_.names(); }
  uint64_t total_bytes() const override { return whole_.total_bytes(); }
  uint64_t parameters() const override { return whole_.parameters(); }
  const std::string& where() const override { return whole_.where(); }

 private:
  const Checkpoint& whole_;
};

// Stands in for a backend while a model is built: packs nothing, adds up what it is shown.
class Survey final : public Backend {
 public:
  Survey(Allocator* allocator, ModelNeeds* needs) : allocator_(allocator), needs_(needs) {}

  uint64_t table_bytes = 0;  // embeddings: a token reads one row
  uint64_t mixtures = 0;     // layers with routed experts
  std::vector<LayerNeeds> layers;

  const DeviceInfo& info() const override { return info_; }
  Allocator* allocator() override { return allocator_; }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions&) override {
    auto packed = std::make_unique<PackedWeight>();
    for (const WeightData& part : parts) {
      packed->rows += part.shape[0];
      packed->cols = part.shape[1];
      uint64_t& kind = absl::StrContains(part.name, ".self_attn.") ? needs_->attention_bytes
                       : absl::StrContains(part.name, ".mlp.")     ? needs_->feed_forward_bytes
                                                                   : needs_->other_bytes;
      kind += bytes_of(part);
      if (LayerNeeds* const layer = layer_of(part)) layer->other_bytes += bytes_of(part);
    }
    return packed;
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    auto packed = std::make_unique<PackedWeight>();
    packed->rows = table.shape[0];
    packed->cols = table.shape[1];
    needs_->other_bytes += bytes_of(table);
    table_bytes += bytes_of(table);
    return packed;
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions&) override {
    auto packed = std::make_unique<PackedWeight>();
    packed->rows = up.heads * (up.nope_dim + up.value_dim);
    packed->cols = up.rank;
    for (const WeightData* part : {&up.kv, &up.k_transposed, &up.v}) {
      if (part->name.empty()) continue;
      needs_->attention_bytes += bytes_of(*part);
      if (LayerNeeds* const layer = layer_of(*part)) layer->other_bytes += bytes_of(*part);
    }
    return packed;
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions&) override {
    auto packed = std::make_unique<PackedExperts>();
    packed->experts = source->experts();
    packed->hidden = source->hidden();
    packed->width = source->width();
    needs_->experts = static_cast<uint32_t>(packed->experts);
    ++mixtures;
    for (int64_t e = 0; e < packed->experts; ++e) {
      PONDER_ASSIGN_OR_RETURN(const ExpertWeights w, source->describe(e));
      const uint64_t bytes = bytes_of(w.gate) + bytes_of(w.up) + bytes_of(w.down);
      needs_->expert_bytes += bytes;
      if (LayerNeeds* const layer = layer_of(w.gate)) layer->expert_bytes += bytes;
    }
    return packed;
  }
  StatusOr<KvLayout> kv_layout(const KvShape&, DType) const override { return nothing(); }
  DType default_kv_dtype(Precision) const override { return DType::kF32; }
  Status upload(const void* host, void* device, uint64_t bytes) override {
    std::memcpy(device, host, bytes);
    return OkStatus();
  }
  Status download(const void*, void*, uint64_t) override { return nothing(); }
  Status copy_page(const KvLayer&, int32_t, int32_t) override { return nothing(); }
  Status begin_step(const Batch&) override { return nothing(); }
  Status embed(const EmbedParams&) override { return nothing(); }
  Status rms_norm(const RmsNormParams&) override { return nothing(); }
  Status linear(const LinearParams&) override { return nothing(); }
  Status rope_table(const RopeTableParams&) override { return nothing(); }
  Status rope(const RopeParams&) override { return nothing(); }
  Status swiglu(const SwigluParams&) override { return nothing(); }
  Status add(const AddParams&) override { return nothing(); }
  Status kv_write(const KvWriteParams&) override { return nothing(); }
  Status attention(const AttentionParams&) override { return nothing(); }
  Status gather_rows(const GatherRowsParams&) override { return nothing(); }

 private:
  // nullptr: of no layer.
  LayerNeeds* layer_of(const WeightData& weight) {
    const int64_t layer = layer_of_tensor(weight.name);
    if (layer < 0 || layer > kMostLayers) return nullptr;
    if (static_cast<size_t>(layer) >= layers.size()) layers.resize(static_cast<size_t>(layer) + 1);
    return &layers[static_cast<size_t>(layer)];
  }
  static constexpr int64_t kMostLayers = 4096;

  static Status nothing() { return internal_error("a survey computes nothing"); }

  Allocator* allocator_;
  ModelNeeds* needs_;
  DeviceInfo info_;
};

// Whether it fits, and how; a twentieth of the free memory is left to others.
void judge(uint64_t asked_budget, uint64_t mixtures, ModelNeeds* n) {
  const uint64_t room = n->memory_free - n->memory_free / 20;
  const uint64_t resident = n->resident_bytes();
  if (n->experts == 0) asked_budget = 0;
  if (asked_budget == 0 && (n->memory_free == 0 || resident + n->expert_bytes <= room)) {
    n->fit = ModelNeeds::Fit::kAll;
    return;
  }
  if (n->experts == 0 || n->memory_free == 0) return;
  // What one token chooses in one layer. With little more every expert is read for every token.
  const uint64_t least = n->expert_bytes / mixtures / n->experts * n->experts_chosen;
  const uint64_t budget = asked_budget != 0 ? std::min(asked_budget, n->expert_bytes)
                          : room > resident ? room - resident
                                            : 0;
  if (budget < least || resident + budget > room) return;
  n->fit = ModelNeeds::Fit::kOnDemand;
  n->expert_budget = budget;
}

// On a GPU: what goes where.
Status judge_placement(const ModelOptions& options, const Survey& survey, ModelNeeds* n) {
  PlacementNeeds needs;
  needs.layers = survey.layers;
  needs.page_bytes = n->kv_bytes / std::max(1u, n->layers);
  needs.table_bytes = survey.table_bytes;
  needs.fixed_bytes = n->scratch_bytes + n->attention_bytes + n->feed_forward_bytes +
                      n->other_bytes - survey.table_bytes;
  for (const LayerNeeds& layer : needs.layers) needs.fixed_bytes -= layer.other_bytes;
  needs.experts_on_demand = options.expert_bytes != 0 && n->experts > 0;
  n->vram_bytes = options.vram_bytes != 0 ? options.vram_bytes
                                          : n->memory_free - n->memory_free / 20;
  PONDER_ASSIGN_OR_RETURN(n->placement, place(needs, n->vram_bytes));
  n->fit = n->placement.any() ? ModelNeeds::Fit::kPlaced : ModelNeeds::Fit::kAll;
  n->host_layers = Placement::count(n->placement.layers_on_host);
  n->host_expert_layers = Placement::count(n->placement.experts_on_host);
  return OkStatus();
}

}  // namespace

StatusOr<ModelNeeds> examine(Runtime& runtime, std::shared_ptr<const FileSource> source,
                             const ModelOptions& options) {
  OpenOptions open;
  open.allocator = runtime.allocator();
  PONDER_ASSIGN_OR_RETURN(const ModelFiles files, open_model(std::move(source), open));
  return examine(runtime, files, options);
}

StatusOr<ModelNeeds> examine(Runtime& runtime, const ModelFiles& files,
                             const ModelOptions& options) {
  PONDER_ASSIGN_OR_RETURN(const Hints hints, read_hints(options.hints));
  PONDER_ASSIGN_OR_RETURN(Backend* const backend, runtime.backend(options.device));

  ModelNeeds n;
  n.architecture = files.architecture;
  n.parameters = files.weights->parameters();
  n.weight_bytes = files.weights->total_bytes();
  Survey survey(runtime.allocator(), &n);
  WeightStore store;
  const Config config(files.config, "config.json");
  const Outline outline(*files.weights);
  const Loader loader(outline, &survey, {options.precision}, &store, nullptr);
  PONDER_ASSIGN_OR_RETURN(const std::unique_ptr<ModelGraph> graph,
                          make_model(config, loader, {.draft_layer = options.draft_layer}));
  if (options.draft_layer && !graph->has_draft_layer()) return no_draft_layer(files.name);
  for (const Buffer& vector : store.vectors) n.other_bytes += vector.size();
  n.layers = static_cast<uint32_t>(graph->layers());
  if (n.experts > 0) {
    n.experts_chosen =
        std::min(n.experts, static_cast<uint32_t>(config.i("num_experts_per_tok", 1)));
  }
  n.token_bytes = n.attention_bytes + n.feed_forward_bytes + n.other_bytes - survey.table_bytes;
  if (n.experts > 0) n.token_bytes += n.expert_bytes / n.experts * n.experts_chosen;

  const KvShape shape = graph->kv_shape();
  const DType kv_dtype = options.kv_dtype.value_or(backend->default_kv_dtype(options.precision));
  PONDER_ASSIGN_OR_RETURN(const KvLayout layout, backend->kv_layout(shape, kv_dtype));
  const uint64_t per_token = layout.page_bytes * static_cast<uint64_t>(shape.layers) /
                             static_cast<uint64_t>(layout.page_tokens);
  n.trained_context = static_cast<uint32_t>(config.i("max_position_embeddings", 2048));
  PONDER_RETURN_IF_ERROR(config.status());
  Engine::Options plan;
  PONDER_RETURN_IF_ERROR(plan_memory(options, plan_device(options, backend->info()),
                                     n.trained_context, per_token, layout.page_tokens, &plan));
  n.context = plan.context;
  n.kv_bytes = plan.kv_bytes;
  n.kv_bytes_per_1000 = per_token * 1000;
  PONDER_ASSIGN_OR_RETURN(const StepMemory memory, step_memory(*graph, hints.step_tokens));
  n.scratch_bytes = memory.total();
  n.memory_total = backend->info().memory_total;
  n.memory_free = backend->memory_free();
  if (backend->info().kind == DeviceInfo::Kind::kGpu) {
    PONDER_RETURN_IF_ERROR(judge_placement(options, survey, &n));
  } else {
    judge(options.expert_bytes, survey.mixtures, &n);
  }
  return n;
}

}  // namespace ponder::engine
