#include "backends/cuda/pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "backends/cuda/quant_layout.h"
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

// Bytes that pieces of memory for one matrix are rounded up to: kernels load 16 at a time.
constexpr uint64_t kAlign = 256;
// Host memory for weights that are being regrouped.
constexpr int64_t kStagingBytes = int64_t{16} << 20;

int64_t f8_tiles(int64_t n) { return (n + 127) / 128; }
int64_t stored_rows(int64_t rows) { return (rows + 15) / 16 * 16; }
uint64_t row_bytes(const WeightData& part) {
  return static_cast<uint64_t>(dtype_bytes(part.dtype, part.shape[1]));
}

// Whether the second can lie below the first in one matrix.
bool stackable(const Stack& stack, const WeightData& next) {
  const WeightData& last = *stack.parts.back();
  if (last.dtype != next.dtype || (last.scales == nullptr) != (next.scales == nullptr))
    return false;
  return next.scales == nullptr || stack.shape.rows % 128 == 0;
}

std::vector<Stack> make_stacks(const Device& device, std::span<const WeightData> parts,
                               Precision precision) {
  std::vector<Stack> stacks;
  for (const WeightData& part : parts) {
    if (stacks.empty() || !stackable(stacks.back(), part)) {
      Weights& shape = stacks.emplace_back().shape;
      shape.dtype = part.dtype;
      shape.form = form_of(part.dtype, precision, device);
      shape.cols = part.shape[1];
    }
    stacks.back().parts.push_back(&part);
    stacks.back().shape.rows += part.shape[0];
  }
  for (Stack& stack : stacks) {
    Weights& shape = stack.shape;
    if (shape.form == Form::kFloats) {
      shape.bytes = static_cast<uint64_t>(dtype_bytes(shape.dtype, shape.rows * shape.cols));
    } else if (is_bytes(shape.form)) {
      shape.bytes = panel_bytes(shape.dtype, shape.rows, shape.cols);
    } else {
      shape.bytes = static_cast<uint64_t>(
          dtype_bytes(shape.dtype, stored_rows(shape.rows) * form_pitch(shape.form, shape.cols)));
    }
    if (stack.parts[0]->scales != nullptr) {
      shape.scale_count = f8_tiles(shape.rows) * f8_tiles(shape.cols);
    }
  }
  return stacks;
}

// bf16, f16 and f8: rows of form_pitch elements.
Status write_rows(Device* device, const Stack& stack, char* data) {
  const auto pitch = static_cast<uint64_t>(
      dtype_bytes(stack.shape.dtype, form_pitch(stack.shape.form, stack.shape.cols)));
  char* to = data;
  for (const WeightData* part : stack.parts) {
    const auto rows = static_cast<uint64_t>(part->shape[0]), width = row_bytes(*part);
    const char* from = static_cast<const char*>(part->data);
    if (pitch == width) {
      PONDER_RETURN_IF_ERROR(device->upload(from, to, rows * width));
    } else {
      PONDER_RETURN_IF_ERROR(device->zero(to, rows * pitch));
      for (uint64_t r = 0; r < rows; ++r) {
        PONDER_RETURN_IF_ERROR(device->upload(from + r * width, to + r * pitch, width));
      }
    }
    to += rows * pitch;
  }
  const uint64_t rest = stack.shape.bytes - static_cast<uint64_t>(to - data);
  return rest > 0 ? device->zero(to, rest) : OkStatus();
}

