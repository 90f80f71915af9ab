#include "lib/device/placed_backend.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"

namespace ponder {
namespace {

enum class Side { kDevice, kHost };

uint8_t bit(Side side) { return side == Side::kDevice ? 1 : 2; }

// Memory that both sides have a copy of. Everybody names it by the device's address.
class Mirrored final : public Allocator {
 public:
  Mirrored(Allocator* device, Allocator* host) : device_(device), host_(host) {}

  void* allocate(size_t size, size_t align) override {
    void* const ours = device_->allocate(size, align);
    if (ours == nullptr) return nullptr;
    void* const mirror = host_->allocate(size, align);
    if (mirror == nullptr) {
      device_->free(ours, size, align);
      return nullptr;
    }
    pieces_[address(ours)] = {size, static_cast<std::byte*>(mirror)};
    return ours;
  }
  void free(void* ptr, size_t size, size_t align) override {
    const auto it = pieces_.find(address(ptr));
    host_->free(it->second.host, size, align);
    device_->free(ptr, size, align);
    pieces_.erase(it);
  }
  absl::string_view name() const override { return device_->name(); }

  // The processor's copy; `ptr` itself when it is none of ours.
  void* on_host(void* ptr) const {
    auto it = pieces_.upper_bound(address(ptr));
    if (it == pieces_.begin()) return ptr;
    --it;
    const uintptr_t offset = address(ptr) - it->first;
    return offset < it->second.size ? it->second.host + offset : ptr;
  }

 private:
  struct Piece {
    size_t size;
    std::byte* host;
  };
  static uintptr_t address(const void* ptr) { return reinterpret_cast<uintptr_t>(ptr); }

  Allocator* const device_;
  Allocator* const host_;
  std::map<uintptr_t, Piece> pieces_;  // by the device's address
};

// One side's memory for pages, so that a page's side is known by its address.
class Pages final : public Allocator {
 public:
  explicit Pages(Allocator* to) : to_(to) {}
  void* allocate(size_t size, size_t align) override {
    void* const memory = to_->allocate(size, align);
    if (memory != nullptr) pieces_[static_cast<std::byte*>(memory)] = size;
    return memory;
  }
  void free(void* ptr, size_t size, size_t align) override {
    pieces_.erase(static_cast<std::byte*>(ptr));
    to_->free(ptr, size, align);
  }
  absl::string_view name() const override { return to_->name(); }
  bool has(const std::byte* base) const { return pieces_.count(base) != 0; }

 private:
  Allocator* const to_;
  std::map<const std::byte*, size_t> pieces_;
};

class PlacedBackend final : public Backend {
 public:
  PlacedBackend(Backend* device, Backend* host, Placement placement)
      : device_(device),
        host_(host),
        placement_(std::move(placement)),
        memory_(device->allocator(), host->allocator()),
        device_pages_(device->allocator()),
        host_pages_(host->allocator()) {}

  const DeviceInfo& info() const override { return device_->info(); }
  Allocator* allocator() override { return &memory_; }
  Allocator* page_allocator(int layer) override {
    return layer_side(layer) == Side::kHost ? &host_pages_ : &device_pages_;
  }

  // ---- weights ----
  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    const Side side = layer_side(parts.empty() ? -1 : layer_of_tensor(parts[0].name));
    return keep(side, on(side)->pack_linear(parts, options));
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    return keep(Side::kHost, host_->pack_table(table));
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions& options) override {
    const Side side =
        layer_side(layer_of_tensor(up.kv.name.empty() ? up.k_transposed.name : up.kv.name));
    return keep(side, on(side)->pack_mla(up, options));
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions& options) override {
    Side side = Side::kHost;
    if (options.expert_cache == nullptr) {
      PONDER_ASSIGN_OR_RETURN(const ExpertWeights first, source->describe(0));
      const int64_t layer = layer_of_tensor(first.gate.name);
      if (!Placement::in(placement_.experts_on_host, layer)) side = layer_side(layer);
    }
    auto packed = on(side)->pack_experts(std::move(source), options);
    if (packed.ok()) sides_[packed->get()] = side;
    return packed;
  }
  StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t bytes) override {
    return host_->make_expert_cache(bytes);
  }

