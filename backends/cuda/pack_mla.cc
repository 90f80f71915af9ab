#include "backends/cuda/pack_mla.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/ref/ops.h"
#include "lib/tensor/half.h"

namespace ponder::cuda {
namespace {

DType type_of(const MlaUpWeights& up, Precision precision, std::span<const float> values) {
  const bool whole = !up.kv.name.empty();
  const DType a = whole ? up.kv.dtype : up.k_transposed.dtype, b = whole ? a : up.v.dtype;
  if (precision == Precision::kF32 || a == DType::kF32 || b == DType::kF32) return DType::kF32;
  if (a == DType::kBF16 && b == DType::kBF16) return DType::kBF16;
  const bool fits =
      std::all_of(values.begin(), values.end(), [](float v) { return std::abs(v) <= 65504.0f; });
  return fits ? DType::kF16 : DType::kBF16;
}

HeadMatrices matrices(DType dtype, int64_t heads, int64_t outputs, int64_t cols) {
  HeadMatrices m;
  m.dtype = dtype;
  m.heads = heads;
  m.outputs = outputs;
  m.cols = cols;
  m.stored_outputs = head_outputs(dtype, outputs);
  m.pitch = head_pitch(dtype, cols);
  return m;
}
uint64_t bytes_of(const HeadMatrices& m) {
  return static_cast<uint64_t>(dtype_bytes(m.dtype, m.heads * m.stored_outputs * m.pitch) + 255) /
         256 * 256;
}

// element(h, o, k) at its place in `to`, zeros around.
template <typename Element>
void fill(const HeadMatrices& m, ThreadPool* pool, char* to, Element&& element) {
  pool->parallel_for(static_cast<uint32_t>(m.heads), [&](uint32_t head) {
    for (int64_t o = 0; o < m.outputs; ++o) {
      const int64_t row = (int64_t{head} * m.stored_outputs + o) * m.pitch;
      for (int64_t k = 0; k < m.cols; ++k) {
        const float v = element(int64_t{head}, o, k);
        if (m.dtype == DType::kF32) {
          std::memcpy(to + (row + k) * 4, &v, 4);
        } else {
          const uint16_t half = m.dtype == DType::kF16 ? f32_to_f16(v) : f32_to_bf16(v);
          std::memcpy(to + (row + k) * 2, &half, 2);
        }
      }
    }
  });
}

}  // namespace

StatusOr<std::unique_ptr<CudaMlaWeight>> pack_mla(Device* device, ThreadPool* pool,
                                                  const MlaUpWeights& up, Precision precision) {
  // Checks shapes, types and values, and gives floats.
  PONDER_ASSIGN_OR_RETURN(const auto checked, ref::pack_mla(up, pool));
  if (up.rank > kLargestRank) {
    return unsupported_error("latents of ", up.rank, " numbers are not supported on this device, ",
                             "which takes ", kLargestRank,
                             "; choose another device for this model");
  }
  const std::vector<float>& w = static_cast<const ref::RefMlaWeight&>(*checked).values;
  const int64_t heads = up.heads, nope = up.nope_dim, value = up.value_dim, rank = up.rank;
  const DType dtype = type_of(up, precision, w);
  auto packed = std::make_unique<CudaMlaWeight>();
  packed->rows = heads * (nope + value);
  packed->cols = rank;
  packed->precise = precision == Precision::kF32;
  packed->keys = matrices(dtype, heads, rank, nope);
  packed->values = matrices(dtype, heads, value, rank);
  const uint64_t keys = bytes_of(packed->keys), both = keys + bytes_of(packed->values);
  std::vector<char> staged(both);
  const auto at = [&](int64_t h, int64_t row, int64_t r) {
    return w[static_cast<size_t>((h * (nope + value) + row) * rank + r)];
  };
  fill(packed->keys, pool, staged.data(),
       [&](int64_t h, int64_t r, int64_t n) { return at(h, n, r); });
  fill(packed->values, pool, staged.data() + keys,
       [&](int64_t h, int64_t u, int64_t r) { return at(h, nope + u, r); });
  const WeightData& named = up.kv.name.empty() ? up.v : up.kv;
  PONDER_ASSIGN_OR_RETURN(packed->memory, DeviceBuffer::create(device, both, named.describe()));
  PONDER_RETURN_IF_ERROR(device->upload(staged.data(), packed->memory.data(), both));
  PONDER_RETURN_IF_ERROR(device->settle());
  packed->keys.data = packed->memory.data();
  packed->values.data = packed->memory.as<char>() + keys;
  packed->bytes = both;
  return packed;
}

}  // namespace ponder::cuda
