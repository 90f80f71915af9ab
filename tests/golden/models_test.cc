// Model files against transformers' numbers: hidden states after every layer, logits, greedy
// continuations, on every backend of this build, in float32.
//
// Tolerances are those of the reference data's README (float32 engine): logits 5e-4 absolute, hidden
// states 2e-4 of the row's largest magnitude, greedy tokens all equal.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/device/registry.h"
#include "lib/exec/exec.h"
#include "lib/exec/loader.h"
#include "lib/format/file_source.h"
#include "lib/format/model_files.h"
#include "lib/format/safetensors.h"
#include "lib/models/registry.h"

namespace ponder {
namespace {

namespace fs = std::filesystem;

const fs::path kOracle = fs::path(PONDER_SHARED_DIR) / "oracle" / "A";

// A model on a backend with its own pages, fed by hand: no engine.
class Rig {
 public:
  static constexpr int kMaxRows = 128;
  static constexpr int kContext = 448;

  Rig(const std::string& folder, const std::string& backend_name) {
    pool_ = make_thread_pool(2).value();
    const BackendContext context{default_allocator(), pool_.get(), {}};
    for (const BackendFactory* factory : builtin_backends()) {
      const std::vector<DeviceInfo> devices = factory->devices(context);
      for (uint32_t i = 0; i < devices.size(); ++i) {
        if (devices[i].backend == backend_name && backend_ == nullptr) {
          backend_ = factory->create(i, context).value();
        }
      }
    }
    if (backend_ == nullptr) return;
    files_ = std::make_unique<ModelFiles>(open_model_path(folder).value());
    const Config config(files_->config, "config.json");
    const Loader loader(*files_->weights, backend_.get(), {Precision::kF32}, &store_, nullptr);
    auto graph = make_model(config, loader);
    EXPECT_TRUE(graph.ok()) << graph.status();
    if (!graph.ok()) return;
    graph_ = *std::move(graph);

    const KvShape shape = graph_->kv_shape();
    const KvLayout layout = backend_->kv_layout(shape, DType::kF32).value();
    const int pages = kContext / layout.page_tokens;
    // Not in order: a page table that is ignored would show.
    for (int p = 0; p < pages; ++p) pages_.push_back((p * 5 + 3) % pages);
    const uint64_t layer_bytes = layout.page_bytes * static_cast<uint64_t>(pages);
    kv_ = Buffer::create(backend_->allocator(), layer_bytes * static_cast<uint64_t>(shape.layers),
                         "KV")
              .value();
    std::vector<int32_t> zeros(kMaxRows, 0);
    Batch batch;
    batch.tokens = batch.positions = batch.logit_rows = zeros;
    Exec measure;
    run(measure, batch, nullptr);
    const ArenaSize size = measure.measured();
    arena_ = Buffer::create(backend_->allocator(), size.total(), "arena").value();
    exec_ = Exec(backend_.get(), arena_.as<std::byte>(), size, kv_.as<std::byte>(), layer_bytes,
                 layout, shape);
  }

  bool ok() const { return graph_ != nullptr; }
  int layers() const { return graph_->layers(); }

  // Appends tokens in steps of at most `chunk` rows; returns the logits of all of them, and the
  // hidden states [layers + 1][tokens][D] if wanted.
  std::vector<std::vector<float>> feed(const std::vector<int32_t>& tokens, int chunk,
                                       std::vector<std::vector<std::vector<float>>>* hidden) {
    std::vector<std::vector<float>> logits;
    if (hidden != nullptr) hidden->assign(static_cast<size_t>(layers()) + 1, {});
    for (size_t at = 0; at < tokens.size();) {
      const int n = std::min<int>(chunk, static_cast<int>(tokens.size() - at));
      std::vector<int32_t> positions(static_cast<size_t>(n)), rows(static_cast<size_t>(n));
      std::iota(positions.begin(), positions.end(), position_);
      std::iota(rows.begin(), rows.end(), 0);
      const SequenceSlice slice{0, n, position_, pages_};
      Batch batch;
      batch.tokens = std::span(tokens).subspan(at, static_cast<size_t>(n));
      batch.positions = positions;
      batch.sequences = std::span(&slice, 1);
      batch.logit_rows = rows;
      const Tensor out = run(exec_, batch, hidden);
      EXPECT_TRUE(exec_.status().ok()) << exec_.status();
      if (!exec_.status().ok()) return {};
      for (int i = 0; i < n; ++i) {
        logits.emplace_back(out.f32() + i * out.dim[1], out.f32() + (i + 1) * out.dim[1]);
      }
      position_ += n;
      at += static_cast<size_t>(n);
    }
    return logits;
  }
  void rewind() { position_ = 0; }

