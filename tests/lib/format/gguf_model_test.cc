// GGUF files as models: configuration, names, defaults.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/format/model_files.h"
#include "lib/tensor/half.h"
#include "tests/lib/format/gguf_builder.h"
#include "tests/lib/format/test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

constexpr uint32_t kF32 = 0, kF16 = 1, kQ8_0 = 8;

// What every model of an architecture has.
GgufBuilder base(const std::string& a = "qwen2") {
  GgufBuilder g;
  g.string("general.architecture", a).u32(a + ".embedding_length", 32);
  g.u32(a + ".feed_forward_length", 64).u32(a + ".block_count", 1);
  g.u32(a + ".attention.head_count", 4).u32(a + ".context_length", 2048);
  g.f32(a + ".attention.layer_norm_rms_epsilon", 1e-6f);
  g.tensor("token_embd.weight", {32, 10}, kF16, std::string(640, 'e'));
  return g;
}

// The files stay until the program ends, for the model reads through them.
StatusOr<ModelFiles> open(const GgufBuilder& g) {
  static std::vector<std::unique_ptr<HostFiles>> hosts;
  HostFiles& host = *hosts.emplace_back(std::make_unique<HostFiles>());
  host.files["model.gguf"] = g.build();
  return open_model(host.source());
}

TEST(GgufModel, SpeaksOfItselfInHuggingFacesWords) {
  GgufBuilder g = base();
  g.u32("qwen2.attention.head_count_kv", 2).f32("qwen2.rope.freq_base", 1e6f);
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  const Json& c = files->config;
  EXPECT_EQ("Qwen2ForCausalLM", files->architecture);
  EXPECT_EQ("Qwen2ForCausalLM", c["architectures"][0]);
  EXPECT_EQ("qwen2", c["model_type"]);
  EXPECT_EQ(32, c["hidden_size"]);
  EXPECT_EQ(64, c["intermediate_size"]);
  EXPECT_EQ(1, c["num_hidden_layers"]);
  EXPECT_EQ(4, c["num_attention_heads"]);
  EXPECT_EQ(2, c["num_key_value_heads"]);
  EXPECT_EQ(2048, c["max_position_embeddings"]);
  EXPECT_EQ(10, c["vocab_size"]);
  EXPECT_EQ(1e6, c["rope_theta"]);
  EXPECT_FLOAT_EQ(1e-6f, c["rms_norm_eps"].get<float>());
  EXPECT_EQ(true, c["tie_word_embeddings"]);
  EXPECT_FALSE(c.contains("head_dim"));
  EXPECT_FALSE(c.contains("rope_scaling"));
  EXPECT_FALSE(c.contains("rope_interleaved"));
  EXPECT_TRUE(files->gguf.has_value());
  EXPECT_EQ("", files->tokenizer_json);
}

