#include "backends/onednn/experts.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ponder::cpu {
namespace {

// Rows gathered for one round, unless a single expert has more: bounds the memory for results.
constexpr int64_t kRoundRows = 1024;
// Experts that are read at the same time. Their bytes as stored are held beside the budget.
constexpr size_t kReadTogether = 4;
// Stored bytes that the system is asked to read ahead of us.
constexpr uint64_t kReadAhead = uint64_t{512} << 20;
// Columns of a result that are added up in one task.
constexpr int64_t kSumColumns = 2048;

uint64_t stored_bytes(const ExpertWeights& w) {
  uint64_t bytes = 0;
  for (const WeightData* part : {&w.gate, &w.up, &w.down}) {
    bytes += static_cast<uint64_t>(dtype_bytes(part->dtype, part->elements()));
  }
  return bytes;
}

Status check_shapes(const ExpertWeights& w, int64_t hidden, int64_t width) {
  const std::vector<int64_t> wide = {width, hidden}, narrow = {hidden, width};
  if (w.gate.shape == wide && w.up.shape == wide && w.down.shape == narrow) return OkStatus();
  return corrupt_error("the matrices ", w.gate.describe(), ", ", w.up.describe(), " and ",
                       w.down.describe(), " of an expert do not fit a model of width ", hidden,
                       " with experts of ", width);
}

StatusOr<ExpertMatrices> pack_expert(const Linear& linear, const ExpertWeights& w,
                                     const PackOptions& options, ExpertMatrices memory = {}) {
  Buffer wide, narrow;
  if (memory.down != nullptr) {
    wide = std::move(memory.gate_up->data);
    narrow = std::move(memory.down->data);
  }
  ExpertMatrices made;
  const WeightData parts[] = {w.gate, w.up};
  PONDER_ASSIGN_OR_RETURN(made.gate_up, linear.pack(parts, options, std::move(wide)));
  PONDER_ASSIGN_OR_RETURN(made.down, linear.pack({&w.down, 1}, options, std::move(narrow)));
  return made;
}

StatusOr<uint64_t> packed_bytes(const Linear& linear, const ExpertWeights& w,
                                const PackOptions& options) {
  const WeightData parts[] = {w.gate, w.up};
  PONDER_ASSIGN_OR_RETURN(const uint64_t wide, linear.packed_bytes(parts, options));
  PONDER_ASSIGN_OR_RETURN(const uint64_t narrow, linear.packed_bytes({&w.down, 1}, options));
  return wide + narrow;
}

// An odd number of lines between rows, or they would fall onto the same cache sets.
constexpr int64_t row_stride(int64_t width) { return (width + 31) / 32 * 32 + 16; }

}  // namespace

CpuExperts::~CpuExperts() {
  if (cache == nullptr) return;
  for (ExpertEntry& entry : entries) cache->forget(&entry);
}

Experts::Experts(const Kernels* kernels, Linear* linear, Allocator* allocator, ThreadPool* pool)
    : kernels_(kernels), linear_(linear), workers_(pool), room_(allocator, "results of experts") {}

StatusOr<std::unique_ptr<PackedExperts>> Experts::pack(std::unique_ptr<ExpertSource> source,
                                                       const PackOptions& options) const {
  auto packed = std::make_unique<CpuExperts>();
  packed->experts = source->experts();
  packed->hidden = source->hidden();
  packed->width = source->width();
  packed->options = options;
  packed->cache = static_cast<LruExpertCache*>(options.expert_cache);
  packed->entries = std::vector<ExpertEntry>(static_cast<size_t>(packed->experts));
  for (int64_t e = 0; e < packed->experts; ++e) {
    ExpertEntry& entry = packed->entries[static_cast<size_t>(e)];
    if (packed->cache != nullptr) {
      PONDER_ASSIGN_OR_RETURN(const ExpertWeights w, source->describe(e));
      PONDER_RETURN_IF_ERROR(check_shapes(w, packed->hidden, packed->width));
      PONDER_ASSIGN_OR_RETURN(entry.bytes, packed_bytes(*linear_, w, options));
      if (entry.bytes > packed->cache->budget()) {
        return out_of_memory_error("experts may take ", packed->cache->budget(),
                                   " bytes of memory, but the one of ", w.gate.describe(),
                                   " takes ", entry.bytes,
                                   " alone; allow at least that, better "
                                   "several times what a token chooses");
      }
      continue;
    }
    PONDER_ASSIGN_OR_RETURN(const ExpertWeights w, source->find(e));
    PONDER_RETURN_IF_ERROR(check_shapes(w, packed->hidden, packed->width));
    PONDER_ASSIGN_OR_RETURN(entry.matrices, pack_expert(*linear_, w, options));
    entry.bytes = entry.matrices.bytes();
    packed->bytes += entry.bytes;
    source->drop(w);
  }
  if (packed->cache != nullptr) packed->source = std::move(source);
  return packed;
}

