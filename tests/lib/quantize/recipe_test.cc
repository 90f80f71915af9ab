// Mixtures against files that llama.cpp made from the same models.
#include "lib/quantize/recipe.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "lib/format/file_source.h"
#include "lib/format/gguf.h"
#include "tests/paths/paths.h"

namespace ponder::quantization {
namespace {

TEST(Recipe, NamesAreTakenInAnySpelling) {
  for (const char* name : {"q4_k_m", "Q4_K_M", "q4-k-m"}) {
    ASSERT_TRUE(find_recipe(name).ok()) << name;
    EXPECT_EQ(find_recipe(name)->file_type, 15);
  }
  const Status unknown = find_recipe("q9").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(unknown.message().find("iq4_xs"), std::string::npos);
}

TEST(Recipe, TensorsGetTheTypesThatLlamaCppGivesThem) {
  const std::string folder = std::string(kSharedDir) + "/oracle/B/qwen2-bf16";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no reference data in " << folder;
  for (const char* name : {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K",
                           "Q3_K_M", "Q2_K", "IQ4_NL", "IQ4_XS"}) {
    SCOPED_TRACE(name);
    const auto source = open_folder(folder);
    ASSERT_TRUE(source.ok());
    const auto files = read_gguf(**source, absl::StrCat("qwen2-bf16-", name, ".gguf"));
    ASSERT_TRUE(files.ok()) << files.status();
    ModelShape shape;
    shape.layers = 2;
    shape.query_heads_per_kv_head = 4;
    shape.has_output = files->find("output.weight") != nullptr;
    shape.has_importance = files->metadata.has("quantize.imatrix.file");
    const auto recipe = find_recipe(name);
    ASSERT_TRUE(recipe.ok());
    for (const GgufTensor& tensor : files->tensors) {
      EXPECT_EQ(dtype_name(tensor_type(*recipe, shape, tensor.name, tensor.shape)),
                dtype_name(*tensor.type->dtype))
          << tensor.name;
    }
  }
}

TEST(Recipe, RowsThatEndWithinABlockGetATypeThatFits) {
  const Recipe recipe = *find_recipe("q4_k_m");
  ModelShape shape;
  shape.layers = 8;
  EXPECT_EQ(tensor_type(recipe, shape, "blk.3.ffn_up.weight", {64, 256}), DType::kQ4_K);
  EXPECT_EQ(tensor_type(recipe, shape, "blk.3.ffn_up.weight", {64, 160}), DType::kQ5_0);
  EXPECT_EQ(tensor_type(recipe, shape, "blk.7.ffn_down.weight", {64, 160}), DType::kQ8_0);
  EXPECT_EQ(tensor_type(recipe, shape, "blk.3.ffn_up.weight", {64, 100}), DType::kF16);
  EXPECT_EQ(tensor_type(recipe, shape, "blk.3.attn_norm.weight", {256}), DType::kF32);
  EXPECT_EQ(tensor_type(recipe, shape, "blk.3.ffn_gate_inp.weight", {8, 256}), DType::kF32);
}

}  // namespace
}  // namespace ponder::quantization