TEST(GgufModel, GivesTensorsTheirHuggingFaceNames) {
  GgufBuilder g = base();
  const std::pair<const char*, const char*> names[] = {
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
      {"blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"},
      {"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"},
      {"blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"},
      {"blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"},
      {"blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"},
      {"blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"},
      {"blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"},
      {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"},
      {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"},
      {"blk.12.ffn_down.weight", "model.layers.12.mlp.down_proj.weight"},
      {"something.else", "something.else"},
      {"blk.x.attn_q.weight", "blk.x.attn_q.weight"},
      {"blk.0.unheard_of.weight", "blk.0.unheard_of.weight"},
      {"plain", "plain"}};
  for (const auto& [gguf, hugging_face] : names) g.tensor(gguf, {4}, kF32, std::string(16, 'x'));
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  for (const auto& [gguf, hugging_face] : names) {
    EXPECT_TRUE(files->weights->has(hugging_face)) << hugging_face;
  }
  EXPECT_EQ(1 + std::size(names), files->weights->names().size());
  EXPECT_EQ(false, files->config["tie_word_embeddings"]);
}

TEST(GgufModel, GivesQuantisedBytesAsTheyAre) {
  GgufBuilder g = base();
  g.tensor("blk.0.ffn_up.weight", {32, 2}, kQ8_0, std::string(68, 'q'));
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  auto w = files->weights->find("model.layers.0.mlp.up_proj.weight");
  ASSERT_TRUE(w.ok()) << w.status();
  EXPECT_EQ(DType::kQ8_0, w->dtype);
  EXPECT_EQ((std::vector<int64_t>{2, 32}), w->shape);
  EXPECT_EQ(0, std::memcmp(w->data, std::string(68, 'q').data(), 68));
  EXPECT_EQ(320u + 64u, files->weights->parameters());
}

TEST(GgufModel, SaysWhenTwoTensorsHaveOneName) {
  GgufBuilder g = base();
  g.tensor("model.norm.weight", {1}, kF32, "xxxx").tensor("output_norm.weight", {1}, kF32, "xxxx");
  EXPECT_TRUE(fails(open(g).status(), kCorrupt, "\"model.norm.weight\" under two names"));
}

TEST(GgufModel, LlamasRotateNeighbours) {
  auto files = open(base("llama"));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(true, files->config["rope_interleaved"]);
  EXPECT_EQ("LlamaForCausalLM", files->architecture);
}

TEST(GgufModel, ReadsRotaryScaling) {
  GgufBuilder yarn = base("qwen3");
  yarn.string("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.factor", 4);
  yarn.u32("qwen3.rope.scaling.original_context_length", 128);
  yarn.f32("qwen3.rope.scaling.yarn_attn_factor", 0.5f);
  auto files = open(yarn);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(Json::parse(R"({"rope_type":"yarn","factor":4.0,"attn_factor":0.5,
                            "original_max_position_embeddings":128})"),
            files->config["rope_scaling"]);

  GgufBuilder factors = base("llama");
  factors.tensor("rope_freqs.weight", {2}, kF32, GgufBuilder::raw(1.0f) + GgufBuilder::raw(8.0f));
  files = open(factors);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(Json::parse(R"({"rope_type":"factors","factors":[1.0,8.0]})"),
            files->config["rope_scaling"]);

  GgufBuilder none = base();
  none.string("qwen2.rope.scaling.type", "none");
  EXPECT_FALSE(open(none)->config.contains("rope_scaling"));
  GgufBuilder other = base();
  other.string("qwen2.rope.scaling.type", "longrope");
  EXPECT_TRUE(fails(open(other).status(), kUnsupported, "\"longrope\""));
}

TEST(GgufModel, RefusesFrequencyFactorsThatMakeNoSense) {
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    GgufBuilder g = base("llama");
    g.tensor("rope_freqs.weight", {1}, kF32, GgufBuilder::raw(bad));
    EXPECT_TRUE(fails(open(g).status(), kCorrupt, "not positive")) << bad;
  }
  GgufBuilder wrong_type = base("llama");
  wrong_type.tensor("rope_freqs.weight", {2}, kF16, "xxxx");
  EXPECT_TRUE(fails(open(wrong_type).status(), kCorrupt, "list of F32"));
}

TEST(GgufModel, ReadsSamplingAndSpecialTokens) {
  GgufBuilder g = base();
  g.f32("general.sampling.temp", 0.6f).f32("general.sampling.top_p", 0.95f);
  g.i32("general.sampling.top_k", 20)
      .strings("tokenizer.ggml.tokens", {"a", "<s>", "</s>", "<eot>"});
  g.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  g.u32("tokenizer.ggml.eot_token_id", 3).u32("tokenizer.ggml.padding_token_id", 0xFFFFFFFF);
  g.boolean("tokenizer.ggml.add_bos_token", true).string("tokenizer.chat_template", "{{ x }}");
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_FLOAT_EQ(0.6f, *files->defaults.temperature);
  EXPECT_FLOAT_EQ(0.95f, *files->defaults.top_p);
  EXPECT_EQ(20, *files->defaults.top_k);
  EXPECT_EQ((std::vector<int32_t>{2, 3}), files->defaults.eos_ids);
  EXPECT_EQ(1, *files->defaults.bos_id);
  EXPECT_FALSE(files->defaults.pad_id.has_value());
  EXPECT_EQ("<s>", files->tokenizer.bos_token);
  EXPECT_EQ("</s>", files->tokenizer.eos_token);
  EXPECT_TRUE(*files->tokenizer.add_bos);
  EXPECT_EQ("{{ x }}", files->tokenizer.chat_template);
}

TEST(GgufModel, LyingSpecialTokensAreNoTokens) {
  GgufBuilder g = base();
  g.strings("tokenizer.ggml.tokens", {"a"}).u32("tokenizer.ggml.bos_token_id", 7);
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("", files->tokenizer.bos_token);
}

