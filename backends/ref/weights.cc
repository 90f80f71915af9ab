#include "backends/ref/weights.h"

#include <algorithm>
#include <atomic>

namespace ponder::ref {

Status check_weight_shapes(std::span<const WeightData> parts) {
  if (parts.empty()) return internal_error("a weight without parts was to be packed");
  for (const WeightData& part : parts) {
    if (part.dtype != DType::kF32 && part.dtype != DType::kF16 && part.dtype != DType::kBF16) {
      return unsupported_error("tensor ", part.describe(),
                               ": weights of this type are not supported; use f32, f16 or bf16");
    }
    if (part.shape.size() != 2 || part.shape[0] < 1 || part.shape[1] < 1) {
      return corrupt_error("tensor ", part.describe(), ": a matrix is needed here");
    }
    if (part.shape[1] != parts[0].shape[1]) {
      return corrupt_error("tensor ", part.describe(), ": its rows are not as wide as those of ",
                           parts[0].describe());
    }
  }
  return OkStatus();
}

Status non_finite_error(const WeightData& weight, int64_t index) {
  const float value = load_element(weight.data, weight.dtype, index);
  const int64_t cols = weight.shape.back();
  return corrupt_error("tensor ", weight.describe(), ": element [", index / cols, ", ",
                       index % cols, "] is ", value != value ? "not a number" : "infinite",
                       "; the checkpoint is damaged or was saved from a failed training run");
}

namespace {

template <typename T>
int64_t find_exponent(const char* data, int64_t begin, int64_t end, T exponent) {
  for (int64_t i = begin; i < end; ++i) {
    T v;
    __builtin_memcpy(&v, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    if ((v & exponent) == exponent) return i;
  }
  return -1;
}

}  // namespace

int64_t find_non_finite(const WeightData& weight, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(weight.data);
  switch (weight.dtype) {
    case DType::kF32:
      return find_exponent<uint32_t>(data, begin, end, 0x7f800000u);
    case DType::kF16:
      return find_exponent<uint16_t>(data, begin, end, 0x7c00u);
    case DType::kBF16:
      return find_exponent<uint16_t>(data, begin, end, 0x7f80u);
    default:
      break;  // check_weight_shapes refuses all others
  }
  return -1;
}

StatusOr<std::unique_ptr<PackedWeight>> pack(std::span<const WeightData> parts, ThreadPool* pool) {
  PONDER_RETURN_IF_ERROR(check_weight_shapes(parts));
  auto packed = std::make_unique<RefWeight>();
  packed->cols = parts[0].shape[1];
  for (const WeightData& part : parts) {
    constexpr int64_t kChunk = int64_t{1} << 20;
    const int64_t elements = part.elements();
    std::atomic<int64_t> bad{-1};
    pool->parallel_for(static_cast<uint32_t>((elements + kChunk - 1) / kChunk), [&](uint32_t i) {
      const int64_t begin = i * kChunk;
      const int64_t found = find_non_finite(part, begin, std::min(elements, begin + kChunk));
      if (found >= 0) bad.store(found, std::memory_order_relaxed);
    });
    if (bad.load() >= 0) return non_finite_error(part, bad.load());
    packed->rows += part.shape[0];
    packed->parts.push_back(part);
  }
  return packed;
}

}  // namespace ponder::ref
