// Checkpoints of mixtures that are damaged, incomplete or lie: clear errors, never a crash, and
// what fails while a model runs fails that step alone.
#include <functional>
#include <map>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "tests/golden/rig.h"
#include "tests/lib/format/test_files.h"

namespace ponder {
namespace {

using testing::HasSubstr;

// A checkpoint some of whose tensors are missing or others.
class Tampered final : public Checkpoint {
 public:
  explicit Tampered(std::unique_ptr<Checkpoint> to) : to_(std::move(to)) {}

  void remove(const std::string& name) { removed_[name] = true; }
  void replace(const std::string& name, DType dtype, std::vector<int64_t> shape,
               std::vector<char> bytes) {
    auto owner = std::make_shared<std::vector<char>>(std::move(bytes));
    WeightData weight{name, dtype, std::move(shape), owner->data(), owner, nullptr};
    replaced_[name] = weight;
  }
  void replace(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    std::vector<char> bytes(values.size() * 4);
    memcpy(bytes.data(), values.data(), bytes.size());
    replace(name, DType::kF32, std::move(shape), std::move(bytes));
  }

  bool has(absl::string_view name) const override {
    return removed_.count(std::string(name)) == 0 && to_->has(name);
  }
  StatusOr<WeightData> find(absl::string_view name) const override {
    if (!has(name)) return not_found_error("there is no tensor ", name);
    const auto it = replaced_.find(std::string(name));
    return it != replaced_.end() ? it->second : to_->find(name);
  }
  StatusOr<WeightData> find_slice(absl::string_view name, int64_t index) const override {
    return to_->find_slice(name, index);
  }
  StatusOr<WeightData> describe(absl::string_view name) const override {
    return to_->describe(name);
  }
  StatusOr<WeightData> load(absl::string_view name, int64_t slice) const override {
    return slice < 0 ? find(name) : to_->load(name, slice);
  }
  void prefetch(absl::string_view name, int64_t slice) const override {
    to_->prefetch(name, slice);
  }
  Status read(absl::string_view name, uint64_t offset, void* dst, uint64_t n) const override {
    return to_->read(name, offset, dst, n);
  }
  void drop(const WeightData& weight) const override { to_->drop(weight); }
  StatusOr<TensorInfo> info(absl::string_view name) const override {
    if (!has(name)) return not_found_error("there is no tensor ", name);
    StatusOr<TensorInfo> info = to_->info(name);
    const auto it = replaced_.find(std::string(name));
    if (info.ok() && it != replaced_.end()) info->shape = it->second.shape;
    return info;
  }
  std::vector<std::string> names() const override { return to_->names(); }
  uint64_t total_bytes() const override { return to_->total_bytes(); }
  uint64_t parameters() const override { return to_->parameters(); }
  const std::string& where() const override { return to_->where(); }

 private:
  std::unique_ptr<Checkpoint> to_;
  std::map<std::string, bool> removed_;
  std::map<std::string, WeightData> replaced_;
};

class DamagedMixture : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!fs::exists(folder_)) GTEST_SKIP() << "no reference data at " << folder_;
    if (Rig(folder_.string(), GetParam()).unsupported()) GTEST_SKIP() << "not on " << GetParam();
  }
  ModelFiles open(const std::function<void(Tampered&)>& tamper) {
    ModelFiles files = open_model_path(folder_.string()).value();
    auto weights = std::make_unique<Tampered>(std::move(files.weights));
    tamper(*weights);
    files.weights = std::move(weights);
    return files;
  }
  Status load(const std::function<void(Tampered&)>& tamper, uint64_t expert_bytes = 0) {
    return Rig(open(tamper), GetParam(), {}, expert_bytes).status();
  }
  const fs::path folder_ = kOracle / "A" / "dsv3-fp8";
};

const std::string kDown = "model.layers.0.mlp.down_proj.weight";            // f8 [320, 200]
const std::string kExpert = "model.layers.1.mlp.experts.7.up_proj.weight";  // f8 [72, 320]

TEST_P(DamagedMixture, ScalesThatAreMissingMisshapedOrNoNumbersAreNamed) {
  ASSERT_TRUE(load([](Tampered&) {}).ok());
  for (const std::string& weight : {kDown, kExpert}) {
    const std::string scales = weight + "_scale_inv";
    const int64_t rows = weight == kDown ? 3 : 1, cols = weight == kDown ? 2 : 3;
    const auto n = static_cast<size_t>(rows * cols);
    Status s = load([&](Tampered& t) { t.remove(scales); });
    EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr(scales));
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{cols, rows}, {rows * cols}, {rows + 1, cols}, {rows, cols, 1}}) {
      if (shape == std::vector<int64_t>{rows, cols}) continue;
      size_t elements = 1;
      for (int64_t d : shape) elements *= static_cast<size_t>(d);
      s = load([&](Tampered& t) { t.replace(scales, shape, std::vector<float>(elements, 1)); });
      EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
      EXPECT_THAT(std::string(s.message()), HasSubstr("128 x 128"));
    }
    for (const float bad : {static_cast<float>(NAN), static_cast<float>(INFINITY), 3e38f}) {
      std::vector<float> values(n, 0.01f);
      values.back() = bad;  // 3e38 times a code is infinite
      s = load([&](Tampered& t) { t.replace(scales, {rows, cols}, values); });
      EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << bad << " " << s;
      EXPECT_THAT(std::string(s.message()), HasSubstr(weight));
    }
    s = load([&](Tampered& t) {
      t.replace(scales, DType::kI32, {rows, cols}, std::vector<char>(n * 4));
    });
    EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
  }
}