TEST(GgufModel, SaysWhatIsMissingOrMakesNoSense) {
  EXPECT_TRUE(
      fails(open(GgufBuilder().u32("k", 1)).status(), kCorrupt, "\"general.architecture\""));
  EXPECT_TRUE(fails(open(base("gpt2")).status(), kUnsupported, "\"gpt2\""));
  GgufBuilder no_embedding;
  no_embedding.string("general.architecture", "qwen2");
  EXPECT_TRUE(fails(open(no_embedding).status(), kCorrupt, "token_embd.weight"));
  GgufBuilder no_sizes;
  no_sizes.string("general.architecture", "qwen2")
      .tensor("token_embd.weight", {2, 2}, kF16, "xxxxxxxx");
  EXPECT_TRUE(fails(open(no_sizes).status(), kCorrupt, "\"qwen2.embedding_length\" is missing"));
  GgufBuilder by_layer = base();
  by_layer.array<int32_t>("qwen2.attention.head_count_kv", 5, {2, 4});
  EXPECT_TRUE(fails(open(by_layer).status(), kUnsupported, "differs from layer to layer"));
  GgufBuilder same = base();
  same.array<int32_t>("qwen2.attention.head_count_kv", 5, {2, 2});
  EXPECT_EQ(2, open(same)->config["num_key_value_heads"]);
  GgufBuilder text = base();
  text.string("qwen2.attention.head_count_kv", "2");
  EXPECT_TRUE(fails(open(text).status(), kCorrupt, "whole number"));
  GgufBuilder widths = base();
  widths.u32("qwen2.attention.key_length", 8).u32("qwen2.attention.value_length", 16);
  EXPECT_TRUE(fails(open(widths).status(), kUnsupported, "keys of 8 and values of 16"));
  GgufBuilder endless = base();
  endless.f32("qwen2.rope.freq_base", INFINITY);
  EXPECT_TRUE(fails(open(endless).status(), kCorrupt, "finite"));
  GgufBuilder hot = base();
  hot.f32("general.sampling.temp", -1);
  EXPECT_TRUE(fails(open(hot).status(), kCorrupt, "general.sampling.temp"));
}

TEST(GgufModel, APathMayNameAFile) {
  TemporaryFolder folder;
  folder.write("R1-mini-Q8_0.gguf", base().build());
  auto files = open_model_path(folder.path("R1-mini-Q8_0.gguf"));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("R1-mini-Q8_0", files->name);
  GgufBuilder split = base();
  split.u16("split.count", 1);
  folder.write("x-00001-of-00001.gguf", split.build());
  EXPECT_EQ("x", open_model_path(folder.path("x-00001-of-00001.gguf"))->name);
  EXPECT_TRUE(fails(open_model_path(folder.path("none.gguf")).status(), kMissing, "none.gguf"));
  folder.write("config.txt", "");
  EXPECT_TRUE(fails(open_model_path(folder.path("config.txt")).status(), kInvalid, ".gguf file"));
  // A folder may be called so as well.
  std::filesystem::create_directory(folder.path("folder.gguf"));
  EXPECT_TRUE(fails(open_model_path(folder.path("folder.gguf")).status(), kMissing, "config.json"));
}

TEST(GgufModel, EveryFailingReadIsAnError) {
  HostFiles good;
  good.files["model.gguf"] = base().build();
  ASSERT_TRUE(open_model(good.source()).ok());
  for (int n = 1; n <= good.calls; ++n) {
    HostFiles host;
    host.files["model.gguf"] = base().build();
    host.fail_at = n;
    EXPECT_EQ(kIo, open_model(host.source()).status().code()) << n;
    EXPECT_EQ(1, host.closed);
  }
}

TEST(GgufModel, TheFingerprintChangesWithTheMetadata) {
  GgufBuilder a = base(), b = base();
  a.strings("tokenizer.ggml.tokens", {"a", "b"});
  b.strings("tokenizer.ggml.tokens", {"a", "c"});
  EXPECT_EQ(open(a)->fingerprint, open(a)->fingerprint);
  EXPECT_NE(open(a)->fingerprint, open(b)->fingerprint);
}

// ---- the same model in both formats -------------------------------------------------------------

std::string shared(const std::string& path) { return std::string(kSharedDir) + "/" + path; }

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

// stories260K is a Llama, so the rows of its queries and keys are in the other order: row (i,
// i+E/2) of a head there is row (2i, 2i+1) here.
// A conversion of V3 as llama.cpp wrote them before it split kv_b and told of groups.
GgufBuilder deepseek() {
  const std::string a = "deepseek2.";
  GgufBuilder g = base("deepseek2");
  g.u32(a + "attention.kv_lora_rank", 16).u32(a + "rope.dimension_count", 8);
  g.u32(a + "attention.key_length", 24).u32(a + "attention.value_length", 20);
  g.u32(a + "expert_count", 256).u32(a + "expert_used_count", 8);
  g.u32(a + "expert_feed_forward_length", 40).u32(a + "expert_gating_func", 2);
  return g;
}

