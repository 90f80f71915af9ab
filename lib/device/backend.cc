#include "lib/device/backend.h"

namespace ponder {
namespace {

Status without(const Backend& backend, absl::string_view what) {
  return unsupported_error("device ", backend.info().name, " (", backend.info().backend,
                           ") cannot compute ", what, "; choose another device for this model");
}

constexpr absl::string_view kMla = "multi-head latent attention";
constexpr absl::string_view kExperts = "mixtures of experts";

}  // namespace

StatusOr<std::unique_ptr<PackedWeight>> Backend::pack_mla(const MlaUpWeights&, const PackOptions&) {
  return without(*this, kMla);
}
StatusOr<std::unique_ptr<PackedExperts>> Backend::pack_experts(std::unique_ptr<ExpertSource>,
                                                               const PackOptions&) {
  return without(*this, kExperts);
}
StatusOr<std::unique_ptr<ExpertCache>> Backend::make_expert_cache(uint64_t) {
  return without(*this, kExperts);
}
uint64_t Backend::memory_free() { return info().memory_free; }
Allocator* Backend::page_allocator(int) { return allocator(); }
Status Backend::upload_between(const void* host, void* device, uint64_t bytes) {
  return upload(host, device, bytes);
}
Status Backend::start_slice(const Batch&, int) { return OkStatus(); }
Status Backend::end_slice() { return OkStatus(); }
Status Backend::mla_write(const MlaWriteParams&) { return without(*this, kMla); }
Status Backend::mla_attention(const MlaAttentionParams&) { return without(*this, kMla); }
Status Backend::route(const RouteParams&) { return without(*this, kExperts); }
Status Backend::experts(const ExpertsParams&) { return without(*this, kExperts); }
Status Backend::digest_rows(const DigestRowsParams&) { return without(*this, "digests of logits"); }

}  // namespace ponder
