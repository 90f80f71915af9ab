// What the tests of whole models share: a model on a backend of this build, fed by hand, and
// readers of the reference data.
#pragma once

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
#include "lib/device/forwarding_backend.h"
#include "lib/device/placed_backend.h"
#include "lib/device/registry.h"
#include "lib/exec/exec.h"
#include "lib/exec/loader.h"
#include "lib/format/file_source.h"
#include "lib/format/model_files.h"
#include "lib/format/safetensors.h"
#include "lib/models/registry.h"
#include "tests/paths/paths.h"

namespace ponder {

namespace fs = std::filesystem;

inline const fs::path kOracle = fs::path(kSharedDir) / "oracle";

// Hands everything on to another backend and keeps what the routers chose.
class RoutingSpy final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  struct Row {
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  std::vector<std::vector<Row>> routed;  // call by call, row by row

  Status route(const RouteParams& p) override {
    PONDER_RETURN_IF_ERROR(to()->route(p));
    std::vector<Row>& rows = routed.emplace_back();
    for (int64_t t = 0; t < p.ids.dim[0]; ++t) {
      const auto k = static_cast<size_t>(p.ids.dim[1]);
      Row row{std::vector<int32_t>(k), std::vector<float>(k)};
      const auto* ids = static_cast<const int32_t*>(p.ids.data) + t * p.ids.stride[0];
      const float* weights = p.weights.f32() + t * p.weights.stride[0];
      PONDER_RETURN_IF_ERROR(to()->download(ids, row.ids.data(), k * sizeof(int32_t)));
      PONDER_RETURN_IF_ERROR(to()->download(weights, row.weights.data(), k * sizeof(float)));
      rows.push_back(std::move(row));
    }
    return OkStatus();
  }
};

// A model on a backend with its own pages, fed by hand: no engine.
class Rig {
 public:
  static constexpr int kMaxRows = 128;
  static constexpr int kContext = 448;

  // `expert_bytes`: what experts may take; 0: they stay. `placement`: over two of the backend.
  Rig(const std::string& path, const std::string& backend_name, const GraphOptions& options = {},
      uint64_t expert_bytes = 0, Mapping mapping = Mapping::kAuto, const Placement& placement = {})
      : Rig(open_model_path(path, {.mapping = mapping}).value(), backend_name, options,
            expert_bytes, placement) {}
  Rig(ModelFiles files, const std::string& backend_name, const GraphOptions& options = {},
      uint64_t expert_bytes = 0, const Placement& placement = {})
      : files_(std::make_unique<ModelFiles>(std::move(files))) {
    pool_ = make_thread_pool(2).value();
    const BackendContext context{default_allocator(), pool_.get(), {}};
    for (const BackendFactory* factory : builtin_backends()) {
      const std::vector<DeviceInfo> devices = factory->devices(context);
      for (uint32_t i = 0; i < devices.size(); ++i) {
        if (devices[i].backend == backend_name && backend_ == nullptr) {
          std::unique_ptr<Backend> made = factory->create(i, context).value();
          if (placement.any()) {
            device_ = std::move(made);
            host_ = factory->create(i, context).value();
            made = make_placed_backend(device_.get(), host_.get(), placement);
          }
          backend_ = std::make_unique<RoutingSpy>(std::move(made));
        }
      }
    }
    if (backend_ != nullptr) load(options, Precision::kF32, expert_bytes);
  }
  // On a given backend, which keeps what it was made with.
  Rig(ModelFiles files, std::unique_ptr<Backend> backend, Precision precision)
      : backend_(std::make_unique<RoutingSpy>(std::move(backend))),
        files_(std::make_unique<ModelFiles>(std::move(files))) {
    load({}, precision, 0);
  }

  bool ok() const { return graph_ != nullptr; }
  const Status& status() const { return status_; }
  // A device that has not all ops that the model needs.
  bool unsupported() const { return status_.code() == absl::StatusCode::kUnimplemented; }
  RoutingSpy& spy() { return *backend_; }
  const ModelGraph& graph() const { return *graph_; }
  ExpertCacheStats expert_stats() const { return store_.expert_cache->stats(); }
  int layers() const { return graph_->layers(); }

