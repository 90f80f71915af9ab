#include <algorithm>
#include <atomic>

#include "backends/ref/ops.h"

namespace ponder::ref {
namespace {

// An expert whose tensors are known to be good.
struct Expert {
  std::unique_ptr<PackedWeight> gate_up, down;
};

// Holds nothing: an expert's mapped bytes are looked at when it is chosen, and let go.
struct RefExpertCache final : ExpertCache {
  uint64_t budget = 0;
  std::atomic<uint64_t> misses{0}, bytes_read{0};
  ExpertCacheStats stats() const override { return {budget, 0, 0, misses, bytes_read}; }
};

struct RefExperts final : PackedExperts {
  std::vector<Expert> all;               // where all stay
  std::unique_ptr<ExpertSource> source;  // where none does
  RefExpertCache* cache = nullptr;
};

uint64_t stored_bytes(const WeightData& weight) {
  return static_cast<uint64_t>(dtype_bytes(weight.dtype, weight.elements()));
}

StatusOr<Expert> check(const ExpertWeights& weights, ThreadPool* pool) {
  Expert expert;
  const WeightData parts[] = {weights.gate, weights.up};
  PONDER_ASSIGN_OR_RETURN(expert.gate_up, pack(parts, pool));
  PONDER_ASSIGN_OR_RETURN(expert.down, pack({&weights.down, 1}, pool));
  if (weights.gate.shape != weights.up.shape || expert.down->cols != weights.up.shape[0] ||
      expert.down->rows != weights.up.shape[1]) {
    return corrupt_error("the matrices ", weights.gate.describe(), ", ", weights.up.describe(),
                         " and ", weights.down.describe(), " of an expert do not fit together");
  }
  return expert;
}

}  // namespace

std::unique_ptr<ExpertCache> make_expert_cache(uint64_t budget_bytes) {
  auto cache = std::make_unique<RefExpertCache>();
  cache->budget = budget_bytes;
  return cache;
}

StatusOr<std::unique_ptr<PackedExperts>> pack_experts(std::unique_ptr<ExpertSource> source,
                                                      const PackOptions& options,
                                                      ThreadPool* pool) {
  auto packed = std::make_unique<RefExperts>();
  packed->experts = source->experts();
  packed->hidden = source->hidden();
  packed->width = source->width();
  if (options.expert_cache != nullptr) {
    packed->source = std::move(source);
    packed->cache = static_cast<RefExpertCache*>(options.expert_cache);
    return packed;
  }
  for (int64_t e = 0; e < packed->experts; ++e) {
    PONDER_ASSIGN_OR_RETURN(const ExpertWeights weights, source->find(e));
    PONDER_ASSIGN_OR_RETURN(Expert expert, check(weights, pool));
    packed->all.push_back(std::move(expert));
  }
  return packed;
}

Status experts(const ExpertsParams& p, Allocator* allocator, ThreadPool* pool) {
  auto& packed = *static_cast<RefExperts*>(p.experts);
  const int64_t rows = p.x.dim[0], hidden = p.x.dim[1], width = packed.width;
  const auto size = [](int64_t a, int64_t b) { return sizeof(float) * static_cast<size_t>(a * b); };
  PONDER_ASSIGN_OR_RETURN(Buffer gathered,
                          Buffer::create(allocator, size(rows, hidden), "rows of an expert"));
  PONDER_ASSIGN_OR_RETURN(Buffer wide,
                          Buffer::create(allocator, size(rows, 3 * width), "rows of an expert"));
  PONDER_ASSIGN_OR_RETURN(Buffer sums,
                          Buffer::create(allocator, 2 * size(rows, hidden), "sums of experts"));
  std::fill_n(sums.as<double>(), rows * hidden, 0.0);
  for (int64_t e = 0; e < packed.experts; ++e) {
    std::vector<std::pair<int64_t, double>> chosen;  // row, weight
    for (int64_t t = 0; t < rows; ++t) {
      const int32_t* ids = static_cast<const int32_t*>(p.ids.data) + t * p.ids.stride[0];
      for (int64_t k = 0; k < p.ids.dim[1]; ++k) {
        if (ids[k] == e) chosen.emplace_back(t, p.weights.f32()[t * p.weights.stride[0] + k]);
      }
    }
    if (chosen.empty()) continue;
    Expert on_demand;
    ExpertWeights weights;
    if (packed.source != nullptr) {
      PONDER_ASSIGN_OR_RETURN(weights, packed.source->find(e));
      PONDER_ASSIGN_OR_RETURN(on_demand, check(weights, pool));
      packed.cache->misses += 1;
      packed.cache->bytes_read +=
          stored_bytes(weights.gate) + stored_bytes(weights.up) + stored_bytes(weights.down);
    }
    const Expert& expert =
        packed.source != nullptr ? on_demand : packed.all[static_cast<size_t>(e)];
    const auto count = static_cast<int64_t>(chosen.size());
    const Tensor x = Tensor::make(gathered.data(), DType::kF32, {count, hidden});
    const Tensor gate_up = Tensor::make(wide.data(), DType::kF32, {count, 2 * width});
    const Tensor inner =
        Tensor::make(wide.as<float>() + count * 2 * width, DType::kF32, {count, width});
    for (int64_t i = 0; i < count; ++i) {
      const float* from = p.x.f32() + chosen[static_cast<size_t>(i)].first * p.x.stride[0];
      std::copy(from, from + hidden, x.f32() + i * hidden);
    }
    PONDER_RETURN_IF_ERROR(linear({x, expert.gate_up.get(), {}, gate_up}, allocator, pool));
    swiglu({gate_up, inner});
    PONDER_RETURN_IF_ERROR(linear({inner, expert.down.get(), {}, x}, allocator, pool));
    for (int64_t i = 0; i < count; ++i) {
      const auto& [row, weight] = chosen[static_cast<size_t>(i)];
      for (int64_t d = 0; d < hidden; ++d) {
        sums.as<double>()[row * hidden + d] += weight * x.f32()[i * hidden + d];
      }
    }
    if (packed.source != nullptr) packed.source->drop(weights);
  }
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t d = 0; d < hidden; ++d) {
      p.out.f32()[t * p.out.stride[0] + d] = static_cast<float>(sums.as<double>()[t * hidden + d]);
    }
  }
  return OkStatus();
}

}  // namespace ponder::ref
