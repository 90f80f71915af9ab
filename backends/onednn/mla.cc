#include "backends/onednn/mla.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "backends/ref/weights.h"
#include "lib/tensor/dequantize.h"
#include "lib/tensor/half.h"

namespace ponder::cpu {
namespace {

// Vectors per unit: what a rearranged page is used for.
constexpr int64_t kUnitVectors = 128;
// A sequence with so many rows in a step is cut into units of rows that need nobody else. With
// fewer, the rows of all sequences meet so that a head's matrices are read once for all.
constexpr int64_t kOwnRows = 32;
// So many of such rows at once.
constexpr int64_t kGatheredRows = 128;
// Rows of a unit that share one length of the sum over values.
constexpr int64_t kValueRows = 32;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

Storage storage_of(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return kStoreF16;
    case DType::kBF16:
      return kStoreBF16;
    default:
      return kStoreF32;
  }
}

bool is_plain(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Plain types stay what they are. What is stored in blocks or in 8 bits becomes bf16, whose
// rounding is far below the error that it has already; or f32 where no rounding is wanted.
Storage packed_storage(DType a, DType b, Precision precision) {
  if (a == b && is_plain(a)) return storage_of(a);
  if (is_plain(a) || is_plain(b) || precision == Precision::kF32) return kStoreF32;
  return kStoreBF16;
}

Status check_matrix(const WeightData& w, int64_t rows, int64_t cols) {
  if (w.shape != std::vector<int64_t>{rows, cols}) {
    return corrupt_error("tensor ", w.describe(), ": [", rows, ", ", cols, "] is needed here");
  }
  if (find_dequantize(w.dtype) == nullptr) {
    return unsupported_error("tensor ", w.describe(), ": weights cannot have this type");
  }
  if (cols % dtype_info(w.dtype).block != 0) {
    return corrupt_error("tensor ", w.describe(), ": its rows are no multiple of the ",
                         dtype_info(w.dtype).block, " elements of a block");
  }
  return OkStatus();
}

// Rows [first, first + n) as floats.
void read_rows(const WeightData& w, int64_t first, int64_t n, float* out) {
  const int64_t cols = w.shape[1];
  if (w.scales != nullptr) {
    dequantize_f8_rows({w.data, w.scales.get(), w.shape[0], cols}, first, first + n, out);
    return;
  }
  find_dequantize(w.dtype)(static_cast<const char*>(w.data) + first * dtype_bytes(w.dtype, cols),
                           n * cols, out);
}

bool all_finite(const float* x, int64_t n) {
  bool bad = false;
  for (int64_t i = 0; i < n; ++i) bad |= !(std::abs(x[i]) < INFINITY);
  return !bad;
}

// In place: from the front, where narrower elements never overtake what is still to be read.
void narrow(float* x, int64_t n, Storage storage) {
  if (storage == kStoreF32) return;
  auto* out = reinterpret_cast<char*>(x);
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t v = storage == kStoreF16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
    std::memcpy(out + 2 * i, &v, sizeof(v));
  }
}

// The highest score, the total of the weights and the weighted sum of each vector.
struct Result {
  Result() = default;
  Result(float* at, int64_t vectors)
      : highest(at), total(at + vectors), out(at + round_up(2 * vectors, 16)) {}
  static int64_t floats(int64_t vectors, int64_t rank) {
    return round_up(2 * vectors, 16) + vectors * rank;
  }
  float* highest = nullptr;
  float* total = nullptr;
  float* out = nullptr;
};

}  // namespace

LatentPage::LatentPage(const KvShape& shape, DType dtype)
    : storage(storage_of(dtype)),
      width(round_up(shape.k_dim, kLatentAlign)),
      token_bytes(width * storage_bytes(storage)) {}

StatusOr<KvLayout> latent_layout(const KvShape& shape, DType wanted) {
  if (!is_plain(wanted)) {
    return unsupported_error("a KV cache of latents in ", dtype_name(wanted),
                             " is not supported on this device; use f32, f16 or bf16");
  }
  if (shape.heads != 1) {
    return internal_error("a cache of latents has one row per token, not ", shape.heads);
  }
  KvLayout layout;
  layout.dtype = wanted;
  layout.page_tokens = kPageTokens;
  layout.page_bytes = static_cast<uint64_t>(LatentPage(shape, wanted).token_bytes * kPageTokens);
  return layout;
}

