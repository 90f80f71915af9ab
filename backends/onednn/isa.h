// Which instruction set the CPU backend's own kernels use on this machine.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace ponder::cpu {

// Ascending: a machine that runs one level runs all below it.
enum class Isa : uint8_t {
  kPortable,    // whatever the compiler's baseline is; any architecture
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // and AVX512_BF16
  kAmx,         // and AMX's tiles, of bf16 and of bytes
};

inline constexpr Isa kHighestIsa = Isa::kAmx;

// The best level that the processor has and the operating system lets us use. Linux is asked for the
// registers of AMX, which a process has to do before its first use (docs/decisions/0011).
Isa detect_isa();

absl::string_view isa_name(Isa isa);

// How bytes are multiplied (quant.h); AVX-VNNI comes with or without AVX-512. Ascending preference.
enum class ByteIsa : uint8_t {
  kPortable,
  kAvx2,        // vpmaddubsw
  kAvxVnni,     // 256-bit vpdpbusd
  kAvx512Vnni,  // 512-bit vpdpbusd
  kAmx,         // the same, and tiles for several rows
};
bool has_byte_isa(ByteIsa isa);
absl::string_view byte_isa_name(ByteIsa isa);

}  // namespace ponder::cpu
