#include "backends/onednn/attention.h"

#include <algorithm>
#include <vector>

namespace ponder::cpu {

namespace {

Storage storage_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kStoreF32;
    case DType::kF16:
      return kStoreF16;
    case DType::kQ8_0:
      return kStoreQ8_0;
    default:
      return kStoreBF16;  // kv_layout refuses all others
  }
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int64_t head_bytes(DType dtype, int64_t dim) { return dtype_bytes(dtype, dim * kPageTokens); }

// Vectors per unit: enough to use a chunk's keys many times, few enough that all stays in cache.
constexpr int64_t kUnitVectors = 64;

// Where one unit's data lie in its lane's scratch memory, in floats.
struct LaneLayout {
  LaneLayout(int64_t vectors, const PageShape& page)
      : limits(0),
        highest(limits + vectors),
        total(highest + vectors),
        q(total + vectors),
        out(round(q + vectors * page.k_dim)),
        scores(round(out + vectors * page.v_dim)),
        size(scores + vectors * kChunk) {}
  static int64_t round(int64_t floats) { return (floats + 15) / 16 * 16; }
  int64_t limits, highest, total, q, out, scores, size;
};

// A partial or final result of a unit: per vector the highest score, the total and the sums.
struct Result {
  Result(float* at, int64_t vectors)
      : highest(at), total(at + vectors), out(at + LaneLayout::round(2 * vectors)) {}
  static int64_t floats(int64_t vectors, int64_t v_dim) {
    return LaneLayout::round(2 * vectors) + vectors * v_dim;
  }
  float* highest;
  float* total;
  float* out;
};

}  // namespace

PageShape::PageShape(const KvShape& shape, DType dtype)
    : storage(storage_of(dtype)),
      heads(shape.heads),
      k_dim(round_up(shape.k_dim, storage == kStoreQ8_0 ? 32 : 2)),
      v_dim(round_up(shape.v_dim, storage == kStoreQ8_0 ? 32 : 16)),
      k_bytes(head_bytes(dtype, k_dim)),
      v_bytes(head_bytes(dtype, v_dim)) {}

StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted) {
  if (wanted != DType::kF32 && wanted != DType::kF16 && wanted != DType::kBF16 &&
      wanted != DType::kQ8_0) {
    return unsupported_error("a KV cache of ", dtype_name(wanted),
                             " is not supported on this device; use f32, f16, bf16 or q8_0");
  }
  KvLayout layout;
  layout.dtype = wanted;
  layout.page_tokens = kPageTokens;
  layout.page_bytes = static_cast<uint64_t>(PageShape(shape, wanted).bytes());
  return layout;
}

Attention::Attention(const Kernels* kernels, Allocator* allocator, ThreadPool* pool)
    : kernels_(kernels),
      workers_(pool),
      lanes_(allocator, "attention scores"),
      partials_(allocator, "partial attention results") {}

void Attention::write(const KvWriteParams& p) const {
  const KvShape& shape = p.cache.shape;
  const PageShape page(shape, p.cache.layout.dtype);
  const auto store = kernels_->kv_store[page.storage];
  const double work = static_cast<double>(shape.heads * (shape.k_dim + shape.v_dim));
  for (const SequenceSlice& slice : p.batch->sequences) {
    workers_.ranges(slice.rows, work, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const int64_t position = slice.first_position + r;
        const int32_t at = slice.pages[static_cast<size_t>(position / kPageTokens)];
        const int64_t row = slice.first_row + r;
        for (int64_t g = 0; g < shape.heads; ++g) {
          store(p.k.f32() + row * p.k.stride[0] + g * p.k.stride[1], shape.k_dim,
                p.v.f32() + row * p.v.stride[0] + g * p.v.stride[1], shape.v_dim, page.v_dim,
                position % kPageTokens, page.keys(p.cache, at, g), page.values(p.cache, at, g));
        }
      }
    });
  }
}

