#include "backends/onednn/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace ponder::cpu {
namespace {

#if defined(__x86_64__)

// Tiles of bytes and of bf16, which the system lets this process use.
bool find_amx() {
#if defined(__linux__)
  // CPUID leaf 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8, which compilers' builtins do not all know.
  constexpr unsigned kTiles = 1u << 22 | 1u << 24 | 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) != kTiles) return false;
  // The system saves tile shapes and tiles (XCR0 bits 17 and 18).
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = 3u << 17;
  if ((low & kSaved) != kSaved) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  static const bool found = find_amx();
  return found;
}

#endif

}  // namespace

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
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  return __builtin_cpu_supports("avx512vnni") && has_amx() ? Isa::kAmx : Isa::kAvx512Bf16;
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
    case Isa::kAmx:
      return "amx";
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
    case ByteIsa::kAmx:
      return level >= Isa::kAmx;
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
    case ByteIsa::kAmx:
      return "amx";
  }
  return "unknown";
}

}  // namespace ponder::cpu
