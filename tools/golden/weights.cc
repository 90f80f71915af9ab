#include "weights.h"

#include <bit>
#include <cmath>
#include <cstdio>

#include "stream.h"

namespace ponder::golden {
namespace {

size_t bytes_of(ElementType type) {
  return type == ElementType::kF32 ? 4 : type == ElementType::kF8 ? 1 : 2;
}

const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::kF32:
      return "F32";
    case ElementType::kF16:
      return "F16";
    case ElementType::kBF16:
      return "BF16";
    case ElementType::kF8:
      return "F8_E4M3";
  }
  return "";
}

// Codes of f8 are spread like this: the largest quantile stays well below 448.
constexpr double kF8Deviation = 60;

// A tensor of the file, with the type that it gets there.
struct Stored {
  TensorSpec spec;
  ElementType type;

  uint64_t bytes() const { return static_cast<uint64_t>(spec.elements()) * bytes_of(type); }
};

// What is stored for what was asked for: f8 brings scales.
std::vector<Stored> stored(const std::vector<TensorSpec>& tensors, ElementType type) {
  using Storage = TensorSpec::Storage;
  const ElementType rest = type == ElementType::kF8 ? ElementType::kBF16 : type;
  std::vector<Stored> all;
  for (const TensorSpec& spec : tensors) {
    if (spec.storage == Storage::kF32) {
      all.push_back({spec, ElementType::kF32});
    } else if (spec.storage != Storage::kLinear || type != ElementType::kF8) {
      all.push_back({spec, rest});
    } else {
      // The scale times the codes' spread is the spread that was wanted; scales differ by a tenth.
      const double scale = spec.deviation / kF8Deviation;
      const std::vector<int64_t> blocks = {(spec.shape[0] + 127) / 128,
                                           (spec.shape[1] + 127) / 128};
      all.push_back({{spec.name, spec.shape, 0, kF8Deviation}, ElementType::kF8});
      all.push_back({{spec.name + "_scale_inv", blocks, scale, scale / 10}, ElementType::kF32});
    }
  }
  return all;
}

// Round to nearest even; only values within +-448.
uint8_t to_f8(float v) {
  const uint8_t sign = std::signbit(v) ? 0x80 : 0;
  const float a = std::fabs(v);
  if (a >= 448.0f) return sign | 0x7e;
  if (a < 0x1p-6f) return sign | static_cast<uint8_t>(std::lrint(a * 0x1p9f));
  const uint32_t u = std::bit_cast<uint32_t>(a);
  return sign | static_cast<uint8_t>((u + 0x7ffff + ((u >> 20) & 1) - (120u << 23)) >> 20);
}

}  // namespace

void write_weights(const std::filesystem::path& folder, const std::vector<TensorSpec>& tensors,
                   const WriteOptions& options) {
  const std::vector<Stored> everything = stored(tensors, options.type);
  std::vector<std::vector<const Stored*>> shards(1);
  uint64_t total = 0, in_shard = 0;
  for (const Stored& tensor : everything) {
    const uint64_t bytes = tensor.bytes();
    if (options.shard_bytes != 0 && !shards.back().empty() &&
        in_shard + bytes > options.shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(&tensor);
    in_shard += bytes;
    total += bytes;
  }

  const std::vector<float> quantiles = normal_quantiles();
  uint64_t done = 0;
  const auto wrote = [&](uint64_t bytes) {
    done += bytes;
    if (options.progress) options.progress(done, total);
  };
  Json map = Json::object();
  for (size_t n = 0; n < shards.size(); ++n) {
    std::string name = "model.safetensors";
    if (shards.size() > 1) {
      char text[64];
      std::snprintf(text, sizeof text, "model-%05zu-of-%0*zu.safetensors", n + 1,
                    options.total_digits, shards.size());
      name = text;
    }
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    uint64_t offset = 0;
    for (const Stored* tensor : shards[n]) {
      const uint64_t end = offset + tensor->bytes();
      header[tensor->spec.name] = {{"dtype", name_of(tensor->type)},
                                   {"shape", tensor->spec.shape},
                                   {"data_offsets", {offset, end}}};
      map[tensor->spec.name] = name;
      offset = end;
    }
    std::string json = header.dump();
    json.resize((json.size() + 7) / 8 * 8, ' ');
    const uint64_t length = json.size();

    File file(folder / name);
    file.write(&length, sizeof length);
    file.write(json.data(), json.size());
    for (const Stored* tensor : shards[n]) {
      const TensorSpec& spec = tensor->spec;
      const uint64_t seed = seed_of(options.seed, spec.name);
      switch (tensor->type) {
        case ElementType::kF32:
          write_tensor<float>(
              file, spec, seed, quantiles, [](float v) { return v; }, wrote);
          break;
        case ElementType::kF16:
          write_tensor<uint16_t>(file, spec, seed, quantiles, to_f16, wrote);
          break;
        case ElementType::kBF16:
          write_tensor<uint16_t>(file, spec, seed, quantiles, to_bf16, wrote);
          break;
        case ElementType::kF8:
          write_tensor<uint8_t>(file, spec, seed, quantiles, to_f8, wrote);
          break;
      }
    }
    file.close();
  }
  if (shards.size() > 1) {
    const std::string index =
        Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n";
    File file(folder / "model.safetensors.index.json");
    file.write(index.data(), index.size());
    file.close();
  }
}

}  // namespace ponder::golden