Mla::Mla(const Kernels* kernels, Allocator* allocator, ThreadPool* pool)
    : kernels_(kernels),
      allocator_(allocator),
      workers_(pool),
      lanes_(allocator, "latent attention"),
      gathered_(allocator, "absorbed queries"),
      partials_(allocator, "partial attention results") {}

StatusOr<std::unique_ptr<PackedWeight>> Mla::pack(const MlaUpWeights& up,
                                                  const PackOptions& options) const {
  const bool whole = !up.kv.name.empty();
  const int64_t heads = up.heads, nope = up.nope_dim, value = up.value_dim, rank = up.rank;
  if (heads < 1 || nope < 1 || value < 1 || rank < 1) {
    return internal_error("latent attention of ", heads, " heads, widths ", nope, " and ", value,
                          ", rank ", rank);
  }
  const WeightData& keys = whole ? up.kv : up.k_transposed;
  const WeightData& values = whole ? up.kv : up.v;
  if (whole) {
    PONDER_RETURN_IF_ERROR(check_matrix(up.kv, heads * (nope + value), rank));
  } else {
    PONDER_RETURN_IF_ERROR(check_matrix(up.k_transposed, heads * rank, nope));
    PONDER_RETURN_IF_ERROR(check_matrix(up.v, heads * value, rank));
  }
  auto weight = std::make_unique<MlaWeight>();
  weight->rows = heads * (nope + value);
  weight->cols = rank;
  weight->heads = heads;
  weight->nope = nope;
  weight->value = value;
  weight->rank = rank;
  weight->storage = packed_storage(keys.dtype, values.dtype, options.precision);
  weight->fast = options.precision != Precision::kF32 && kernels_->gemm_bf16 != nullptr;
  weight->bf16_inputs = weight->fast && weight->storage == kStoreBF16;
  PONDER_ASSIGN_OR_RETURN(
      weight->data, Buffer::create(allocator_, static_cast<size_t>(heads * weight->head_bytes()),
                                   absl::StrCat("weights ", keys.describe())));
  weight->bytes = weight->data.size();

  // Per lane: a head's rows as they are, and W^UK turned.
  const int64_t read_size = std::max(nope * rank, value * rank);
  const int64_t lane_size = read_size + nope * rank;
  Buffer scratch;
  PONDER_ASSIGN_OR_RETURN(scratch,
                          Buffer::create(allocator_, workers_.lanes() * sizeof(float) * lane_size,
                                         "attention weights being packed"));
  std::atomic<int64_t> bad_head{-1};
  const auto pack_head = [&](int64_t head, uint32_t lane) {
    float* const read = scratch.as<float>() + lane * lane_size;
    float* const turned = read + read_size;
    std::byte* out = weight->data.as<std::byte>() + head * weight->head_bytes();
    const auto put = [&](float* from, int64_t rows, int64_t depth, int64_t panel_bytes) {
      // Already checked as floats; what a narrower type cannot hold shows here.
      narrow(from, rows * depth, weight->storage);
      const int64_t row_bytes = depth * storage_bytes(weight->storage);
      for (int64_t row = 0; row < rows; row += kPanel, out += panel_bytes) {
        const void* pointers[kPanel] = {};
        for (int64_t n = 0; n < kPanel && row + n < rows; ++n) {
          pointers[n] = reinterpret_cast<const char*>(from) + (row + n) * row_bytes;
        }
        if (depth % 2 != 0) {
          std::memset(out + panel_bytes - 2 * kPanel * storage_bytes(weight->storage), 0,
                      static_cast<size_t>(2 * kPanel * storage_bytes(weight->storage)));
        }
        if (kernels_->pack_panel[weight->storage](pointers, depth, out)) bad_head.store(head);
      }
    };
    if (whole) {
      read_rows(keys, head * (nope + value), nope, read);
      for (int64_t n = 0; n < nope; ++n) {
        for (int64_t r = 0; r < rank; ++r) turned[r * nope + n] = read[n * rank + r];
      }
    } else {
      read_rows(keys, head * rank, rank, turned);
    }
    if (!all_finite(turned, nope * rank)) bad_head.store(head);
    put(turned, rank, nope, weight->key_panel_bytes());
    read_rows(values, whole ? head * (nope + value) + nope : head * value, value, read);
    if (!all_finite(read, value * rank)) bad_head.store(head);
    put(read, value, rank, weight->value_panel_bytes());
  };
  workers_.tasks(heads, static_cast<double>((nope + value) * rank) * 2, pack_head);
  if (bad_head.load() >= 0) {
    return corrupt_error("tensor ", keys.describe(), whole ? "" : " or ",
                         whole ? "" : values.describe(), ": weights of head ", bad_head.load(),
                         " are not a number or infinite; the checkpoint is damaged or was saved "
                         "from a failed training run");
  }
  return weight;
}

