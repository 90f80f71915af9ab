// Ops of the CPU backend in the shapes of Qwen2.5-1.5B: hidden 1536, 12 query and 2 key/value heads
// of 128, feed-forward 8960. See docs/kernels/cpu.md for how to run this and what came out.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "backends/onednn/onednn.h"
#include "bench/kernels/bench.h"
#include "benchmark/benchmark.h"
#include "lib/device/backend.h"

namespace ponder::bench {
namespace {

uint32_t pool_threads = 2;
int64_t experts = 32;

BackendContext context() {
  BackendContext c;
  c.allocator = default_allocator();
  c.pool = pool();
  return c;
}

std::unique_ptr<Backend> backend(cpu::Isa isa = cpu::detect_isa(), bool use_onednn = true) {
  return std::move(make_onednn_backend(context(), isa, use_onednn)).value();
}

std::vector<float> random_floats(size_t n) {
  std::vector<float> values(n);
  uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return values;
}

Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  return Tensor::make(data.data(), DType::kF32, dims);
}

// ---- the limit
// ------------------------------------------------------------------------------------

// Reading memory that no cache holds, one word of every cache line: what the machine gives right
// now.
void read_bandwidth(benchmark::State& state) {
  constexpr size_t kWords = (size_t{1} << 30) / sizeof(uint64_t);
  static const std::vector<uint64_t> data(kWords, 1);
  const uint32_t pieces = pool()->concurrency() * 16;
  for (auto _ : state) {
    pool()->parallel_for(pieces, [&](uint32_t piece) {
      uint64_t sums[8] = {};
      const uint64_t* p = data.data() + kWords / pieces * piece;
      for (size_t i = 0; i + 64 <= kWords / pieces; i += 64) {
        for (size_t j = 0; j < 8; ++j) sums[j] += p[i + 8 * j];
      }
      benchmark::DoNotOptimize(std::accumulate(sums, sums + 8, uint64_t{0}));
    });
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * (int64_t{1} << 30));
}
BENCHMARK(read_bandwidth)->UseRealTime()->Unit(benchmark::kMillisecond);

// ---- linear
// ---------------------------------------------------------------------------------------

struct Weights {
  std::unique_ptr<Backend> backend;
  std::vector<std::unique_ptr<PackedWeight>> packed;
};

Weights pack(std::unique_ptr<Backend> b, const std::vector<std::pair<int64_t, int64_t>>& shapes,
             DType dtype, Precision precision, size_t copies) {
  Weights w;
  w.backend = std::move(b);
  for (size_t copy = 0; copy < copies; ++copy) {
    for (const auto& [n, k] : shapes) {
      WeightData data;
      data.name = "w";
      data.dtype = dtype;
      data.shape = {n, k};
      std::vector<float> floats;
      std::vector<uint16_t> halves;
      std::vector<char> blocks;
      if (dtype == DType::kF32) {
        floats = random_floats(static_cast<size_t>(n * k));
        data.data = floats.data();
      } else if (dtype_is_blocked(dtype) || dtype == DType::kF8_E4M3) {
        // One byte everywhere: codes of some size, and finite scales whatever the type.
        blocks.assign(static_cast<size_t>(dtype_bytes(dtype, n * k)), 0x35);
        data.data = blocks.data();
      } else {
        halves = random_bf16(static_cast<size_t>(n * k));
        // Read as binary16 the same bits are small numbers too.
        data.data = halves.data();
      }
      w.packed.push_back(
          std::move(w.backend->pack_linear({&data, 1}, PackOptions{precision})).value());
    }
  }
  return w;
}

// The four products of one layer: q, k, v stacked; out; gate and up stacked; down.
const std::vector<std::pair<int64_t, int64_t>> kLayer = {
    {2048, 1536}, {1536, 1536}, {17920, 1536}, {1536, 8960}};

void run_linears(benchmark::State& state, const Weights& w, int64_t m, size_t per_iteration) {
  int64_t k = 0, n = 0;
  for (const auto& weight : w.packed) {
    k = std::max(k, weight->cols);
    n = std::max(n, weight->rows);
  }
  auto x = random_floats(static_cast<size_t>(m * k));
  std::vector<float> out(static_cast<size_t>(m * n));
  double flops = 0, bytes = 0;
  size_t next = 0;
  for (auto _ : state) {
    for (size_t i = 0; i < per_iteration; ++i) {
      const PackedWeight* weight = w.packed[next].get();
      next = (next + 1) % w.packed.size();
      LinearParams p{};
      p.x = view(x, {m, weight->cols});
      p.w = weight;
      p.out = view(out, {m, weight->rows});
      if (!w.backend->linear(p).ok()) state.SkipWithError("linear failed");
      flops += 2.0 * static_cast<double>(m * weight->rows * weight->cols);
      bytes += static_cast<double>(weight->bytes);
    }
  }
  state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
}

// All products of a layer, over enough layers that no weight is still in a cache when its turn
// comes.
void layer(benchmark::State& state, DType dtype, Precision precision, cpu::Isa isa) {
  if (isa > cpu::detect_isa()) return state.SkipWithError("not on this processor");
  const Weights w = pack(backend(isa), kLayer, dtype, precision, 4);
  run_linears(state, w, state.range(0), kLayer.size());
}
void rows(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgName("rows");
  for (int64_t m : {1, 2, 4, 8, 16, 64, 512}) b->Arg(m);
}
BENCHMARK_CAPTURE(layer, bf16, DType::kBF16, Precision::kAuto, cpu::detect_isa())->Apply(rows);
BENCHMARK_CAPTURE(layer, bf16_as_f32, DType::kBF16, Precision::kF32, cpu::detect_isa())
    ->Apply(rows);
BENCHMARK_CAPTURE(layer, f16, DType::kF16, Precision::kAuto, cpu::detect_isa())->Apply(rows);
BENCHMARK_CAPTURE(layer, f32, DType::kF32, Precision::kAuto, cpu::detect_isa())->Apply(rows);
BENCHMARK_CAPTURE(layer, bf16_avx512bf16, DType::kBF16, Precision::kAuto, cpu::Isa::kAvx512Bf16)
    ->Apply(rows);
BENCHMARK_CAPTURE(layer, bf16_avx2, DType::kBF16, Precision::kAuto, cpu::Isa::kAvx2)->Apply(rows);
BENCHMARK_CAPTURE(layer, bf16_portable, DType::kBF16, Precision::kAuto, cpu::Isa::kPortable)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(64);

// One product alone: to set beside onednn_matmul (onednn_bench.cc).
void linear(benchmark::State& state, bool use_onednn) {
  const Weights w =
      pack(backend(cpu::detect_isa(), use_onednn), {{state.range(1), state.range(2)}},
           DType::kBF16, Precision::kAuto, state.range(0) == 1 ? 8 : 1);
  run_linears(state, w, state.range(0), 1);
}
void shapes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"M", "N", "K"});
  for (int64_t m : {1, 512, 2048}) {
    b->Args({m, 17920, 1536})->Args({m, 1536, 8960});
  }
}
BENCHMARK_CAPTURE(linear, bf16, true)->Apply(shapes);
BENCHMARK_CAPTURE(linear, bf16_own_kernels_only, false)->Apply(shapes);