  // ---- the cache ----
  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    PONDER_ASSIGN_OR_RETURN(KvLayout layout, device_->kv_layout(shape, wanted));
    PONDER_ASSIGN_OR_RETURN(const KvLayout theirs, host_->kv_layout(shape, wanted));
    if (theirs.page_tokens != layout.page_tokens) {
      return unsupported_error("devices ", device_->info().name, " and ", host_->info().name,
                               " keep pages of ", layout.page_tokens, " and ", theirs.page_tokens,
                               " tokens: a model cannot be placed on both");
    }
    layout.page_bytes = std::max(layout.page_bytes, theirs.page_bytes);
    return layout;
  }
  DType default_kv_dtype(Precision precision) const override {
    return device_->default_kv_dtype(precision);
  }
  DType default_latent_dtype(Precision precision) const override {
    return device_->default_latent_dtype(precision);
  }
  Status copy_page(const KvLayer& cache, int32_t from, int32_t to) override {
    return on(side_of(cache))->copy_page(cache, from, to);
  }

  // ---- memory ----
  Status upload(const void* from, void* to, uint64_t bytes) override {
    PONDER_RETURN_IF_ERROR(device_->upload(from, to, bytes));
    return host_->upload(from, memory_.on_host(to), bytes);
  }
  Status upload_between(const void* from, void* to, uint64_t bytes) override {
    PONDER_RETURN_IF_ERROR(device_->upload_between(from, to, bytes));
    return host_->upload_between(from, memory_.on_host(to), bytes);
  }
  Status download(const void* from, void* to, uint64_t bytes) override {
    PONDER_RETURN_IF_ERROR(bring(Side::kHost, const_cast<void*>(from), bytes));
    return host_->download(memory_.on_host(const_cast<void*>(from)), to, bytes);
  }

  // ---- steps ----
  Status begin_step(const Batch& batch) override {
    written_.clear();
    side_ = Side::kDevice;
    PONDER_RETURN_IF_ERROR(host_->begin_step(batch));
    return device_->begin_step(batch);
  }
  Status start_slice(const Batch& batch, int index) override {
    side_ = layer_side(index - 1);
    PONDER_RETURN_IF_ERROR(host_->start_slice(batch, index));
    return device_->start_slice(batch, index);
  }
  Status end_slice() override {
    PONDER_RETURN_IF_ERROR(host_->end_slice());
    return device_->end_slice();
  }

  Status embed(const EmbedParams& params) override {
    EmbedParams p = params;
    const Side side = sides_.at(p.table);
    PONDER_RETURN_IF_ERROR(write(side, &p.out));
    return on(side)->embed(p);
  }
  Status rms_norm(const RmsNormParams& params) override {
    RmsNormParams p = params;
    PONDER_RETURN_IF_ERROR(read(side_, &p.x, &p.weight));
    PONDER_RETURN_IF_ERROR(write(side_, &p.out));
    return on(side_)->rms_norm(p);
  }
  Status linear(const LinearParams& params) override {
    LinearParams p = params;
    const Side side = sides_.at(p.w);
    PONDER_RETURN_IF_ERROR(read(side, &p.x, &p.bias));
    PONDER_RETURN_IF_ERROR(write(side, &p.out));
    return on(side)->linear(p);
  }
  Status rope_table(const RopeTableParams& params) override {
    RopeTableParams p = params;
    PONDER_RETURN_IF_ERROR(write(side_, &p.out));
    return on(side_)->rope_table(p);
  }
  Status rope(const RopeParams& params) override {
    RopeParams p = params;
    Tensor x = p.x;
    PONDER_RETURN_IF_ERROR(read(side_, &x, &p.table));
    PONDER_RETURN_IF_ERROR(write(side_, &p.x));
    return on(side_)->rope(p);
  }
  Status swiglu(const SwigluParams& params) override {
    SwigluParams p = params;
    PONDER_RETURN_IF_ERROR(read(side_, &p.gate_up));
    PONDER_RETURN_IF_ERROR(write(side_, &p.out));
    return on(side_)->swiglu(p);
  }
  Status add(const AddParams& params) override {
    AddParams p = params;
    PONDER_RETURN_IF_ERROR(read(side_, &p.a, &p.b));
    PONDER_RETURN_IF_ERROR(write(side_, &p.out));
    return on(side_)->add(p);
  }
  Status kv_write(const KvWriteParams& params) override {
    KvWriteParams p = params;
    const Side side = side_of(p.cache);
    PONDER_RETURN_IF_ERROR(read(side, &p.k, &p.v));
    return on(side)->kv_write(p);
  }
  Status attention(const AttentionParams& params) override {
    AttentionParams p = params;
    const Side side = side_of(p.cache);
    PONDER_RETURN_IF_ERROR(read(side, &p.q));
    PONDER_RETURN_IF_ERROR(write(side, &p.out));
    return on(side)->attention(p);
  }
  Status gather_rows(const GatherRowsParams& params) override {
    GatherRowsParams p = params;
    PONDER_RETURN_IF_ERROR(read(side_, &p.x));
    PONDER_RETURN_IF_ERROR(write(side_, &p.out));
    return on(side_)->gather_rows(p);
  }
  Status mla_write(const MlaWriteParams& params) override {
    MlaWriteParams p = params;
    const Side side = side_of(p.cache);
    PONDER_RETURN_IF_ERROR(read(side, &p.latent, &p.k_rope));
    return on(side)->mla_write(p);
  }
  Status mla_attention(const MlaAttentionParams& params) override {
    MlaAttentionParams p = params;
    const Side side = side_of(p.cache);
    PONDER_RETURN_IF_ERROR(read(side, &p.q_nope, &p.q_rope));
    PONDER_RETURN_IF_ERROR(write(side, &p.out));
    return on(side)->mla_attention(p);
  }
  Status route(const RouteParams& params) override {
    RouteParams p = params;
    PONDER_RETURN_IF_ERROR(read(side_, &p.logits, &p.bias));
    PONDER_RETURN_IF_ERROR(write(side_, &p.ids));
    PONDER_RETURN_IF_ERROR(write(side_, &p.weights));
    return on(side_)->route(p);
  }
  Status experts(const ExpertsParams& params) override {
    ExpertsParams p = params;
    const Side side = sides_.at(p.experts);
    PONDER_RETURN_IF_ERROR(read(side, &p.x, &p.ids));
    PONDER_RETURN_IF_ERROR(read(side, &p.weights));
    PONDER_RETURN_IF_ERROR(write(side, &p.out));
    return on(side)->experts(p);
  }
  // Where a model's last matrix is, which is the device's, so are its logits.
  Status digest_rows(const DigestRowsParams& params) override {
    DigestRowsParams p = params;
    PONDER_RETURN_IF_ERROR(read(Side::kDevice, &p.logits));
    return device_->digest_rows(p);
  }
  bool digests_rows() const override { return device_->digests_rows(); }

 private:
  // A piece of memory that ops of this step wrote: who has the newest values, as bits.
  struct Written {
    uintptr_t end;
    uint8_t valid;
  };

  Backend* on(Side side) const { return side == Side::kDevice ? device_ : host_; }
  Side layer_side(int64_t layer) const {
    return Placement::in(placement_.layers_on_host, layer) ? Side::kHost : Side::kDevice;
  }
  Side side_of(const KvLayer& cache) const {
    return host_pages_.has(cache.base) ? Side::kHost : Side::kDevice;
  }
  StatusOr<std::unique_ptr<PackedWeight>> keep(Side side,
                                               StatusOr<std::unique_ptr<PackedWeight>> packed) {
    if (packed.ok()) sides_[packed->get()] = side;
    return packed;
  }

  // From its first element to its last, and what lies between.
  static uint64_t reach(const Tensor& t) {
    int64_t last = 0;
    for (int i = 0; i < t.rank; ++i) {
      if (t.dim[i] == 0) return 0;
      last += (t.dim[i] - 1) * t.stride[i];
    }
    return static_cast<uint64_t>(last + 1) * sizeof(float);  // activations and ids: 4 bytes
  }
  static bool has_gaps(const Tensor& t) {
    int64_t elements = 1;
    for (int i = 0; i < t.rank; ++i) elements *= t.dim[i];
    return reach(t) != static_cast<uint64_t>(elements) * sizeof(float);
  }

  void translate(Side side, Tensor* t) const {
    if (side == Side::kHost) t->data = memory_.on_host(t->data);
  }
  Status read(Side side, Tensor* a, Tensor* b = nullptr) {
    for (Tensor* t : {a, b}) {
      if (t == nullptr || t->rank == 0) continue;
      PONDER_RETURN_IF_ERROR(bring(side, t->data, reach(*t)));
      translate(side, t);
    }
    return OkStatus();
  }
  Status write(Side side, Tensor* t) {
    // What lies between its rows is another's, and stays.
    if (has_gaps(*t)) PONDER_RETURN_IF_ERROR(bring(side, t->data, reach(*t)));
    mark(side, reinterpret_cast<uintptr_t>(t->data), reach(*t));
    translate(side, t);
    return OkStatus();
  }

  // Cuts the piece around `at` in two.
  void cut(uintptr_t at) {
    auto it = written_.upper_bound(at);
    if (it == written_.begin()) return;
    --it;
    if (it->first == at || it->second.end <= at) return;
    const Written rest = it->second;
    it->second.end = at;
    written_[at] = rest;
  }
  void mark(Side side, uintptr_t begin, uint64_t bytes) {
    if (bytes == 0) return;
    cut(begin);
    cut(begin + bytes);
    written_.erase(written_.lower_bound(begin), written_.lower_bound(begin + bytes));
    written_[begin] = {begin + bytes, bit(side)};
  }
  // Makes `bytes` from `data` on valid on `side`. What no op of this step wrote is valid on both.
  Status bring(Side side, void* data, uint64_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    cut(begin);
    cut(begin + bytes);
    for (auto it = written_.lower_bound(begin); it != written_.end() && it->first < begin + bytes;
         ++it) {
      if ((it->second.valid & bit(side)) != 0) continue;
      auto* const ours = static_cast<std::byte*>(data) + (it->first - begin);
      void* const mirror = memory_.on_host(ours);
      const uint64_t size = it->second.end - it->first;
      PONDER_RETURN_IF_ERROR(side == Side::kHost ? device_->download(ours, mirror, size)
                                                 : device_->upload_between(mirror, ours, size));
      it->second.valid |= bit(side);
    }
    return OkStatus();
  }

  Backend* const device_;
  Backend* const host_;
  const Placement placement_;
  Mirrored memory_;
  Pages device_pages_, host_pages_;
  absl::flat_hash_map<const void*, Side> sides_;  // of packed weights and experts
  std::map<uintptr_t, Written> written_;          // by its begin; pieces do not overlap
  Side side_ = Side::kDevice;
};

}  // namespace

int64_t layer_of_tensor(absl::string_view name) {
  constexpr absl::string_view kMark = "layers.";
  const size_t at = name.find(kMark);
  if (at == absl::string_view::npos) return -1;
  name.remove_prefix(at + kMark.size());
  int64_t layer = -1;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) ? layer : -1;
}

std::unique_ptr<Backend> make_placed_backend(Backend* device, Backend* host, Placement placement) {
  return std::make_unique<PlacedBackend>(device, host, std::move(placement));
}

}  // namespace ponder
