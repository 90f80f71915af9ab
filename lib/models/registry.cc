#include "lib/models/registry.h"

#include "absl/strings/str_join.h"

namespace ponder {
namespace {

struct Architecture {
  const char* name;
  std::unique_ptr<ModelGraph> (*make)(const Config&, const Loader&);
};

constexpr Architecture kArchitectures[] = {
    {"Qwen2ForCausalLM", make_qwen2},
    {"LlamaForCausalLM", make_llama},
    {"Qwen3ForCausalLM", make_qwen3},
};

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.name);
  return names;
}

StatusOr<std::unique_ptr<ModelGraph>> make_model(const Config& config, const Loader& loader) {
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
    std::unique_ptr<ModelGraph> model = a.make(config, loader);
    PONDER_RETURN_IF_ERROR(config.status());
    PONDER_RETURN_IF_ERROR(loader.status());
    return model;
  }
  return unsupported_error("architecture \"", name, "\" is not supported; this build knows ",
                           absl::StrJoin(known_architectures(), ", "));
}

}  // namespace ponder
