// Opens every reference checkpoint and checks table and data against what the files must hold.

#include <algorithm>
#include <cctype>
#include <cstring>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/format/model_files.h"
#include "lib/format/safetensors.h"
#include "lib/tensor/half.h"
#include "tests/lib/format/test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

std::string shared(const std::string& path) { return std::string(kSharedDir) + "/" + path; }

std::vector<std::string> reference_folders() {
  std::vector<std::string> folders = {"models/countdown", "oracle/C/stories260K-hf"};
  std::error_code none;
  for (const auto& one : std::filesystem::directory_iterator(shared("oracle/A"), none)) {
    folders.push_back("oracle/A/" + one.path().filename().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

class ReferenceFolders : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(shared(GetParam()))) {
      GTEST_SKIP() << "no reference data at " << shared(GetParam());
    }
  }
};

TEST_P(ReferenceFolders, OpensAndEveryTensorIsAsWrittenMappedOrRead) {
  auto mapped = open_model_path(shared(GetParam()), {.mapping = Mapping::kAlways});
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  auto read = open_model_path(shared(GetParam()), {.mapping = Mapping::kNever});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(mapped->fingerprint, read->fingerprint);
  EXPECT_FALSE(mapped->defaults.eos_ids.empty());
  EXPECT_FALSE(mapped->tokenizer_json.empty());
  EXPECT_FALSE(mapped->tokenizer.bos_token.empty());

  uint64_t bytes = 0;
  for (const std::string& name : mapped->weights->names()) {
    auto info = mapped->weights->info(name);
    ASSERT_TRUE(info.ok());
    bytes += info->bytes;
    auto a = mapped->weights->find(name), b = read->weights->find(name);
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_EQ(a->shape, b->shape);
    EXPECT_EQ(info->bytes, static_cast<uint64_t>(dtype_bytes(a->dtype, a->elements())));
    EXPECT_EQ(0, std::memcmp(a->data, b->data, info->bytes)) << name;
    // load() never maps, and takes parts too.
    mapped->weights->prefetch(name, -1);
    const auto loaded = mapped->weights->load(name, -1);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_NE(loaded->data, a->data);
    EXPECT_EQ(0, std::memcmp(a->data, loaded->data, info->bytes)) << name;
    if (info->shape.size() < 3) continue;
    const auto part = mapped->weights->load(name, info->shape[0] - 1);
    ASSERT_TRUE(part.ok()) << part.status();
    const uint64_t size = info->bytes / static_cast<uint64_t>(info->shape[0]);
    EXPECT_EQ(static_cast<uint64_t>(dtype_bytes(part->dtype, part->elements())), size);
    EXPECT_EQ(0, std::memcmp(static_cast<const char*>(a->data) + info->bytes - size, part->data,
                             size))
        << name;
  }
  EXPECT_EQ(bytes, mapped->weights->total_bytes());
}

TEST_P(ReferenceFolders, ConfigurationIsInOneSpelling) {
  auto files = open_model_path(shared(GetParam()));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE(files->config.contains("rope_theta"));
  EXPECT_FALSE(files->config.contains("rope_parameters"));
  EXPECT_TRUE(files->config["torch_dtype"].is_string());
  if (files->config.contains("rope_scaling")) {
    EXPECT_TRUE(files->config["rope_scaling"]["rope_type"].is_string());
    EXPECT_NE("default", files->config["rope_scaling"]["rope_type"]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceFolders, ::testing::ValuesIn(reference_folders()),
                         [](const auto& one) {
                           std::string name = one.param;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

// The embedding's rows are in the goldens (row 0 of P.hidden_last is the embedding of the prompt's
// last token), which ties our bytes to the reference's reading of them.
TEST(ReferenceData, EmbeddingRowsAreThoseOfTheReference) {
  for (const char* name :
       {"qwen2-bf16", "qwen2-tied-f32", "llama-f16", "llama-bf16", "qwen3-bf16"}) {
    const std::string folder = shared(std::string("oracle/A/") + name);
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
    auto files = open_model_path(folder);
    ASSERT_TRUE(files.ok()) << files.status();
    auto source = open_folder(folder + "/golden");
    ASSERT_TRUE(source.ok()) << source.status();
    // The goldens are safetensors themselves, of float32 and integer tensors.
    auto golden = open_safetensors(*source, "golden.safetensors", default_allocator());
    ASSERT_TRUE(golden.ok()) << golden.status();
    int compared = 0;
    for (const std::string& key : (*golden)->names()) {
      if (key.size() < 4 || key.substr(key.size() - 4) != ".ids") continue;
      const std::string prompt = key.substr(0, key.size() - 4);
      auto info = (*golden)->info(key);
      ASSERT_TRUE(info.ok());
      uint32_t last = 0;
      const uint64_t width = info->dtype == "I64" ? 8 : 4;
      ASSERT_TRUE((*golden)->read(key, info->bytes - width, &last, sizeof last).ok());
      auto hidden = (*golden)->find(prompt + ".hidden_last");
      ASSERT_TRUE(hidden.ok()) << hidden.status();
      auto table = files->weights->find("model.embed_tokens.weight");
      ASSERT_TRUE(table.ok()) << table.status();
      const int64_t d = table->shape[1];
      for (int64_t i = 0; i < d; ++i) {
        const int64_t at = last * d + i;
        const float ours = table->dtype == DType::kF32 ? static_cast<const float*>(table->data)[at]
                           : table->dtype == DType::kF16
                               ? f16_to_f32(static_cast<const uint16_t*>(table->data)[at])
                               : bf16_to_f32(static_cast<const uint16_t*>(table->data)[at]);
        ASSERT_EQ(ours, static_cast<const float*>(hidden->data)[i]) << name << " " << prompt;
      }
      ++compared;
    }
    EXPECT_GT(compared, 0) << name;
  }
}

}  // namespace
}  // namespace ponder