// All products of a layer with quantised weights.
void quant_rows(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgName("rows");
  for (int64_t m : {1, 2, 8, 32, 512}) b->Arg(m);
}
#define PONDER_QUANT_LAYER(name, dtype) \
  BENCHMARK_CAPTURE(layer, name, dtype, Precision::kAuto, cpu::detect_isa())->Apply(quant_rows)
PONDER_QUANT_LAYER(q8_0, DType::kQ8_0);
PONDER_QUANT_LAYER(q4_0, DType::kQ4_0);
PONDER_QUANT_LAYER(q4_1, DType::kQ4_1);
PONDER_QUANT_LAYER(q5_0, DType::kQ5_0);
PONDER_QUANT_LAYER(q2_k, DType::kQ2_K);
PONDER_QUANT_LAYER(q3_k, DType::kQ3_K);
PONDER_QUANT_LAYER(q4_k, DType::kQ4_K);
PONDER_QUANT_LAYER(q5_k, DType::kQ5_K);
PONDER_QUANT_LAYER(q6_k, DType::kQ6_K);
PONDER_QUANT_LAYER(iq4_xs, DType::kIQ4_XS);
PONDER_QUANT_LAYER(iq3_xxs, DType::kIQ3_XXS);
PONDER_QUANT_LAYER(iq2_xs, DType::kIQ2_XS);
PONDER_QUANT_LAYER(iq1_s, DType::kIQ1_S);
PONDER_QUANT_LAYER(mxfp4, DType::kMXFP4);
PONDER_QUANT_LAYER(f8, DType::kF8_E4M3);
#undef PONDER_QUANT_LAYER
// What AMX adds.
#define PONDER_QUANT_LAYER(name, dtype)                                                   \
  BENCHMARK_CAPTURE(layer, name##_avx512, dtype, Precision::kAuto, cpu::Isa::kAvx512Bf16) \
      ->Apply(quant_rows)
PONDER_QUANT_LAYER(q8_0, DType::kQ8_0);
PONDER_QUANT_LAYER(q4_k, DType::kQ4_K);
PONDER_QUANT_LAYER(q6_k, DType::kQ6_K);
PONDER_QUANT_LAYER(iq4_xs, DType::kIQ4_XS);
PONDER_QUANT_LAYER(f8, DType::kF8_E4M3);
#undef PONDER_QUANT_LAYER

// A product whose weights stay in the second-level cache: what the kernels could do if memory were
// no limit.
void linear_in_cache(benchmark::State& state, DType dtype) {
  const Weights w = pack(backend(), {{512, 1536}}, dtype, Precision::kAuto, 1);
  run_linears(state, w, state.range(0), 1);
}
BENCHMARK_CAPTURE(linear_in_cache, q8_0, DType::kQ8_0)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, q4_0, DType::kQ4_0)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, q4_k, DType::kQ4_K)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, q5_k, DType::kQ5_K)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, q6_k, DType::kQ6_K)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, iq4_xs, DType::kIQ4_XS)->UseRealTime()->Arg(1);
BENCHMARK_CAPTURE(linear_in_cache, f8, DType::kF8_E4M3)->UseRealTime()->Arg(1);