void Mla::write(const MlaWriteParams& p) const {
  const LatentPage page(p.cache.shape, p.cache.layout.dtype);
  const int64_t rank = p.latent.dim[1], rope = p.k_rope.dim[1];
  const auto store = kernels_->latent_store[page.storage];
  for (const SequenceSlice& slice : p.batch->sequences) {
    workers_.ranges(slice.rows, static_cast<double>(page.width), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const int64_t position = slice.first_position + r;
        const int32_t at = slice.pages[static_cast<size_t>(position / kPageTokens)];
        const int64_t row = slice.first_row + r;
        store(p.latent.f32() + row * p.latent.stride[0], rank,
              p.k_rope.f32() + row * p.k_rope.stride[0], rope, page.width,
              page.token(p.cache, at, position % kPageTokens));
      }
    });
  }
}

// One call of the op: what its parts share.
class Mla::Step {
 public:
  Step(Mla* mla, const MlaAttentionParams& p)
      : kernels_(mla->kernels_),
        p_(p),
        w_(*static_cast<const MlaWeight*>(p.up)),
        page_(p.cache.shape, p.cache.layout.dtype),
        rope_(p.cache.shape.k_dim - w_.rank),
        rank_(round_up(w_.rank, 16)),
        dots_(w_.fast && page_.storage == kStoreBF16) {
    // The lane's memory, in floats.
    const int64_t vectors = kUnitVectors;
    const int64_t inputs = std::max(kGatheredRows, vectors);
    const auto take = [this](int64_t floats) {
      const int64_t at = lane_size_;
      lane_size_ += round_up(floats, 16);
      return at;
    };
    input_ = take(inputs * input_stride());
    rounded_ = take(w_.bf16_inputs ? inputs * input_stride() / 2 : 0);
    q_ = take(vectors * page_.width);
    q_rounded_ = take(dots_ ? vectors * page_.width / 2 : 0);
    panel_ = take(std::max({page_.width, kChunk, w_.key_depth(), w_.value_depth()}) * kPanel);
    limits_ = take(vectors);
    scores_ = take(vectors * kChunk);
    weights_ = take(dots_ ? vectors * kChunk / 2 : 0);
    one_ = take(Result::floats(vectors, rank_));
    all_ = take(Result::floats(vectors, rank_));
  }

  int64_t lane_size() const { return lane_size_; }
  int64_t lane_all() const { return all_; }
  int64_t lane_one() const { return one_; }
  int64_t lane_q() const { return dots_ ? q_rounded_ : q_; }
  int64_t rank() const { return rank_; }
  // Of one vector's absorbed query.
  int64_t query_bytes() const { return page_.width * (dots_ ? 2 : 4); }
  // About how many nanoseconds a vector's share of a whole chunk takes.
  double chunk_work() const {
    return static_cast<double>(kChunk * (page_.width + rank_)) / (dots_ ? 200 : 100);
  }
  double head_work(int64_t rows) const {
    return std::max(static_cast<double>(w_.head_bytes()) / 30,
                    static_cast<double>((w_.nope + w_.value) * w_.rank * rows) / 100);
  }

