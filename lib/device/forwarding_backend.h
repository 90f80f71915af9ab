// A backend that does all that another does, through that other: the base of those that look at, or
// change, some of it. Every virtual function of Backend is forwarded, those with a default as well.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "lib/device/backend.h"

namespace ponder {

class ForwardingBackend : public Backend {
 public:
  // `to` outlives this, or belongs to it.
  explicit ForwardingBackend(Backend* to) : to_(to) {}
  explicit ForwardingBackend(std::unique_ptr<Backend> to)
      : owned_(std::move(to)), to_(owned_.get()) {}

  const DeviceInfo& info() const override { return to_->info(); }
  uint64_t memory_free() override { return to_->memory_free(); }
  Allocator* allocator() override { return to_->allocator(); }
  Allocator* page_allocator(int layer) override { return to_->page_allocator(layer); }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    return to_->pack_linear(parts, options);
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
  StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t budget_bytes) override {
    return to_->make_expert_cache(budget_bytes);
  }

  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    return to_->kv_layout(shape, wanted);
  }
  DType default_kv_dtype(Precision precision) const override {
    return to_->default_kv_dtype(precision);
  }
  DType default_latent_dtype(Precision precision) const override {
    return to_->default_latent_dtype(precision);
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
  Status linear(const LinearParams& p) override { return to_->linear(p); }
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
  Status digest_rows(const DigestRowsParams& p) override { return to_->digest_rows(p); }
  bool digests_rows() const override { return to_->digests_rows(); }

 protected:
  Backend* to() const { return to_; }

 private:
  const std::unique_ptr<Backend> owned_;
  Backend* const to_;
};

}  // namespace ponder