// R1's latents: nine panels, which do not go round evenly on any machine. Cold weights.
void few_panels(benchmark::State& state, DType dtype) {
  run_linears(state, pack(backend(), {{576, 7168}}, dtype, Precision::kAuto, 24), state.range(0),
              24);
}
void few_panels_rows(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgName("rows")->Arg(1)->Arg(8)->Arg(512);
}
BENCHMARK_CAPTURE(few_panels, q8_0, DType::kQ8_0)->Apply(few_panels_rows);
BENCHMARK_CAPTURE(few_panels, q4_k, DType::kQ4_K)->Apply(few_panels_rows);
BENCHMARK_CAPTURE(few_panels, f8, DType::kF8_E4M3)->Apply(few_panels_rows);
BENCHMARK_CAPTURE(few_panels, bf16, DType::kBF16)->Apply(few_panels_rows);

void pack_weights(benchmark::State& state, DType dtype) {
  constexpr int64_t kN = 17920, kK = 1536;
  const auto b = backend();
  const std::vector<char> bytes(static_cast<size_t>(dtype_bytes(dtype, kN * kK)), 0x3c);
  WeightData data;
  data.name = "w";
  data.dtype = dtype;
  data.shape = {kN, kK};
  data.data = bytes.data();
  for (auto _ : state) benchmark::DoNotOptimize(b->pack_linear({&data, 1}, PackOptions{}).ok());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) *
                          static_cast<int64_t>(bytes.size()));
}
BENCHMARK_CAPTURE(pack_weights, bf16, DType::kBF16)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(pack_weights, f16, DType::kF16)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(pack_weights, f32, DType::kF32)->UseRealTime()->Unit(benchmark::kMillisecond);