  // The queries of some rows of one head, scaled and multiplied by W^UK, then their rotary part.
  // row_of(i) is the row of the flat batch; vector i goes to out + i * stride bytes.
  template <typename RowOf>
  void absorb(int64_t head, int64_t rows, const RowOf& row_of, float* lane, std::byte* out,
              int64_t stride) const {
    float* const x = lane + input_;
    const int64_t x_stride = input_stride();
    for (int64_t i = 0; i < rows; ++i) {
      kernels_->scale_row(
          p_.q_nope.f32() + row_of(i) * p_.q_nope.stride[0] + head * p_.q_nope.stride[1], p_.scale,
          w_.nope, w_.key_depth(), x + i * x_stride);
    }
    // As floats in the end, or first.
    float* const q = dots_ ? lane + q_ : reinterpret_cast<float*>(out);
    const int64_t q_stride = dots_ ? page_.width : stride / static_cast<int64_t>(sizeof(float));
    for (int64_t panel = 0; panel < w_.key_panels(); ++panel) {
      GemmArgs g;
      g.m = rows;
      g.k = w_.key_depth();
      g.b = w_.key_panel(head, panel);
      g.c = q + panel * kPanel;
      g.ldc = q_stride;
      g.n = static_cast<int32_t>(std::min(kPanel, w_.rank - panel * kPanel));
      multiply(g, lane);
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* const to = q + i * q_stride;
      kernels_->scale_row(
          p_.q_rope.f32() + row_of(i) * p_.q_rope.stride[0] + head * p_.q_rope.stride[1], p_.scale,
          rope_, page_.width - w_.rank, to + w_.rank);
      if (dots_) {
        kernels_->round_bf16(to, page_.width, page_.width,
                             reinterpret_cast<uint16_t*>(out + i * stride));
      }
    }
  }

  // The weighted sums of some rows of one head, multiplied by W^UV, into the op's result.
  // result_of(i) is the vector's sum, its total beside it.
  template <typename RowOf, typename SumOf>
  void project(int64_t head, int64_t rows, const RowOf& row_of, const SumOf& sum_of,
               float* lane) const {
    float* const x = lane + input_;
    const int64_t x_stride = input_stride();
    for (int64_t i = 0; i < rows; ++i) {
      const auto [sum, total] = sum_of(i);
      float* const to = x + i * x_stride;
      kernels_->scale_out(sum, 1.0f / total, w_.rank, to);
      std::fill(to + w_.rank, to + w_.value_depth(), 0.0f);
    }
    // Rows of the batch that follow each other are one product.
    for (int64_t first = 0; first < rows;) {
      int64_t last = first + 1;
      while (last < rows && row_of(last) == row_of(last - 1) + 1) ++last;
      for (int64_t panel = 0; panel < w_.value_panels(); ++panel) {
        GemmArgs g;
        g.m = last - first;
        g.k = w_.value_depth();
        g.b = w_.value_panel(head, panel);
        g.c = p_.out.f32() + row_of(first) * p_.out.stride[0] + head * w_.value + panel * kPanel;
        g.ldc = p_.out.stride[0];
        g.n = static_cast<int32_t>(std::min(kPanel, w_.value - panel * kPanel));
        multiply(g, lane, first);
      }
      first = last;
    }
  }

  // One chunk of one unit, whose queries are at `q`, into `result`.
  void attend(const Unit& unit, int64_t chunk, const std::byte* q, float* lane,
              const Result& result) const {
    const std::byte* tokens[kChunk];
    auto* const limits = reinterpret_cast<int32_t*>(lane + limits_);  // by row
    for (int32_t r = 0; r < unit.rows; ++r) {
      limits[r] =
          static_cast<int32_t>(std::clamp<int64_t>(seen(unit, r) - chunk * kChunk, 0, kChunk));
    }
    const int64_t keys = limits[unit.rows - 1];  // later rows see more
    for (int64_t i = 0; i < keys; ++i) {
      const int64_t position = chunk * kChunk + i;
      tokens[i] =
          page_.token(p_.cache, unit.slice->pages[static_cast<size_t>(position / kPageTokens)],
                      position % kPageTokens);
    }
    score(unit, limits, tokens, keys, q, lane);
    float* const scores = lane + scores_;
    for (int64_t v = 0; v < unit.rows * unit.heads; ++v) {
      float* const row = scores + v * kChunk;
      if (const int32_t limit = limits[v % unit.rows]; limit > 0) {
        kernels_->softmax(row, limit, keys, result.highest + v, result.total + v);
        if (dots_) {
          kernels_->round_bf16(row, keys, (keys + 1) / 2 * 2,
                               reinterpret_cast<uint16_t*>(lane + weights_) + v * kChunk);
        }
      }
    }
    add_values(unit, limits, tokens, keys, lane, result);
  }

