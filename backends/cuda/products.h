// The ops linear and experts: which kernels run one after the other, and the memory between them.
// For the backend's own thread; returns at once (launch.h).
#pragma once

#include <utility>
#include <vector>

#include "backends/cuda/formed_rows.h"
#include "backends/cuda/pack.h"

namespace ponder::cuda {

// out[t, n] = x[t] . w[n] + bias[n]; `bias` may be null. x is rounded in `formed`.
Status run_linear(Stream s, const CudaWeight& weight, Rows x, const float* bias, Rows out,
                  int64_t rows, FormedRows& formed);

// One row's choices: ids[t * id_row + c] ascending in c, weights likewise.
struct ChosenExperts {
  const int32_t* ids = nullptr;
  int64_t id_row = 0;
  Rows weights;
  int64_t top_k = 0;
};

// At most this many choices are worked on at a time, whatever the number of rows: their
// intermediate results are float32, so that bounds the memory for them.
inline constexpr int64_t kMostPlaces = 16384;
// Device memory that run_experts wants for up to `rows` rows of `top_k` choices.
uint64_t experts_scratch_bytes(const CudaExperts& experts, int64_t rows, int64_t top_k,
                               int64_t most_places = kMostPlaces);
// out[t] = sum over c of weight * down(silu(gate x) * up x). Nothing comes back to the host.
// `scratch` is aligned to 256 bytes.
Status run_experts(Stream s, const CudaExperts& experts, Rows x, const ChosenExperts& chosen,
                   Rows out, int64_t rows, FormedRows& formed, char* scratch,
                   int64_t most_places = kMostPlaces);

// What the products of a step wanted of memory, to be reserved when the next one begins.
class ProductNeeds {
 public:
  void note(const CudaWeight& weight);
  void note(const CudaExperts& experts, int64_t top_k);
  uint64_t formed_bytes(int64_t rows) const;   // of a call of FormedRows::get
  uint64_t scratch_bytes(int64_t rows) const;  // of run_experts
  void clear();

 private:
  void note(std::span<const DeviceStack> stacks);

  struct Mixture {
    CudaExperts shape;  // without memory
    int64_t top_k;
  };
  std::vector<std::pair<Form, int64_t>> forms_;  // and the number of inputs
  std::vector<Mixture> mixtures_;
};

}  // namespace ponder::cuda
