// Whole models: from both formats, with the values that the quantisers give, row for row.
#include "lib/quantize/quantize_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "lib/format/model_files.h"
#include "lib/quantize/importance.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/quantize.h"
#include "tests/paths/paths.h"

namespace ponder::quantization {
namespace {

namespace fs = std::filesystem;
const std::string kModel = kCountdownModel;

class QuantizeModelTest : public ::testing::Test {
 protected:
  QuantizeModelTest()
      : folder_(fs::path(::testing::TempDir()) /
                (std::string("quantize_model_test.") +
                 ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~QuantizeModelTest() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  static std::vector<float> values(const Checkpoint& weights, const std::string& name) {
    const auto data = weights.find(name);
    EXPECT_TRUE(data.ok()) << data.status();
    std::vector<float> out(static_cast<size_t>(data->elements()));
    EXPECT_TRUE(dequantize(data->dtype, data->data, data->elements(), out.data()).ok());
    return out;
  }

  const fs::path folder_;
};

TEST_F(QuantizeModelTest, FolderAndFileGiveTheSameAsTheQuantiser) {
  QuantizeOptions options;
  options.type = "bf16";
  options.threads = 3;
  ASSERT_TRUE(quantize_model(kModel, path("bf16.gguf"), options).ok());
  options.type = "q4_k_m";
  ASSERT_TRUE(quantize_model(kModel, path("a.gguf"), options).ok());
  options.threads = 1;
  ASSERT_TRUE(quantize_model(path("bf16.gguf"), path("b.gguf"), options).ok());

  const auto original = open_model_path(kModel), a = open_model_path(path("a.gguf")),
             b = open_model_path(path("b.gguf"));
  ASSERT_TRUE(original.ok() && a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(original->weights->names(), a->weights->names());
  for (const std::string& name : original->weights->names()) {
    SCOPED_TRACE(name);
    const auto from = original->weights->find(name), to = a->weights->find(name);
    ASSERT_TRUE(from.ok() && to.ok());
    ASSERT_EQ(from->shape, to->shape);
    std::vector<float> wanted = values(*original->weights, name);
    if (dtype_is_blocked(to->dtype)) {
      std::vector<char> blocks(static_cast<size_t>(dtype_bytes(to->dtype, to->elements())));
      ASSERT_TRUE(
          quantize(to->dtype, wanted.data(), to->shape[0], to->shape[1], {}, blocks.data()).ok());
      ASSERT_TRUE(dequantize(to->dtype, blocks.data(), to->elements(), wanted.data()).ok());
    }
    EXPECT_EQ(values(*a->weights, name), wanted);
    EXPECT_EQ(values(*b->weights, name), wanted);
  }
}

TEST_F(QuantizeModelTest, LlamaRowsComeBackInTheirPlaces) {
  const std::string llama = std::string(kSharedDir) + "/oracle/A/llama-bf16";
  const std::string reference =
      std::string(kSharedDir) + "/oracle/B/llama-bf16/llama-bf16-Q4_K_M.gguf";
  if (!fs::exists(llama)) GTEST_SKIP() << "no reference data in " << llama;
  QuantizeOptions options;
  options.type = "q4_k_m";
  ASSERT_TRUE(quantize_model(llama, path("llama.gguf"), options).ok());
  const auto ours = open_model_path(path("llama.gguf")), theirs = open_model_path(reference);
  ASSERT_TRUE(ours.ok() && theirs.ok()) << ours.status();
  EXPECT_EQ(ours->weights->names(), theirs->weights->names());
  for (const std::string& name : theirs->weights->names()) {
    const std::vector<float> a = values(*ours->weights, name), b = values(*theirs->weights, name);
    ASSERT_EQ(a.size(), b.size()) << name;
    double difference = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(double{a[i]} - b[i], 2);
      size += std::pow(double{b[i]}, 2);
    }
    // Both are within a few percent of the same values; rows in other places would be far apart.
    EXPECT_LT(std::sqrt(difference / size), 0.15) << name;
  }
  for (const auto& [key, value] : theirs->gguf->entries()) {
    if (key.rfind("llama.", 0) != 0 && key.rfind("tokenizer.", 0) != 0) continue;
    if (key == "tokenizer.ggml.add_sep_token") continue;
    ASSERT_NE(ours->gguf->find(key), nullptr) << key;
    EXPECT_EQ(*ours->gguf->find(key), value) << key;
  }
}

TEST_F(QuantizeModelTest, WeightsThatAreNoNumbersAreNamed) {
  fs::copy(kModel, folder_ / "model");
  fs::permissions(folder_ / "model" / "model.safetensors", fs::perms::owner_all);
  {
    std::fstream file(folder_ / "model" / "model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-2, std::ios::end);
    file.write("\xc0\x7f", 2);  // the last weight of the last tensor
  }
  QuantizeOptions options;
  options.type = "q8_0";
  const Status status = quantize_model(path("model"), path("x.gguf"), options);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_FALSE(fs::exists(path("x.gguf")));
  EXPECT_FALSE(fs::exists(path("x.gguf.part")));
}

TEST_F(QuantizeModelTest, TheCallerMayStopIt) {
  QuantizeOptions options;
  options.type = "q8_0";
  uint64_t last = 0;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
    return done > total / 2 ? 1 : 0;
  };
  EXPECT_EQ(quantize_model(kModel, path("x.gguf"), options).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(QuantizeModelTest, ImportantColumnsAreKeptBest) {
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  constexpr size_t kEvery = 16;
  Importance importance;
  Importance::Entry& entry = importance.entries["blk.0.ffn_down.weight"];
  entry.sums.assign(512, 1.0f);
  for (size_t i = 0; i < entry.sums.size(); i += kEvery) entry.sums[i] = 1000.0f;
  entry.counts = {1};
  ASSERT_TRUE(write_importance(importance, path("imatrix")).ok());
  const auto original = open_model_path(kModel);
  ASSERT_TRUE(original.ok());
  const std::vector<float> wanted = values(*original->weights, name);
  QuantizeOptions options;
  options.type = "q4_k";
  const auto error = [&] {
    EXPECT_TRUE(quantize_model(kModel, path("x.gguf"), options).ok());
    const auto made = open_model_path(path("x.gguf"));
    EXPECT_TRUE(made.ok());
    const std::vector<float> got = values(*made->weights, name);
    double sum = 0;
    for (size_t i = 0; i < got.size(); i += kEvery) {
      sum += std::pow(double{got[i]} - wanted[i], 2);
    }
    return sum;
  };
  const double plain = error();
  options.importance = path("imatrix");
  EXPECT_LT(error(), 0.8 * plain);
}

TEST_F(QuantizeModelTest, ImportanceOfAnotherModelIsRefused) {
  Importance importance;
  importance.entries["blk.0.attn_q.weight"] = {std::vector<float>(100, 1.0f), {7}};
  ASSERT_TRUE(write_importance(importance, path("imatrix")).ok());
  const auto read = read_importance(path("imatrix"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->of("blk.0.attn_q.weight", 0, 100).value(), std::vector<float>(100, 1.0f / 7));
  EXPECT_TRUE(read->of("blk.0.attn_k.weight", 0, 100).value().empty());
  QuantizeOptions options;
  options.type = "q4_k";
  options.importance = path("imatrix");
  const Status status = quantize_model(kModel, path("x.gguf"), options);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(status.message().find("blk.0.attn_q.weight"), std::string::npos);
}

}  // namespace
}  // namespace ponder::quantization