TEST(GgufDeepSeek, OlderConversionsMeanTheSame) {
  GgufBuilder g = deepseek();
  g.string("deepseek2.rope.scaling.type", "yarn").f32("deepseek2.rope.scaling.factor", 40);
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("DeepseekV3ForCausalLM", files->architecture);
  const Json& c = files->config;
  EXPECT_EQ(16, c["qk_nope_head_dim"]);
  EXPECT_EQ(8, c["qk_rope_head_dim"]);
  EXPECT_EQ(20, c["v_head_dim"]);
  EXPECT_FALSE(c.contains("q_lora_rank"));
  EXPECT_EQ("noaux_tc", c["topk_method"]);
  EXPECT_EQ("sigmoid", c["scoring_func"]);
  EXPECT_EQ(8, c["n_group"]);  // V3's and R1's
  EXPECT_EQ(4, c["topk_group"]);
  EXPECT_EQ(false, c["norm_topk_prob"]);
  // Without a multiplier the angles' magnitude stays one.
  EXPECT_EQ(1.0, c["rope_scaling"]["attention_factor"]);
  EXPECT_FALSE(c["rope_scaling"].contains("mscale_all_dim"));
}

TEST(GgufDeepSeek, SoftmaxIsV2) {
  GgufBuilder g = base("deepseek2");
  const std::string a = "deepseek2.";
  g.u32(a + "attention.kv_lora_rank", 16).u32(a + "rope.dimension_count", 8);
  g.u32(a + "attention.key_length", 24).u32(a + "attention.value_length", 16);
  g.u32(a + "expert_count", 64).u32(a + "expert_used_count", 6);
  g.u32(a + "expert_feed_forward_length", 40).u32(a + "attention.q_lora_rank", 0);
  GgufBuilder grouped = g;
  auto files = open(g);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("greedy", files->config["topk_method"]);
  EXPECT_EQ("softmax", files->config["scoring_func"]);
  EXPECT_FALSE(files->config.contains("q_lora_rank"));
  grouped.u32(a + "expert_group_count", 4).u32(a + "expert_group_used_count", 2);
  files = open(grouped);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("group_limited_greedy", files->config["topk_method"]);
  EXPECT_EQ(4, files->config["n_group"]);
}

TEST(GgufDeepSeek, SaysWhatMakesNoSense) {
  GgufBuilder narrow = base("deepseek2");
  narrow.u32("deepseek2.attention.kv_lora_rank", 16).u32("deepseek2.rope.dimension_count", 64);
  narrow.u32("deepseek2.attention.key_length", 64);
  EXPECT_TRUE(fails(open(narrow).status(), kCorrupt, "rotary part"));
  GgufBuilder gating = base("deepseek2");
  gating.u32("deepseek2.attention.kv_lora_rank", 16).u32("deepseek2.rope.dimension_count", 8);
  gating.u32("deepseek2.attention.key_length", 64).u32("deepseek2.expert_gating_func", 3);
  EXPECT_TRUE(fails(open(gating).status(), kUnsupported, "expert_gating_func 3"));
  EXPECT_TRUE(fails(open(base("deepseek2")).status(), kCorrupt, "kv_lora_rank"));
}

TEST(GgufReference, MixturesAreConfiguredAsTheFolders) {
  const std::string gguf = shared("oracle/B/dsv3-bf16/dsv3-bf16-Q4_K_M.gguf");
  if (!std::filesystem::exists(gguf)) GTEST_SKIP() << "no reference data at " << gguf;
  auto folder = open_model_path(shared("oracle/A/dsv3-bf16")), file = open_model_path(gguf);
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(folder->architecture, file->architecture);
  for (const char* key : {"hidden_size",
                          "intermediate_size",
                          "num_hidden_layers",
                          "vocab_size",
                          "kv_lora_rank",
                          "q_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "n_routed_experts",
                          "num_experts_per_tok",
                          "moe_intermediate_size",
                          "n_shared_experts",
                          "n_group",
                          "topk_group",
                          "topk_method",
                          "scoring_func",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "first_k_dense_replace",
                          "num_attention_heads",
                          "rope_theta"}) {
    EXPECT_EQ(folder->config[key], file->config[key]) << key;
  }
  for (const char* key : {"factor", "mscale", "mscale_all_dim", "original_max_position_embeddings",
                          "beta_fast", "beta_slow"}) {
    EXPECT_EQ(folder->config["rope_scaling"][key].get<float>(),
              file->config["rope_scaling"][key].get<float>())
        << key;
  }
  const auto stack = file->weights->info("model.layers.1.mlp.experts.gate_proj.weight");
  ASSERT_TRUE(stack.ok()) << stack.status();
  EXPECT_EQ((std::vector<int64_t>{16, 32, 256}), stack->shape);
  EXPECT_TRUE(file->weights->has("model.layers.2.mlp.gate.e_score_correction_bias"));
}

