// oneDNN's dense matmul primitive on the same threads: the peer of `linear`. It may choose its own
// weight layout, and its time does not hold the conversion of activations to bf16, which ours does.
#include <exception>
#include <functional>
#include <string_view>

#include "bench/kernels/bench.h"
#include "benchmark/benchmark.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "oneapi/dnnl/dnnl_threadpool.h"
#include "oneapi/dnnl/dnnl_threadpool.hpp"
#include "oneapi/dnnl/dnnl_threadpool_iface.hpp"

namespace ponder::bench {
namespace {

class PoolAdapter final : public dnnl::threadpool_interop::threadpool_iface {
 public:
  int get_num_threads() const override { return static_cast<int>(pool()->concurrency()); }
  bool get_in_parallel() const override { return inside_; }
  uint64_t get_flags() const override { return 0; }
  void parallel_for(int n, const std::function<void(int, int)>& fn) override {
    pool()->parallel_for(static_cast<uint32_t>(n), [&](uint32_t i) {
      const bool before = inside_;
      inside_ = true;
      fn(static_cast<int>(i), n);
      inside_ = before;
    });
  }

 private:
  static thread_local bool inside_;
};
thread_local bool PoolAdapter::inside_ = false;

// `bytes`: s8 times s8 to s32, without any scales: what int8 products with scales are measured by.
void onednn_matmul(benchmark::State& state, bool bytes) {
  try {
    const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
    using memory = dnnl::memory;
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    PoolAdapter adapter;
    // Primitives are cut for so many threads when they are made; oneDNN's own guess, the number of
    // physical cores, is wrong where a virtual machine hides them.
    dnnl_threadpool_interop_set_max_concurrency(adapter.get_num_threads());
    dnnl::stream stream = dnnl::threadpool_interop::make_stream(engine, &adapter);
    const auto type = bytes ? memory::data_type::s8 : memory::data_type::bf16;
    const auto sum_type = bytes ? memory::data_type::s32 : memory::data_type::f32;
    const memory::desc x_desc({m, k}, type, memory::format_tag::ab);
    const memory::desc any_desc({k, n}, type, memory::format_tag::any);
    const memory::desc plain_desc({k, n}, type, memory::format_tag::ba);
    const memory::desc out_desc({m, n}, sum_type, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc desc(engine, x_desc, any_desc, out_desc);
    if (std::string_view(desc.impl_info_str()).starts_with("ref")) {
      state.SkipWithError("oneDNN has only its reference for this processor");
      return;
    }
    const dnnl::matmul matmul(desc);
    auto plain = random_bf16(static_cast<size_t>(n * k));
    auto x = random_bf16(static_cast<size_t>(m * k));
    std::vector<float> out(static_cast<size_t>(m * n));
    memory plain_memory(plain_desc, engine, plain.data());
    // For one row several copies, so that weights come from memory.
    std::vector<memory> weights;
    for (int copy = 0; copy < (m == 1 ? 8 : 1); ++copy) {
      weights.emplace_back(desc.weights_desc(), engine);
      dnnl::reorder(plain_memory, weights.back()).execute(stream, plain_memory, weights.back());
    }
    memory x_memory(x_desc, engine, x.data());
    memory out_memory(out_desc, engine, out.data());
    stream.wait();
    size_t next = 0;
    for (auto _ : state) {
      matmul.execute(stream, {{DNNL_ARG_SRC, x_memory},
                              {DNNL_ARG_WEIGHTS, weights[next]},
                              {DNNL_ARG_DST, out_memory}});
      stream.wait();
      next = (next + 1) % weights.size();
    }
    const double work = static_cast<double>(state.iterations());
    state.counters["flop/s"] = benchmark::Counter(2.0 * static_cast<double>(m * n * k) * work,
                                                  benchmark::Counter::kIsRate);
    state.counters["weight_bytes/s"] = benchmark::Counter(
        (bytes ? 1.0 : 2.0) * static_cast<double>(n * k) * work, benchmark::Counter::kIsRate);
    state.SetLabel(desc.impl_info_str());
  } catch (const std::exception& e) {
    state.SkipWithError(e.what());
  }
}
void shapes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"M", "N", "K"});
  for (int64_t m : {1, 512, 2048}) {
    b->Args({m, 17920, 1536})->Args({m, 1536, 8960});
  }
}
BENCHMARK_CAPTURE(onednn_matmul, bf16, false)->Apply(shapes);
BENCHMARK_CAPTURE(onednn_matmul, s8, true)->Apply(shapes);

// DeepSeek-R1's: gate and up of a dense layer's size, and the attention's output.
void r1_shapes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"M", "N", "K"});
  b->Args({512, 4096, 7168})->Args({512, 7168, 16384});
}
BENCHMARK_CAPTURE(onednn_matmul, bf16, false)->Apply(r1_shapes);
BENCHMARK_CAPTURE(onednn_matmul, s8, true)->Apply(r1_shapes);

}  // namespace
}  // namespace ponder::bench
