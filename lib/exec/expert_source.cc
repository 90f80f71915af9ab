#include "lib/exec/expert_source.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "lib/tensor/dequantize.h"

namespace ponder {
namespace {

Status misfit(const std::string& name, const std::vector<int64_t>& shape,
              std::span<const int64_t> wanted) {
  const auto text = [](std::span<const int64_t> dims) {
    std::string out;
    for (const int64_t d : dims) absl::StrAppend(&out, out.empty() ? "" : ", ", d);
    return out;
  };
  return corrupt_error("tensor \"", name, "\" [", text(shape),
                       "] does not fit the model's configuration, which asks for [", text(wanted),
                       "]; the two belong to different models");
}

constexpr int64_t kTile = F8Matrix::kTile;
constexpr float kLargestF8 = 448;
constexpr int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }

// Gives a matrix of f8_e4m3 its scales.
Status attach_scales(const Checkpoint& checkpoint, bool read, WeightData* weight) {
  const std::string name = absl::StrCat(weight->name, "_scale_inv");
  if (!checkpoint.has(name)) {
    return corrupt_error("tensor ", weight->describe(), ": its scales \"", name,
                         "\" are missing from the checkpoint");
  }
  if (weight->shape.size() != 2) {
    return corrupt_error("tensor ", weight->describe(), ": only matrices can have scales");
  }
  PONDER_ASSIGN_OR_RETURN(const WeightData data,
                          read ? checkpoint.load(name, -1) : checkpoint.find(name));
  const int64_t rows = tiles(weight->shape[0]), cols = tiles(weight->shape[1]);
  if (data.shape != std::vector<int64_t>{rows, cols}) {
    return corrupt_error("tensor ", data.describe(), " does not fit ", weight->describe(),
                         ": scales of blocks of 128 x 128 are [", rows, ", ", cols, "]");
  }
  if (data.dtype != DType::kF32 && data.dtype != DType::kBF16 && data.dtype != DType::kF16) {
    return corrupt_error("tensor ", data.describe(), ": scales must be f32, bf16 or f16");
  }
  const std::shared_ptr<float[]> scales(new float[static_cast<size_t>(rows * cols)]);
  PONDER_RETURN_IF_ERROR(dequantize(data.dtype, data.data, rows * cols, scales.get()));
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (!std::isfinite(scales[i] * kLargestF8)) {
      return corrupt_error("tensor ", data.describe(), ": scale [", i / cols, ", ", i % cols,
                           "] is ", scales[i],
                           ", which no weight can be multiplied by; the file "
                           "is damaged");
    }
  }
  weight->scales = scales;
  return OkStatus();
}

class CheckpointExperts final : public ExpertSource {
 public:
  CheckpointExperts(const Checkpoint& checkpoint, std::string prefix, int64_t experts,
                    int64_t width, int64_t hidden, bool stacked, bool on_demand)
      : checkpoint_(checkpoint),
        prefix_(std::move(prefix)),
        experts_(experts),
        width_(width),
        hidden_(hidden),
        stacked_(stacked),
        on_demand_(on_demand) {}

  int64_t experts() const override { return experts_; }
  int64_t hidden() const override { return hidden_; }
  int64_t width() const override { return width_; }

  StatusOr<ExpertWeights> find(int64_t expert) const override {
    ExpertWeights weights;
    PONDER_ASSIGN_OR_RETURN(weights.gate, part(expert, "gate_proj", {width_, hidden_}));
    PONDER_ASSIGN_OR_RETURN(weights.up, part(expert, "up_proj", {width_, hidden_}));
    PONDER_ASSIGN_OR_RETURN(weights.down, part(expert, "down_proj", {hidden_, width_}));
    return weights;
  }
  StatusOr<ExpertWeights> describe(int64_t expert) const override {
    ExpertWeights weights;
    for (const auto& [what, to] :
         {std::pair("gate_proj", &weights.gate), std::pair("up_proj", &weights.up),
          std::pair("down_proj", &weights.down)}) {
      PONDER_ASSIGN_OR_RETURN(*to, checkpoint_.describe(name(expert, what)));
      if (stacked_) to->shape.erase(to->shape.begin());  // shapes were checked
    }
    return weights;
  }
  void prefetch(int64_t expert) const override {
    for (const char* what : {"gate_proj", "up_proj", "down_proj"}) {
      checkpoint_.prefetch(name(expert, what), stacked_ ? expert : -1);
    }
  }
  void drop(const ExpertWeights& weights) const override {
    checkpoint_.drop(weights.gate);
    checkpoint_.drop(weights.up);
    checkpoint_.drop(weights.down);
  }

