#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "absl/strings/ascii.h"
#include "backends/onednn/attention.h"
#include "backends/onednn/dispatch.h"
#include "backends/onednn/experts.h"
#include "backends/onednn/isa.h"
#include "backends/onednn/kernels.h"
#include "backends/onednn/large_pages.h"
#include "backends/onednn/linear.h"
#include "backends/onednn/mla.h"
#include "backends/onednn/onednn.h"
#include "backends/onednn/route.h"
#include "backends/onednn/workers.h"
#include "backends/ref/host_memory.h"

namespace ponder {
namespace {

using cpu::Isa;
using cpu::Kernels;

std::string cpu_name() {
#if defined(__x86_64__)
  unsigned words[12] = {};
  unsigned top = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0x80000000u, &top, &b, &c, &d) != 0 && top >= 0x80000004u) {
    for (unsigned i = 0; i < 3; ++i) {
      __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                  &words[4 * i + 3]);
    }
    char text[sizeof(words) + 1] = {};
    std::memcpy(text, words, sizeof(words));
    const absl::string_view name = absl::StripAsciiWhitespace(text);
    if (!name.empty()) return std::string(name);
  }
#endif
  return "CPU";
}

DeviceInfo describe(const BackendContext& context, Isa isa) {
  DeviceInfo info;
  info.kind = DeviceInfo::Kind::kCpu;
  info.backend = "onednn";
  const uint32_t threads = context.pool->concurrency();
  info.name = absl::StrCat(cpu_name(), ", ", threads, threads == 1 ? " thread, " : " threads, ",
                           cpu::isa_name(isa));
  const HostMemory memory = host_memory();
  info.memory_total = memory.total;
  info.memory_free = memory.free;
  return info;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const BackendContext& context, Isa isa, std::unique_ptr<cpu::Brgemm> brgemm)
      : allocator_(context.allocator),
        info_(describe(context, isa)),
        kernels_(cpu::kernels_for(isa)),
        workers_(context.pool),
        linear_(kernels_, cpu::quant_kernels_for(isa), std::move(brgemm), &allocator_,
                context.pool),
        attention_(kernels_, &allocator_, context.pool),
        mla_(kernels_, &allocator_, context.pool),
        experts_(kernels_, &linear_, &allocator_, context.pool) {}

  const DeviceInfo& info() const override { return info_; }
  Allocator* allocator() override { return &allocator_; }

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    return linear_.pack(parts, options);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) override {
    return linear_.pack_table(table);
  }
  StatusOr<std::unique_ptr<PackedWeight>> pack_mla(const MlaUpWeights& up,
                                                   const PackOptions& options) override {
    return mla_.pack(up, options);
  }
  StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                        const PackOptions& options) override {
    return experts_.pack(std::move(source), options);
  }
  StatusOr<std::unique_ptr<ExpertCache>> make_expert_cache(uint64_t budget_bytes) override {
    return std::make_unique<cpu::LruExpertCache>(budget_bytes);
  }

  StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) const override {
    return shape.v_dim == 0 ? cpu::latent_layout(shape, wanted) : cpu::kv_layout(shape, wanted);
  }
  // f16 has half the memory and traffic of f32, and an eighth of bf16's rounding; without
  // instructions for it it is slow.
  DType default_kv_dtype(Precision precision) const override {
    const bool slow = kernels_ == cpu::kernels_portable();
    return precision == Precision::kF32 || slow ? DType::kF32 : DType::kF16;
  }

  // Latents are multiplied by all heads' queries, so arithmetic in bf16 pays more than f16's finer
  // rounding; the models' own implementations keep them in bf16 too.
  DType default_latent_dtype(Precision precision) const override {
    const bool dots = precision != Precision::kF32 && kernels_->gemm_bf16 != nullptr;
    return dots ? DType::kBF16 : default_kv_dtype(precision);
  }

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

  Status embed(const EmbedParams& p) override {
    const auto& table = *static_cast<const cpu::TableWeight*>(p.table);
    each_row(static_cast<int64_t>(p.tokens.size()), 0.2, table.cols, [&](int64_t t) {
      linear_.read_row(table, p.tokens[static_cast<size_t>(t)], row(p.out, t));
    });
    return OkStatus();
  }

  Status rms_norm(const RmsNormParams& p) override {
    const int64_t heads = p.x.rank == 3 ? p.x.dim[1] : 1;
    const int64_t width = p.x.dim[p.x.rank - 1];
    each_row(p.x.dim[0], 0.15, heads * width, [&](int64_t t) {
      for (int64_t h = 0; h < heads; ++h) {
        kernels_->rms_norm(row(p.x, t) + (p.x.rank == 3 ? h * p.x.stride[1] : 0), p.weight.f32(),
                           p.eps, width,
                           row(p.out, t) + (p.out.rank == 3 ? h * p.out.stride[1] : 0));
      }
    });
    return OkStatus();
  }

  Status linear(const LinearParams& p) override { return linear_.run(p); }

  Status rope_table(const RopeTableParams& p) override {
    const auto half = static_cast<int64_t>(p.inv_freq.size());
    each_row(static_cast<int64_t>(p.positions.size()), 25.0, half, [&](int64_t t) {
      float* cosines = row(p.out, t);
      for (int64_t i = 0; i < half; ++i) {
        // The product is rounded to float32 first, as the reference implementations do; its cosine
        // is taken in double, whose argument reduction is right for any position.
        const double angle = static_cast<float>(p.positions[static_cast<size_t>(t)]) *
                             p.inv_freq[static_cast<size_t>(i)];
        cosines[i] = static_cast<float>(std::cos(angle)) * p.magnitude;
        cosines[half + i] = static_cast<float>(std::sin(angle)) * p.magnitude;
      }
    });
    return OkStatus();
  }

  Status rope(const RopeParams& p) override {
    const int64_t half = p.table.dim[1] / 2;
    each_row(p.x.dim[0], 0.3, p.x.dim[1] * half, [&](int64_t t) {
      const float* cosines = row(p.table, t);
      for (int64_t h = 0; h < p.x.dim[1]; ++h) {
        kernels_->rope(row(p.x, t) + h * p.x.stride[1], cosines, cosines + half, half,
                       p.interleaved);
      }
    });
    return OkStatus();
  }

  Status swiglu(const SwigluParams& p) override {
    const int64_t width = p.out.dim[1];
    each_row(p.out.dim[0], 0.4, width, [&](int64_t t) {
      kernels_->swiglu(row(p.gate_up, t), row(p.gate_up, t) + width, width, row(p.out, t));
    });
    return OkStatus();
  }

  Status add(const AddParams& p) override {
    each_row(p.out.dim[0], 0.1, p.out.dim[1], [&](int64_t t) {
      kernels_->add(row(p.a, t), row(p.b, t), p.out.dim[1], row(p.out, t));
    });
    return OkStatus();
  }

  Status kv_write(const KvWriteParams& p) override { return attention_.write(p), OkStatus(); }
  Status attention(const AttentionParams& p) override { return attention_.run(p); }
  Status mla_write(const MlaWriteParams& p) override { return mla_.write(p), OkStatus(); }
  Status mla_attention(const MlaAttentionParams& p) override { return mla_.run(p); }
  Status route(const RouteParams& p) override { return cpu::route(p, workers_); }
  Status experts(const ExpertsParams& p) override { return experts_.run(p); }

  Status gather_rows(const GatherRowsParams& p) override {
    for (size_t r = 0; r < p.rows.size(); ++r) {
      std::memcpy(row(p.out, static_cast<int64_t>(r)), row(p.x, p.rows[r]),
                  sizeof(float) * static_cast<size_t>(p.x.dim[1]));
    }
    return OkStatus();
  }

 private:
  static float* row(const Tensor& t, int64_t i) { return t.f32() + i * t.stride[0]; }

  // fn(row) for all rows; `work` is about how many nanoseconds one of a row's `width` elements
  // takes.
  template <typename Fn>
  void each_row(int64_t rows, double work, int64_t width, const Fn& fn) const {
    workers_.ranges(rows, work * static_cast<double>(width), [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) fn(t);
    });
  }

  cpu::LargePageAllocator allocator_;
  const DeviceInfo info_;
  const Kernels* const kernels_;
  const cpu::Workers workers_;
  cpu::Linear linear_;
  cpu::Attention attention_;
  cpu::Mla mla_;
  cpu::Experts experts_;
};

class OnednnFactory final : public BackendFactory {
 public:
  std::vector<DeviceInfo> devices(const BackendContext& context) const override {
    return {describe(context, cpu::detect_isa())};
  }
  StatusOr<std::unique_ptr<Backend>> create(uint32_t index,
                                            const BackendContext& context) const override {
    if (index != 0) {
      return internal_error("backend onednn has one device; number ", index, " was asked for");
    }
    return make_onednn_backend(context);
  }
};

}  // namespace

StatusOr<std::unique_ptr<Backend>> make_onednn_backend(const BackendContext& context, Isa cap,
                                                       bool use_onednn) {
  const Isa isa = std::min(cap, cpu::detect_isa());
  return std::make_unique<CpuBackend>(context, isa,
                                      use_onednn ? cpu::Brgemm::create(isa, context.log) : nullptr);
}

const BackendFactory* onednn_factory() {
  static const OnednnFactory factory;  // no state, nothing to destroy
  return &factory;
}

}  // namespace ponder