  // Appends tokens in steps of at most `chunk` rows; returns the logits of all of them, and the
  // hidden states [layers + 1][tokens][D] if wanted; with a draft layer its input is one more.
  std::vector<std::vector<float>> feed(const std::vector<int32_t>& tokens, int chunk,
                                       std::vector<std::vector<std::vector<float>>>* hidden) {
    std::vector<std::vector<float>> logits;
    if (hidden != nullptr)
      hidden->assign(static_cast<size_t>(layers()) + (graph_->has_draft_layer() ? 2 : 1), {});
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
      const auto width = static_cast<size_t>(out.dim[1]);
      for (int i = 0; i < n; ++i) {
        logits.emplace_back(width);
        EXPECT_TRUE(backend_
                        ->download(out.f32() + i * out.dim[1], logits.back().data(),
                                   width * sizeof(float))
                        .ok());
      }
      position_ += n;
      at += static_cast<size_t>(n);
    }
    return logits;
  }
  void rewind() { position_ = 0; }
  // One row at position 0, whatever comes of it.
  Status try_step(int32_t token) {
    const int32_t zero = 0;
    const SequenceSlice slice{0, 1, 0, pages_};
    Batch batch;
    batch.tokens = std::span(&token, 1);
    batch.positions = batch.logit_rows = std::span(&zero, 1);
    batch.sequences = std::span(&slice, 1);
    run(exec_, batch, nullptr);
    return exec_.status();
  }
  int64_t width() const { return width_; }

  // One draft pass over pairs of positions `first` and on: states [tokens.size()][D] and the tokens
  // after them.
  ModelGraph::Draft draft(const std::vector<int32_t>& tokens, std::vector<float>& states,
                          int32_t first) {
    const auto n = static_cast<int64_t>(tokens.size());
    std::vector<int32_t> positions(tokens.size()), rows(tokens.size());
    std::iota(positions.begin(), positions.end(), first);
    std::iota(rows.begin(), rows.end(), 0);
    const SequenceSlice slice{0, static_cast<int32_t>(n), first, pages_};
    Batch batch;
    batch.tokens = tokens;
    batch.positions = positions;
    batch.sequences = std::span(&slice, 1);
    batch.logit_rows = rows;
    const auto result =
        run_draft(exec_, batch, Tensor::make(states.data(), DType::kF32, {n, width()}));
    EXPECT_TRUE(exec_.status().ok()) << exec_.status();
    return result;
  }

 private:
  void load(const GraphOptions& options, Precision precision, uint64_t expert_bytes) {
    const Config config(files_->config, "config.json");
    PackOptions pack{precision};
    if (expert_bytes != 0) {
      store_.expert_cache = backend_->make_expert_cache(expert_bytes).value();
      pack.expert_cache = store_.expert_cache.get();
    }
    const Loader loader(*files_->weights, backend_.get(), pack, &store_, nullptr);
    auto graph = make_model(config, loader, options);
    status_ = graph.status();
    if (!graph.ok()) return;
    graph_ = *std::move(graph);

    const KvShape shape = graph_->kv_shape();
    const KvLayout layout = backend_->kv_layout(shape, DType::kF32).value();
    const int pages = kContext / layout.page_tokens;
    // Not in order: a page table that is ignored would show.
    for (int p = 0; p < pages; ++p) pages_.push_back((p * 5 + 3) % pages);
    const uint64_t layer_bytes = layout.page_bytes * static_cast<uint64_t>(pages);
    std::vector<std::byte*> kv_layers;
    for (int i = 0; i < shape.layers; ++i) {
      kv_.push_back(Buffer::create(backend_->page_allocator(i), layer_bytes, "KV").value());
      kv_layers.push_back(kv_.back().as<std::byte>());
    }
    std::vector<int32_t> zeros(kMaxRows, 0);
    Batch batch;
    batch.tokens = batch.positions = batch.logit_rows = zeros;
    Exec measure;
    width_ = graph_->begin(measure, batch).dim[1];
    run(measure, batch, nullptr);
    if (graph_->has_draft_layer()) {
      const Tensor state = Tensor::make(nullptr, DType::kF32, {kMaxRows, width()});
      run_draft(measure, batch, state);
    }
    const ArenaSize size = measure.measured();
    arena_ = Buffer::create(backend_->allocator(), size.total(), "arena").value();
    exec_ = Exec(backend_.get(), arena_.as<std::byte>(), size, kv_layers, layout, shape);
  }

