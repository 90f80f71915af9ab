// Model files against transformers' numbers: hidden states after every layer, logits, greedy
// continuations, on every backend of this build, in float32.
//
// Tolerances are those of the reference data's README (float32 engine): logits 5e-4 absolute, hidden
// states 2e-4 of the row's largest magnitude, greedy tokens all equal.
#include "tests/golden/rig.h"

namespace ponder {
namespace {

// What the routers chose while the prompt was fed, layer by layer: ids equal, weights to 1e-5.
void expect_routing(const Checkpoint& golden, const std::string& prompt, size_t tokens, Rig& rig) {
  size_t mixtures = 0;
  for (int i = 0; i < rig.layers(); ++i) {
    mixtures += golden.has(absl::StrCat(prompt, ".route_ids.", i));
  }
  if (mixtures == 0) {  // dense, or the reference did not say
    return;
  }
  size_t mixture = 0;
  for (int i = 0; i < rig.layers(); ++i) {
    const std::string key = absl::StrCat(prompt, ".route_ids.", i);
    if (!golden.has(key)) continue;
    const std::vector<int32_t> ids = integers(golden, key);
    const std::vector<float> weights = floats(golden, absl::StrCat(prompt, ".route_w.", i));
    const size_t k = ids.size() / tokens;
    size_t t = 0;
    for (size_t call = mixture++; call < rig.spy().routed.size(); call += mixtures) {
      for (const RoutingSpy::Row& row : rig.spy().routed[call]) {
        ASSERT_LT(t, tokens);
        ASSERT_EQ(row.ids.size(), k);
        for (size_t j = 0; j < k; ++j) {
          EXPECT_EQ(row.ids[j], ids[t * k + j]) << "layer " << i << " position " << t;
          EXPECT_NEAR(row.weights[j], weights[t * k + j], 1e-5) << "layer " << i << " row " << t;
        }
        ++t;
      }
    }
    EXPECT_EQ(t, tokens);
  }
}

class GoldenModel : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(GoldenModel, MatchesTransformers) {
  const auto& [checkpoint, backend] = GetParam();
  const fs::path folder = kOracle / "A" / checkpoint;
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  Rig rig(folder.string(), backend);
  if (rig.unsupported()) GTEST_SKIP() << rig.status().message();
  ASSERT_TRUE(rig.ok()) << rig.status();
  const auto golden = open_golden(folder / "golden", "golden.safetensors");
  const Json manifest =
      parse_json(read_text(folder / "golden" / "manifest.json"), "manifest.json").value();
  int prompts = 0;
  for (const Json& prompt : manifest["prompts"]) {
    const std::string name = prompt["name"];
    SCOPED_TRACE(name);
    ++prompts;
    const std::vector<int32_t> ids = prompt["ids"];
    std::vector<std::vector<std::vector<float>>> hidden;
    rig.rewind();
    rig.spy().routed.clear();
    // A chunk that is no multiple of a page and smaller than the longer prompts.
    const auto logits = rig.feed(ids, 77, &hidden);
    ASSERT_EQ(logits.size(), ids.size());

    const std::vector<float> last = floats(*golden, name + ".last_logits");
    ASSERT_EQ(last.size(), logits.back().size());
    EXPECT_LE(largest_difference(last.data(), logits.back().data(), last.size()), 5e-4f)
        << "logits of the last position";

    const std::vector<float> sums = floats(*golden, name + ".logsumexp");
    for (size_t t = 0; t < ids.size(); ++t) {
      EXPECT_NEAR(log_sum_exp(logits[t]), sums[t], 5e-4) << "log-sum-exp at position " << t;
    }

    const std::vector<float> rows = floats(*golden, name + ".hidden_last");
    const size_t width = hidden[0][0].size();
    for (size_t l = 0; l < hidden.size(); ++l) {
      const float* want = rows.data() + l * width;
      EXPECT_LE(largest_difference(want, hidden[l].back().data(), width),
                2e-4f * largest_magnitude(want, width))
          << "hidden state after layer " << l;
    }
    if (golden->has(name + ".hidden_all")) {
      const std::vector<float> all = floats(*golden, name + ".hidden_all");
      for (size_t l = 0; l < hidden.size(); ++l) {
        for (size_t t = 0; t < ids.size(); ++t) {
          const float* want = all.data() + (l * ids.size() + t) * width;
          EXPECT_LE(largest_difference(want, hidden[l][t].data(), width),
                    2e-4f * largest_magnitude(want, width))
              << "hidden state after layer " << l << " at position " << t;
        }
      }
    }
    expect_routing(*golden, name, ids.size(), rig);

    // The greedy continuation, one token a step.
    const std::vector<int32_t> greedy = prompt["greedy_ids"];
    std::vector<int32_t> got;
    std::vector<float> row = logits.back();
    while (got.size() < greedy.size()) {
      got.push_back(
          static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
      row = rig.feed({got.back()}, 1, nullptr).at(0);
    }
    EXPECT_EQ(got, greedy);
  }
  EXPECT_GE(prompts, 5);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenModel,
                         testing::Combine(testing::Values("qwen2-bf16", "qwen2-tied-f32",
                                                          "llama-bf16", "llama-f16", "qwen3-bf16",
                                                          "dsv3-bf16", "dsv3-fp8", "dsv3-noq-bf16",
                                                          "qwen3moe-bf16"),
                                          testing::ValuesIn(backends())),
                         [](const auto& given) {
                           std::string name =
                               std::get<0>(given.param) + "_on_" + std::get<1>(given.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace ponder
