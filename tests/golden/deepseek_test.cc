// Multi-token prediction against goldens made with the glue of SGLang and vLLM, and GGUF
// conversions of mixtures against transformers on the dequantised weights. In float32.
//
// Tolerances are those of the reference data's README: logits 5e-4 absolute; greedy tokens equal as
// long as the reference's own margin is above 0.005.
#include <unistd.h>

#include <cstdlib>

#include "tests/golden/rig.h"

namespace ponder {
namespace {

class GoldenDraft : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(GoldenDraft, LayerForMultiTokenPredictionMatchesItsReference) {
  const auto& [checkpoint, backend] = GetParam();
  const fs::path folder = kOracle / "A" / checkpoint;
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  Rig rig(folder.string(), backend, {.draft_layer = true});
  if (rig.unsupported()) GTEST_SKIP() << rig.status().message();
  ASSERT_TRUE(rig.ok()) << rig.status();
  ASSERT_TRUE(rig.graph().has_draft_layer());
  EXPECT_EQ(rig.graph().kv_shape().layers, rig.layers() + 1);
  const auto golden = open_golden(folder / "golden", "golden.safetensors");
  const Json manifest =
      parse_json(read_text(folder / "golden" / "manifest.json"), "manifest.json").value();
  int prompts = 0;
  for (const Json& prompt : manifest["prompts"]) {
    const std::string name = prompt["name"];
    if (!golden->has(name + ".mtp.pos_i.last_logits")) continue;
    SCOPED_TRACE(name);
    ++prompts;
    const std::vector<int32_t> ids = prompt["ids"];
    std::vector<std::vector<std::vector<float>>> hidden;
    rig.rewind();
    rig.feed(ids, 77, &hidden);
    const auto width = static_cast<size_t>(rig.width());
    // The last row of the reference is the state after the model's final norm.
    const std::vector<float> rows = floats(*golden, name + ".hidden_last");
    const float* final_state = rows.data() + static_cast<size_t>(rig.layers() + 1) * width;
    EXPECT_LE(largest_difference(final_state, hidden.back().back().data(), width),
              2e-4f * largest_magnitude(final_state, width));

    const std::vector<int32_t> top = integers(*golden, name + ".mtp.pos_i.top20_ids");
    const std::vector<float> top_logits = floats(*golden, name + ".mtp.pos_i.top20_logits");
    ASSERT_EQ(top.size(), (ids.size() - 1) * 20);
    std::vector<float> last;
    for (size_t at = 0; at + 1 < ids.size();) {  // in pieces, as a prompt would be
      const size_t n = std::min<size_t>(ids.size() - 1 - at, 50);
      std::vector<int32_t> tokens;
      std::vector<float> states;
      for (size_t i = at; i < at + n; ++i) {
        tokens.push_back(ids[i + 1]);
        states.insert(states.end(), hidden.back()[i].begin(), hidden.back()[i].end());
      }
      const auto draft = rig.draft(tokens, states, static_cast<int32_t>(at));
      for (size_t i = 0; i < n; ++i) {
        const float* logits = draft.logits.f32() + static_cast<int64_t>(i) * draft.logits.dim[1];
        for (size_t j = 0; j < 20; ++j) {
          const size_t k = (at + i) * 20 + j;
          EXPECT_NEAR(logits[top[k]], top_logits[k], 5e-4) << "pair " << at + i;
        }
        last.assign(logits, logits + draft.logits.dim[1]);
      }
      at += n;
    }
    const std::vector<float> wanted = floats(*golden, name + ".mtp.pos_i.last_logits");
    ASSERT_EQ(wanted.size(), last.size());
    EXPECT_LE(largest_difference(wanted.data(), last.data(), last.size()), 5e-4f);
  }
  EXPECT_GE(prompts, 4);
}

TEST(GoldenDraftOptions, DraftLayerIsLeftOutUnlessAskedFor) {
  const fs::path folder = kOracle / "A" / "dsv3-bf16";
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  const Rig without(folder.string(), "ref");
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_FALSE(without.graph().has_draft_layer());
  EXPECT_EQ(without.graph().kv_shape().layers, without.layers());
  // GGUF conversions drop the layer: asking for it is no error.
  const Rig gguf((kOracle / "B" / "dsv3-bf16" / "dsv3-bf16-Q4_K_M.gguf").string(), "ref",
                 {.draft_layer = true});
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_FALSE(gguf.graph().has_draft_layer());
}

INSTANTIATE_TEST_SUITE_P(All, GoldenDraft,
                         testing::Combine(testing::Values("dsv3-bf16", "dsv3-fp8"),
                                          testing::ValuesIn(backends())),
                         [](const auto& given) {
                           std::string name =
                               std::get<0>(given.param) + "_on_" + std::get<1>(given.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class ExpertsOnDemand : public testing::TestWithParam<std::string> {};

// From Hugging Face's tensors per expert, with scales, and from GGUF's stacks; mapped and read.
TEST_P(ExpertsOnDemand, GiveTheVerySameLogitsWithinTheirBudget) {
  for (const char* path : {"A/dsv3-fp8", "A/qwen3moe-bf16", "B/dsv3-bf16/dsv3-bf16-Q4_K_M.gguf"}) {
    for (const Mapping mapping : {Mapping::kAlways, Mapping::kNever}) {
      SCOPED_TRACE(absl::StrCat(path, mapping == Mapping::kNever ? " read" : " mapped"));
      if (!fs::exists(kOracle / path)) GTEST_SKIP() << "no reference data at " << kOracle / path;
      Rig all((kOracle / path).string(), GetParam());
      if (all.unsupported()) GTEST_SKIP() << all.status().message();
      ASSERT_TRUE(all.ok()) << all.status();
      // About a fifth of what the experts take in float32.
      const uint64_t budget = 500'000;
      Rig some((kOracle / path).string(), GetParam(), {}, budget, mapping);
      ASSERT_TRUE(some.ok()) << some.status();
      const std::vector<int32_t> ids = {5, 17, 230, 9, 88, 411, 3, 77, 500, 123, 6, 342};
      for (const int chunk : {5, 1}) {
        all.rewind();
        some.rewind();
        EXPECT_EQ(all.feed(ids, chunk, nullptr), some.feed(ids, chunk, nullptr));
      }
      const ExpertCacheStats stats = some.expert_stats();
      EXPECT_EQ(stats.budget_bytes, budget);
      EXPECT_LE(stats.held_bytes, budget);
      EXPECT_GT(stats.misses, 0u);
      EXPECT_GT(stats.bytes_read, 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertsOnDemand, testing::ValuesIn(backends()),
                         [](const auto& given) { return given.param; });

struct Conversion {
  std::string checkpoint, type;
};

class GoldenGguf : public testing::TestWithParam<Conversion> {};

// Activations stay float32 in the reference backend, as in the reference data.
TEST_P(GoldenGguf, MatchesTransformersOnDequantisedWeights) {
  const auto& [checkpoint, type] = GetParam();
  const fs::path folder = kOracle / "B" / checkpoint;
  const fs::path file = folder / (checkpoint + "-" + type + ".gguf");
  if (!fs::exists(file)) GTEST_SKIP() << "no reference data at " << file;
  Rig rig(file.string(), "ref");
  ASSERT_TRUE(rig.ok()) << rig.status();
  const auto golden = open_golden(folder, "golden-" + type + ".safetensors");
  const Json manifest =
      parse_json(read_text(kOracle / "A" / checkpoint / "golden/manifest.json"), "manifest.json")
          .value();
  int prompts = 0;
  for (const Json& prompt : manifest["prompts"]) {
    const std::string name = prompt["name"];
    if (!golden->has(name + ".hf_dequant.last_logits")) continue;
    SCOPED_TRACE(name);
    ++prompts;
    const std::vector<int32_t> ids = prompt["ids"];
    rig.rewind();
    const auto logits = rig.feed(ids, 77, nullptr);
    ASSERT_EQ(logits.size(), ids.size());
    const std::vector<float> last = floats(*golden, name + ".hf_dequant.last_logits");
    ASSERT_EQ(last.size(), logits.back().size());
    EXPECT_LE(largest_difference(last.data(), logits.back().data(), last.size()), 5e-4f);
    const std::vector<int32_t> top = integers(*golden, name + ".hf_dequant.top5_ids");
    const std::vector<float> top_logits = floats(*golden, name + ".hf_dequant.top5_logits");
    for (size_t i = 0; i < top.size(); ++i) {
      EXPECT_NEAR(logits[i / 5][static_cast<size_t>(top[i])], top_logits[i], 5e-4)
          << "position " << i / 5;
    }
    const std::vector<int32_t> greedy = integers(*golden, name + ".hf_dequant.greedy_ids");
    const std::vector<float> margin = floats(*golden, name + ".hf_dequant.greedy_margin");
    std::vector<float> row = logits.back();
    for (size_t i = 0; i < greedy.size(); ++i) {
      const auto best =
          static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
      if (margin[i] > 0.005f) {
        EXPECT_EQ(best, greedy[i]) << "token " << i;
      }
      row = rig.feed({greedy[i]}, 1, nullptr).at(0);
    }
  }
  EXPECT_GE(prompts, 5);
}

INSTANTIATE_TEST_SUITE_P(Mixtures, GoldenGguf,
                         testing::Values(Conversion{"dsv3-bf16", "Q4_K_M"},
                                         Conversion{"qwen3moe-bf16", "Q4_0"}),
                         [](const auto& given) {
                           std::string name = given.param.checkpoint + "_" + given.param.type;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// There is no reference data for DeepSeek-V2. These models are made up on the spot, the same
// everywhere; the tokens are the greedy ones that llama.cpp 0.7.0 (Debian) printed for the very
// files, on a processor. The one of 27 layers is V2-Lite to it; it repeats itself, with small
// margins, and is compared for 16 tokens.
TEST(GoldenV2, ContinuesAsLlamaCppDoes) {
  if (kMakeCheckpoint[0] == '\0') GTEST_SKIP() << "ponder-make-checkpoint is not built";
  struct Made {
    const char* options;
    std::vector<int32_t> tokens;
  };
  const Made models[] = {
      {"--arch deepseek2 --q-rank 48 --layers 3 --expert-groups 4 --expert-groups-kept 2",
       {201,  1754, 1449, 1308, 251, 1828, 1226, 55,   228, 1747, 7,   1417,
        1814, 1951, 191,  1361, 145, 134,  1839, 1855, 73,  1032, 109, 169}},
      {"--arch deepseek2 --q-rank 0 --layers 27",
       {1702, 29, 1333, 747, 1702, 1702, 1702, 1702, 1702, 1702, 1702, 1702, 1702, 1702, 1702,
        1702}},
      {"--arch deepseek3 --q-rank 48 --layers 4 --expert-groups 4 --expert-groups-kept 2",
       {201, 415,  1650, 807,  1214, 630, 1820, 1404, 835,  73,  434,  207,
        962, 1209, 1650, 1393, 1055, 53,  1380, 1356, 1569, 434, 1394, 1650}}};
  const std::vector<int32_t> prompt = {72,  101, 108, 108, 111, 32,  116, 104, 101, 114, 101,
                                       44,  32,  104, 111, 119, 32,  97,  114, 101, 32,  121,
                                       111, 117, 32,  116, 111, 100, 97,  121, 63};
  const fs::path file = fs::temp_directory_path() / absl::StrCat("ponder-v2-", getpid(), ".gguf");
  for (const Made& made : models) {
    SCOPED_TRACE(made.options);
    const std::string command = absl::StrCat(
        kMakeCheckpoint, " ", file.string(), " ", made.options,
        " --hidden 256 --ffn 512 --heads 8 --expert-ffn 64 --experts 16 --experts-chosen 4"
        " --shared-experts 2 --kv-rank 64 --nope-dim 32 --rope-dim 16 --value-dim 32"
        " --context 8192 --dtype f32 --vocab 2000");
    ASSERT_EQ(std::system(command.c_str()), 0);
    for (const std::string& backend : backends()) {
      Rig rig(file.string(), backend);
      if (rig.unsupported()) continue;
      ASSERT_TRUE(rig.ok()) << rig.status();
      std::vector<float> row = rig.feed(prompt, 77, nullptr).back();
      std::vector<int32_t> got;
      while (got.size() < made.tokens.size()) {
        got.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
        row = rig.feed({got.back()}, 1, nullptr).at(0);
      }
      EXPECT_EQ(got, made.tokens) << backend;
    }
  }
  fs::remove(file);
}

}  // namespace
}  // namespace ponder
