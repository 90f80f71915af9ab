#include "lib/quantize/recipe.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "lib/base/quote.h"

namespace ponder::quantization {
namespace {

using Mix = Recipe::Mix;

constexpr Recipe kRecipes[] = {
    {"f32", DType::kF32, Mix::kUniform, 0},       {"f16", DType::kF16, Mix::kUniform, 1},
    {"bf16", DType::kBF16, Mix::kUniform, 32},    {"q8_0", DType::kQ8_0, Mix::kUniform, 7},
    {"q4_0", DType::kQ4_0, Mix::kUniform, 2},     {"q4_1", DType::kQ4_1, Mix::kUniform, 3},
    {"q5_0", DType::kQ5_0, Mix::kUniform, 8},     {"q5_1", DType::kQ5_1, Mix::kUniform, 9},
    {"q2_k", DType::kQ2_K, Mix::kMedium, 10},     {"q3_k_s", DType::kQ3_K, Mix::kSmall, 11},
    {"q3_k_m", DType::kQ3_K, Mix::kMedium, 12},   {"q4_k", DType::kQ4_K, Mix::kUniform, 14},
    {"q4_k_s", DType::kQ4_K, Mix::kSmall, 14},    {"q4_k_m", DType::kQ4_K, Mix::kMedium, 15},
    {"q5_k", DType::kQ5_K, Mix::kUniform, 16},    {"q5_k_s", DType::kQ5_K, Mix::kSmall, 16},
    {"q5_k_m", DType::kQ5_K, Mix::kMedium, 17},   {"q6_k", DType::kQ6_K, Mix::kUniform, 18},
    {"iq4_nl", DType::kIQ4_NL, Mix::kMedium, 25}, {"iq4_xs", DType::kIQ4_XS, Mix::kMedium, 30},
};

// Layers that matter most: the first and last eighth, and every third between.
bool more_bits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

DType mixed_type(const Recipe& recipe, const ModelShape& model, absl::string_view part,
                 int64_t layer) {
  const bool medium = recipe.mix == Mix::kMedium;
  const bool early = layer < model.layers / 8;
  const bool grouped = model.query_heads_per_kv_head >= 4;
  const bool is_down = part == "ffn_down" || part == "ffn_down_exps" || part == "ffn_down_shexp";
  switch (recipe.base) {
    case DType::kQ2_K:
      if (part == "attn_v") return grouped ? DType::kQ4_K : DType::kQ3_K;
      if (is_down || part == "attn_output") return DType::kQ3_K;
      break;
    case DType::kQ3_K:
      if (!medium) break;
      if (part == "attn_v") return layer < 2 ? DType::kQ5_K : DType::kQ4_K;
      if (is_down) return layer < model.layers / 16 ? DType::kQ5_K : DType::kQ4_K;
      if (part == "attn_output") return DType::kQ4_K;
      break;
    case DType::kQ4_K:
      if (medium) {
        if ((part == "attn_v" || is_down) && more_bits(layer, model.layers)) return DType::kQ6_K;
      } else {
        if (part == "attn_v" && layer < 4) return DType::kQ5_K;
        if (is_down && early) return DType::kQ5_K;
      }
      break;
    case DType::kQ5_K:
      if (medium && (part == "attn_v" || is_down) && more_bits(layer, model.layers)) {
        return DType::kQ6_K;
      }
      break;
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      if (part == "attn_v" && grouped) return DType::kQ5_K;
      if (is_down && early && !model.has_importance) return DType::kQ5_K;
      break;
    default:
      break;
  }
  return recipe.base;
}

// The nearest type whose blocks divide the row.
DType fitting(DType type, int64_t cols) {
  if (cols % dtype_info(type).block == 0) return type;
  if (cols % 32 != 0) return DType::kF16;
  switch (type) {
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    case DType::kQ4_K:
      return DType::kQ5_0;
    default:
      return DType::kIQ4_NL;
  }
}

}  // namespace

StatusOr<Recipe> find_recipe(absl::string_view name) {
  const std::string wanted =
      absl::StrReplaceAll(absl::AsciiStrToLower(name.substr(0, 64)), {{"-", "_"}});
  std::string known;
  for (const Recipe& recipe : kRecipes) {
    if (recipe.name == wanted) return recipe;
    absl::StrAppend(&known, known.empty() ? "" : ", ", recipe.name);
  }
  return not_found_error("there is no quantisation ", quote(name.substr(0, 64)), "; there are ",
                         known);
}

std::vector<absl::string_view> recipe_names() {
  std::vector<absl::string_view> names;
  for (const Recipe& recipe : kRecipes) names.push_back(recipe.name);
  return names;
}

DType tensor_type(const Recipe& recipe, const ModelShape& model, absl::string_view name,
                  const std::vector<int64_t>& shape) {
  absl::string_view part = name;
  if (shape.size() < 2 || !absl::ConsumeSuffix(&part, ".weight")) return DType::kF32;
  int64_t layer = 0;
  if (absl::ConsumePrefix(&part, "blk.")) {
    const size_t dot = part.find('.');
    if (dot == part.npos || !absl::SimpleAtoi(part.substr(0, dot), &layer)) return DType::kF32;
    part.remove_prefix(dot + 1);
  }
  if (absl::EndsWith(part, "_norm") || part == "ffn_gate_inp") return DType::kF32;
  const int64_t cols = shape.back();
  DType type = recipe.base;
  if (dtype_is_blocked(recipe.base)) {
    const bool output = part == "output" || (part == "token_embd" && !model.has_output);
    if (output) {
      type = recipe.base == DType::kQ8_0 ? DType::kQ8_0 : DType::kQ6_K;
    } else if (recipe.mix != Mix::kUniform) {
      type = mixed_type(recipe, model, part, layer);
    }
  }
  return fitting(type, cols);
}

}  // namespace ponder::quantization