  Tensor run(Exec& cx, const Batch& batch,
             std::vector<std::vector<std::vector<float>>>* hidden) const {
    auto keep = [&](int row, const Tensor& h) {
      if (hidden == nullptr) return;
      for (int64_t t = 0; t < h.dim[0]; ++t) {
        std::vector<float>& values = (*hidden)[static_cast<size_t>(row)].emplace_back(
            static_cast<size_t>(h.dim[1]));
        EXPECT_TRUE(backend_
                        ->download(h.f32() + t * h.dim[1], values.data(),
                                   values.size() * sizeof(float))
                        .ok());
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
    if (graph_->has_draft_layer()) {
      const Tensor state = graph_->draft_state(cx, h);
      if (hidden != nullptr) keep(layers() + 1, state);
    }
    return graph_->end(cx, batch, h);
  }
  ModelGraph::Draft run_draft(Exec& cx, const Batch& batch, const Tensor& state) const {
    cx.begin_step(batch);
    cx.start_slice(0);
    Tensor h = graph_->draft_begin(cx, batch, state);
    cx.start_slice(1);
    h = graph_->layer(cx, batch, layers(), h);
    cx.start_slice(2);
    return graph_->draft_end(cx, batch, h);
  }

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Backend> device_, host_;  // under backend_, if it is placed on both
  std::unique_ptr<RoutingSpy> backend_;
  Status status_;
  int64_t width_ = 0;
  std::unique_ptr<ModelFiles> files_;
  WeightStore store_;
  std::unique_ptr<ModelGraph> graph_;
  std::vector<int32_t> pages_;
  std::vector<Buffer> kv_;  // by layer
  Buffer arena_;
  Exec exec_;
  int32_t position_ = 0;
};

inline std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline std::vector<float> floats(const Checkpoint& golden, const std::string& name) {
  const WeightData data = golden.find(name).value();
  std::vector<float> values(static_cast<size_t>(data.elements()));
  memcpy(values.data(), data.data, values.size() * sizeof(float));
  return values;
}

inline std::vector<int32_t> integers(const Checkpoint& golden, const std::string& name) {
  std::vector<int32_t> values(static_cast<size_t>(golden.info(name)->elements()));
  EXPECT_TRUE(golden.read(name, 0, values.data(), values.size() * sizeof(int32_t)).ok());
  return values;
}

inline float largest_difference(const float* a, const float* b, size_t n) {
  float worst = 0;
  for (size_t i = 0; i < n; ++i) {
    const float d = std::abs(a[i] - b[i]);
    if (!(d <= worst)) worst = d;  // NaN stays
  }
  return worst;
}

inline float largest_magnitude(const float* a, size_t n) {
  float worst = 0;
  for (size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(a[i]));
  return worst;
}

inline double log_sum_exp(const std::vector<float>& row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (float v : row) sum += std::exp(v - max);
  return max + std::log(sum);
}

inline std::vector<std::string> backends() {
  const auto pool = make_thread_pool(1).value();
  std::vector<std::string> names;
  for (const BackendFactory* factory : builtin_backends()) {
    for (const DeviceInfo& d : factory->devices({default_allocator(), pool.get(), {}})) {
      names.push_back(d.backend);
    }
  }
  return names;
}

inline std::unique_ptr<Checkpoint> open_golden(const fs::path& folder, const std::string& file) {
  return open_safetensors(open_folder(folder.string()).value(), file, default_allocator()).value();
}

}  // namespace ponder
