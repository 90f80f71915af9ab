// Mixtures of experts of the CPU backend: packing, and the products of each row with its experts.
//
// The rows of a step are gathered by expert, so that a step reads each chosen expert once and no
// other one. Two loops over the threads, of all experts' products at once: gate and up, then down;
// what comes out is added up row by row, in ascending order of experts. An expert's product with a
// row does not depend on other rows (linear.h), nor does the order of that sum.
//
// With a cache (expert_cache.h) experts are packed when they are wanted, in rounds that fit into
// it: docs/decisions/0050-expert-streaming.md.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/onednn/expert_cache.h"
#include "backends/onednn/kernels.h"
#include "backends/onednn/linear.h"
#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// One layer's.
struct CpuExperts final : PackedExperts {
  ~CpuExperts() override;

  std::vector<ExpertEntry> entries;
  PackOptions options;
  // Where experts come from that do not stay; null when all do.
  std::unique_ptr<ExpertSource> source;
  LruExpertCache* cache = nullptr;  // likewise
};

class Experts {
 public:
  // `linear` outlives this.
  Experts(const Kernels* kernels, Linear* linear, Allocator* allocator, ThreadPool* pool);

  // May run beside everything else.
  StatusOr<std::unique_ptr<PackedExperts>> pack(std::unique_ptr<ExpertSource> source,
                                                const PackOptions& options) const;
  // One at a time, and not while linear's products run.
  Status run(const ExpertsParams& p);

 private:
  // An expert that the step chose, and its rows among those gathered.
  struct Chosen {
    int32_t expert;
    int64_t first;
    int64_t rows;
  };

  Status gather(const ExpertsParams& p, const CpuExperts& experts);
  Status read_missing(CpuExperts* experts, std::span<const Chosen> round, size_t* announced);
  Status compute(const ExpertsParams& p, const CpuExperts& experts, std::span<const Chosen> round);

  const Kernels* const kernels_;
  Linear* const linear_;
  const Workers workers_;
  Scratch room_;  // of a round: gate and up, down
  // Kept for their memory.
  std::vector<int64_t> places_;  // [X + 1], then [T, k]: where a row's product with an expert lies
  std::vector<int32_t> rows_;    // [T * k] rows of the batch, by expert
  std::vector<Chosen> chosen_;
  std::vector<LinearProduct> products_;
};

}  // namespace ponder::cpu