Status Attention::run(const AttentionParams& p) {
  const KvShape& shape = p.cache.shape;
  const PageShape page(shape, p.cache.layout.dtype);
  const int64_t group = p.q.dim[1] / shape.heads;
  const auto rows_per_unit = static_cast<int32_t>(std::max<int64_t>(1, kUnitVectors / group));

  units_.clear();
  int64_t all_chunks = 0;
  int64_t most_chunks = 0;
  int64_t most_vectors = 0;
  for (const SequenceSlice& slice : p.batch->sequences) {
    // Later rows see more keys: longest first, so that no lane starts a long unit at the end.
    const int32_t blocks = (slice.rows + rows_per_unit - 1) / rows_per_unit;
    for (int32_t block = blocks - 1; block >= 0; --block) {
      for (int32_t head = 0; head < shape.heads; ++head) {
        AttentionUnit unit{};
        unit.slice = &slice;
        unit.first = block * rows_per_unit;
        unit.rows = std::min(rows_per_unit, slice.rows - unit.first);
        unit.head = head;
        const int32_t keys = slice.first_position + unit.first + unit.rows;
        unit.chunks = static_cast<int32_t>((keys + kChunk - 1) / kChunk);
        all_chunks += unit.chunks;
        most_chunks = std::max<int64_t>(most_chunks, unit.chunks);
        most_vectors = std::max(most_vectors, unit.rows * group);
        units_.push_back(unit);
      }
    }
  }
  if (units_.empty()) return OkStatus();

  const LaneLayout lane_layout(most_vectors, page);
  PONDER_ASSIGN_OR_RETURN(
      std::byte * lane_memory,
      lanes_.reserve(workers_.lanes() * static_cast<int64_t>(sizeof(float)) *
                     (lane_layout.size + Result::floats(most_vectors, page.v_dim))));
  float* const lane_floats = reinterpret_cast<float*>(lane_memory);
  const int64_t lane_size = lane_layout.size + Result::floats(most_vectors, page.v_dim);

  // One chunk of one unit, into highest, total and out.
  const auto attend = [&](const AttentionUnit& unit, int64_t chunk, float* lane, bool queries_ready,
                          const Result& result) {
    const int64_t vectors = unit.rows * group;
    float* q = lane + lane_layout.q;
    auto* limits = reinterpret_cast<int32_t*>(lane + lane_layout.limits);
    int32_t keys = 0;
    for (int32_t r = 0; r < unit.rows; ++r) {
      const int64_t seen = int64_t{unit.slice->first_position} + unit.first + r + 1;
      const auto limit =
          static_cast<int32_t>(std::clamp<int64_t>(seen - chunk * kChunk, 0, kChunk));
      keys = std::max(keys, limit);
      const int64_t row = unit.slice->first_row + unit.first + r;
      for (int64_t h = 0; h < group; ++h) {
        const int64_t v = r * group + h;
        limits[v] = limit;
        if (queries_ready) continue;
        kernels_->scale_row(
            p.q.f32() + row * p.q.stride[0] + (unit.head * group + h) * p.q.stride[1], p.scale,
            shape.k_dim, page.k_dim, q + v * page.k_dim);
      }
    }
    const std::byte* k_pages[kChunk / kPageTokens];
    const std::byte* v_pages[kChunk / kPageTokens];
    for (int64_t i = 0; i * kPageTokens < keys; ++i) {
      const int32_t at = unit.slice->pages[static_cast<size_t>(chunk * (kChunk / kPageTokens) + i)];
      k_pages[i] = page.keys(p.cache, at, unit.head);
      v_pages[i] = page.values(p.cache, at, unit.head);
    }
    ChunkArgs c;
    c.q = q;
    c.rows = vectors;
    c.k_dim = page.k_dim;
    c.v_dim = page.v_dim;
    c.storage = page.storage;
    c.k_pages = k_pages;
    c.v_pages = v_pages;
    c.next = nullptr;
    if (chunk + 1 < unit.chunks) {
      const auto page_after = static_cast<size_t>((chunk + 1) * (kChunk / kPageTokens));
      c.next = page.keys(p.cache, unit.slice->pages[page_after], unit.head);
    }
    c.keys = keys;
    c.limits = limits;
    c.scratch = lane + lane_layout.scores;
    c.highest = result.highest;
    c.total = result.total;
    c.out = result.out;
    kernels_->attend_chunk(c);
  };
  // Chunk after chunk into the first one's result; rows that do not reach a chunk skip it.
  const auto merge = [&](const AttentionUnit& unit, int64_t chunk, const Result& into,
                         const Result& from) {
    for (int64_t v = 0; v < unit.rows * group; ++v) {
      const int64_t seen = int64_t{unit.slice->first_position} + unit.first + v / group + 1;
      if (seen <= chunk * kChunk) continue;
      kernels_->merge_chunk(into.highest + v, into.total + v, into.out + v * page.v_dim,
                            from.highest[v], from.total[v], from.out + v * page.v_dim, page.v_dim);
    }
  };
  const auto finish = [&](const AttentionUnit& unit, const Result& result) {
    for (int64_t v = 0; v < unit.rows * group; ++v) {
      const int64_t row = unit.slice->first_row + unit.first + v / group;
      const int64_t head = unit.head * group + v % group;
      kernels_->scale_out(result.out + v * page.v_dim, 1.0f / result.total[v], shape.v_dim,
                          p.out.f32() + row * p.out.stride[0] + head * shape.v_dim);
    }
  };

  // About how many nanoseconds a chunk takes.
  const double chunk_work = static_cast<double>(kChunk * (page.k_dim + page.v_dim)) *
                            static_cast<double>(most_vectors + 2) / 80;
  // Units go to lanes whole, unless one of them is so long that the others would wait for it.
  const bool split =
      workers_.lanes() > 1 && most_chunks > 1 && most_chunks * 2 * workers_.lanes() > all_chunks;
  if (!split) {
    const double work =
        chunk_work * static_cast<double>(all_chunks) / static_cast<double>(units_.size());
    workers_.tasks(static_cast<int64_t>(units_.size()), work,
                   [&](int64_t task, uint32_t lane_index) {
                     const AttentionUnit& unit = units_[static_cast<size_t>(task)];
                     float* lane = lane_floats + lane_index * lane_size;
                     const int64_t vectors = unit.rows * group;
                     const Result all(lane + lane_layout.size, vectors);
                     Result one = all;
                     one.highest = lane + lane_layout.highest;
                     one.total = lane + lane_layout.total;
                     one.out = lane + lane_layout.out;
                     for (int64_t chunk = 0; chunk < unit.chunks; ++chunk) {
                       attend(unit, chunk, lane, chunk > 0, chunk == 0 ? all : one);
                       if (chunk > 0) merge(unit, chunk, all, one);
                     }
                     finish(unit, all);
                   });
    return OkStatus();
  }

  const int64_t partial_size = Result::floats(most_vectors, page.v_dim);
  std::vector<std::pair<int32_t, int32_t>>& tasks = tasks_;
  tasks.clear();
  for (size_t u = 0; u < units_.size(); ++u) {
    units_[u].partial = static_cast<int64_t>(tasks.size());
    for (int32_t chunk = 0; chunk < units_[u].chunks; ++chunk) {
      tasks.emplace_back(static_cast<int32_t>(u), chunk);
    }
  }
  PONDER_ASSIGN_OR_RETURN(
      std::byte * partial_memory,
      partials_.reserve(all_chunks * partial_size * static_cast<int64_t>(sizeof(float))));
  float* const partials = reinterpret_cast<float*>(partial_memory);
  const auto partial = [&](const AttentionUnit& unit, int64_t chunk) {
    return Result(partials + (unit.partial + chunk) * partial_size, unit.rows * group);
  };
  workers_.tasks(all_chunks, chunk_work, [&](int64_t task, uint32_t lane_index) {
    const auto [u, chunk] = tasks[static_cast<size_t>(task)];
    const AttentionUnit& unit = units_[static_cast<size_t>(u)];
    attend(unit, chunk, lane_floats + lane_index * lane_size, false, partial(unit, chunk));
  });
  workers_.ranges(static_cast<int64_t>(units_.size()),
                  0.1 * static_cast<double>(most_chunks * partial_size),
                  [&](int64_t first, int64_t last) {
                    for (int64_t u = first; u < last; ++u) {
                      const AttentionUnit& unit = units_[static_cast<size_t>(u)];
                      const Result all = partial(unit, 0);
                      for (int64_t chunk = 1; chunk < unit.chunks; ++chunk) {
                        merge(unit, chunk, all, partial(unit, chunk));
                      }
                      finish(unit, all);
                    }
                  });
  return OkStatus();
}

}  // namespace ponder::cpu
