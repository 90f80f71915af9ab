#include "lib/exec/loader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>

#include "lib/exec/expert_source.h"
#include "lib/tensor/half.h"

namespace ponder {

struct Loader::Shared {
  const Checkpoint& checkpoint;
  Backend* backend;
  PackOptions options;
  WeightStore* store;
  Progress progress;
  uint64_t total = 0;
  Status status;
};

Loader::Loader(const Checkpoint& checkpoint, Backend* backend, PackOptions options,
               WeightStore* store, Progress progress)
    : shared_(std::make_shared<Shared>(Shared{checkpoint, backend, options, store,
                                              std::move(progress), checkpoint.total_bytes(), {}})) {
}

Loader Loader::in(absl::string_view scope) const {
  return Loader(shared_, absl::StrCat(prefix_, scope, "."));
}

Loader Loader::in(absl::string_view scope, int64_t i) const {
  return Loader(shared_, absl::StrCat(prefix_, scope, ".", i, "."));
}

bool Loader::has(absl::string_view name) const {
  return shared_->checkpoint.has(absl::StrCat(prefix_, name));
}

void Loader::fail(const Status& status) const {
  if (shared_->status.ok()) shared_->status = status;
}

const Status& Loader::status() const { return shared_->status; }

StatusOr<WeightData> Loader::find(absl::string_view name,
                                  std::initializer_list<int64_t> shape) const {
  PONDER_RETURN_IF_ERROR(shared_->status);
  return find_weight(shared_->checkpoint, absl::StrCat(prefix_, name),
                     {shape.begin(), shape.size()});
}

void Loader::count(const WeightData& data) const {
  count(static_cast<uint64_t>(data.elements()),
        static_cast<uint64_t>(dtype_bytes(data.dtype, data.elements())));
}

void Loader::count(uint64_t parameters, uint64_t bytes) const {
  Shared& s = *shared_;
  s.store->parameters += parameters;
  s.store->bytes += bytes;
  if (!s.status.ok()) return;  // stopped: the host has been asked for the last time
  if (s.progress && s.progress(s.store->bytes, std::max(s.total, s.store->bytes)) != 0) {
    fail(cancelled_error("loading was stopped by the progress callback"));
  }
}

Linear Loader::linear(absl::string_view name, int64_t rows, int64_t cols) const {
  return fused({{name, rows}}, cols);
}

Linear Loader::fused(std::initializer_list<Part> parts, int64_t cols) const {
  // What a failed load computes with: shapes only, never data.
  auto placeholder = [&]() {
    int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows;
    auto weight = std::make_unique<PackedWeight>();
    weight->rows = rows;
    weight->cols = cols;
    Linear linear;
    linear.weight = weight.get();
    shared_->store->weights.push_back(std::move(weight));
    return linear;
  };

  std::vector<WeightData> weights, biases;
  size_t with_bias = 0;
  for (const Part& part : parts) {
    StatusOr<WeightData> w = find(absl::StrCat(part.name, ".weight"), {part.rows, cols});
    if (!w.ok()) {
      fail(w.status());
      return placeholder();
    }
    weights.push_back(*std::move(w));
    const std::string bias = absl::StrCat(part.name, ".bias");
    if (!has(bias)) continue;
    StatusOr<WeightData> b = find(bias, {part.rows});
    if (!b.ok()) {
      fail(b.status());
      return placeholder();
    }
    biases.push_back(*std::move(b));
    ++with_bias;
  }
  if (with_bias != 0 && with_bias != parts.size()) {
    fail(corrupt_error("only some of the tensors stacked with \"", prefix_, parts.begin()->name,
                       "\" have a bias"));
    return placeholder();
  }

  StatusOr<std::unique_ptr<PackedWeight>> packed =
      shared_->backend->pack_linear(weights, shared_->options);
  if (!packed.ok()) {
    fail(packed.status());
    return placeholder();
  }
  Linear linear;
  linear.weight = packed->get();
  shared_->store->weights.push_back(*std::move(packed));
  if (!biases.empty()) linear.bias = load_vector(biases);
  for (const WeightData& w : weights) {
    shared_->checkpoint.drop(w);
    count(w);
  }
  return linear;
}

Embedding Loader::embedding(absl::string_view name, int64_t rows, int64_t cols) const {
  StatusOr<WeightData> data = find(absl::StrCat(name, ".weight"), {rows, cols});
  StatusOr<std::unique_ptr<PackedWeight>> packed =
      data.ok() ? shared_->backend->pack_table(*data)
                : StatusOr<std::unique_ptr<PackedWeight>>(data.status());
  if (!packed.ok()) {
    fail(packed.status());
    packed = std::make_unique<PackedWeight>();
    (*packed)->rows = rows;
    (*packed)->cols = cols;
  } else {
    count(*data);
  }
  Embedding embedding{packed->get()};
  shared_->store->weights.push_back(*std::move(packed));
  return embedding;
}

MlaUp Loader::mla_up(int64_t heads, int64_t nope_dim, int64_t value_dim, int64_t rank) const {
  MlaUpWeights up;
  up.heads = heads;
  up.nope_dim = nope_dim;
  up.value_dim = value_dim;
  up.rank = rank;
  const bool whole = has("kv_b_proj.weight") || !has("k_b_proj.weight");
  const auto pack = [&]() -> StatusOr<std::unique_ptr<PackedWeight>> {
    if (whole) {
      PONDER_ASSIGN_OR_RETURN(up.kv,
                              find("kv_b_proj.weight", {heads * (nope_dim + value_dim), rank}));
    } else {
      PONDER_ASSIGN_OR_RETURN(up.k_transposed, find("k_b_proj.weight", {heads, rank, nope_dim}));
      PONDER_ASSIGN_OR_RETURN(up.v, find("v_b_proj.weight", {heads, value_dim, rank}));
      up.k_transposed.shape = {heads * rank, nope_dim};
      up.v.shape = {heads * value_dim, rank};
    }
    return shared_->backend->pack_mla(up, shared_->options);
  };
  StatusOr<std::unique_ptr<PackedWeight>> packed = pack();
  if (!packed.ok()) {
    fail(packed.status());
    packed = std::make_unique<PackedWeight>();
    (*packed)->rows = heads * (nope_dim + value_dim);
    (*packed)->cols = rank;
  } else if (whole) {
    shared_->checkpoint.drop(up.kv);
    count(up.kv);
  } else {
    shared_->checkpoint.drop(up.k_transposed);
    shared_->checkpoint.drop(up.v);
    count(up.k_transposed);
    count(up.v);
  }
  const MlaUp result{packed->get(), heads, nope_dim, value_dim, rank};
  shared_->store->weights.push_back(*std::move(packed));
  return result;
}

namespace {

// Tells of each expert as it is found by the thread that loads; others are told of at the end.
class ToldExperts final : public ExpertSource {
 public:
  using Tell = std::function<Status(const ExpertWeights&)>;
  ToldExperts(std::unique_ptr<ExpertSource> source, Tell tell)
      : source_(std::move(source)), tell_(std::move(tell)) {}

