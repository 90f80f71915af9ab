#include "weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace ponder::golden {
namespace {

constexpr int64_t kChunk = 1 << 18;  // elements made at a time

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

uint16_t to_bf16(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// For finite values of moderate size only, which is all that is made here; rounds to nearest even.
uint16_t to_f16(float v) {
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  const float a = std::fabs(v);
  if (a >= 65504.0f) return sign | 0x7bff;
  if (a < 0x1p-14f) return sign | static_cast<uint16_t>(std::lrint(a * 0x1p24f));
  const uint32_t u = std::bit_cast<uint32_t>(a);
  return sign | static_cast<uint16_t>((u + 0xfff + ((u >> 13) & 1) - (112u << 23)) >> 13);
}

// Quantiles of the standard normal distribution at the middles of 65,536 equal parts: a random
// index into the table is a normal number, at the price of a load.
std::vector<float> normal_quantiles() {
  constexpr int kSize = 1 << 16;
  std::vector<float> table(kSize);
  for (int i = 0; i < kSize / 2; ++i) {
    const double p = (i + 0.5) / kSize;
    double low = -6, high = 0;
    for (int step = 0; step < 50; ++step) {
      const double middle = (low + high) / 2;
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    table[i] = static_cast<float>(low);
    table[kSize - 1 - i] = static_cast<float>(-low);
  }
  return table;
}

// splitmix64: the n-th number of a stream is a function of the stream's seed and n.
uint64_t random_bits(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t seed_of(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u ^ random_bits(seed, 0);
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

class File {
 public:
  explicit File(const std::filesystem::path& path) : path_(path), out_(path, std::ios::binary) {
    check();
  }
  void write(const void* data, size_t size) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
    check();
  }
  void close() {
    out_.close();
    check();
  }

 private:
  void check() const {
    if (!out_) throw std::runtime_error("cannot write " + path_.string());
  }
  std::filesystem::path path_;
  std::ofstream out_;
};

// One tensor's values, already scaled and rounded: table[i] is the i-th quantile.
template <typename T, typename Convert>
void write_tensor(File& file, const TensorSpec& spec, uint64_t seed,
                  const std::vector<float>& quantiles, const Convert& convert,
                  const std::function<void(uint64_t)>& wrote) {
  std::vector<T> table(quantiles.size());
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = convert(static_cast<float>(spec.mean + spec.deviation * quantiles[i]));
  }
  std::vector<T> chunk(kChunk);
  const int64_t elements = spec.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const int64_t count = std::min(kChunk, elements - begin);
    for (int64_t i = 0; i < count; i += 4) {
      const uint64_t bits = random_bits(seed, static_cast<uint64_t>(begin + i) / 4);
      for (int64_t j = 0; j < 4 && i + j < count; ++j)
        chunk[i + j] = table[bits >> 16 * j & 0xffff];
    }
    file.write(chunk.data(), static_cast<size_t>(count) * sizeof(T));
    wrote(static_cast<uint64_t>(count) * sizeof(T));
  }
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
