#include "lib/engine/observing_backend.h"

#include <utility>

#include "lib/device/forwarding_backend.h"

namespace ponder::engine {
namespace {

class ObservingBackend final : public ForwardingBackend {
 public:
  ObservingBackend(Backend* to, LinearObserver* observer)
      : ForwardingBackend(to), observer_(observer) {}

  StatusOr<std::unique_ptr<PackedWeight>> pack_linear(std::span<const WeightData> parts,
                                                      const PackOptions& options) override {
    PONDER_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> packed,
                            to()->pack_linear(parts, options));
    std::vector<std::string>& names = names_[packed.get()];
    for (const WeightData& part : parts) names.push_back(part.name);
    return packed;
  }
  Status linear(const LinearParams& p) override {
    const auto it = names_.find(p.w);
    if (it != names_.end() && p.x.dim[0] > 0) {
      const int64_t rows = p.x.dim[0], cols = p.x.dim[1];
      rows_.resize(static_cast<size_t>(rows * cols));
      for (int64_t r = 0; r < rows; ++r) {
        PONDER_RETURN_IF_ERROR(to()->download(p.x.f32() + r * p.x.stride[0],
                                              rows_.data() + r * cols,
                                              static_cast<uint64_t>(cols) * sizeof(float)));
      }
      observer_->observe(it->second, rows_.data(), rows, cols);
    }
    return to()->linear(p);
  }

 private:
  LinearObserver* const observer_;
  std::map<const PackedWeight*, std::vector<std::string>> names_;
  std::vector<float> rows_;
};

}  // namespace

std::unique_ptr<Backend> make_observing_backend(Backend* to, LinearObserver* observer) {
  return std::make_unique<ObservingBackend>(to, observer);
}

}  // namespace ponder::engine