 private:
  Tensor run(Exec& cx, const Batch& batch,
             std::vector<std::vector<std::vector<float>>>* hidden) const {
    auto keep = [&](int row, const Tensor& h) {
      if (hidden == nullptr) return;
      for (int64_t t = 0; t < h.dim[0]; ++t) {
        (*hidden)[static_cast<size_t>(row)].emplace_back(h.f32() + t * h.dim[1],
                                                         h.f32() + (t + 1) * h.dim[1]);
      }
    };
    cx.begin_step(batch);
    cx.start_slice(0);
    Tensor h = graph_->begin(cx, batch);
    keep(0, h);
    for (int i = 0; i < layers(); ++i) {
      cx.start_slice(i + 1);
      h = graph_->layer(cx, batch, i, h);
      keep(i + 1, h);
    }
    cx.start_slice(layers() + 1);
    return graph_->end(cx, batch, h);
  }

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ModelFiles> files_;
  WeightStore store_;
  std::unique_ptr<ModelGraph> graph_;
  std::vector<int32_t> pages_;
  Buffer kv_, arena_;
  Exec exec_;
  int32_t position_ = 0;
};

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<float> floats(const Checkpoint& golden, const std::string& name) {
  const WeightData data = golden.find(name).value();
  std::vector<float> values(static_cast<size_t>(data.elements()));
  memcpy(values.data(), data.data, values.size() * sizeof(float));
  return values;
}

double log_sum_exp(const std::vector<float>& row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (float v : row) sum += std::exp(v - max);
  return max + std::log(sum);
}

std::vector<std::string> backends() {
  const auto pool = make_thread_pool(1).value();
  std::vector<std::string> names;
  for (const BackendFactory* factory : builtin_backends()) {
    for (const DeviceInfo& d : factory->devices({default_allocator(), pool.get(), {}})) {
      names.push_back(d.backend);
    }
  }
  return names;
}

class GoldenModel : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(GoldenModel, MatchesTransformers) {
  const auto& [checkpoint, backend] = GetParam();
  const fs::path folder = kOracle / checkpoint;
  if (!fs::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  Rig rig(folder.string(), backend);
  ASSERT_TRUE(rig.ok());
  const auto golden = open_safetensors(open_folder((folder / "golden").string()).value(),
                                       "golden.safetensors", default_allocator())
                          .value();
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
    // A chunk that is no multiple of a page and smaller than the longer prompts.
    const auto logits = rig.feed(ids, 77, &hidden);
    ASSERT_EQ(logits.size(), ids.size());

    const std::vector<float> last = floats(*golden, name + ".last_logits");
    ASSERT_EQ(last.size(), logits.back().size());
    float worst = 0;
    for (size_t i = 0; i < last.size(); ++i) {
      worst = std::max(worst, std::abs(last[i] - logits.back()[i]));
    }
    EXPECT_LE(worst, 5e-4f) << "logits of the last position";

    const std::vector<float> sums = floats(*golden, name + ".logsumexp");
    for (size_t t = 0; t < ids.size(); ++t) {
      EXPECT_NEAR(log_sum_exp(logits[t]), sums[t], 5e-4) << "log-sum-exp at position " << t;
    }

    const std::vector<float> rows = floats(*golden, name + ".hidden_last");
    const size_t width = hidden[0][0].size();
    for (size_t l = 0; l < hidden.size(); ++l) {
      const float* want = rows.data() + l * width;
      float largest = 0, difference = 0;
      for (size_t i = 0; i < width; ++i) {
        largest = std::max(largest, std::abs(want[i]));
        difference = std::max(difference, std::abs(want[i] - hidden[l].back()[i]));
      }
      EXPECT_LE(difference, 2e-4f * largest) << "hidden state after layer " << l;
    }

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

INSTANTIATE_TEST_SUITE_P(
    All, GoldenModel,
    testing::Combine(testing::Values("qwen2-bf16", "qwen2-tied-f32", "llama-bf16", "llama-f16",
                                     "qwen3-bf16"),
                     testing::ValuesIn(backends())),
    [](const auto& given) {
      std::string name = std::get<0>(given.param) + "_on_" + std::get<1>(given.param);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace ponder
