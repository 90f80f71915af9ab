// The host's side of digests of logits: memory for them, what is asked up, what is found down.
//
// Owned by a backend; the driver's thread.
#pragma once

#include <vector>

#include "absl/functional/function_ref.h"
#include "backends/cuda/launch_digest.h"
#include "backends/cuda/pack.h"
#include "backends/cuda/runtime.h"
#include "backends/cuda/step_inputs.h"
#include "lib/device/backend.h"

namespace ponder::cuda {

class Digests {
 public:
  Digests(Device* device, StepInputs* inputs) : device_(device), inputs_(inputs) {}

  // As Backend::digest_rows. `download` is the backend's. unsupported_error: a row is too long.
  Status run(const DigestRowsParams& p,
             absl::FunctionRef<Status(const void* device, void* host, uint64_t bytes)> download);

 private:
  Device* const device_;
  StepInputs* const inputs_;
  DeviceBuffer buffer_;
  std::vector<char> asked_;  // as the device has it
  std::vector<char> found_;
};

}  // namespace ponder::cuda
