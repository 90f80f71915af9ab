#include "backends/onednn/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ponder::cpu {

Isa detect_isa() {
#if defined(__x86_64__)
  // The builtins also ask XGETBV whether the system saves the wide registers.
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c")) {
    return Isa::kPortable;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
#else
  return Isa::kPortable;
#endif
}

absl::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

bool has_byte_isa(ByteIsa isa) {
  if (isa == ByteIsa::kPortable) return true;
#if defined(__x86_64__)
  const Isa level = detect_isa();
  switch (isa) {
    case ByteIsa::kAvx2:
      return level >= Isa::kAvx2;
    case ByteIsa::kAvx512Vnni:
      return level >= Isa::kAvx512 && __builtin_cpu_supports("avx512vnni");
    case ByteIsa::kAvxVnni: {
      // GCC 12's builtin does not know this one: CPUID leaf 7, subleaf 1, EAX bit 4.
      unsigned a = 0, b = 0, c = 0, d = 0;
      return level >= Isa::kAvx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 &&
             (a >> 4 & 1) != 0;
    }
    default:
      break;
  }
#endif
  return false;
}

absl::string_view byte_isa_name(ByteIsa isa) {
  switch (isa) {
    case ByteIsa::kPortable:
      return "portable";
    case ByteIsa::kAvx2:
      return "avx2";
    case ByteIsa::kAvxVnni:
      return "avx_vnni";
    case ByteIsa::kAvx512Vnni:
      return "avx512_vnni";
  }
  return "unknown";
}

}  // namespace ponder::cpu