// ---- attention
// ------------------------------------------------------------------------------------

// `rows` rows of one sequence after `depth` cached tokens.
void attention(benchmark::State& state, DType dtype) {
  const int64_t rows = state.range(0), depth = state.range(1);
  constexpr int64_t kH = 12, kG = 2, kE = 128;
  const auto b = backend();
  KvLayer cache;
  cache.shape = {1, kG, kE, kE};
  cache.layout = b->kv_layout(cache.shape, dtype).value();
  const auto pages = static_cast<size_t>((depth + rows + 31) / 32);
  // Enough copies that the cache of the last layer is gone from the processor's when its turn
  // comes.
  const size_t copies =
      rows == 1 ? std::max<size_t>(1, (size_t{256} << 20) / (pages * cache.layout.page_bytes)) : 1;
  const Buffer memory =
      Buffer::create(b->allocator(), pages * cache.layout.page_bytes * copies, "cache").value();
  // Small finite numbers in every type.
  std::memset(memory.data(), 0x3c, memory.size());
  std::vector<int32_t> page_list(pages);
  std::iota(page_list.begin(), page_list.end(), 0);
  SequenceSlice slice;
  slice.rows = static_cast<int32_t>(rows);
  slice.first_position = static_cast<int32_t>(depth);
  slice.pages = page_list;
  Batch batch;
  batch.sequences = {&slice, 1};
  auto q = random_floats(static_cast<size_t>(rows * kH * kE));
  std::vector<float> out(q.size());
  AttentionParams p{};
  p.q = view(q, {rows, kH, kE});
  p.batch = &batch;
  p.scale = 0.088f;
  p.out = view(out, {rows, kH * kE});
  size_t copy = 0;
  double flops = 0;
  for (auto _ : state) {
    cache.base = memory.as<std::byte>() + copy * pages * cache.layout.page_bytes;
    copy = (copy + 1) % copies;
    p.cache = cache;
    if (!b->attention(p).ok()) state.SkipWithError("attention failed");
    flops += 4.0 * kH * kE * static_cast<double>(rows) *
             (static_cast<double>(depth) + static_cast<double>(rows) / 2);
  }
  state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  state.SetBytesProcessed(
      static_cast<int64_t>(state.iterations()) *
      static_cast<int64_t>(static_cast<uint64_t>(depth + rows) * cache.layout.page_bytes / 32));
}
void depths(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMicrosecond)->ArgNames({"rows", "depth"});
  b->Args({1, 128})
      ->Args({1, 512})
      ->Args({1, 4096})
      ->Args({1, 32768})
      ->Args({512, 0})
      ->Args({512, 4096});
}
BENCHMARK_CAPTURE(attention, f16, DType::kF16)->Apply(depths);
BENCHMARK_CAPTURE(attention, bf16, DType::kBF16)->Apply(depths);
BENCHMARK_CAPTURE(attention, f32, DType::kF32)->Apply(depths);
BENCHMARK_CAPTURE(attention, q8_0, DType::kQ8_0)->Apply(depths);

void kv_write(benchmark::State& state) {
  const int64_t rows = state.range(0);
  constexpr int64_t kG = 2, kE = 128;
  const auto b = backend();
  KvLayer cache;
  cache.shape = {1, kG, kE, kE};
  cache.layout = b->kv_layout(cache.shape, DType::kF16).value();
  const auto pages = static_cast<size_t>((rows + 31) / 32);
  const Buffer memory =
      Buffer::create(b->allocator(), pages * cache.layout.page_bytes, "cache").value();
  cache.base = memory.as<std::byte>();
  std::vector<int32_t> page_list(pages);
  std::iota(page_list.begin(), page_list.end(), 0);
  SequenceSlice slice;
  slice.rows = static_cast<int32_t>(rows);
  slice.pages = page_list;
  Batch batch;
  batch.sequences = {&slice, 1};
  auto k = random_floats(static_cast<size_t>(rows * kG * kE));
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        b->kv_write({cache, view(k, {rows, kG, kE}), view(k, {rows, kG, kE}), &batch}).ok());
  }
}
BENCHMARK(kv_write)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(512);

