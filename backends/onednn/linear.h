// Matrix products of the CPU backend: packing weights into panels, and activations times panels.
#pragma once

#include <memory>
#include <span>

#include "backends/onednn/brgemm.h"
#include "backends/onednn/kernels.h"
#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// A [N, K] weight as kernels.h describes it. Immutable.
struct PanelWeight final : PackedWeight {
  Storage storage = kStoreF32;
  bool bf16_inputs = false;  // activations are rounded to bf16
  int64_t depth = 0;         // K as stored: even
  int64_t panels = 0;
  Buffer data;

  int64_t panel_bytes() const { return depth * kPanel * storage_bytes(storage); }
  const std::byte* panel(int64_t i) const { return data.as<const std::byte>() + i * panel_bytes(); }
};

// An embedding table: the checkpoint's own bytes.
struct TableWeight final : PackedWeight {
  Storage storage = kStoreF32;
  WeightData table;
};

class Linear {
 public:
  // `brgemm` may be null: then all products run on our own kernels, with the same results.
  Linear(const Kernels* kernels, std::unique_ptr<Brgemm> brgemm, Allocator* allocator,
         ThreadPool* pool);

  // May run beside everything else.
  StatusOr<std::unique_ptr<PackedWeight>> pack(std::span<const WeightData> parts,
                                               const PackOptions& options) const;
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) const;

  // One at a time.
  Status run(const LinearParams& p);

 private:
  Status run_bf16(const LinearParams& p, const PanelWeight& w);
  Status run_f32(const LinearParams& p, const PanelWeight& w);
  const Brgemm::Kernel* find_brgemm(int64_t rows, int64_t k, int64_t lda, int64_t ldc,
                                    bool accumulate);
  // One block of one panel for g.m rows: full tiles by `brgemm` (or null), the rest by our own.
  void multiply_bf16(const GemmArgs& g, const Brgemm::Kernel* brgemm) const;

  const Kernels* const kernels_;
  const std::unique_ptr<Brgemm> brgemm_;
  Allocator* const allocator_;
  const Workers workers_;
  Scratch rounded_;   // activations as bf16
  Scratch unpacked_;  // one panel block as floats per lane
};

}  // namespace ponder::cpu
