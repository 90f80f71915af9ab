// The same model from a Hugging Face folder and from a GGUF file: same tokens, same angles, same
// probabilities.
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/engine/model.h"
#include "lib/engine/model_tokenizer.h"
#include "lib/engine/runtime.h"
#include "lib/exec/loader.h"
#include "lib/format/model_files.h"
#include "tests/paths/paths.h"

namespace ponder::engine {
namespace {

std::string shared(const std::string& path) { return std::string(kSharedDir) + "/oracle/" + path; }

constexpr const char* kTexts[] = {"Once upon a time, there was a little girl.",
                                  "  leading and   inner spaces\n\n\tand more ",
                                  "na\u00efve caf\u00e9 \u4f60\u597d \U0001F600 12345 don't",
                                  "",
                                  " ",
                                  "x<think>y</think>z"};

TEST(GgufTokenizers, GiveTheIdsOfTheFolders) {
  const std::pair<const char*, const char*> models[] = {
      {"C/stories260K-hf", "C/stories260K-f32.gguf"},
      {"A/qwen2-bf16", "B/qwen2-bf16/qwen2-bf16-Q8_0.gguf"},
      {"A/llama-bf16", "B/llama-bf16/llama-bf16-Q4_K_M.gguf"},
      {"A/qwen3-bf16", "B/qwen3-bf16/qwen3-bf16-Q4_0.gguf"},
      {"A/qwen3moe-bf16", "B/qwen3moe-bf16/qwen3moe-bf16-Q4_0.gguf"},
      {"A/dsv3-bf16", "B/dsv3-bf16/dsv3-bf16-Q4_K_M.gguf"}};
  for (const auto& [folder, file] : models) {
    if (!std::filesystem::exists(shared(file))) GTEST_SKIP() << "no reference data: " << file;
    auto a = open_model_path(shared(folder)), b = open_model_path(shared(file));
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    auto left = make_tokenizer(*a, {}), right = make_tokenizer(*b, {});
    ASSERT_TRUE(left.ok()) << left.status();
    ASSERT_TRUE(right.ok()) << right.status();
    for (const char* text : kTexts) {
      for (const bool special : {false, true}) {
        EncodeOptions options;
        options.parse_special = special;
        options.add_special = special;
        auto ids = (*left)->encode(text, options), same = (*right)->encode(text, options);
        ASSERT_TRUE(ids.ok()) << ids.status();
        ASSERT_TRUE(same.ok()) << same.status();
        EXPECT_EQ(*ids, *same) << file << ": \"" << text << "\" " << special;
        EXPECT_EQ((*left)->decode(*ids), (*right)->decode(*same)) << file;
      }
    }
  }
}

// Llama 3.1's scaling is four numbers in the one format and a tensor in the other.
TEST(GgufRotary, FrequencyFactorsAreLlamasScaling) {
  const std::string file = shared("B/llama-bf16/llama-bf16-Q4_K_M.gguf");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no reference data: " << file;
  auto a = open_model_path(shared("A/llama-bf16")), b = open_model_path(file);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  const Config folder(a->config, "config.json"), gguf(b->config, "gguf");
  const Rope left = make_rope(folder, 32), right = make_rope(gguf, 32);
  ASSERT_TRUE(folder.status().ok()) << folder.status();
  ASSERT_TRUE(gguf.status().ok()) << gguf.status();
  EXPECT_FALSE(left.interleaved);
  EXPECT_TRUE(right.interleaved);
  ASSERT_EQ(left.inv_freq.size(), right.inv_freq.size());
  for (size_t i = 0; i < left.inv_freq.size(); ++i) {
    EXPECT_NEAR(left.inv_freq[i], right.inv_freq[i], 1e-6 * left.inv_freq[i]) << i;
  }
}

TEST(GgufRotary, FactorsMustFit) {
  for (const char* scaling :
       {R"({"rope_type":"factors"})", R"({"rope_type":"factors","factors":[1]})",
        R"({"rope_type":"factors","factors":[1,0]})",
        R"({"rope_type":"factors","factors":[1,"x"]})"}) {
    const Json json = {{"rope_theta", 10000.0}, {"rope_scaling", Json::parse(scaling)}};
    const Config config(json, "c");
    (void)make_rope(config, 4);
    EXPECT_EQ(absl::StatusCode::kDataLoss, config.status().code()) << scaling;
  }
}

TEST(GgufModels, ScoreAsTheFolderDoes) {
  const std::string folder = shared("C/stories260K-hf"), file = shared("C/stories260K-f32.gguf");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no reference data: " << file;
  RuntimeOptions runtime_options;
  runtime_options.threads = 2;
  auto runtime = Runtime::create(std::move(runtime_options));
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  ModelOptions options;
  options.precision = Precision::kF32;
  std::vector<int32_t> tokens = {1};
  for (int32_t i = 0; i < 100; ++i) tokens.push_back(260 + i * 37 % 250);
  std::vector<float> expected;
  for (const std::string& path : {folder, file}) {
    auto source = open_folder(path);
    ASSERT_TRUE(source.ok()) << source.status();
    auto model = Model::load(*runtime, *source, options);
    ASSERT_TRUE(model.ok()) << model.status();
    auto scores = (*model)->score(tokens, 0);
    ASSERT_TRUE(scores.ok()) << scores.status();
    ASSERT_EQ(tokens.size() - 1, scores->logprobs.size());
    if (expected.empty()) {
      expected = scores->logprobs;
      continue;
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(expected[i], scores->logprobs[i], 1e-4) << i;
    }
  }
}

}  // namespace
}  // namespace ponder::engine