  int64_t experts() const override { return source_->experts(); }
  int64_t hidden() const override { return source_->hidden(); }
  int64_t width() const override { return source_->width(); }
  StatusOr<ExpertWeights> find(int64_t expert) const override {
    PONDER_ASSIGN_OR_RETURN(ExpertWeights weights, source_->find(expert));
    if (std::this_thread::get_id() == loading_) PONDER_RETURN_IF_ERROR(tell_(weights));
    return weights;
  }
  StatusOr<ExpertWeights> describe(int64_t expert) const override {
    return source_->describe(expert);
  }
  void prefetch(int64_t expert) const override { source_->prefetch(expert); }
  void drop(const ExpertWeights& weights) const override { source_->drop(weights); }

 private:
  const std::unique_ptr<ExpertSource> source_;
  const Tell tell_;
  const std::thread::id loading_ = std::this_thread::get_id();
};

}  // namespace

Experts Loader::experts(absl::string_view name, int64_t count_of, int64_t width,
                        int64_t hidden) const {
  const std::string prefix = absl::StrCat(prefix_, name, ".");
  uint64_t bytes = 0, told = 0;
  // A layer of R1 has gigabytes: a host that wants to stop need not wait for all of it.
  const auto tell = [&](const ExpertWeights& w) -> Status {
    for (const WeightData* part : {&w.gate, &w.up, &w.down}) {
      const auto size = static_cast<uint64_t>(dtype_bytes(part->dtype, part->elements()));
      told += size;
      count(0, size);
    }
    return shared_->status;
  };
  const auto pack = [&]() -> StatusOr<std::unique_ptr<PackedExperts>> {
    PONDER_RETURN_IF_ERROR(shared_->status);
    PONDER_ASSIGN_OR_RETURN(
        std::unique_ptr<ExpertSource> source,
        make_expert_source(shared_->checkpoint, prefix, count_of, width, hidden,
                           shared_->options.expert_cache != nullptr, &bytes));
    // Without a cache the source is let go when all is packed.
    if (shared_->options.expert_cache == nullptr) {
      source = std::make_unique<ToldExperts>(std::move(source), tell);
    }
    return shared_->backend->pack_experts(std::move(source), shared_->options);
  };
  StatusOr<std::unique_ptr<PackedExperts>> packed = pack();
  if (!packed.ok()) {
    fail(packed.status());
    packed = std::make_unique<PackedExperts>();
    (*packed)->experts = count_of;
    (*packed)->width = width;
    (*packed)->hidden = hidden;
  } else {
    count(static_cast<uint64_t>(3 * count_of * width * hidden), bytes - told);
  }
  const Experts result{packed->get()};
  shared_->store->experts.push_back(*std::move(packed));
  return result;
}

Tensor Loader::vector(absl::string_view name, int64_t size) const {
  StatusOr<WeightData> data = find(name, {size});
  if (!data.ok()) {
    fail(data.status());
    return Tensor::make(nullptr, DType::kF32, {size});
  }
  return load_vector(std::vector<WeightData>{*std::move(data)});
}

Tensor Loader::load_vector(const std::vector<WeightData>& parts) const {
  std::vector<float> values;
  for (const WeightData& part : parts) {
    const auto n = static_cast<size_t>(part.elements());
    const auto* bytes = static_cast<const char*>(part.data);
    for (size_t i = 0; i < n; ++i) {
      uint16_t half = 0;
      float value = 0;
      switch (part.dtype) {
        case DType::kF32:
          std::memcpy(&value, bytes + 4 * i, 4);
          break;
        case DType::kF16:
          std::memcpy(&half, bytes + 2 * i, 2);
          value = f16_to_f32(half);
          break;
        case DType::kBF16:
          std::memcpy(&half, bytes + 2 * i, 2);
          value = bf16_to_f32(half);
          break;
        default:
          fail(unsupported_error("tensor ", part.describe(), ": a vector must be f32, f16 or bf16"));
      }
      if (!std::isfinite(value)) {
        fail(corrupt_error("tensor ", part.describe(), " has a value that is not finite at index ",
                           i, "; the file is damaged"));
      }
      values.push_back(value);
    }
    count(part);
  }
  const auto size = static_cast<int64_t>(values.size());
  const uint64_t bytes = values.size() * sizeof(float);
  StatusOr<Buffer> buffer = Buffer::create(shared_->backend->allocator(), bytes, "a weight vector");
  if (buffer.ok()) {
    const Status uploaded = shared_->backend->upload(values.data(), buffer->data(), bytes);
    if (!uploaded.ok()) buffer = uploaded;
  }
  if (!buffer.ok()) {
    fail(buffer.status());
    return Tensor::make(nullptr, DType::kF32, {size});
  }
  Tensor tensor = Tensor::make(buffer->data(), DType::kF32, {size});
  shared_->store->vectors.push_back(*std::move(buffer));
  return tensor;
}

namespace {

// YaRN (arXiv 2309.00071, sections 3.2 to 3.4): waves that turn more than beta_fast times within the
// original context stay, those that turn less than beta_slow times are interpolated, with a linear
// ramp between; cos and sin grow by the attention temperature. Names and the ramp's whole-number
// ends are those of transformers' _compute_yarn_parameters.
void apply_yarn(const Config& scaling, double theta, int64_t dim, Rope* rope) {
  const double factor = scaling.f("factor");
  const auto original = static_cast<double>(scaling.i("original_max_position_embeddings"));
  if (!(factor > 0) || !(theta > 1)) {
    scaling.fail(corrupt_error("config.json: rope_scaling of type yarn needs factor > 0 and "
                               "rope_theta > 1"));
    return;
  }
  const auto width = static_cast<double>(dim);
  auto turning = [&](double turns) {  // the dimension whose wave turns so often in `original`
    return width * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(theta));
  };
  double low = turning(scaling.f("beta_fast", 32)), high = turning(scaling.f("beta_slow", 1));
  if (scaling.b("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, width - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < rope->inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double f = rope->inv_freq[i];
    rope->inv_freq[i] = static_cast<float>(f / factor * ramp + f * (1 - ramp));
  }
  auto temperature = [&](double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
  };
  double magnitude = temperature(1);
  if (scaling.has("attention_factor")) {
    magnitude = scaling.f("attention_factor");
  } else if (scaling.f("mscale", 0) != 0 && scaling.f("mscale_all_dim", 0) != 0) {
    magnitude = temperature(scaling.f("mscale")) / temperature(scaling.f("mscale_all_dim"));
  }
  rope->magnitude = static_cast<float>(magnitude);
}

// Each frequency divided by a factor of its own, as GGUF files have Llama 3.1's scaling.
void apply_factors(const Config& scaling, Rope* rope) {
  const Json* factors = scaling.find("factors");
  const size_t count = factors != nullptr && factors->is_array() ? factors->size() : 0;
  if (count != rope->inv_freq.size()) {
    scaling.fail(corrupt_error("rope_scaling: there are ", count, " factors for ",
                               rope->inv_freq.size(), " frequencies"));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const Json& factor = (*factors)[i];
    const double by = factor.is_number() ? factor.get<double>() : 0;
    if (!(by > 0)) {
      scaling.fail(corrupt_error("rope_scaling: factor ", i, " is not a positive number"));
      return;
    }
    rope->inv_freq[i] /= static_cast<float>(by);
  }
}

}  // namespace

Rope make_rope(const Config& config, int64_t dim) {
  // lib/format has brought every spelling of these keys into one (read_model_config).
  const double theta = config.f("rope_theta", 10000.0);
  const bool described = config.has("rope_scaling");
  const Config scaling = described ? config.at("rope_scaling") : config;
  const std::string type = described ? scaling.s("rope_type") : "default";

  Rope rope;
  constexpr int64_t kWidest = 1 << 16;
  if (dim < 2 || dim % 2 != 0 || dim > kWidest) {
    config.fail(corrupt_error("config.json: heads of which ", dim,
                              " elements turn with their "
                              "position are not possible: it must be an even number up to ",
                              kWidest));
    return rope;
  }
  rope.interleaved = config.b("rope_interleaved", false);  // rows as GGUF's converter leaves them
  for (int64_t i = 0; i < dim; i += 2) {
    rope.inv_freq.push_back(static_cast<float>(
        1.0f / std::pow(static_cast<float>(theta),
                        static_cast<float>(i) / static_cast<float>(dim))));
  }
  if (type == "default") return rope;
  if (type == "linear") {
    const double factor = scaling.f("factor");
    for (float& f : rope.inv_freq) f = static_cast<float>(f / factor);
  } else if (type == "llama3") {
    // Long waves are slowed by `factor`, short ones kept, those between blended.
    const double factor = scaling.f("factor");
    const double low = scaling.f("low_freq_factor"), high = scaling.f("high_freq_factor");
    const double original = static_cast<double>(scaling.i("original_max_position_embeddings"));
    if (!(high > low) || !(factor > 0)) {
      config.fail(corrupt_error("config.json: rope_scaling of type llama3 needs factor > 0 and "
                                "high_freq_factor > low_freq_factor"));
      return rope;
    }
    for (float& f : rope.inv_freq) {
      const double wave = 2 * M_PI / f;
      if (wave > original / low) {
        f = static_cast<float>(f / factor);
      } else if (wave >= original / high) {
        const double blend = (original / wave - low) / (high - low);
        f = static_cast<float>((1 - blend) * f / factor + blend * f);
      }
    }
  } else if (type == "yarn") {
    apply_yarn(scaling, theta, dim, &rope);
  } else if (type == "factors") {
    apply_factors(scaling, &rope);
  } else {
    config.fail(unsupported_error("config.json: rope type \"", type,
                                  "\" is not supported; known: default, linear, llama3, yarn, factors"));
  }
  return rope;
}

}  // namespace ponder
