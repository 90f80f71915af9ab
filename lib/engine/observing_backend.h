// A backend that lets somebody see what goes into the linear layers, and does the rest as another.
//
// For calibration: the observer sees every row that a packed weight is multiplied with, and the
// names of the tensors in it. Lives as long as the model that is loaded on it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/device/backend.h"

namespace ponder::engine {

// Called on the driver's thread; calls do not overlap. A copy of the rows on the host: [rows, cols].
class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  virtual void observe(const std::vector<std::string>& weights, const float* x, int64_t rows,
                       int64_t cols) = 0;
};

// `to` and `observer` outlive the result.
std::unique_ptr<Backend> make_observing_backend(Backend* to, LinearObserver* observer);

}  // namespace ponder::engine
