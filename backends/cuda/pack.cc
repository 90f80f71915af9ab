#include "backends/cuda/pack.h"

#include <algorithm>
#include <atomic>

#include "backends/ref/weights.h"

namespace ponder::cuda {
namespace {

Status check_values(const WeightData& part, ThreadPool* pool) {
  constexpr int64_t kChunk = int64_t{1} << 20;  // whole blocks of every type
  const int64_t elements = part.elements();
  std::atomic<int64_t> bad{-1};
  pool->parallel_for(static_cast<uint32_t>((elements + kChunk - 1) / kChunk), [&](uint32_t i) {
    const int64_t begin = i * kChunk;
    const int64_t found = ref::find_non_finite(part, begin, std::min(elements, begin + kChunk));
    if (found >= 0) bad.store(found, std::memory_order_relaxed);
  });
  return bad.load() >= 0 ? ref::non_finite_error(part, bad.load()) : OkStatus();
}

}  // namespace

StatusOr<DeviceBuffer> DeviceBuffer::create(Device* device, uint64_t bytes,
                                            absl::string_view what) {
  DeviceBuffer buffer;
  buffer.data_ = device->allocate(std::max<uint64_t>(bytes, 1));
  if (buffer.data_ == nullptr) {
    PONDER_RETURN_IF_ERROR(device->use());  // lost, not full
    return out_of_memory_error("device memory ran out: ", bytes, " bytes were wanted for ", what,
                               "; use a smaller context, a smaller KV type or another device");
  }
  buffer.device_ = device;
  buffer.bytes_ = bytes;
  return buffer;
}

StatusOr<std::unique_ptr<CudaWeight>> pack(Device* device, ThreadPool* pool,
                                           std::span<const WeightData> parts, bool matrices) {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes(parts));
  auto packed = std::make_unique<CudaWeight>();
  packed->cols = parts[0].shape[1];
  for (const WeightData& part : parts) {
    PONDER_RETURN_IF_ERROR(check_values(part, pool));
    const std::string what = part.describe();
    CudaWeight::Part made;
    const int64_t rows = part.shape[0], cols = part.shape[1];
    made.matrix.dtype = part.dtype;
    made.matrix.rows = rows;
    made.matrix.cols = cols;
    if (matrices && part.dtype == DType::kBF16) {
      const auto pitch = static_cast<uint64_t>(mma_pitch(cols)) * 2;
      const uint64_t bytes = pitch * static_cast<uint64_t>(mma_rows(rows));
      PONDER_ASSIGN_OR_RETURN(made.data, DeviceBuffer::create(device, bytes, what));
      const auto width = static_cast<uint64_t>(cols) * 2;
      const char* from = static_cast<const char*>(part.data);
      if (pitch == width) {
        const uint64_t used = width * static_cast<uint64_t>(rows);
        PONDER_RETURN_IF_ERROR(device->upload(from, made.data.data(), used));
        PONDER_RETURN_IF_ERROR(device->zero(made.data.as<char>() + used, bytes - used));
      } else {
        PONDER_RETURN_IF_ERROR(device->zero(made.data.data(), bytes));
        for (int64_t r = 0; r < rows; ++r) {
          PONDER_RETURN_IF_ERROR(
              device->upload(from + static_cast<uint64_t>(r) * width,
                             made.data.as<char>() + static_cast<uint64_t>(r) * pitch, width));
        }
      }
      made.mma = made.data.as<uint16_t>();
    } else {
      const auto bytes = static_cast<uint64_t>(dtype_bytes(part.dtype, part.elements()));
      PONDER_ASSIGN_OR_RETURN(made.data, DeviceBuffer::create(device, bytes, what));
      PONDER_RETURN_IF_ERROR(device->upload(part.data, made.data.data(), bytes));
      made.matrix.data = made.data.data();
    }
    if (part.scales != nullptr) {
      const auto tiles = static_cast<uint64_t>((rows + 127) / 128 * ((cols + 127) / 128));
      PONDER_ASSIGN_OR_RETURN(made.scales,
                              DeviceBuffer::create(device, tiles * sizeof(float), what));
      PONDER_RETURN_IF_ERROR(
          device->upload(part.scales.get(), made.scales.data(), tiles * sizeof(float)));
      made.matrix.scales = made.scales.as<float>();
    }
    packed->bytes += made.data.bytes() + made.scales.bytes();
    packed->rows += rows;
    packed->parts.push_back(std::move(made));
  }
  // The checkpoint's pages may leave memory as soon as this returns.
  PONDER_RETURN_IF_ERROR(device->wait());
  return packed;
}

}  // namespace ponder::cuda
