#include <cstring>

#include "backends/ref/host_memory.h"
#include "backends/ref/ops.h"
#include "backends/ref/ref.h"

namespace ponder {
namespace {

DeviceInfo describe(const BackendContext& context) {
  DeviceInfo info;
  info.kind = DeviceInfo::Kind::kCpu;
  info.backend = "ref";
  info.name = absl::StrCat("CPU, reference kernels, ", context.pool->concurrency(), " threads");
  const HostMemory memory = host_memory();
  info.memory_total = memory.total;
  info.memory_free = memory.free;
  return info;
}

class RefBackend final : public Backend {
 public:
  explicit RefBackend(const BackendContext& context)
      : context_(context), info_(describe(context)) {}

  const DeviceInfo& info() const override { return info_; }
  Allocator* allocator() override { return context_.allocator; }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions&) override {
    return ref::pack(parts, context_.pool);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    return ref::pack({&table, 1}, context_.pool);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions&) override {
    return ref::pack_mla(up, context_.pool);
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions& options) override {
    return ref::pack_experts(std::move(source), options, context_.pool);
  }
  StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t budget_bytes) override {
    return ref::make_expert_cache(budget_bytes);
  }
  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    return ref::kv_layout(shape, wanted);
  }
  DType default_kv_dtype(Precision) const override { return DType::kF32; }

  Status upload(const void* host, void* device, uint64_t bytes) override {
    std::memcpy(device, host, bytes);
    return OkStatus();
  }
  Status download(const void* device, void* host, uint64_t bytes) override {
    std::memcpy(host, device, bytes);
    return OkStatus();
  }
  Status copy_page(const KvLayer& cache, int32_t from, int32_t to) override {
    const uint64_t bytes = cache.layout.page_bytes;
    std::memcpy(cache.base + static_cast<uint64_t>(to) * bytes,
                cache.base + static_cast<uint64_t>(from) * bytes, bytes);
    return OkStatus();
  }

  Status begin_step(const Batch&) override { return OkStatus(); }

  Status embed(const EmbedParams& p) override { return ref::embed(p), OkStatus(); }
  Status rms_norm(const RmsNormParams& p) override { return ref::rms_norm(p), OkStatus(); }
  Status linear(const LinearParams& p) override {
    return ref::linear(p, context_.allocator, context_.pool);
  }
  Status rope_table(const RopeTableParams& p) override { return ref::rope_table(p), OkStatus(); }
  Status rope(const RopeParams& p) override { return ref::rope(p), OkStatus(); }
  Status swiglu(const SwigluParams& p) override { return ref::swiglu(p), OkStatus(); }
  Status add(const AddParams& p) override { return ref::add(p), OkStatus(); }
  Status kv_write(const KvWriteParams& p) override { return ref::kv_write(p), OkStatus(); }
  Status attention(const AttentionParams& p) override {
    return ref::attention(p, context_.allocator, context_.pool);
  }
  Status gather_rows(const GatherRowsParams& p) override { return ref::gather_rows(p), OkStatus(); }
  Status mla_write(const MlaWriteParams& p) override { return ref::mla_write(p), OkStatus(); }
  Status mla_attention(const MlaAttentionParams& p) override {
    return ref::mla_attention(p, context_.allocator, context_.pool);
  }
  Status route(const RouteParams& p) override { return ref::route(p); }
  Status experts(const ExpertsParams& p) override {
    return ref::experts(p, context_.allocator, context_.pool);
  }
  Status digest_rows(const DigestRowsParams& p) override { return ref::digest_rows(p), OkStatus(); }

 private:
  const BackendContext context_;
  const DeviceInfo info_;
};

class RefFactory final : public BackendFactory {
 public:
  std::vector<DeviceInfo> devices(const BackendContext& context) const override {
    return {describe(context)};
  }
  StatusOr<std::unique_ptr<Backend>> create(uint32_t index,
                                            const BackendContext& context) const override {
    if (index != 0) {
      return internal_error("backend ref has one device; number ", index, " was asked for");
    }
    return make_ref_backend(context);
  }
};

}  // namespace

std::unique_ptr<Backend> make_ref_backend(const BackendContext& context) {
  return std::make_unique<RefBackend>(context);
}

const BackendFactory* ref_factory() {
  static const RefFactory factory;  // no state, nothing to destroy
  return &factory;
}

}  // namespace ponder