// Block types: panels of records.
Status write_panels(Device* device, ThreadPool* pool, const Stack& stack, char* data) {
  const Weights& shape = stack.shape;
  const RecordLayout layout = record_layout(shape.dtype);
  const int64_t records = record_count(shape.cols), record_bytes = layout.bytes();
  const int64_t bytes = records * kPanelRows * record_bytes;
  const int64_t panels = static_cast<int64_t>(shape.bytes) / bytes;
  const int64_t at_once = std::clamp(kStagingBytes / bytes, int64_t{1}, panels);
  std::vector<const uint8_t*> rows;
  for (const WeightData* part : stack.parts) {
    for (int64_t r = 0; r < part->shape[0]; ++r) {
      rows.push_back(static_cast<const uint8_t*>(part->data) +
                     static_cast<uint64_t>(r) * row_bytes(*part));
    }
  }
  std::vector<uint8_t> staging(static_cast<size_t>(at_once * bytes));
  const auto stored_record = static_cast<size_t>(dtype_bytes(shape.dtype, kRecordInputs));
  for (int64_t first = 0; first < panels; first += at_once) {
    const int64_t now = std::min(at_once, panels - first);
    std::fill(staging.begin(), staging.end(), uint8_t{0});
    pool->parallel_for(static_cast<uint32_t>(now), [&](uint32_t p) {
      uint8_t* panel = staging.data() + p * bytes;
      uint8_t record[kMostRecordBytes];
      for (int64_t b = 0; b < records; ++b, panel += kPanelRows * record_bytes) {
        const auto inputs =
            static_cast<int>(std::min<int64_t>(kRecordInputs, shape.cols - b * kRecordInputs));
        for (int r = 0; r < kPanelRows; ++r) {
          const auto row = static_cast<size_t>((first + p) * kPanelRows + r);
          if (row >= rows.size()) break;
          std::memset(record, 0, sizeof(record));
          make_record(shape.dtype, rows[row] + static_cast<size_t>(b) * stored_record, inputs,
                      record);
          const uint8_t* from = record;
          for (int f = 0; f < 4; ++f) {
            const auto width = static_cast<size_t>(layout.fields[f].bytes);
            for (int i = 0; i < layout.fields[f].pieces; ++i, from += width) {
              std::memcpy(panel + piece_offset(layout, f, i, r), from, width);
            }
          }
        }
      }
    });
    PONDER_RETURN_IF_ERROR(
        device->upload(staging.data(), data + first * bytes, static_cast<uint64_t>(now * bytes)));
  }
  return OkStatus();
}

// A stack's values to memory of shape.bytes and scale_bytes().
Status write_stack(Device* device, ThreadPool* pool, const Stack& stack, char* data,
                   float* scales) {
  for (const WeightData* part : stack.parts) {
    PONDER_RETURN_IF_ERROR(check_values(*part, pool));
    if (part->scales == nullptr) continue;
    const auto count = static_cast<uint64_t>(f8_tiles(part->shape[0]) * f8_tiles(part->shape[1]));
    PONDER_RETURN_IF_ERROR(device->upload(part->scales.get(), scales, count * sizeof(float)));
    scales += count;
  }
  if (is_bytes(stack.shape.form)) return write_panels(device, pool, stack, data);
  if (stack.shape.form != Form::kFloats) return write_rows(device, stack, data);
  for (const WeightData* part : stack.parts) {
    const uint64_t bytes = static_cast<uint64_t>(part->shape[0]) * row_bytes(*part);
    PONDER_RETURN_IF_ERROR(device->upload(part->data, data, bytes));
    data += bytes;
  }
  return OkStatus();
}

// Memory for `count` matrices of a stack's shape.
StatusOr<DeviceStack> make_room(Device* device, const Stack& stack, int64_t count) {
  const std::string what = stack.parts[0]->describe();
  const auto n = static_cast<uint64_t>(count);
  DeviceStack made;
  made.weights = stack.shape;
  if (count > 1) made.weights.bytes = (stack.shape.bytes + kAlign - 1) / kAlign * kAlign;
  PONDER_ASSIGN_OR_RETURN(made.data, DeviceBuffer::create(device, n * made.weights.bytes, what));
  made.weights.data = made.data.as<uint8_t>();
  if (stack.shape.scale_count > 0) {
    PONDER_ASSIGN_OR_RETURN(made.scales,
                            DeviceBuffer::create(device, n * stack.scale_bytes(), what));
    made.weights.scales = made.scales.as<float>();
  }
  return made;
}

bool same_shape(const Stack& stack, const DeviceStack& made) {
  const Weights &a = stack.shape, &b = made.weights;
  return a.dtype == b.dtype && a.rows == b.rows && a.cols == b.cols &&
         a.scale_count == b.scale_count;
}

