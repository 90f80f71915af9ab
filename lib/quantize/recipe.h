// Which type each tensor of a quantised file gets: the names that users know from llama.cpp, whose
// mixtures these are (src/llama-quant.cpp, llama_tensor_get_type). Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"
#include "lib/tensor/dtype.h"

namespace ponder::quantization {

struct Recipe {
  absl::string_view name;  // "q4_k_m"
  DType base = DType::kF32;
  // Small and medium mixtures keep some tensors of some layers in more bits; uniform ones none but
  // the output.
  enum class Mix : uint8_t { kUniform, kSmall, kMedium } mix = Mix::kUniform;
  int32_t file_type = 0;  // general.file_type
};

// Upper case and "-" for "_" are taken too. not_found_error lists the names.
StatusOr<Recipe> find_recipe(absl::string_view name);
std::vector<absl::string_view> recipe_names();

// What a recipe decides by.
struct ModelShape {
  int64_t layers = 0;
  int64_t query_heads_per_kv_head = 1;
  bool has_output = false;  // "output.weight" is there: the embedding is not used for it
  bool has_importance = false;
};

// Of a tensor by its GGUF name ("blk.3.attn_v.weight") and shape, outermost first. Norms, biases
// and routers stay f32. A row that the chosen type has no whole blocks for gets a type that fits.
DType tensor_type(const Recipe& recipe, const ModelShape& model, absl::string_view name,
                  const std::vector<int64_t>& shape);

}  // namespace ponder::quantization