  // A later chunk's result into that of the chunks before, for vectors [first, last) of the unit;
  // rows that do not reach the chunk skip it.
  void merge(const Unit& unit, int64_t chunk, const Result& into, const Result& from, int64_t first,
             int64_t last) const {
    for (int64_t v = first; v < last; ++v) {
      if (seen(unit, v % unit.rows) <= chunk * kChunk) continue;
      kernels_->merge_chunk(into.highest + v, into.total + v, into.out + v * rank_, from.highest[v],
                            from.total[v], from.out + v * rank_, rank_);
    }
  }

 private:
  // Keys that a unit's row sees.
  static int64_t seen(const Unit& unit, int64_t row) {
    return int64_t{unit.slice->first_position} + unit.first + row + 1;
  }

  // Inputs of a product with a head's matrix: an odd number of lines apart, or rows would fall onto
  // the same cache sets.
  int64_t input_stride() const {
    return round_up(std::max(w_.key_depth(), w_.value_depth()), 32) + 32;
  }

  // The lane's inputs, from row `first` on, times one panel of a head's matrix.
  void multiply(GemmArgs g, float* lane, int64_t first = 0) const {
    const float* const x = lane + input_ + first * input_stride();
    g.lda = input_stride();
    g.accumulate = false;
    g.bias = nullptr;
    if (w_.bf16_inputs) {
      auto* const rounded = reinterpret_cast<uint16_t*>(lane + rounded_);
      for (int64_t i = 0; i < g.m; ++i) {
        kernels_->round_bf16(x + i * g.lda, g.k, g.k, rounded + i * g.lda);
      }
      g.a = rounded;
      kernels_->gemm_bf16(g);
      return;
    }
    g.a = x;
    if (g.m <= kernels_->direct_rows) {
      kernels_->gemm_direct[w_.storage](g);
    } else {
      kernels_->unpack_block[w_.storage](g.b, g.k, lane + panel_);
      g.b = lane + panel_;
      kernels_->gemm_f32(g);
    }
  }

  void score(const Unit& unit, const int32_t* limits, const std::byte* const* tokens, int64_t keys,
             const std::byte* q, float* lane) const {
    float* const panel = lane + panel_;
    for (int64_t key = 0; key < keys; key += kPanel) {
      const int64_t count = std::min(kPanel, keys - key);
      if (dots_) {
        const void* columns[kPanel] = {};
        for (int64_t i = 0; i < count; ++i) columns[i] = tokens[key + i];
        kernels_->pack_panel[kStoreBF16](columns, page_.width, panel);
      } else {
        kernels_->latent_keys[page_.storage](tokens + key, count, page_.width, panel);
      }
      int64_t row = 0;  // the first that sees any of these keys
      while (limits[row] <= key) ++row;
      each_run(unit, row, unit.rows, [&](int64_t v, int64_t vectors) {
        GemmArgs g;
        g.a = q + v * query_bytes();
        g.lda = page_.width;
        g.b = panel;
        g.m = vectors;
        g.k = page_.width;
        g.c = lane + scores_ + v * kChunk + key;
        g.ldc = kChunk;
        g.n = static_cast<int32_t>(count);
        g.accumulate = false;
        g.bias = nullptr;
        dots_ ? kernels_->gemm_bf16(g) : kernels_->gemm_f32(g);
      });
    }
  }

