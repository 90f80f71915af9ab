#include "backends/onednn/dispatch.h"

namespace ponder::cpu {
namespace {

// Packing is bound by memory: AVX2's serves.
Kernels join_avx512() {
  Kernels k = *own_kernels_avx512();
  for (int s = 0; s < kStorages; ++s) k.pack_panel[s] = kernels_avx2()->pack_panel[s];
  k.pack_f8 = kernels_avx2()->pack_f8;
  return k;
}

bool has_vbmi() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vbmi");
#else
  return false;
#endif
}

Kernels join_avx512bf16() {
  const Kernels& own = *own_kernels_avx512bf16(has_vbmi());
  Kernels k = *kernels_avx512();
  k.gemm_bf16 = own.gemm_bf16;
  k.bf16_rows = 512;
  k.bf16_panels = 1;
  k.f8_to_bf16 = own.f8_to_bf16;
  k.f8_row_bf16 = own.f8_row_bf16;
  k.round_bf16 = own.round_bf16;
  k.latent_values_bf16 = own.latent_values_bf16;
  return k;
}

Kernels join_amx() {
  Kernels k = *kernels_avx512bf16();
  k.gemm_bf16 = gemm_bf16_amx();
  if (has_vbmi()) k.f8_row_bf16 = f8_row_bf16_amx();
  // Tiles want more from the caches than what all cores share can give.
  k.bf16_rows = 256;
  k.bf16_panels = 2;
  return k;
}

QuantKernels join_quant_amx() {
  QuantKernels k = *quant_kernels_avx512vnni();
  k.gemm = quant_gemm_amx();
  return k;
}

}  // namespace

const Kernels* kernels_avx512() {
  if (own_kernels_avx512() == nullptr) return nullptr;
  static const Kernels kernels = join_avx512();
  return &kernels;
}

const Kernels* kernels_avx512bf16() {
  if (own_kernels_avx512bf16(false) == nullptr || kernels_avx512() == nullptr) return nullptr;
  static const Kernels kernels = join_avx512bf16();
  return &kernels;
}

const Kernels* kernels_amx() {
  if (gemm_bf16_amx() == nullptr || kernels_avx512bf16() == nullptr) return nullptr;
  static const Kernels kernels = join_amx();
  return &kernels;
}

const QuantKernels* quant_kernels_amx() {
  if (quant_gemm_amx() == nullptr || quant_kernels_avx512vnni() == nullptr) return nullptr;
  static const QuantKernels kernels = join_quant_amx();
  return &kernels;
}

const Kernels* kernels_for(Isa cap) {
  const Kernels* kernels = nullptr;
  if (cap >= Isa::kAmx) kernels = kernels_amx();
  if (kernels == nullptr && cap >= Isa::kAvx512Bf16) kernels = kernels_avx512bf16();
  if (kernels == nullptr && cap >= Isa::kAvx512) kernels = kernels_avx512();
  if (kernels == nullptr && cap >= Isa::kAvx2) kernels = kernels_avx2();
  return kernels != nullptr ? kernels : kernels_portable();
}

const QuantKernels* quant_kernels_for(Isa cap, absl::FunctionRef<bool(ByteIsa)> has) {
  const struct {
    ByteIsa needs;
    Isa least;
    const QuantKernels* (*get)();
  } tables[] = {{ByteIsa::kAmx, Isa::kAmx, quant_kernels_amx},
                {ByteIsa::kAvx512Vnni, Isa::kAvx512, quant_kernels_avx512vnni},
                {ByteIsa::kAvxVnni, Isa::kAvx2, quant_kernels_avxvnni},
                {ByteIsa::kAvx2, Isa::kAvx2, quant_kernels_avx2}};
  for (const auto& table : tables) {
    if (cap >= table.least && has(table.needs) && table.get() != nullptr) return table.get();
  }
  return quant_kernels_portable();
}

}  // namespace ponder::cpu
