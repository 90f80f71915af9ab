// DeepSeek-R1's layers in their true shapes: the mixture (7168 wide, 256 experts of 2048, 8 chosen,
// 1 shared) and the attention (128 heads of 128 + 64, latents of 512). See docs/kernels/r1.md.
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backends/onednn/onednn.h"
#include "bench/kernels/bench.h"
#include "benchmark/benchmark.h"
#include "lib/device/backend.h"

namespace ponder::bench {
namespace {

constexpr int64_t kHidden = 7168, kWidth = 2048, kChosen = 8, kExperts = 256;
constexpr int64_t kHeads = 128, kNope = 128, kRope = 64, kValue = 128, kRank = 512,
                  kQueryRank = 1536;

std::unique_ptr<Backend> make_backend() {
  BackendContext c;
  c.allocator = default_allocator();
  c.pool = pool();
  return std::move(make_onednn_backend(c)).value();
}

std::vector<float> random_floats(size_t n) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(random);
  return values;
}

Tensor view(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  return Tensor::make(data.data(), DType::kF32, dims);
}

// Random numbers of small size in any of the types used here.
WeightData random_weight(DType dtype, int64_t rows, int64_t cols) {
  const auto bytes = static_cast<size_t>(dtype_bytes(dtype, rows * cols));
  auto data = std::make_shared<std::vector<uint8_t>>(bytes);
  uint32_t state = 1;
  for (uint8_t& b : *data) {
    state = state * 1664525u + 1013904223u;
    b = static_cast<uint8_t>(state >> 24);
    // A f8 that is small and no NaN, a bf16 around 1e-2.
    if (dtype == DType::kF8_E4M3) b &= 0xbf;
  }
  if (dtype == DType::kBF16) {
    for (size_t i = 1; i < bytes; i += 2)
      (*data)[i] = static_cast<uint8_t>(0x3c | ((*data)[i] & 0x80));
  }
  if (dtype == DType::kQ4_K) {
    for (size_t i = 0; i < bytes; i += 144) {
      const uint8_t scales[] = {0x00, 0x04, 0x00, 0x04};  // d and dmin: 2^-14
      std::copy(std::begin(scales), std::end(scales),
                data->begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  WeightData w;
  w.name.push_back('w');  // GCC 12 warns of = "w"
  w.dtype = dtype;
  w.shape = {rows, cols};
  w.data = data->data();
  w.owner = data;
  if (dtype == DType::kF8_E4M3) {
    const auto tiles = static_cast<size_t>((rows + 127) / 128 * ((cols + 127) / 128));
    std::shared_ptr<float[]> scales(new float[tiles]);
    std::fill_n(scales.get(), tiles, 0.01f);
    w.scales = scales;
  }
  return w;
}

class Source final : public ExpertSource {
 public:
  explicit Source(DType dtype)
      : one_{random_weight(dtype, kWidth, kHidden), random_weight(dtype, kWidth, kHidden),
             random_weight(dtype, kHidden, kWidth)} {}
  int64_t experts() const override { return r1_experts(); }
  int64_t hidden() const override { return kHidden; }
  int64_t width() const override { return kWidth; }
  StatusOr<ExpertWeights> find(int64_t) const override { return one_; }
  void drop(const ExpertWeights&) const override {}

 private:
  const ExpertWeights one_;
};

// A linear layer, whose rows are [rows, weight->cols].
void run_linear(Backend* b, const PackedWeight* w, std::vector<float>& x, std::vector<float>& out,
                int64_t rows) {
  LinearParams p{};
  p.x = view(x, {rows, w->cols});
  p.w = w;
  p.out = view(out, {rows, w->rows});
  if (!b->linear(p).ok()) std::abort();
}

// ---- the mixture --------------------------------------------------------------------------------

// Router, choice, the chosen experts and the shared one. Each row chooses among all experts that
// are held; `rows` is scaled down with their number, so that as many rows meet at an expert as if
// there were 256.
void r1_mixture(benchmark::State& state, DType dtype) {
  // Kept from one number of rows to the next: fresh memory for 256 experts takes its time.
  static std::unique_ptr<Backend> b;
  static std::unique_ptr<PackedExperts> packed;
  static DType packed_type = DType::kF32;
  if (b == nullptr) b = make_backend();
  if (packed == nullptr || packed_type != dtype) {
    packed.reset();
    packed = b->pack_experts(std::make_unique<Source>(dtype), PackOptions{}).value();
    packed_type = dtype;
  }
  const int64_t held = r1_experts();
  const int64_t rows =
      state.range(0) == 1 ? 1 : std::max<int64_t>(1, state.range(0) * held / kExperts);
  const WeightData shared_parts[] = {random_weight(dtype, kWidth, kHidden),
                                     random_weight(dtype, kWidth, kHidden)};
  const auto shared_up = b->pack_linear(shared_parts, PackOptions{}).value();
  const WeightData shared_narrow = random_weight(dtype, kHidden, kWidth);
  const auto shared_down = b->pack_linear({&shared_narrow, 1}, PackOptions{}).value();
  const WeightData router_weight = random_weight(DType::kBF16, held, kHidden);
  const auto router = b->pack_linear({&router_weight, 1}, PackOptions{}).value();

  auto x = random_floats(static_cast<size_t>(rows * kHidden));
  std::vector<float> logits(static_cast<size_t>(rows * held)),
      weights(static_cast<size_t>(rows * kChosen)), out(x.size()),
      wide(static_cast<size_t>(rows * 2 * kWidth)), inner(wide.size() / 2), shared(x.size());
  std::vector<int32_t> ids(weights.size());
  RouteParams route{};
  route.logits = view(logits, {rows, held});
  route.router.top_k = kChosen;
  route.router.sigmoid = route.router.normalize = route.router.group_by_top2 = true;
  route.router.groups = 8;
  route.router.groups_kept = 4;
  route.router.scale = 2.5f;
  route.ids = Tensor::make(ids.data(), DType::kI32, {rows, kChosen});
  route.weights = view(weights, {rows, kChosen});
  ExpertsParams mix{};
  mix.x = view(x, {rows, kHidden});
  mix.ids = route.ids;
  mix.weights = route.weights;
  mix.experts = packed.get();
  mix.out = view(out, {rows, kHidden});

  std::mt19937 random(1);
  const double expert_bytes = static_cast<double>(packed->bytes) / static_cast<double>(held);
  double bytes = 0, flops = 0;
  for (auto _ : state) {
    run_linear(b.get(), router.get(), x, logits, rows);
    // Every step other choices, as far apart as real ones.
    for (float& v : logits) v = static_cast<float>(random() % 65536) * 0x1p-14f;
    if (!b->route(route).ok() || !b->experts(mix).ok()) state.SkipWithError("experts failed");
    run_linear(b.get(), shared_up.get(), x, wide, rows);
    (void)b->swiglu({view(wide, {rows, 2 * kWidth}), view(inner, {rows, kWidth})});
    run_linear(b.get(), shared_down.get(), inner, shared, rows);
    (void)b->add({mix.out, view(shared, {rows, kHidden}), mix.out});
    std::vector<bool> met(static_cast<size_t>(held));
    for (int32_t id : ids) met[static_cast<size_t>(id)] = true;
    bytes += expert_bytes * static_cast<double>(1 + std::count(met.begin(), met.end(), true)) +
             static_cast<double>(router->bytes);
    flops += static_cast<double>(rows) *
             (6.0 * kHidden * kWidth * (kChosen + 1) + 2.0 * kHidden * static_cast<double>(held));
  }
  state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
  state.counters["rows"] = static_cast<double>(rows);
}
void batches(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgName("rows");
  for (int64_t rows : {1, 512}) b->Arg(rows);
}
BENCHMARK_CAPTURE(r1_mixture, f8, DType::kF8_E4M3)->Apply(batches);
BENCHMARK_CAPTURE(r1_mixture, q4_k, DType::kQ4_K)->Apply(batches);

// ---- attention ----------------------------------------------------------------------------------

// A cache of one layer with random latents, and one sequence in it.
struct Sequence {
  Sequence(Backend* b, int64_t depth, int64_t new_rows, DType dtype)
      : rows(new_rows), pages(static_cast<size_t>((depth + new_rows + 31) / 32)) {
    cache.shape = {1, 1, kRank + kRope, 0};
    cache.layout = b->kv_layout(cache.shape, dtype).value();
    memory =
        Buffer::create(b->allocator(), pages.size() * cache.layout.page_bytes, "cache").value();
    cache.base = memory.as<std::byte>();
    std::iota(pages.begin(), pages.end(), 0);
    latent = random_floats(static_cast<size_t>((depth + rows) * kRank));
    rope = random_floats(static_cast<size_t>((depth + rows) * kRope));
    slice.pages = pages;
    batch.sequences = {&slice, 1};
    slice.rows = static_cast<int32_t>(depth + rows);
    (void)b->mla_write(
        {cache, view(latent, {depth + rows, kRank}), view(rope, {depth + rows, kRope}), &batch});
    slice.rows = static_cast<int32_t>(rows);
    slice.first_position = static_cast<int32_t>(depth);
  }

  int64_t rows;
  KvLayer cache;
  Buffer memory;
  std::vector<int32_t> pages;
  std::vector<float> latent, rope;
  SequenceSlice slice;
  Batch batch;
};

MlaUpWeights random_up(DType dtype) {
  MlaUpWeights up;
  up.heads = kHeads;
  up.nope_dim = kNope;
  up.value_dim = kValue;
  up.rank = kRank;
  up.kv = random_weight(dtype, kHeads * (kNope + kValue), kRank);
  return up;
}

// The products of one row with one key and value, absorbed: what the work is counted in whichever
// way it is done, so that the times compare.
double mla_flops(int64_t rows, int64_t depth) {
  const double keys =
      static_cast<double>(rows) * (static_cast<double>(depth) + static_cast<double>(rows + 1) / 2);
  return keys * kHeads * 2.0 * (kNope + kRope + kValue);
}

// The op alone.
void r1_mla(benchmark::State& state, DType cache_type, Precision precision) {
  const int64_t rows = state.range(0), depth = state.range(1);
  const auto b = make_backend();
  const auto up = b->pack_mla(random_up(DType::kBF16), PackOptions{precision}).value();
  Sequence sequence(b.get(), depth, rows, cache_type);
  auto q_nope = random_floats(static_cast<size_t>(rows * kHeads * kNope));
  auto q_rope = random_floats(static_cast<size_t>(rows * kHeads * kRope));
  std::vector<float> out(static_cast<size_t>(rows * kHeads * kValue));
  MlaAttentionParams p{};
  p.q_nope = view(q_nope, {rows, kHeads, kNope});
  p.q_rope = view(q_rope, {rows, kHeads, kRope});
  p.cache = sequence.cache;
  p.up = up.get();
  p.batch = &sequence.batch;
  p.scale = 0.0722f;
  p.out = view(out, {rows, kHeads * kValue});
  for (auto _ : state) {
    if (!b->mla_attention(p).ok()) state.SkipWithError("attention failed");
  }
  state.counters["expanded_flop/s"] =
      benchmark::Counter(mla_flops(rows, depth) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}
void depths(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"rows", "depth"});
  b->Args({1, 4096})->Args({64, 3584})->Args({512, 0})->Args({512, 1536})->Args({512, 3584});
}
BENCHMARK_CAPTURE(r1_mla, bf16, DType::kBF16, Precision::kAuto)->Apply(depths);
BENCHMARK_CAPTURE(r1_mla, f16, DType::kF16, Precision::kAuto)->Apply(depths);
BENCHMARK_CAPTURE(r1_mla, f32, DType::kF32, Precision::kF32)->Apply(depths);

// The other way to compute the same: all latents of the sequence up-projected to keys and values of
// 128 heads, then ordinary attention over those. Made of ops that are there, so its cache is
// written to memory and read again, which a kernel of its own would spare.
void r1_mla_expanded(benchmark::State& state, DType cache_type, Precision precision) {
  const int64_t rows = state.range(0), depth = state.range(1), keys = depth + rows;
  const auto b = make_backend();
  const WeightData kv = random_weight(DType::kBF16, kHeads * (kNope + kValue), kRank);
  const auto up = b->pack_linear({&kv, 1}, PackOptions{precision}).value();
  KvLayer cache;
  cache.shape = {1, kHeads, kNope + kRope, kValue};
  cache.layout = b->kv_layout(cache.shape, cache_type).value();
  std::vector<int32_t> pages(static_cast<size_t>((keys + 31) / 32));
  std::iota(pages.begin(), pages.end(), 0);
  const Buffer memory =
      Buffer::create(b->allocator(), pages.size() * cache.layout.page_bytes, "cache").value();
  cache.base = memory.as<std::byte>();
  SequenceSlice slice;
  slice.pages = pages;
  Batch batch;
  batch.sequences = {&slice, 1};
  // Some latents at a time, as scratch memory would hold them.
  constexpr int64_t kPart = 512;
  auto latent = random_floats(static_cast<size_t>(kPart * kRank));
  std::vector<float> k(static_cast<size_t>(kPart * kHeads * (kNope + kRope)), 0.5f),
      expanded(static_cast<size_t>(kPart * kHeads * (kNope + kValue)));
  auto q = random_floats(static_cast<size_t>(rows * kHeads * (kNope + kRope)));
  std::vector<float> out(static_cast<size_t>(rows * kHeads * kValue));
  for (auto _ : state) {
    for (int64_t at = 0; at < keys; at += kPart) {
      const int64_t n = std::min(kPart, keys - at);
      run_linear(b.get(), up.get(), latent, expanded, n);
      slice.rows = static_cast<int32_t>(n);
      slice.first_position = static_cast<int32_t>(at);
      Tensor v = view(expanded, {n, kHeads, kNope + kValue});
      v.data = expanded.data() + kNope;
      v.dim[2] = kValue;
      (void)b->kv_write({cache, view(k, {n, kHeads, kNope + kRope}), v, &batch});
    }
    slice.rows = static_cast<int32_t>(rows);
    slice.first_position = static_cast<int32_t>(depth);
    AttentionParams p{};
    p.q = view(q, {rows, kHeads, kNope + kRope});
    p.cache = cache;
    p.batch = &batch;
    p.scale = 0.0722f;
    p.out = view(out, {rows, kHeads * kValue});
    if (!b->attention(p).ok()) state.SkipWithError("attention failed");
  }
  state.counters["expanded_flop/s"] =
      benchmark::Counter(mla_flops(rows, depth) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(r1_mla_expanded, bf16, DType::kBF16, Precision::kAuto)->Apply(depths);
BENCHMARK_CAPTURE(r1_mla_expanded, f16, DType::kF16, Precision::kAuto)->Apply(depths);

// All products of the attention and the op itself.
void r1_attention(benchmark::State& state, DType dtype) {
  const int64_t rows = state.range(0), depth = state.range(1);
  const auto b = make_backend();
  const auto pack = [&](int64_t n, int64_t k) {
    const WeightData w = random_weight(dtype, n, k);
    return b->pack_linear({&w, 1}, PackOptions{}).value();
  };
  // As the model file has them: both latents in one product.
  const auto q_a = pack(kQueryRank + kRank + kRope, kHidden);
  const auto q_b = pack(kHeads * (kNope + kRope), kQueryRank);
  const auto o = pack(kHidden, kHeads * kValue);
  const auto up = b->pack_mla(random_up(dtype), PackOptions{}).value();
  Sequence sequence(b.get(), depth, rows, b->default_kv_dtype(Precision::kAuto));
  auto x = random_floats(static_cast<size_t>(rows * kHidden));
  std::vector<float> a(static_cast<size_t>(rows * (kQueryRank + kRank + kRope))),
      q_in(static_cast<size_t>(rows * kQueryRank), 0.3f),
      q(static_cast<size_t>(rows * kHeads * (kNope + kRope))),
      mixed(static_cast<size_t>(rows * kHeads * kValue)), out(x.size());
  MlaAttentionParams p{};
  p.q_nope = p.q_rope = view(q, {rows, kHeads, kNope + kRope});
  p.q_nope.dim[2] = kNope;
  p.q_rope.dim[2] = kRope;
  p.q_rope.data = q.data() + kNope;
  p.cache = sequence.cache;
  p.up = up.get();
  p.batch = &sequence.batch;
  p.scale = 0.0722f;
  p.out = view(mixed, {rows, kHeads * kValue});
  double flops = 0;
  for (auto _ : state) {
    run_linear(b.get(), q_a.get(), x, a, rows);
    run_linear(b.get(), q_b.get(), q_in, q, rows);
    (void)b->mla_write({sequence.cache, view(sequence.latent, {rows, kRank}),
                        view(sequence.rope, {rows, kRope}), &sequence.batch});
    if (!b->mla_attention(p).ok()) state.SkipWithError("attention failed");
    run_linear(b.get(), o.get(), mixed, out, rows);
    flops += mla_flops(rows, depth);
    for (const auto* w : {q_a.get(), q_b.get(), o.get()}) {
      flops += 2.0 * static_cast<double>(rows * w->rows * w->cols);
    }
    flops += 2.0 * static_cast<double>(rows * kHeads * (kNope + kValue) * kRank);
  }
  const auto weights = static_cast<double>(q_a->bytes + q_b->bytes + o->bytes + up->bytes) +
                       static_cast<double>((depth + rows) / 32) *
                           static_cast<double>(sequence.cache.layout.page_bytes);
  state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
  state.counters["weight_bytes/s"] = benchmark::Counter(
      weights * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
void attention_depths(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond)->ArgNames({"rows", "depth"});
  b->Args({1, 1024})->Args({1, 4096})->Args({512, 0});
}
BENCHMARK_CAPTURE(r1_attention, f8, DType::kF8_E4M3)->Apply(attention_depths);
BENCHMARK_CAPTURE(r1_attention, q4_k, DType::kQ4_K)->Apply(attention_depths);

}  // namespace
}  // namespace ponder::bench