// ---- the small ops
// --------------------------------------------------------------------------------

void rms_norm(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto b = backend();
  auto x = random_floats(static_cast<size_t>(rows * 1536));
  auto weight = random_floats(1536);
  std::vector<float> out(x.size());
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        b->rms_norm({view(x, {rows, 1536}), view(weight, {1536}), 1e-6f, view(out, {rows, 1536})})
            .ok());
  }
}
BENCHMARK(rms_norm)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(8)
    ->Arg(512);

void swiglu(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto b = backend();
  auto x = random_floats(static_cast<size_t>(rows * 17920));
  std::vector<float> out(static_cast<size_t>(rows * 8960));
  for (auto _ : state) {
    benchmark::DoNotOptimize(b->swiglu({view(x, {rows, 17920}), view(out, {rows, 8960})}).ok());
  }
}
BENCHMARK(swiglu)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(8)
    ->Arg(512);

void add(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto b = backend();
  auto x = random_floats(static_cast<size_t>(rows * 1536));
  auto y = x;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        b->add({view(x, {rows, 1536}), view(y, {rows, 1536}), view(x, {rows, 1536})}).ok());
  }
}
BENCHMARK(add)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(8)
    ->Arg(512);

void rope(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto b = backend();
  auto x = random_floats(static_cast<size_t>(rows * 14 * 128));
  auto table = random_floats(static_cast<size_t>(rows * 128));
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        b->rope({view(x, {rows, 14, 128}), view(table, {rows, 128}), false}).ok());
  }
}
BENCHMARK(rope)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(8)
    ->Arg(512);

void rope_table(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto b = backend();
  std::vector<float> frequencies(64), table(static_cast<size_t>(rows * 128));
  for (size_t i = 0; i < 64; ++i) frequencies[i] = std::pow(1e6f, -static_cast<float>(i) / 64.0f);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), 1000);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        b->rope_table({frequencies, 1.0f, positions, view(table, {rows, 128})}).ok());
  }
}
BENCHMARK(rope_table)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(1)
    ->Arg(512);

// An empty loop: what waking and joining the threads costs.
void parallel_for(benchmark::State& state) {
  for (auto _ : state) pool()->parallel_for(pool()->concurrency(), [](uint32_t) {});
}
BENCHMARK(parallel_for)->UseRealTime();

}  // namespace

ThreadPool* pool() {
  static const std::unique_ptr<ThreadPool> threads =
      std::move(make_thread_pool(pool_threads)).value();
  return threads.get();
}

int64_t r1_experts() { return experts; }

std::vector<uint16_t> random_bf16(size_t n) {
  std::vector<uint16_t> values(n);
  uint32_t state = 1;
  for (uint16_t& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<uint16_t>(((state >> 16) & 0x8000u) | 0x3c00u | ((state >> 8) & 0xffu));
  }
  return values;
}

}  // namespace ponder::bench

int main(int argc, char** argv) {
  // Our own flags are taken out before the others are read.
  const auto value_of = [](const char* arg, const char* flag) {
    const size_t n = std::strlen(flag);
    return std::strncmp(arg, flag, n) == 0 ? arg + n : nullptr;
  };
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (const char* threads = value_of(argv[i], "--pool_threads=")) {
      ponder::bench::pool_threads = static_cast<uint32_t>(std::atoi(threads));
    } else if (const char* count = value_of(argv[i], "--r1_experts=")) {
      ponder::bench::experts = std::atoi(count);
    } else {
      argv[kept++] = argv[i];
    }
  }
  benchmark::Initialize(&kept, argv);
  if (benchmark::ReportUnrecognizedArguments(kept, argv)) return 1;
  benchmark::AddCustomContext("pool_threads", std::to_string(ponder::bench::pool()->concurrency()));
  benchmark::AddCustomContext("isa", std::string(ponder::cpu::isa_name(ponder::cpu::detect_isa())));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
