#include "backends/ref/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "lib/tensor/blocks.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/float8.h"

namespace ponder::ref {

namespace {

bool is_plain(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace

Status check_weight_shapes(std::span<const WeightData> parts) {
  if (parts.empty()) return internal_error("a weight without parts was to be packed");
  for (const WeightData& part : parts) {
    if (find_dequantize(part.dtype) == nullptr) {
      return unsupported_error("tensor ", part.describe(),
                               ": weights cannot be of this type; use a float or block type");
    }
    if (part.shape.size() != 2 || part.shape[0] < 1 || part.shape[1] < 1) {
      return corrupt_error("tensor ", part.describe(), ": a matrix is needed here");
    }
    const int64_t block = dtype_info(part.dtype).block;
    if (part.shape[1] % block != 0) {
      return corrupt_error("tensor ", part.describe(), ": its rows of ", part.shape[1],
                           " elements are not whole blocks of ", block);
    }
    if (part.scales != nullptr && part.dtype != DType::kF8_E4M3) {
      return internal_error("tensor ", part.describe(), " has the scales of f8_e4m3");
    }
    if (part.shape[1] != parts[0].shape[1]) {
      return corrupt_error("tensor ", part.describe(), ": its rows are not as wide as those of ",
                           parts[0].describe());
    }
  }
  return OkStatus();
}

Status check_plain_types(std::span<const WeightData> parts) {
  for (const WeightData& part : parts) {
    if (!is_plain(part.dtype)) {
      return unsupported_error("tensor ", part.describe(),
                               ": weights of this type are not supported; use f32, f16 or bf16");
    }
  }
  return OkStatus();
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

// ---- block types: is a block's scale bad, and which ---------------------------------------------
// A finite binary16 times the largest multipliers of any type stays far below binary32's limit, so
// the scales as stored decide.

constexpr uint16_t kF16Exponent = 0x7c00;
constexpr bool bad_f16(uint16_t v) { return (v & kF16Exponent) == kF16Exponent; }

const char* bad_scale_f16(uint16_t d) {
  if (!bad_f16(d)) return nullptr;
  return (d & 0x3ff) != 0 ? "not a number" : "infinite";
}

struct BadScale {
  const char* field = nullptr;  // null: none is bad
  const char* what = nullptr;
};

template <typename Block>
BadScale bad_scale(const Block& b) {
  if (const char* what = bad_scale_f16(b.d)) return {"scale", what};
  if constexpr (requires { b.dmin; }) {
    if (const char* what = bad_scale_f16(b.dmin)) return {"scale of the minima", what};
  }
  if constexpr (requires { b.m; }) {
    if (const char* what = bad_scale_f16(b.m)) return {"minimum", what};
  }
  return {};
}

BadScale bad_scale(const BlockIQ1_M& b) {  // its scale is in four parts
  const auto d = static_cast<uint16_t>(b.scales[0] >> 12 | (b.scales[1] >> 8 & 0xf0) |
                                       (b.scales[2] >> 4 & 0xf00) | (b.scales[3] & 0xf000));
  if (const char* what = bad_scale_f16(d)) return {"scale", what};
  return {};
}

BadScale bad_scale(const BlockMXFP4& b) {
  if (b.e < 253) return {};  // twelve times 2^(252 - 128) is the last that binary32 holds
  for (const uint8_t q : b.qs) {
    const int most = std::max(std::abs(kMXFP4Values[q & 15]), std::abs(kMXFP4Values[q >> 4]));
    if (!std::isfinite(static_cast<float>(most) * e8m0_half_to_f32(b.e))) {
      return {"scale", "too large for its values"};
    }
  }
  return {};
}

template <typename Block>
int64_t find_bad_scale(const WeightData& weight, int64_t begin, int64_t end) {
  const auto* blocks = static_cast<const Block*>(weight.data);
  const int64_t block = dtype_info(weight.dtype).block;
  for (int64_t i = begin / block; i < end / block; ++i) {
    if (bad_scale(blocks[i]).field != nullptr) return i * block;
  }
  return -1;
}

// Calls f.operator()<Block>() of the type's block struct; `otherwise` for a type without one.
template <typename F, typename R>
R with_block(DType dtype, R otherwise, F&& f) {
  switch (dtype) {
    case DType::kQ4_0:
      return f.template operator()<BlockQ4_0>();
    case DType::kQ4_1:
      return f.template operator()<BlockQ4_1>();
    case DType::kQ5_0:
      return f.template operator()<BlockQ5_0>();
    case DType::kQ5_1:
      return f.template operator()<BlockQ5_1>();
    case DType::kQ8_0:
      return f.template operator()<BlockQ8_0>();
    case DType::kQ2_K:
      return f.template operator()<BlockQ2_K>();
    case DType::kQ3_K:
      return f.template operator()<BlockQ3_K>();
    case DType::kQ4_K:
      return f.template operator()<BlockQ4_K>();
    case DType::kQ5_K:
      return f.template operator()<BlockQ5_K>();
    case DType::kQ6_K:
      return f.template operator()<BlockQ6_K>();
    case DType::kIQ4_NL:
      return f.template operator()<BlockIQ4_NL>();
    case DType::kIQ4_XS:
      return f.template operator()<BlockIQ4_XS>();
    case DType::kIQ1_S:
      return f.template operator()<BlockIQ1_S>();
    case DType::kIQ1_M:
      return f.template operator()<BlockIQ1_M>();
    case DType::kIQ2_XXS:
      return f.template operator()<BlockIQ2_XXS>();
    case DType::kIQ2_XS:
      return f.template operator()<BlockIQ2_XS>();
    case DType::kIQ2_S:
      return f.template operator()<BlockIQ2_S>();
    case DType::kIQ3_XXS:
      return f.template operator()<BlockIQ3_XXS>();
    case DType::kIQ3_S:
      return f.template operator()<BlockIQ3_S>();
    case DType::kTQ1_0:
      return f.template operator()<BlockTQ1_0>();
    case DType::kTQ2_0:
      return f.template operator()<BlockTQ2_0>();
    case DType::kMXFP4:
      return f.template operator()<BlockMXFP4>();
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI32:
    case DType::kF8_E4M3:
      break;
  }
  return otherwise;
}

// ---- f8_e4m3 with scales per tile ---------------------------------------------------------------

constexpr int64_t kTile = F8Matrix::kTile;

bool is_f8_nan(uint8_t code) { return (code & 0x7f) == 0x7f; }

// 448, the largest value of the type, times the scale must be a number.
bool bad_tile_scale(float scale) { return !std::isfinite(scale * 448.0f); }

const float* tile_scale(const WeightData& weight, int64_t index) {
  const int64_t cols = weight.shape.back();
  const int64_t tiles = (cols + kTile - 1) / kTile;  // in a row of scales
  return weight.scales.get() + index / cols / kTile * tiles + index % cols / kTile;
}

int64_t find_bad_f8(const WeightData& weight, int64_t begin, int64_t end) {
  const auto* codes = static_cast<const uint8_t*>(weight.data);
  for (int64_t i = begin; i < end; ++i) {
    if (is_f8_nan(codes[i])) return i;
  }
  if (weight.scales == nullptr) return -1;
  const int64_t cols = weight.shape.back();
  // The tiles whose first element is in the range: rows 0, 128, ..., columns 0, 128, ...
  for (int64_t row = (begin / cols + kTile - 1) / kTile * kTile; row * cols < end; row += kTile) {
    for (int64_t i = row * cols; i < std::min(end, (row + 1) * cols); i += kTile) {
      if (i >= begin && bad_tile_scale(*tile_scale(weight, i))) return i;
    }
  }
  return -1;
}

constexpr absl::string_view kDamaged =
    "; the checkpoint is damaged or was saved from a failed training run";

}  // namespace

int64_t find_non_finite(const WeightData& weight, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(weight.data);
  switch (weight.dtype) {
    case DType::kF32:
      return find_exponent<uint32_t>(data, begin, end, 0x7f800000u);
    case DType::kF16:
      return find_exponent<uint16_t>(data, begin, end, kF16Exponent);
    case DType::kBF16:
      return find_exponent<uint16_t>(data, begin, end, 0x7f80u);
    case DType::kF8_E4M3:
      return find_bad_f8(weight, begin, end);
    default:
      break;
  }
  return with_block(weight.dtype, int64_t{-1},
                    [&]<typename Block>() { return find_bad_scale<Block>(weight, begin, end); });
}

Status non_finite_error(const WeightData& weight, int64_t index) {
  const int64_t cols = weight.shape.back();
  const int64_t row = index / cols, col = index % cols;
  if (dtype_is_blocked(weight.dtype)) {
    const int64_t block = dtype_info(weight.dtype).block;
    const BadScale bad = with_block(weight.dtype, BadScale{}, [&]<typename Block>() {
      return bad_scale(static_cast<const Block*>(weight.data)[index / block]);
    });
    return corrupt_error("tensor ", weight.describe(), ": the ",
                         bad.field != nullptr ? bad.field : "scale", " of block ", col / block,
                         " of row ", row, " is ", bad.what != nullptr ? bad.what : "not finite",
                         kDamaged);
  }
  if (weight.dtype == DType::kF8_E4M3 &&
      !is_f8_nan(static_cast<const uint8_t*>(weight.data)[index])) {
    const float scale = weight.scales != nullptr ? *tile_scale(weight, index) : 1.0f;
    return corrupt_error("tensor ", weight.describe(), ": the scale ", scale, " of block [",
                         row / kTile, ", ", col / kTile, "] is ",
                         scale != scale         ? "not a number"
                         : std::isfinite(scale) ? "too large"
                                                : "infinite",
                         kDamaged);
  }
  const float value = weight.dtype == DType::kF8_E4M3
                          ? std::numeric_limits<float>::quiet_NaN()
                          : load_element(weight.data, weight.dtype, index);
  return corrupt_error("tensor ", weight.describe(), ": element [", row, ", ", col, "] is ",
                       value != value ? "not a number" : "infinite", kDamaged);
}

void widen_rows(const WeightData& weight, int64_t first, int64_t last, float* out) {
  const int64_t cols = weight.shape.back();
  if (weight.dtype == DType::kF8_E4M3 && weight.scales != nullptr) {
    dequantize_f8_rows({weight.data, weight.scales.get(), weight.shape[0], cols}, first, last, out);
    return;
  }
  find_dequantize(weight.dtype)(
      static_cast<const char*>(weight.data) + dtype_bytes(weight.dtype, first * cols),
      (last - first) * cols, out);
}

StatusOr<std::unique_ptr<PackedWeight>> pack(std::span<const WeightData> parts, ThreadPool* pool) {
  PONDER_RETURN_IF_ERROR(check_weight_shapes(parts));
  auto packed = std::make_unique<RefWeight>();
  packed->cols = parts[0].shape[1];
  for (const WeightData& part : parts) {
    constexpr int64_t kChunk = int64_t{1} << 20;  // whole blocks of every type
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
