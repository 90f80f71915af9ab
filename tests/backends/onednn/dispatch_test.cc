// Which kernels a machine gets, for machines that we do not have too.
#include "backends/onednn/dispatch.h"

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace ponder::cpu {
namespace {

#if defined(__x86_64__)

TEST(Dispatch, EachLevelGetsItsOwnTable) {
  EXPECT_EQ(kernels_for(Isa::kPortable), kernels_portable());
  EXPECT_EQ(kernels_for(Isa::kAvx2), kernels_avx2());
  EXPECT_EQ(kernels_for(Isa::kAvx512), kernels_avx512());
  EXPECT_EQ(kernels_for(Isa::kAvx512Bf16), kernels_avx512bf16());
  EXPECT_EQ(kernels_for(Isa::kAmx), kernels_amx());
}

struct Machine {
  const char* name;
  Isa cap;
  std::set<ByteIsa> has;
  const QuantKernels* (*wanted)();
};

TEST(Dispatch, BytesAreMultipliedByTheBestThatMachineAndCapAllow) {
  const ByteIsa avx2 = ByteIsa::kAvx2, vnni = ByteIsa::kAvxVnni, vnni512 = ByteIsa::kAvx512Vnni,
                amx = ByteIsa::kAmx;
  const Machine machines[] = {
      {"no AVX2", Isa::kPortable, {}, quant_kernels_portable},
      {"Haswell", Isa::kAvx2, {avx2}, quant_kernels_avx2},
      {"Alder Lake", Isa::kAvx2, {avx2, vnni}, quant_kernels_avxvnni},
      {"Skylake with AVX-512", Isa::kAvx512, {avx2}, quant_kernels_avx2},
      {"Ice Lake", Isa::kAvx512, {avx2, vnni512}, quant_kernels_avx512vnni},
      {"Zen 4", Isa::kAvx512Bf16, {avx2, vnni512}, quant_kernels_avx512vnni},
      {"Zen 5", Isa::kAvx512Bf16, {avx2, vnni, vnni512}, quant_kernels_avx512vnni},
      {"Sapphire Rapids", Isa::kAmx, {avx2, vnni, vnni512, amx}, quant_kernels_amx},
      {"Sapphire Rapids held at AVX512_BF16",
       Isa::kAvx512Bf16,
       {avx2, vnni, vnni512, amx},
       quant_kernels_avx512vnni},
      {"Zen 5 held at AVX2", Isa::kAvx2, {avx2, vnni, vnni512}, quant_kernels_avxvnni},
      {"Zen 4 held at AVX2", Isa::kAvx2, {avx2, vnni512}, quant_kernels_avx2},
      {"Zen 5 held at nothing", Isa::kPortable, {avx2, vnni, vnni512}, quant_kernels_portable},
  };
  for (const Machine& m : machines) {
    EXPECT_EQ(quant_kernels_for(m.cap, [&](ByteIsa isa) { return m.has.contains(isa); }),
              m.wanted())
        << m.name;
  }
}

// What the system reports, which looked on its own.
TEST(Dispatch, DetectionAgreesWithTheSystem) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  if (line.rfind("flags", 0) != 0) GTEST_SKIP() << "/proc/cpuinfo lists no flags here";
  std::set<std::string> flags;
  std::istringstream words(line);
  for (std::string word; words >> word;) flags.insert(word);
  EXPECT_EQ(has_byte_isa(ByteIsa::kAvx2), detect_isa() >= Isa::kAvx2);
  EXPECT_EQ(detect_isa() >= Isa::kAvx2,
            flags.contains("avx2") && flags.contains("fma") && flags.contains("f16c"));
  if (detect_isa() >= Isa::kAvx2) {
    EXPECT_EQ(has_byte_isa(ByteIsa::kAvxVnni), flags.contains("avx_vnni"));
  }
  if (detect_isa() >= Isa::kAvx512) {
    EXPECT_EQ(has_byte_isa(ByteIsa::kAvx512Vnni), flags.contains("avx512_vnni"));
    EXPECT_EQ(detect_isa() >= Isa::kAvx512Bf16, flags.contains("avx512_bf16"));
  }
  // Flags tell of the processor; the system may still refuse a process the tiles.
  if (detect_isa() >= Isa::kAmx) {
    EXPECT_TRUE(flags.contains("amx_tile") && flags.contains("amx_bf16") &&
                flags.contains("amx_int8"));
  }
}

#else

TEST(Dispatch, OtherArchitecturesGetPortableKernels) {
  EXPECT_EQ(kernels_for(detect_isa()), kernels_portable());
  EXPECT_EQ(quant_kernels_for(detect_isa()), quant_kernels_portable());
}

#endif

}  // namespace
}  // namespace ponder::cpu
