#include "lib/engine/observing_backend.h"

#include <utility>

namespace ponder::engine {
namespace {

class ObservingBackend final : public Backend {
 public:
  ObservingBackend(Backend* to, LinearObserver* observer) : to_(to), observer_(observer) {}

  const DeviceInfo& info() const override { return to_->info(); }
  Allocator* allocator() override { return to_->allocator(); }
  Allocator* page_allocator(int layer) override { return to_->page_allocator(layer); }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    PONDER_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> packed, to_->pack_linear(parts, options));
    std::vector<std::string>& names = names_[packed.get()];
    for (const WeightData& part : parts) names.push_back(part.name);
    return packed;
  }
  Status linear(const LinearParams& p) override {
    const auto it = names_.find(p.w);
    if (it != names_.end() && p.x.dim[0] > 0) {
      const int64_t rows = p.x.dim[0], cols = p.x.dim[1];
      rows_.resize(static_cast<size_t>(rows * cols));
      for (int64_t r = 0; r < rows; ++r) {
        PONDER_RETURN_IF_ERROR(to_->download(p.x.f32() + r * p.x.stride[0], rows_.data() + r * cols,
                                             static_cast<uint64_t>(cols) * sizeof(float)));
      }
      observer_->observe(it->second, rows_.data(), rows, cols);
    }
    return to_->linear(p);
  }

  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    return to_->pack_table(table);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions& options) override {
    return to_->pack_mla(up, options);
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions& options) override {
    return to_->pack_experts(std::move(source), options);
  }
  StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t bytes) override {
    return to_->make_expert_cache(bytes);
  }
  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    return to_->kv_layout(shape, wanted);
  }
  DType default_kv_dtype(Precision precision) const override {
    return to_->default_kv_dtype(precision);
  }
  Status upload(const void* host, void* device, uint64_t bytes) override {
    return to_->upload(host, device, bytes);
  }
  Status download(const void* device, void* host, uint64_t bytes) override {
    return to_->download(device, host, bytes);
  }
  Status upload_between(const void* host, void* device, uint64_t bytes) override {
    return to_->upload_between(host, device, bytes);
  }
  Status copy_page(const KvLayer& cache, int32_t from, int32_t to) override {
    return to_->copy_page(cache, from, to);
  }
  Status begin_step(const Batch& batch) override { return to_->begin_step(batch); }
  Status start_slice(const Batch& batch, int index) override {
    return to_->start_slice(batch, index);
  }
  Status end_slice() override { return to_->end_slice(); }
  Status embed(const EmbedParams& p) override { return to_->embed(p); }
  Status rms_norm(const RmsNormParams& p) override { return to_->rms_norm(p); }
  Status rope_table(const RopeTableParams& p) override { return to_->rope_table(p); }
  Status rope(const RopeParams& p) override { return to_->rope(p); }
  Status swiglu(const SwigluParams& p) override { return to_->swiglu(p); }
  Status add(const AddParams& p) override { return to_->add(p); }
  Status kv_write(const KvWriteParams& p) override { return to_->kv_write(p); }
  Status attention(const AttentionParams& p) override { return to_->attention(p); }
  Status gather_rows(const GatherRowsParams& p) override { return to_->gather_rows(p); }
  Status mla_write(const MlaWriteParams& p) override { return to_->mla_write(p); }
  Status mla_attention(const MlaAttentionParams& p) override { return to_->mla_attention(p); }
  Status route(const RouteParams& p) override { return to_->route(p); }
  Status experts(const ExpertsParams& p) override { return to_->experts(p); }

 private:
  Backend* const to_;
  LinearObserver* const observer_;
  std::map<const PackedWeight*, std::vector<std::string>> names_;
  std::vector<float> rows_;
};

}  // namespace

std::unique_ptr<Backend> make_observing_backend(Backend* to, LinearObserver* observer) {
  return std::make_unique<ObservingBackend>(to, observer);
}

}  // namespace ponder::engine