  // Looks at the tables only; adds what the experts take.
  Status check(uint64_t* bytes) const {
    for (const auto& [what, rows, cols] :
         {std::tuple("gate_proj", width_, hidden_), std::tuple("up_proj", width_, hidden_),
          std::tuple("down_proj", hidden_, width_)}) {
      const int64_t stack[] = {experts_, rows, cols};
      for (int64_t e = 0; e < (stacked_ ? 1 : experts_); ++e) {
        PONDER_ASSIGN_OR_RETURN(const TensorInfo info, checkpoint_.info(name(e, what)));
        const auto wanted = std::span<const int64_t>(stack).subspan(stacked_ ? 0 : 1);
        if (!std::equal(info.shape.begin(), info.shape.end(), wanted.begin(), wanted.end())) {
          return misfit(info.name, info.shape, wanted);
        }
        *bytes += info.bytes;
      }
    }
    return OkStatus();
  }

 private:
  std::string name(int64_t expert, absl::string_view what) const {
    return stacked_ ? absl::StrCat(prefix_, what, ".weight")
                    : absl::StrCat(prefix_, expert, ".", what, ".weight");
  }
  StatusOr<WeightData> part(int64_t expert, absl::string_view what,
                            std::array<int64_t, 2> shape) const {
    const std::string tensor = name(expert, what);
    if (!stacked_ && !on_demand_) return find_weight(checkpoint_, tensor, shape);
    PONDER_ASSIGN_OR_RETURN(WeightData weight,
                            on_demand_ ? checkpoint_.load(tensor, stacked_ ? expert : -1)
                                       : checkpoint_.find_slice(tensor, expert));
    if (stacked_) {
      absl::StrAppend(&weight.name, " of expert ", expert);
    } else if (weight.dtype == DType::kF8_E4M3) {
      PONDER_RETURN_IF_ERROR(attach_scales(checkpoint_, true, &weight));
    }
    return weight;
  }

  const Checkpoint& checkpoint_;
  const std::string prefix_;
  const int64_t experts_, width_, hidden_;
  const bool stacked_, on_demand_;
};

}  // namespace

StatusOr<WeightData> find_weight(const Checkpoint& checkpoint, const std::string& name,
                                 std::span<const int64_t> shape) {
  PONDER_ASSIGN_OR_RETURN(WeightData data, checkpoint.find(name));
  if (!std::equal(data.shape.begin(), data.shape.end(), shape.begin(), shape.end())) {
    return misfit(name, data.shape, shape);
  }
  if (data.dtype == DType::kF8_E4M3) {
    PONDER_RETURN_IF_ERROR(attach_scales(checkpoint, false, &data));
  }
  return data;
}

StatusOr<std::unique_ptr<ExpertSource>> make_expert_source(const Checkpoint& checkpoint,
                                                           const std::string& prefix,
                                                           int64_t experts, int64_t width,
                                                           int64_t hidden, bool on_demand,
                                                           uint64_t* bytes) {
  const bool stacked = checkpoint.has(absl::StrCat(prefix, "gate_proj.weight"));
  auto source = std::make_unique<CheckpointExperts>(checkpoint, prefix, experts, width, hidden,
                                                    stacked, on_demand);
  *bytes = 0;
  PONDER_RETURN_IF_ERROR(source->check(bytes));
  return source;
}

}  // namespace ponder