  void add_values(const Unit& unit, const int32_t* limits, const std::byte* const* tokens,
                  int64_t keys, float* lane, const Result& result) const {
    float* const panel = lane + panel_;
    const int64_t step = dots_ ? kPanel : kernels_->gemm_columns;
    for (int64_t column = 0; column < w_.rank; column += kPanel) {
      if (dots_) {
        kernels_->latent_values_bf16(tokens, keys, page_.width, column,
                                     reinterpret_cast<uint16_t*>(panel));
      } else {
        kernels_->latent_values[page_.storage](tokens, keys, page_.width, column, panel);
      }
      for (int64_t row = 0; row < unit.rows; row += kValueRows) {
        const int64_t end = std::min<int64_t>(row + kValueRows, unit.rows);
        const int64_t sum = limits[end - 1];
        if (sum == 0) continue;
        each_run(unit, row, end, [&](int64_t v, int64_t vectors) {
          GemmArgs g;
          g.lda = kChunk;
          g.m = vectors;
          g.k = dots_ ? (sum + 1) / 2 * 2 : sum;
          g.ldc = rank_;
          g.accumulate = false;
          g.bias = nullptr;
          for (int64_t j = 0; j < kPanel && column + j < rank_; j += step) {
            g.n = static_cast<int32_t>(std::min(step, rank_ - column - j));
            g.c = result.out + v * rank_ + column + j;
            if (dots_) {
              g.a = reinterpret_cast<const uint16_t*>(lane + weights_) + v * kChunk;
              g.b = panel;
              kernels_->gemm_bf16(g);
            } else {
              g.a = lane + scores_ + v * kChunk;
              g.b = panel + j * keys;
              kernels_->gemm_f32(g);
            }
          }
        });
      }
    }
  }

  // fn(first vector, how many) for rows [first, last) of all heads, whose vectors follow each other
  // where all rows are wanted.
  template <typename Fn>
  static void each_run(const Unit& unit, int64_t first, int64_t last, const Fn& fn) {
    if (first == 0 && last == unit.rows) return fn(0, int64_t{unit.rows} * unit.heads);
    for (int64_t h = 0; h < unit.heads; ++h) fn(h * unit.rows + first, last - first);
  }

  const Kernels* const kernels_;
  const MlaAttentionParams& p_;
  const MlaWeight& w_;
  const LatentPage page_;
  const int64_t rope_;  // P
  const int64_t rank_;  // R rounded up: the width of sums
  const bool dots_;     // products of bf16: see MlaWeight::fast
  int64_t lane_size_ = 0;
  int64_t input_, rounded_, q_, q_rounded_, panel_, limits_, scores_, weights_, one_, all_;
};