// The chosen experts in ascending order, each with its rows.
Status Experts::gather(const ExpertsParams& p, const CpuExperts& experts) {
  const int64_t rows = p.x.dim[0], k = p.ids.dim[1], count = experts.experts;
  places_.assign(static_cast<size_t>(count + 1 + rows * k), 0);
  int64_t* const next = places_.data();
  int64_t* const places = next + count + 1;
  const auto ids = [&](int64_t t) {
    return static_cast<const int32_t*>(p.ids.data) + t * p.ids.stride[0];
  };
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      const int32_t e = ids(t)[i];
      if (e < 0 || e >= count) return internal_error("expert ", e, " of ", count, " was chosen");
      ++next[e + 1];
    }
  }
  chosen_.clear();
  for (int64_t e = 0; e < count; ++e) {
    if (next[e + 1] > 0) chosen_.push_back({static_cast<int32_t>(e), next[e], next[e + 1]});
    next[e + 1] += next[e];
  }
  rows_.resize(static_cast<size_t>(rows * k));
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      const int64_t place = next[ids(t)[i]]++;
      places[t * k + i] = place;
      rows_[static_cast<size_t>(place)] = static_cast<int32_t>(t);
    }
  }
  return OkStatus();
}

Status Experts::run(const ExpertsParams& p) {
  auto& experts = *static_cast<CpuExperts*>(p.experts);
  if (p.x.dim[0] == 0) return OkStatus();
  PONDER_RETURN_IF_ERROR(gather(p, experts));
  size_t announced = 0;  // of chosen_: the system was told to read them
  for (size_t begin = 0; begin < chosen_.size();) {
    size_t end = begin;
    int64_t rows = 0;
    uint64_t bytes = 0;
    while (end < chosen_.size()) {
      const uint64_t more = experts.entries[static_cast<size_t>(chosen_[end].expert)].bytes;
      const bool fits = rows + chosen_[end].rows <= kRoundRows &&
                        (experts.cache == nullptr || bytes + more <= experts.cache->budget());
      if (end > begin && !fits) break;
      rows += chosen_[end].rows;
      bytes += more;
      ++end;
    }
    const std::span<const Chosen> round(&chosen_[begin], end - begin);
    if (experts.cache != nullptr) {
      PONDER_RETURN_IF_ERROR(read_missing(&experts, round, &announced));
    }
    PONDER_RETURN_IF_ERROR(compute(p, experts, round));
    begin = end;
  }
  return OkStatus();
}

Status Experts::read_missing(CpuExperts* experts, std::span<const Chosen> round,
                             size_t* announced) {
  LruExpertCache& cache = *experts->cache;
  const ExpertSource& source = *experts->source;
  const auto entry_of = [&](int32_t e) -> ExpertEntry& {
    return experts->entries[static_cast<size_t>(e)];
  };
  // All of the step's, of later rounds too, as far ahead as is sensible.
  const auto first = static_cast<size_t>(round.data() - chosen_.data());
  const auto announce = [&](size_t done) {
    uint64_t ahead = 0;
    for (size_t i = done; i < chosen_.size() && ahead < kReadAhead; ++i) {
      const ExpertEntry& entry = entry_of(chosen_[i].expert);
      if (entry.held()) continue;
      ahead += entry.bytes;
      if (i < *announced) continue;
      source.prefetch(chosen_[i].expert);
      *announced = i + 1;
    }
  };
  announce(first);
  cache.begin_round();
  for (const Chosen& c : round) cache.want(&entry_of(c.expert));

  for (size_t next = 0; next < round.size();) {
    std::array<int32_t, kReadTogether> missing;
    size_t count = 0;
    for (; next < round.size() && count < kReadTogether; ++next) {
      if (!entry_of(round[next].expert).held()) missing[count++] = round[next].expert;
    }
    // Reading is mostly copying out of the system's cache, which one thread does too slowly.
    std::array<StatusOr<ExpertWeights>, kReadTogether> read;
    constexpr double kLong = 1e6;
    workers_.tasks(static_cast<int64_t>(count), kLong, [&](int64_t i, uint32_t) {
      auto& result = read[static_cast<size_t>(i)];
      try {
        result = source.find(missing[static_cast<size_t>(i)]);
      } catch (const std::bad_alloc&) {
        result = Status(absl::StatusCode::kResourceExhausted, "");  // words would take memory
      }
    });
    announce(first + next);
    for (size_t i = 0; i < count; ++i) {
      ExpertEntry& entry = entry_of(missing[i]);
      if (read[i].status() == Status(absl::StatusCode::kResourceExhausted, "")) {
        return out_of_memory_error("host memory ran out while expert ", missing[i], " was read");
      }
      PONDER_ASSIGN_OR_RETURN(ExpertWeights w, std::move(read[i]));
      PONDER_RETURN_IF_ERROR(check_shapes(w, experts->hidden, experts->width));
      PONDER_ASSIGN_OR_RETURN(const uint64_t bytes, packed_bytes(*linear_, w, experts->options));
      if (bytes != entry.bytes) {
        return corrupt_error("tensor ", w.gate.describe(), " changed its type after it was opened");
      }
      ExpertMatrices memory = cache.make_room(bytes);
      if (memory.down != nullptr && memory.bytes() != bytes) memory = {};
      StatusOr<ExpertMatrices> made = pack_expert(*linear_, w, experts->options, std::move(memory));
      PONDER_RETURN_IF_ERROR(made.status());
      cache.put(&entry, *std::move(made), stored_bytes(w));
      source.drop(w);
      read[i] = Status(absl::StatusCode::kUnknown, "");  // lets its memory go
    }
  }
  return OkStatus();
}