TEST_P(DamagedMixture, ExpertsThatAreMissingOrMisshapedAreNamedWhenTheModelIsLoaded) {
  for (const uint64_t expert_bytes : {uint64_t{0}, uint64_t{10'000'000}}) {
    Status s = load([](Tampered& t) { t.remove(kExpert); }, expert_bytes);
    EXPECT_EQ(s.code(), absl::StatusCode::kNotFound) << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr(kExpert));
    s = load(
        [](Tampered& t) {
          t.replace(kExpert, DType::kF8_E4M3, {320, 72}, std::vector<char>(320 * 72));
        },
        expert_bytes);
    EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr("[320, 72]"));
  }
}

TEST_P(DamagedMixture, ExpertsOnDemandThatAreDamagedFailTheirStepsOnly) {
  const std::vector<float> bad(3, NAN);
  Rig rig(open([&](Tampered& t) {
            for (int e = 0; e < 2; ++e) {
              t.replace(absl::StrCat("model.layers.1.mlp.experts.", e, ".up_proj.weight_scale_inv"),
                        {1, 3}, bad);
            }
          }),
          GetParam(), {}, 10'000'000);
  ASSERT_TRUE(rig.ok()) << rig.status();
  int failed = 0, passed = 0;
  for (int32_t token = 0; token < 60; ++token) {
    const Status s = rig.try_step(token);
    s.ok() ? ++passed : ++failed;
    if (!s.ok()) {
      EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
      EXPECT_THAT(std::string(s.message()), HasSubstr("model.layers.1.mlp.experts."));
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(passed, 0);
}

TEST_P(DamagedMixture, RouterScoresThatAreNotFiniteAreCorrupt) {
  // Finite weights whose products are not.
  Rig rig(
      open([](Tampered& t) {
        t.replace("model.layers.1.mlp.gate.weight", {12, 320}, std::vector<float>(12 * 320, 3e38f));
      }),
      GetParam());
  ASSERT_TRUE(rig.ok()) << rig.status();
  const Status s = rig.try_step(5);
  EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
  EXPECT_THAT(std::string(s.message()), HasSubstr("router"));
}

TEST_P(DamagedMixture, DiskThatFailsWhileExpertsAreReadFailsThoseStepsOnly) {
  HostFiles host;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.is_regular_file()) host.files[entry.path().filename()] = read_text(entry.path());
  }
  auto files = open_model(host.source());
  ASSERT_TRUE(files.ok()) << files.status();
  Rig rig(*std::move(files), GetParam(), {}, 400'000);
  ASSERT_TRUE(rig.ok()) << rig.status();
  ASSERT_TRUE(rig.try_step(1).ok());
  for (int32_t token = 2; token < 6; ++token) {
    host.fail_at = host.calls + 1;
    const Status s = rig.try_step(token);
    EXPECT_EQ(s.code(), absl::StatusCode::kUnavailable) << s;
    host.fail_at = 0;
    EXPECT_TRUE(rig.try_step(token).ok());
  }
}

TEST_P(DamagedMixture, ConfigurationsThatLieAreRefused) {
  struct Lie {
    const char* key;
    Json value;
    const char* says;
  };
  const Lie lies[] = {
      {"num_attention_heads", 0, "num_attention_heads"},
      {"num_attention_heads", 5, "does not fit"},
      {"n_group", 5, "equal groups"},
      {"n_group", -1, "n_group"},
      {"topk_group", 4, "equal groups"},
      {"topk_group", 0, "topk_group"},
      {"num_experts_per_tok", 13, "experts a token"},
      {"num_experts_per_tok", 9, "experts a token"},  // there are 8 in two groups
      {"num_experts_per_tok", 0, "num_experts_per_tok"},
      {"n_routed_experts", 0, "n_routed_experts"},
      {"n_routed_experts", 15, "does not fit"},
      {"n_routed_experts", 1 << 30, "equal groups"},
      {"n_routed_experts", 3 << 20, "does not fit"},
      {"kv_lora_rank", 0, "kv_lora_rank"},
      {"kv_lora_rank", -96, "kv_lora_rank"},
      {"q_lora_rank", 0, "q_lora_rank"},
      {"q_lora_rank", 2147483647, "does not fit"},
      {"qk_rope_head_dim", 15, "even number"},
      {"qk_rope_head_dim", 2147483646, "even number"},
      {"qk_nope_head_dim", 2147483647, "does not fit"},
      {"v_head_dim", 2147483647, "does not fit"},
      {"moe_intermediate_size", -72, "moe_intermediate_size"},
      {"first_k_dense_replace", -1, "first_k_dense_replace"},
      {"first_k_dense_replace", 2, "gate_proj"},  // layer 1 is a mixture
      {"n_shared_experts", 2, "does not fit"},
      {"n_shared_experts", -1, "n_shared_experts"},
      {"num_hidden_layers", 5, "model.layers.4."},
      {"moe_layer_freq", 2, "moe_layer_freq"},
      {"topk_method", "random", "topk_method"},
      {"scoring_func", "tanh", "scoring_func"},
      {"quantization_config", {{"quant_method", "awq"}}, "awq"},
      {"quantization_config",
       {{"quant_method", "fp8"}, {"weight_block_size", {64, 128}}},
       "weight_block_size"},
      {"quantization_config", {{"quant_method", "fp8"}}, "weight_block_size"},
      {"hidden_size", 0, "hidden_size"},
      {"vocab_size", 639, "does not fit"},
  };
  for (const Lie& lie : lies) {
    SCOPED_TRACE(absl::StrCat(lie.key, " = ", lie.value.dump()));
    ModelFiles files = open_model_path(folder_.string()).value();
    files.config[lie.key] = lie.value;
    const Status s = Rig(std::move(files), GetParam()).status();
    EXPECT_FALSE(s.ok());
    EXPECT_TRUE(s.code() == absl::StatusCode::kDataLoss ||
                s.code() == absl::StatusCode::kUnimplemented ||
                s.code() == absl::StatusCode::kNotFound)
        << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr(lie.says));
  }
}

