// From the name in config.json's "architectures" to the file that implements it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/exec/loader.h"
#include "lib/models/model.h"

namespace ponder {

struct GraphOptions {
  // Load the layer for multi-token prediction too, where the checkpoint has one (model.h): it takes
  // memory like any layer.
  bool draft_layer = false;
};

// Builds the model: reads its configuration and takes its weights through `loader`. The first thing
// that is missing, absurd or unsupported comes back as the error.
StatusOr<std::unique_ptr<ModelGraph>> make_model(const Config& config, const Loader& loader,
                                                 const GraphOptions& options = {});

// The architectures this build knows, for messages and `ponder info`.
std::vector<std::string> known_architectures();

// The model files.
std::unique_ptr<ModelGraph> make_llama(const Config& config, const Loader& w);
std::unique_ptr<ModelGraph> make_qwen2(const Config& config, const Loader& w);
std::unique_ptr<ModelGraph> make_qwen3(const Config& config, const Loader& w);
std::unique_ptr<ModelGraph> make_qwen3_moe(const Config& config, const Loader& w);
std::unique_ptr<ModelGraph> make_deepseek_v3(const Config& config, const Loader& w,
                                             const GraphOptions& options);

}  // namespace ponder