Status Experts::compute(const ExpertsParams& p, const CpuExperts& experts,
                        std::span<const Chosen> round) {
  const int64_t begin = round.front().first;
  const int64_t end = round.back().first + round.back().rows;
  const int64_t hidden = experts.hidden, width = experts.width;
  const int64_t wide_stride = row_stride(2 * width), narrow_stride = row_stride(hidden);
  PONDER_ASSIGN_OR_RETURN(std::byte * memory,
                          room_.reserve((end - begin) * (wide_stride + narrow_stride) *
                                        static_cast<int64_t>(sizeof(float))));
  auto* const wide = reinterpret_cast<float*>(memory);
  float* const narrow = wide + (end - begin) * wide_stride;
  const auto matrices = [&](const Chosen& c) -> const ExpertMatrices& {
    return experts.entries[static_cast<size_t>(c.expert)].matrices;
  };

  // A step of one row rounds it once for all its experts.
  const bool single = p.x.dim[0] == 1;
  LinearInput input;
  input.x = p.x.f32();
  input.stride = p.x.stride[0];
  input.rows = single ? 1 : end - begin;
  input.cols = hidden;
  input.from = single ? nullptr : &rows_[static_cast<size_t>(begin)];
  products_.clear();
  for (const Chosen& c : round) {
    LinearProduct product;
    product.w = matrices(c).gate_up.get();
    product.first = single ? 0 : c.first - begin;
    product.rows = c.rows;
    product.out = wide + (c.first - begin) * wide_stride;
    product.out_stride = wide_stride;
    products_.push_back(product);
  }
  PONDER_RETURN_IF_ERROR(linear_->multiply({&input, 1}, products_));

  // In the place of gate.
  workers_.ranges(end - begin, 0.4 * static_cast<double>(width), [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) {
      float* const gate = wide + r * wide_stride;
      kernels_->swiglu(gate, gate + width, width, gate);
    }
  });

  input.x = wide;
  input.stride = wide_stride;
  input.rows = end - begin;
  input.cols = width;
  input.from = nullptr;
  products_.clear();
  for (const Chosen& c : round) {
    LinearProduct product;
    product.w = matrices(c).down.get();
    product.first = c.first - begin;
    product.rows = c.rows;
    product.out = narrow + (c.first - begin) * narrow_stride;
    product.out_stride = narrow_stride;
    products_.push_back(product);
  }
  PONDER_RETURN_IF_ERROR(linear_->multiply({&input, 1}, products_));

  const bool first_round = &round.front() == chosen_.data();
  const int64_t k = p.ids.dim[1];
  const int64_t* const places = places_.data() + experts.experts + 1;
  const int64_t columns = (hidden + kSumColumns - 1) / kSumColumns;
  const double work = 0.1 * static_cast<double>(k * std::min(hidden, kSumColumns));
  workers_.tasks(p.x.dim[0] * columns, work, [&](int64_t task, uint32_t) {
    const int64_t t = task / columns, at = task % columns * kSumColumns;
    const int64_t n = std::min(kSumColumns, hidden - at);
    float* const out = p.out.f32() + t * p.out.stride[0] + at;
    if (first_round) std::fill_n(out, n, 0.0f);
    for (int64_t i = 0; i < k; ++i) {
      const int64_t place = places[t * k + i];
      if (place < begin || place >= end) continue;
      kernels_->add_times(narrow + (place - begin) * narrow_stride + at,
                          p.weights.f32()[t * p.weights.stride[0] + i], n, out);
    }
  });
  return OkStatus();
}

}  // namespace ponder::cpu
