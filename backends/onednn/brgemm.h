// oneDNN's bf16 matrix-product kernels, generated for this processor at run time: full tiles of 64
// rows by one panel. Their arithmetic is the one that kernels.h promises, so a product may be cut
// between them and our own kernels anywhere (tests/backends/onednn/brgemm_test.cc compares the
// bits).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "backends/onednn/isa.h"
#include "lib/base/log.h"

namespace ponder::cpu {

class Brgemm {
 public:
  // Rows of a tile. Sixteen to 96 were tried; from 48 on it makes no difference.
  static constexpr int64_t kRows = 64;

  struct Shape {
    int64_t k;         // even
    int64_t lda, ldc;  // elements
    bool accumulate;   // c += a b, else c = a b

    auto key() const { return std::tuple(k, lda, ldc, accumulate); }
    bool operator<(const Shape& other) const { return key() < other.key(); }
  };

  class Kernel;

  // Null, and a word in the log, when this build or machine has nothing that we want: without
  // oneDNN or AVX512_BF16, or where executable memory is forbidden.
  static std::unique_ptr<Brgemm> create(Isa isa, const LogSink& log);
  ~Brgemm();

  // The kernel for a shape, made on first use (0.2 ms); null when there is none. One thread at a
  // time.
  const Kernel* find(const Shape& shape);

  // c[64, 64] from a[64, k] and a block of a panel. Any thread. False when it could not run; c is
  // untouched then.
  static bool run(const Kernel* kernel, const void* a, const void* b, float* c);

 private:
  Brgemm();

  std::map<Shape, std::unique_ptr<const Kernel>> kernels_;
};

}  // namespace ponder::cpu