TEST(GgufReference, HoldsTheSameWeightsAsTheFolder) {
  const std::string root = shared("oracle/C");
  if (!std::filesystem::exists(root)) GTEST_SKIP() << "no reference data at " << root;
  auto folder = open_model_path(root + "/stories260K-hf");
  auto file = open_model_path(root + "/stories260K-f32.gguf");
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(file.ok()) << file.status();
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                          "rope_theta", "tie_word_embeddings"}) {
    EXPECT_EQ(folder->config[key], file->config[key]) << key;
  }
  EXPECT_EQ(folder->weights->names(), file->weights->names());
  EXPECT_EQ(folder->defaults.eos_ids, file->defaults.eos_ids);
  EXPECT_EQ(folder->tokenizer.bos_token, file->tokenizer.bos_token);
  for (const std::string& name : folder->weights->names()) {
    auto a = folder->weights->find(name), b = file->weights->find(name);
    ASSERT_TRUE(a.ok() && b.ok()) << name;
    ASSERT_EQ(a->shape, b->shape) << name;
    const int64_t cols = a->shape.back(), rows = a->elements() / cols, width = 8;
    const bool turned = name.find("q_proj") != name.npos || name.find("k_proj") != name.npos;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t in_head = r % width, head = r - in_head;
      const int64_t there = in_head < width / 2 ? 2 * in_head : 2 * (in_head - width / 2) + 1;
      const int64_t other = turned ? head + there : r;
      for (int64_t c = 0; c < cols; ++c) {
        ASSERT_EQ(value(*a, r * cols + c), value(*b, other * cols + c)) << name << " row " << r;
      }
    }
  }
}

TEST(GgufReference, ConfigurationsAreThoseOfTheFolders) {
  const std::pair<const char*, const char*> models[] = {{"qwen2-bf16", "qwen2-bf16-Q8_0"},
                                                        {"llama-bf16", "llama-bf16-Q4_K_M"},
                                                        {"qwen3-bf16", "qwen3-bf16-Q4_0"}};
  for (const auto& [name, file_name] : models) {
    const std::string gguf = shared(std::string("oracle/B/") + name + "/" + file_name + ".gguf");
    if (!std::filesystem::exists(gguf)) GTEST_SKIP() << "no reference data at " << gguf;
    auto folder = open_model_path(shared(std::string("oracle/A/") + name));
    auto file = open_model_path(gguf);
    ASSERT_TRUE(folder.ok()) << folder.status();
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file_name, file->name);
    EXPECT_EQ(folder->architecture, file->architecture);
    for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                            "num_attention_heads", "num_key_value_heads", "rope_theta",
                            "max_position_embeddings", "tie_word_embeddings", "model_type"}) {
      EXPECT_EQ(folder->config[key], file->config[key]) << name << " " << key;
    }
    EXPECT_EQ(folder->config["rms_norm_eps"].get<float>(),
              file->config["rms_norm_eps"].get<float>());
    EXPECT_EQ(folder->config.contains("rope_scaling"), file->config.contains("rope_scaling"))
        << name;
    EXPECT_EQ(folder->tokenizer.chat_template, file->tokenizer.chat_template) << name;
    EXPECT_EQ(folder->tokenizer.bos_token, file->tokenizer.bos_token) << name;
    EXPECT_EQ(folder->tokenizer.eos_token, file->tokenizer.eos_token) << name;
    EXPECT_EQ(folder->defaults.eos_ids, file->defaults.eos_ids) << name;
    EXPECT_EQ(*folder->defaults.temperature, *file->defaults.temperature) << name;
    // Every tensor of the folder is there under its own name, in its own shape.
    for (const std::string& tensor : folder->weights->names()) {
      auto a = folder->weights->info(tensor), b = file->weights->info(tensor);
      ASSERT_TRUE(b.ok()) << name << ": " << b.status();
      EXPECT_EQ(a->shape, b->shape) << name << " " << tensor;
      EXPECT_TRUE(file->weights->find(tensor).ok()) << name << " " << tensor;
    }
  }
}

}  // namespace
}  // namespace ponder
