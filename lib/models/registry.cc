#include "lib/models/registry.h"

#include "absl/strings/str_join.h"

namespace ponder {
namespace {

struct Architecture {
  const char* name;
  std::unique_ptr<ModelGraph> (*make)(const Config&, const Loader&, const GraphOptions&);
};

// Of a model that has no options.
template <std::unique_ptr<ModelGraph> (*kMake)(const Config&, const Loader&)>
std::unique_ptr<ModelGraph> plain(const Config& config, const Loader& loader, const GraphOptions&) {
  return kMake(config, loader);
}

constexpr Architecture kArchitectures[] = {
    {"Qwen2ForCausalLM", plain<make_qwen2>},     {"LlamaForCausalLM", plain<make_llama>},
    {"Qwen3ForCausalLM", plain<make_qwen3>},     {"Qwen3MoeForCausalLM", plain<make_qwen3_moe>},
    {"DeepseekV2ForCausalLM", make_deepseek_v3}, {"DeepseekV3ForCausalLM", make_deepseek_v3},
};

// "quantization_config": what is stored in other ways than tensors say by themselves.
Status check_quantization(const Config& config) {
  if (!config.has("quantization_config")) return OkStatus();
  const Config q = config.at("quantization_config");
  const std::string method = q.s("quant_method", "");
  if (method != "fp8") {
    return unsupported_error("config.json: weights quantised by \"", method,
                             "\" are not supported; use the model's original checkpoint, or a GGUF "
                             "conversion of it");
  }
  const Json* block = q.find("weight_block_size");
  if (block == nullptr || *block != Json::array({128, 128})) {
    return unsupported_error("config.json: \"weight_block_size\" of fp8 weights is ",
                             block == nullptr ? "missing" : block->dump(),
                             "; only [128, 128] is supported");
  }
  return config.status();
}

}  // namespace

Tensor ModelGraph::draft_state(Exec&, const Tensor& h) const { return h; }
Tensor ModelGraph::draft_begin(Exec&, const Batch&, const Tensor& state) const { return state; }
ModelGraph::Draft ModelGraph::draft_end(Exec&, const Batch&, const Tensor& h) const {
  return {h, h};
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.name);
  return names;
}

StatusOr<std::unique_ptr<ModelGraph>> make_model(const Config& config, const Loader& loader,
                                                 const GraphOptions& options) {
  const Json* list = config.find("architectures");
  if (list == nullptr || !list->is_array() || list->empty() || !list->front().is_string()) {
    return corrupt_error("config.json: \"architectures\" must be a list with the model's class name");
  }
  const std::string name = list->front().get<std::string>();
  for (const Architecture& a : kArchitectures) {
    if (name != a.name) continue;
    if (config.s("hidden_act", "silu") != "silu") {
      return unsupported_error("config.json: hidden_act \"", config.s("hidden_act", ""),
                               "\" is not supported; ", name, " models use \"silu\"");
    }
    PONDER_RETURN_IF_ERROR(check_quantization(config));
    std::unique_ptr<ModelGraph> model = a.make(config, loader, options);
    PONDER_RETURN_IF_ERROR(config.status());
    PONDER_RETURN_IF_ERROR(loader.status());
    return model;
  }
  return unsupported_error("architecture \"", name, "\" is not supported; this build knows ",
                           absl::StrJoin(known_architectures(), ", "));
}

}  // namespace ponder