Status check_expert(const ExpertWeights& w, int64_t hidden, int64_t width) {
  const std::vector<int64_t> wide = {width, hidden}, narrow = {hidden, width};
  if (w.gate.shape == wide && w.up.shape == wide && w.down.shape == narrow) return OkStatus();
  return corrupt_error("the matrices ", w.gate.describe(), ", ", w.up.describe(), " and ",
                       w.down.describe(), " of an expert do not fit a model of width ", hidden,
                       " with experts of ", width);
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

Form form_of(DType dtype, Precision precision, const Device& device) {
  if (precision == Precision::kF32) return Form::kFloats;
  const Form form = form_of(dtype);
  const bool codes = precision == Precision::kF8 && device.f8_operands() != F8Operands::kNone;
  return codes && form == Form::kF8 ? Form::kF8Codes : form;
}

StatusOr<std::unique_ptr<CudaWeight>> pack(Device* device, ThreadPool* pool,
                                           std::span<const WeightData> parts, Precision precision) {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes(parts));
  auto packed = std::make_unique<CudaWeight>();
  packed->cols = parts[0].shape[1];
  for (const Stack& stack : make_stacks(*device, parts, precision)) {
    PONDER_ASSIGN_OR_RETURN(DeviceStack made, make_room(device, stack, 1));
    PONDER_RETURN_IF_ERROR(
        write_stack(device, pool, stack, made.data.as<char>(), made.scales.as<float>()));
    packed->bytes += made.data.bytes() + made.scales.bytes();
    packed->rows += stack.shape.rows;
    packed->stacks.push_back(std::move(made));
  }
  // The checkpoint's pages may leave memory as soon as this returns.
  PONDER_RETURN_IF_ERROR(device->settle());
  return packed;
}

StatusOr<std::unique_ptr<CudaExperts>> pack_experts(Device* device, ThreadPool* pool,
                                                    std::unique_ptr<ExpertSource> source,
                                                    Precision precision) {
  auto packed = std::make_unique<CudaExperts>();
  packed->experts = source->experts();
  packed->hidden = source->hidden();
  packed->width = source->width();
  std::vector<DeviceStack*> made;
  for (int64_t e = 0; e < packed->experts; ++e) {
    PONDER_ASSIGN_OR_RETURN(const ExpertWeights w, source->find(e));
    PONDER_RETURN_IF_ERROR(check_expert(w, packed->hidden, packed->width));
    const WeightData wide[] = {w.gate, w.up};
    for (const WeightData* part : {&w.gate, &w.up, &w.down}) {
      PONDER_RETURN_IF_ERROR(ref::check_weight_shapes({part, 1}));
    }
    std::vector<Stack> stacks = make_stacks(*device, wide, precision);
    stacks.push_back(make_stacks(*device, {&w.down, 1}, precision)[0]);
    if (e == 0) {
      packed->gate_up.resize(stacks.size() - 1);
      for (DeviceStack& stack : packed->gate_up) made.push_back(&stack);
      made.push_back(&packed->down);
      for (size_t i = 0; i < stacks.size(); ++i) {
        PONDER_ASSIGN_OR_RETURN(*made[i], make_room(device, stacks[i], packed->experts));
        packed->bytes += made[i]->data.bytes() + made[i]->scales.bytes();
      }
    }
    bool same = stacks.size() == made.size();
    for (size_t i = 0; same && i < stacks.size(); ++i) same = same_shape(stacks[i], *made[i]);
    if (!same) {
      return unsupported_error("expert ", e, " (", w.gate.describe(),
                               ") has other weight types than the first one of its layer, which is "
                               "not supported on this device");
    }
    for (size_t i = 0; i < stacks.size(); ++i) {
      char* const data =
          made[i]->data.as<char>() + static_cast<uint64_t>(e) * made[i]->weights.bytes;
      float* const scales = made[i]->scales.as<float>();
      PONDER_RETURN_IF_ERROR(
          write_stack(device, pool, stacks[i], data,
                      scales != nullptr ? scales + e * made[i]->weights.scale_count : nullptr));
    }
    PONDER_RETURN_IF_ERROR(device->settle());
    source->drop(w);
  }
  return packed;
}

}  // namespace ponder::cuda