INSTANTIATE_TEST_SUITE_P(All, DamagedMixture, testing::ValuesIn(backends()),
                         [](const auto& given) { return given.param; });

// The host may stop a load between any two experts, and is told of every byte once.
TEST_P(DamagedMixture, LoadsCanBeStoppedBetweenExperts) {
  const auto pool = make_thread_pool(2).value();
  std::unique_ptr<Backend> backend;
  for (const BackendFactory* factory : builtin_backends()) {
    const BackendContext context{default_allocator(), pool.get(), {}};
    if (factory->devices(context).front().backend == GetParam()) {
      backend = factory->create(0, context).value();
    }
  }
  ASSERT_NE(backend, nullptr);
  const auto load = [&](int stop_at, std::vector<uint64_t>* told) {
    const ModelFiles files = open([](Tampered&) {});
    WeightStore store;
    const Config config(files.config, "config.json");
    const Loader loader(*files.weights, backend.get(), {Precision::kF32}, &store,
                        [&](uint64_t done, uint64_t) {
                          told->push_back(done);
                          return static_cast<int32_t>(told->size()) == stop_at ? 1 : 0;
                        });
    const Status status = make_model(config, loader).status();
    if (status.ok()) {
      EXPECT_EQ(told->back(), store.bytes);
    }
    return status;
  };
  std::vector<uint64_t> all;
  ASSERT_TRUE(load(0, &all).ok());
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  EXPECT_GT(all.size(), 2u * 12 * 3);  // more often than there are matrices of experts
  for (size_t stop = 1; stop <= all.size(); stop += 7) {
    std::vector<uint64_t> told;
    EXPECT_EQ(load(static_cast<int>(stop), &told).code(), absl::StatusCode::kCancelled) << stop;
    EXPECT_EQ(told.size(), stop);  // never asked again
  }
}

// The shards of a model, as files that can be lost or mixed up.
class Shards : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path folder = kOracle / "A" / "dsv3-fp8";
    if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.is_regular_file()) host_.files[entry.path().filename()] = read_text(entry.path());
    }
  }
  Status open() { return open_model(host_.source()).status(); }
  static std::string shard(int i) {
    return absl::StrCat("model-0000", i, "-of-000003.safetensors");
  }
  HostFiles host_;
};

TEST_F(Shards, MissingShardIsNamed) {
  host_.files.erase(shard(2));
  const Status s = open();
  EXPECT_EQ(s.code(), absl::StatusCode::kNotFound) << s;
  EXPECT_THAT(std::string(s.message()), HasSubstr(shard(2)));
}

TEST_F(Shards, SwappedShardsAreNamed) {
  std::swap(host_.files[shard(1)], host_.files[shard(3)]);
  const Status s = open();
  EXPECT_FALSE(s.ok());
  EXPECT_THAT(std::string(s.message()), HasSubstr("model-0000"));
}

TEST_F(Shards, ShardsThatWereCutOffAreNamed) {
  host_.files[shard(3)].resize(host_.files[shard(3)].size() - 1);
  const Status s = open();
  EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
  EXPECT_THAT(std::string(s.message()), HasSubstr(shard(3)));
}

// The index is believed, not what names look like.
TEST_F(Shards, NamesMayBeAnything) {
  std::string& index = host_.files["model.safetensors.index.json"];
  for (int i = 1; i <= 3; ++i) {
    const std::string name = absl::StrCat("part", i);
    host_.files[name] = host_.files[shard(i)];
    host_.files.erase(shard(i));
    for (size_t at; (at = index.find(shard(i))) != std::string::npos;) {
      index.replace(at, shard(i).size(), name);
    }
  }
  EXPECT_TRUE(open().ok()) << open();
}

}  // namespace
}  // namespace ponder