Status Mla::run(const MlaAttentionParams& p) {
  const Step step(this, p);
  const int64_t heads = p.q_nope.dim[1];
  const uint32_t lanes = workers_.lanes();
  PONDER_ASSIGN_OR_RETURN(
      std::byte * lane_memory,
      lanes_.reserve(lanes * step.lane_size() * static_cast<int64_t>(sizeof(float))));
  const auto lane_of = [&](uint32_t lane) {
    return reinterpret_cast<float*>(lane_memory) + lane * step.lane_size();
  };
  const auto chunks_until = [](int64_t keys) {
    return static_cast<int32_t>((keys + kChunk - 1) / kChunk);
  };

  // Sequences with many rows: each unit from its queries to its results, on one lane.
  units_.clear();
  double unit_chunks = 0;
  for (const SequenceSlice& slice : p.batch->sequences) {
    if (slice.rows < kOwnRows) continue;
    const auto blocks = static_cast<int32_t>((slice.rows + kUnitVectors - 1) / kUnitVectors);
    const auto rows_each = static_cast<int32_t>((slice.rows + blocks - 1) / blocks);
    const auto heads_each = static_cast<int32_t>(std::max<int64_t>(1, kUnitVectors / rows_each));
    // A head's units one after another: its matrices are still near.
    for (int32_t head = 0; head < heads; head += heads_each) {
      for (int32_t first = (slice.rows - 1) / rows_each * rows_each; first >= 0;
           first -= rows_each) {
        const int32_t rows = std::min(rows_each, slice.rows - first);
        units_.push_back({&slice, first, rows, head,
                          static_cast<int32_t>(std::min<int64_t>(heads_each, heads - head)),
                          chunks_until(int64_t{slice.first_position} + first + rows), 0});
        unit_chunks += units_.back().chunks;
      }
    }
  }
  if (!units_.empty()) {
    const double work = static_cast<double>(kUnitVectors) * step.chunk_work() * unit_chunks /
                        static_cast<double>(units_.size());
    workers_.tasks(static_cast<int64_t>(units_.size()), work, [&](int64_t task, uint32_t index) {
      const Unit& unit = units_[static_cast<size_t>(task)];
      float* const lane = lane_of(index);
      auto* const q = reinterpret_cast<std::byte*>(lane + step.lane_q());
      const auto row_of = [&](int64_t i) {
        return int64_t{unit.slice->first_row} + unit.first + i;
      };
      const int64_t vectors = int64_t{unit.rows} * unit.heads;
      for (int64_t h = 0; h < unit.heads; ++h) {
        step.absorb(unit.head + h, unit.rows, row_of, lane, q + h * unit.rows * step.query_bytes(),
                    step.query_bytes());
      }
      const Result all(lane + step.lane_all(), vectors), one(lane + step.lane_one(), vectors);
      for (int64_t chunk = 0; chunk < unit.chunks; ++chunk) {
        step.attend(unit, chunk, q, lane, chunk == 0 ? all : one);
        if (chunk > 0) step.merge(unit, chunk, all, one, 0, vectors);
      }
      for (int64_t h = 0; h < unit.heads; ++h) {
        step.project(
            unit.head + h, unit.rows, row_of,
            [&](int64_t i) {
              const int64_t v = h * unit.rows + i;
              return std::pair<const float*, float>(all.out + v * step.rank(), all.total[v]);
            },
            lane);
      }
    });
  }

  // All other rows, some at a time.
  rows_.clear();
  for (const SequenceSlice& slice : p.batch->sequences) {
    if (slice.rows >= kOwnRows) continue;
    for (int32_t r = 0; r < slice.rows; ++r) rows_.emplace_back(&slice, r);
  }
  for (size_t begin = 0; begin < rows_.size(); begin += kGatheredRows) {
    const auto rows = static_cast<int64_t>(std::min<size_t>(kGatheredRows, rows_.size() - begin));
    const int64_t vectors = rows * heads;
    const int64_t query_bytes = round_up(vectors * step.query_bytes(), 64);
    PONDER_ASSIGN_OR_RETURN(
        std::byte * queries,
        gathered_.reserve(query_bytes + Result::floats(vectors, step.rank()) *
                                            static_cast<int64_t>(sizeof(float))));
    const Result results(reinterpret_cast<float*>(queries + query_bytes), vectors);
    const auto row_of = [&](int64_t i) {
      const auto& [slice, row] = rows_[begin + static_cast<size_t>(i)];
      return int64_t{slice->first_row} + row;
    };

    workers_.tasks(heads, step.head_work(rows) / 2, [&](int64_t head, uint32_t lane) {
      step.absorb(head, rows, row_of, lane_of(lane), queries + head * step.query_bytes(),
                  heads * step.query_bytes());
    });

    // One row and all heads to a unit, or some of the heads where that feeds more lanes.
    int64_t all_chunks = 0, most_chunks = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const auto& [slice, row] = rows_[begin + static_cast<size_t>(i)];
      const int64_t chunks = chunks_until(int64_t{slice->first_position} + row + 1);
      all_chunks += chunks;
      most_chunks = std::max(most_chunks, chunks);
    }
    const int64_t blocks = std::max<int64_t>((heads + kUnitVectors - 1) / kUnitVectors,
                                             lanes > 1 ? 2 * lanes / all_chunks : 1);
    constexpr int64_t kFewestHeads = 16;
    const int64_t heads_each =
        std::min(heads, std::max(kFewestHeads, (heads + blocks - 1) / blocks));
    units_.clear();
    for (int64_t i = 0; i < rows; ++i) {
      const auto& [slice, row] = rows_[begin + static_cast<size_t>(i)];
      for (int64_t head = 0; head < heads; head += heads_each) {
        units_.push_back({slice, row, 1, static_cast<int32_t>(head),
                          static_cast<int32_t>(std::min(heads_each, heads - head)),
                          chunks_until(int64_t{slice->first_position} + row + 1),
                          i * heads + head});
      }
    }
    const auto result_of = [&](const Unit& unit) {
      Result view;
      view.highest = results.highest + unit.vector;
      view.total = results.total + unit.vector;
      view.out = results.out + unit.vector * step.rank();
      return view;
    };
    const auto query_of = [&](const Unit& unit) {
      return queries + unit.vector * step.query_bytes();
    };
    const double chunk_work = static_cast<double>(heads_each) * step.chunk_work();
    // Units go to lanes whole, unless one is so long that the others would wait for it.
    const bool split =
        lanes > 1 && most_chunks > 1 &&
        most_chunks * 2 * lanes > all_chunks * static_cast<int64_t>(units_.size()) / rows;
    if (!split) {
      std::sort(units_.begin(), units_.end(), [](const Unit& a, const Unit& b) {
        return a.chunks != b.chunks ? a.chunks > b.chunks : a.vector < b.vector;
      });
      workers_.tasks(static_cast<int64_t>(units_.size()),
                     chunk_work * static_cast<double>(all_chunks) / static_cast<double>(rows),
                     [&](int64_t task, uint32_t index) {
                       const Unit& unit = units_[static_cast<size_t>(task)];
                       float* const lane = lane_of(index);
                       const Result all = result_of(unit), one(lane + step.lane_one(), unit.heads);
                       for (int64_t chunk = 0; chunk < unit.chunks; ++chunk) {
                         step.attend(unit, chunk, query_of(unit), lane, chunk == 0 ? all : one);
                         if (chunk > 0) step.merge(unit, chunk, all, one, 0, unit.heads);
                       }
                     });
    } else {
      // Chunks go to lanes one by one, and are merged in order when some are done.
      tasks_.clear();
      for (size_t u = 0; u < units_.size(); ++u) {
        for (int32_t chunk = 0; chunk < units_[u].chunks; ++chunk) {
          tasks_.emplace_back(static_cast<int32_t>(u), chunk);
        }
      }
      const int64_t slots = int64_t{4} * lanes;
      const int64_t slot_size = Result::floats(heads_each, step.rank());
      PONDER_ASSIGN_OR_RETURN(
          std::byte * partial_memory,
          partials_.reserve(slots * slot_size * static_cast<int64_t>(sizeof(float))));
      const auto slot = [&](int64_t i) {
        return Result(reinterpret_cast<float*>(partial_memory) + i * slot_size, heads_each);
      };
      const auto all_tasks = static_cast<int64_t>(tasks_.size());
      for (int64_t from = 0; from < all_tasks; from += slots) {
        const int64_t to = std::min(from + slots, all_tasks);
        workers_.tasks(to - from, chunk_work, [&](int64_t task, uint32_t index) {
          const auto [u, chunk] = tasks_[static_cast<size_t>(from + task)];
          const Unit& unit = units_[static_cast<size_t>(u)];
          step.attend(unit, chunk, query_of(unit), lane_of(index),
                      chunk == 0 ? result_of(unit) : slot(task));
        });
        for (int64_t i = from; i < to;) {
          const int32_t u = tasks_[static_cast<size_t>(i)].first;
          int64_t end = i;
          while (end < to && tasks_[static_cast<size_t>(end)].first == u) ++end;
          const Unit& unit = units_[static_cast<size_t>(u)];
          workers_.ranges(unit.heads, 0.1 * static_cast<double>((end - i) * step.rank()),
                          [&](int64_t first, int64_t last) {
                            for (int64_t t = i; t < end; ++t) {
                              const int32_t chunk = tasks_[static_cast<size_t>(t)].second;
                              if (chunk == 0) continue;
                              step.merge(unit, chunk, result_of(unit), slot(t - from), first, last);
                            }
                          });
          i = end;
        }
      }
    }

    workers_.tasks(heads, step.head_work(rows) / 2, [&](int64_t head, uint32_t lane) {
      step.project(
          head, rows, row_of,
          [&](int64_t i) {
            const int64_t v = i * heads + head;
            return std::pair<const float*, float>(results.out + v * step.rank(), results.total[v]);
          },
          lane_of(lane));
    });
  }
  return OkStatus();
}

}  // namespace ponder::cpu
