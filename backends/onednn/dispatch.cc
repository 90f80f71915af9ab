#include "backends/onednn/dispatch.h"

namespace ponder::cpu {

const Kernels* kernels_for(Isa cap) {
  const Kernels* kernels = nullptr;
  if (cap >= Isa::kAvx512Bf16) kernels = kernels_avx512bf16();
  if (kernels == nullptr && cap >= Isa::kAvx512) kernels = kernels_avx512();
  if (kernels == nullptr && cap >= Isa::kAvx2) kernels = kernels_avx2();
  return kernels != nullptr ? kernels : kernels_portable();
}

const QuantKernels* quant_kernels_for(Isa cap, absl::FunctionRef<bool(ByteIsa)> has) {
  const struct {
    ByteIsa needs;
    Isa least;
    const QuantKernels* (*get)();
  } tables[] = {{ByteIsa::kAvx512Vnni, Isa::kAvx512, quant_kernels_avx512vnni},
                {ByteIsa::kAvxVnni, Isa::kAvx2, quant_kernels_avxvnni},
                {ByteIsa::kAvx2, Isa::kAvx2, quant_kernels_avx2}};
  for (const auto& table : tables) {
    if (cap >= table.least && has(table.needs) && table.get() != nullptr) return table.get();
  }
  return quant_kernels_portable();
}

}  // namespace ponder::cpu
