// ponder-make-checkpoint writes folders that our own reader accepts in full.

#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "backends/ref/ref.h"
#include "gtest/gtest.h"
#include "lib/exec/loader.h"
#include "lib/format/model_files.h"
#include "lib/models/registry.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/half.h"
#include "tests/lib/format/test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

int run(const std::string& arguments) {
  const int status = std::system((std::string(kMakeCheckpoint) + " " + arguments).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

float value(const WeightData& w, int64_t i) {
  switch (w.dtype) {
    case DType::kF16:
      return f16_to_f32(static_cast<const uint16_t*>(w.data)[i]);
    case DType::kBF16:
      return bf16_to_f32(static_cast<const uint16_t*>(w.data)[i]);
    default:
      return static_cast<const float*>(w.data)[i];
  }
}

TEST(MakeCheckpoint, EveryArchitectureAndTypeOpens) {
  const std::pair<const char*, const char*> architectures[] = {
      {"qwen2", "Qwen2ForCausalLM"}, {"llama", "LlamaForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"}};
  for (const auto& [argument, name] : architectures) {
    for (const char* dtype : {"f32", "f16", "bf16"}) {
      TemporaryFolder folder;
      ASSERT_EQ(0, run(folder.path() + " --arch " + argument + " --dtype " + dtype));
      auto files = open_model_path(folder.path());
      ASSERT_TRUE(files.ok()) << files.status();
      EXPECT_EQ(name, files->architecture);
      EXPECT_EQ(std::string(argument) == "qwen2",
                files->weights->has("model.layers.1.self_attn.q_proj.bias"));
      EXPECT_EQ(std::string(argument) == "qwen3",
                files->weights->has("model.layers.1.self_attn.q_norm.weight"));
      auto embedding = files->weights->find("model.embed_tokens.weight");
      ASSERT_TRUE(embedding.ok()) << embedding.status();
      EXPECT_EQ(dtype, dtype_name(embedding->dtype));
      EXPECT_EQ((std::vector<int64_t>{512, 64}), embedding->shape);
      EXPECT_FALSE(files->tokenizer.chat_template.empty());
    }
  }
}

// Mixtures of every kind and type are models that load, all their tensors used and of use.
TEST(MakeCheckpoint, MixturesLoad) {
  const auto pool = make_thread_pool(2).value();
  for (const char* arguments :
       {"--arch deepseek3 --mtp --context 8192", "--arch deepseek3 --dtype fp8 --mtp --hidden 160",
        "--arch deepseek2 --q-rank 0 --expert-groups 4 --expert-groups-kept 2 --shared-experts 2",
        "--arch deepseek3 --dense-layers 0 --layers 1 --shared-experts 0 --dtype f16",
        "--arch qwen3moe --dtype f32", "--arch qwen3moe --dtype fp8 --shard-size 20K"}) {
    SCOPED_TRACE(arguments);
    TemporaryFolder folder;
    ASSERT_EQ(0, run(folder.path() + " " + arguments));
    auto files = open_model_path(folder.path());
    ASSERT_TRUE(files.ok()) << files.status();
    const auto backend = make_ref_backend({default_allocator(), pool.get(), {}});
    WeightStore store;
    const Config config(files->config, "config.json");
    const Loader loader(*files->weights, backend.get(), {}, &store, nullptr);
    const auto graph = make_model(config, loader, {.draft_layer = true});
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_EQ((*graph)->has_draft_layer(), absl::StrContains(arguments, "--mtp"));
    // All but the scales has been asked for.
    uint64_t scales = 0;
    for (const std::string& name : files->weights->names()) {
      if (absl::EndsWith(name, "_scale_inv")) scales += files->weights->info(name)->bytes;
    }
    EXPECT_EQ(scales > 0, absl::StrContains(arguments, "fp8"));
    EXPECT_EQ(store.bytes + scales, files->weights->total_bytes());
  }
}

// GGUF files of every architecture and type: models that load, all their bytes used, and
// tokenizers.
TEST(MakeCheckpoint, GgufFilesLoad) {
  const auto pool = make_thread_pool(2).value();
  for (const char* arguments :
       {"--arch qwen2", "--arch llama --dtype f32", "--arch qwen3 --dtype bf16",
        "--arch qwen3moe --dtype q8_0 --hidden 256 --expert-ffn 256",
        "--arch deepseek3 --dtype q4_k --hidden 256 --ffn 512 --expert-ffn 256 --kv-rank 256",
        "--arch deepseek2 --dtype q8_0 --q-rank 0 --context 8192 --kv-rank 64 --shared-experts "
        "2"}) {
    SCOPED_TRACE(arguments);
    TemporaryFolder folder;
    ASSERT_EQ(0, run(folder.path("m.gguf") + " " + arguments));
    auto files = open_model_path(folder.path("m.gguf"));
    ASSERT_TRUE(files.ok()) << files.status();
    const auto backend = make_ref_backend({default_allocator(), pool.get(), {}});
    WeightStore store;
    const Config config(files->config, "config.json");
    const Loader loader(*files->weights, backend.get(), {}, &store, nullptr);
    const auto graph = make_model(config, loader);
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_EQ(store.bytes, files->weights->total_bytes());
    EXPECT_EQ(512, (*graph)->vocabulary());
    // Block types have the spread that was asked for, too.
    const auto w = files->weights->find("model.layers.0.self_attn.o_proj.weight");
    ASSERT_TRUE(w.ok()) << w.status();
    std::vector<float> values(static_cast<size_t>(w->elements()));
    ASSERT_TRUE(dequantize(w->dtype, w->data, w->elements(), values.data()).ok());
    double squares = 0, sum = 0;
    for (const float v : values) squares += double{v} * v, sum += v;
    const double n = static_cast<double>(values.size());
    const double wanted = 0.5 / std::sqrt(static_cast<double>(w->shape[1]));  // of two layers
    EXPECT_NEAR(wanted, std::sqrt(squares / n), wanted * 0.03);
    EXPECT_NEAR(0, sum / n, wanted * 0.1);
  }
}

TEST(MakeCheckpoint, F8WeightsTimesTheirScalesHaveTheSpreadThatWasAskedFor) {
  TemporaryFolder folder;
  ASSERT_EQ(0, run(folder.path() + " --arch deepseek3 --hidden 256 --ffn 520 --dtype fp8"));
  auto files = open_model_path(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  auto w = files->weights->find("model.layers.0.mlp.up_proj.weight");
  auto s = files->weights->find("model.layers.0.mlp.up_proj.weight_scale_inv");
  ASSERT_TRUE(w.ok() && s.ok());
  EXPECT_EQ(DType::kF8_E4M3, w->dtype);
  EXPECT_EQ((std::vector<int64_t>{5, 2}), s->shape);
  std::vector<float> values(static_cast<size_t>(w->elements()));
  dequantize_f8_rows({w->data, s->data, 520, 256}, 0, 520, values.data());
  double squares = 0;
  for (const float v : values) squares += double{v} * v;
  EXPECT_NEAR(1 / 16.0, std::sqrt(squares / static_cast<double>(values.size())), 5e-3);
}

TEST(MakeCheckpoint, WeightsHaveTheSpreadThatWasAskedFor) {
  TemporaryFolder folder;
  ASSERT_EQ(0, run(folder.path() + " --hidden 256 --heads 4 --ffn 512 --dtype f32"));
  auto files = open_model_path(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  auto w = files->weights->find("model.layers.0.mlp.up_proj.weight");
  ASSERT_TRUE(w.ok());
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < w->elements(); ++i) {
    sum += value(*w, i);
    squares += value(*w, i) * value(*w, i);
  }
  const double n = static_cast<double>(w->elements());
  EXPECT_NEAR(0, sum / n, 1e-3);
  EXPECT_NEAR(1 / 16.0, std::sqrt(squares / n), 1e-3);
}

TEST(MakeCheckpoint, ValuesDependOnSeedAndNameOnly) {
  TemporaryFolder one, sharded, other;
  ASSERT_EQ(0, run(one.path() + " --seed 7"));
  ASSERT_EQ(0, run(sharded.path() + " --seed 7 --shard-size 50K"));
  ASSERT_EQ(0, run(other.path() + " --seed 8"));
  auto a = open_model_path(one.path()), b = open_model_path(sharded.path()),
       c = open_model_path(other.path());
  ASSERT_TRUE(a.ok() && b.ok() && c.ok()) << b.status();
  EXPECT_FALSE(std::filesystem::exists(sharded.path("model.safetensors")));
  EXPECT_EQ(a->fingerprint, b->fingerprint);
  EXPECT_NE(a->fingerprint, c->fingerprint);
  ASSERT_EQ(a->weights->names(), b->weights->names());
  for (const std::string& name : a->weights->names()) {
    auto left = a->weights->find(name), right = b->weights->find(name);
    ASSERT_TRUE(left.ok() && right.ok());
    EXPECT_EQ(0, std::memcmp(left->data, right->data, dtype_bytes(left->dtype, left->elements())))
        << name;
  }
}

TEST(MakeCheckpoint, SizesAndTyingAreAsAsked) {
  TemporaryFolder folder;
  ASSERT_EQ(0, run(folder.path() + " --tied --layers 3 --vocab 70000 --hidden 32 --head-dim 16"
                                   " --kv-heads 1 --ffn 40 --arch llama --llama3-scaling"));
  auto files = open_model_path(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_FALSE(files->weights->has("lm_head.weight"));
  EXPECT_EQ((std::vector<int64_t>{16, 32}),
            files->weights->info("model.layers.2.self_attn.k_proj.weight")->shape);
  EXPECT_EQ("llama3", files->config["rope_scaling"]["rope_type"]);
  const auto tokenizer = parse_json(files->tokenizer_json, "tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(70000u, (*tokenizer)["model"]["vocab"].size() + (*tokenizer)["added_tokens"].size());
}

TEST(MakeCheckpoint, TakesATokenizerThatIsGiven) {
  TemporaryFolder donor, folder;
  donor.write("tokenizer.json",
              R"({"added_tokens":[{"id":3,"content":"<s>"},{"id":4,"content":"</s>"}]})");
  donor.write("tokenizer_config.json", R"({"bos_token":"<s>","eos_token":{"content":"</s>"}})");
  ASSERT_EQ(0, run(folder.path() + " --tokenizer " + donor.path("tokenizer.json")));
  auto files = open_model_path(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(3, *files->defaults.bos_id);
  EXPECT_EQ((std::vector<int32_t>{4}), files->defaults.eos_ids);
}

TEST(MakeCheckpoint, RefusesWhatMakesNoModel) {
  TemporaryFolder folder;
  for (const char* arguments : {"--heads 3",
                                "--kv-heads 3",
                                "--layers 0",
                                "--arch gpt2",
                                "--dtype f8",
                                "--vocab 100",
                                "--shape gpt-5",
                                "--hidden x",
                                "--head-dim 3",
                                "--frobnicate",
                                "--layers",
                                "--tokenizer /none",
                                "--shard-size 0",
                                "--arch deepseek3 --experts 0",
                                "--arch deepseek3 --expert-groups 3",
                                "--arch deepseek2 --experts-chosen 9",
                                "--arch deepseek3 --rope-dim 7",
                                "--arch deepseek3 --kv-rank -1",
                                "--arch deepseek3 --dense-layers -1",
                                "--dtype q8_0"}) {
    EXPECT_EQ(1, run(folder.path() + " " + arguments + " 2>/dev/null")) << arguments;
  }
  EXPECT_EQ(1, run(folder.path("a.gguf") + " --dtype fp8 2>/dev/null"));
  EXPECT_EQ(1, run(folder.path("a.gguf") + " --llama3-scaling 2>/dev/null"));
  EXPECT_EQ(2, run("2>/dev/null"));
  EXPECT_EQ(0, run("--help >/dev/null"));
}

}  // namespace
}  // namespace ponder
