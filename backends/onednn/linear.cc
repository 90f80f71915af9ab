#include "backends/onednn/linear.h"

#include <algorithm>
#include <atomic>

#include "backends/ref/weights.h"

namespace ponder::cpu {
namespace {

// A task does one panel for at most so many rows: beyond it the rows' own bytes crowd the cache.
constexpr int64_t kRowsPerTask = 512;
// Rows beyond so many bytes do not stay in the cache that all cores share, from panel to panel.
constexpr int64_t kSharedCacheBytes = int64_t{8} << 20;

// The tasks of one product: every panel times every block of rows. Tasks that run one after another
// share what is dearer to read again: the panel, or, when the rows outgrow the cache, the rows.
struct Tiling {
  Tiling(int64_t panel_count, int64_t row_count, int64_t row_bytes)
      : panels(panel_count),
        rows(row_count),
        row_blocks((row_count + kRowsPerTask - 1) / kRowsPerTask),
        rows_stay(row_count * row_bytes <= kSharedCacheBytes) {}

  int64_t tasks() const { return panels * row_blocks; }
  int64_t panel(int64_t task) const { return rows_stay ? task / row_blocks : task % panels; }
  int64_t first_row(int64_t task) const { return rows * block(task) / row_blocks; }
  int64_t row_end(int64_t task) const { return rows * (block(task) + 1) / row_blocks; }

 private:
  int64_t block(int64_t task) const { return rows_stay ? task % row_blocks : task / panels; }

  int64_t panels, rows, row_blocks;
  bool rows_stay;
};

// About how many nanoseconds one panel takes for `rows` rows: reading it, or multiplying.
double panel_work(const PanelWeight& w, int64_t rows) {
  const double bytes = static_cast<double>(w.panel_bytes());
  const double products = static_cast<double>(w.depth * kPanel * rows);
  return std::max(bytes / 30, products / (w.bf16_inputs ? 200 : 80));
}

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

// K cut into equal blocks of at most `limit`, all but the last a multiple of 32.
int64_t block_of(int64_t k, int64_t limit) {
  const int64_t blocks = (k + limit - 1) / limit;
  return std::min(k, ((k + blocks - 1) / blocks + 31) / 32 * 32);
}

}  // namespace

Linear::Linear(const Kernels* kernels, std::unique_ptr<Brgemm> brgemm, Allocator* allocator,
               ThreadPool* pool)
    : kernels_(kernels),
      brgemm_(std::move(brgemm)),
      allocator_(allocator),
      workers_(pool),
      rounded_(allocator, "rounded activations of a linear layer"),
      unpacked_(allocator, "unpacked weights of a linear layer") {}

StatusOr<std::unique_ptr<PackedWeight>> Linear::pack(std::span<const WeightData> parts,
                                                     const PackOptions& options) const {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes(parts));
  PONDER_RETURN_IF_ERROR(ref::check_plain_types(parts));
  auto weight = std::make_unique<PanelWeight>();
  bool same = true;
  for (const WeightData& part : parts) {
    weight->rows += part.shape[0];
    same = same && part.dtype == parts[0].dtype;
  }
  weight->cols = parts[0].shape[1];
  weight->storage = same ? storage_of(parts[0].dtype) : kStoreF32;
  weight->depth = (weight->cols + 1) / 2 * 2;
  weight->panels = (weight->rows + kPanel - 1) / kPanel;
  weight->bf16_inputs = options.precision == Precision::kAuto && weight->storage == kStoreBF16 &&
                        kernels_->gemm_bf16 != nullptr;
  PONDER_ASSIGN_OR_RETURN(
      weight->data,
      Buffer::create(allocator_, static_cast<size_t>(weight->panels * weight->panel_bytes()),
                     absl::StrCat("weights ", parts[0].describe(),
                                  parts.size() > 1 ? " and those beside it" : "")));
  weight->bytes = weight->data.size();

  // Parts of different types meet as floats, 64 rows at a time.
  Buffer widened;
  const int64_t cols = weight->cols;
  if (!same) {
    PONDER_ASSIGN_OR_RETURN(
        widened, Buffer::create(allocator_, workers_.lanes() * sizeof(float) * kPanel * cols,
                                "weight rows being packed"));
  }

  std::atomic<int64_t> bad_panel{-1};
  workers_.tasks(
      weight->panels, static_cast<double>(weight->panel_bytes()) / 5,
      [&](int64_t panel, uint32_t lane) {
        const void* rows[kPanel] = {};
        size_t part = 0;
        int64_t row = panel * kPanel;
        for (; row >= parts[part].shape[0]; ++part) row -= parts[part].shape[0];
        for (int64_t n = 0; n < kPanel && panel * kPanel + n < weight->rows; ++n, ++row) {
          for (; row == parts[part].shape[0]; ++part) row = 0;
          const WeightData& from = parts[part];
          rows[n] = static_cast<const char*>(from.data) + row * dtype_bytes(from.dtype, cols);
          if (!same) {
            float* to = widened.as<float>() + (lane * kPanel + n) * cols;
            kernels_->widen[storage_of(from.dtype)](rows[n], cols, to);
            rows[n] = to;
          }
        }
        std::byte* out = weight->data.as<std::byte>() + panel * weight->panel_bytes();
        if (kernels_->pack_panel[weight->storage](rows, cols, out)) bad_panel.store(panel);
        if (weight->depth != cols && weight->storage != kStoreBF16) {
          std::fill_n(out + cols * kPanel * storage_bytes(weight->storage),
                      kPanel * storage_bytes(weight->storage), std::byte{0});
        }
      });
  if (bad_panel.load() >= 0) {
    for (const WeightData& part : parts) {
      const int64_t index = ref::find_non_finite(part, 0, part.elements());
      if (index >= 0) return ref::non_finite_error(part, index);
    }
    return internal_error("weights ", parts[0].describe(), " changed while they were packed");
  }
  return weight;
}

StatusOr<std::unique_ptr<PackedWeight>> Linear::pack_table(const WeightData& table) const {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes({&table, 1}));
  PONDER_RETURN_IF_ERROR(ref::check_plain_types({&table, 1}));
  auto weight = std::make_unique<TableWeight>();
  weight->rows = table.shape[0];
  weight->cols = table.shape[1];
  weight->storage = storage_of(table.dtype);
  weight->table = table;
  std::atomic<int64_t> bad{-1};
  workers_.ranges(weight->rows, static_cast<double>(weight->cols),
                  [&](int64_t first, int64_t last) {
                    const int64_t found =
                        ref::find_non_finite(table, first * weight->cols, last * weight->cols);
                    if (found >= 0) bad.store(found);
                  });
  if (bad.load() >= 0) return ref::non_finite_error(table, bad.load());
  return weight;
}

Status Linear::run(const LinearParams& p) {
  const auto& weight = *static_cast<const PanelWeight*>(p.w);
  if (p.x.dim[0] == 0) return OkStatus();
  return weight.bf16_inputs ? run_bf16(p, weight) : run_f32(p, weight);
}

const Brgemm::Kernel* Linear::find_brgemm(int64_t rows, int64_t k, int64_t lda, int64_t ldc,
                                          bool accumulate) {
  if (brgemm_ == nullptr || rows < Brgemm::kRows) return nullptr;
  return brgemm_->find({k, lda, ldc, accumulate});
}

void Linear::multiply_bf16(const GemmArgs& g, const Brgemm::Kernel* brgemm) const {
  GemmArgs rest = g;
  if (brgemm != nullptr && g.n == kPanel) {
    const auto* a = static_cast<const uint16_t*>(g.a);
    int64_t row = 0;
    while (row + Brgemm::kRows <= g.m &&
           Brgemm::run(brgemm, a + row * g.lda, g.b, g.c + row * g.ldc)) {
      row += Brgemm::kRows;
    }
    if (g.bias != nullptr) kernels_->add_bias(g.c, g.ldc, row, g.n, g.bias);
    rest.a = a + row * g.lda;
    rest.c += row * g.ldc;
    rest.m -= row;
  }
  if (rest.m > 0) kernels_->gemm_bf16(rest);
}

Status Linear::run_bf16(const LinearParams& p, const PanelWeight& w) {
  const int64_t rows = p.x.dim[0];
  // Half a line more than needed keeps rows from falling onto the same cache sets.
  const int64_t lda = (w.depth + 31) / 32 * 32 + 32;
  PONDER_ASSIGN_OR_RETURN(std::byte * memory,
                          rounded_.reserve(rows * lda * static_cast<int64_t>(sizeof(uint16_t))));
  auto* a = reinterpret_cast<uint16_t*>(memory);
  workers_.ranges(rows, 0.05 * static_cast<double>(w.cols), [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      kernels_->round_bf16(p.x.f32() + t * p.x.stride[0], w.cols, w.depth, a + t * lda);
    }
  });

  const int64_t block = block_of(w.depth, kBlockBF16);
  // Of the first block, of those between, and of the last, whose kernels may be one and the same.
  const int64_t last_k = (w.depth - 1) / block * block;
  const int64_t ldc = p.out.stride[0];
  const Brgemm::Kernel* const first_kernel = find_brgemm(rows, block, lda, ldc, false);
  const Brgemm::Kernel* const middle_kernel =
      last_k > block ? find_brgemm(rows, block, lda, ldc, true) : nullptr;
  const Brgemm::Kernel* const last_kernel =
      last_k > 0 ? find_brgemm(rows, w.depth - last_k, lda, ldc, true) : nullptr;

  const Tiling tiling(w.panels, rows, lda * static_cast<int64_t>(sizeof(uint16_t)));
  const double work =
      panel_work(w, rows) * static_cast<double>(w.panels) / static_cast<double>(tiling.tasks());
  workers_.tasks(tiling.tasks(), work, [&](int64_t task, uint32_t) {
    const int64_t panel = tiling.panel(task);
    const int64_t first = tiling.first_row(task);
    GemmArgs g;
    g.m = tiling.row_end(task) - first;
    g.lda = lda;
    g.n = static_cast<int32_t>(std::min(kPanel, w.rows - panel * kPanel));
    g.ldc = ldc;
    g.c = p.out.f32() + first * ldc + panel * kPanel;
    for (int64_t k = 0; k < w.depth; k += block) {
      g.k = std::min(block, w.depth - k);
      g.a = a + first * lda + k;
      g.b = w.panel(panel) + k * kPanel * 2;
      g.accumulate = k > 0;
      const bool last = k + g.k == w.depth;
      g.bias = last && p.bias.rank > 0 ? p.bias.f32() + panel * kPanel : nullptr;
      multiply_bf16(g, k == 0 ? first_kernel : last ? last_kernel : middle_kernel);
    }
  });
  return OkStatus();
}

Status Linear::run_f32(const LinearParams& p, const PanelWeight& w) {
  const int64_t rows = p.x.dim[0];
  const bool direct = rows <= kernels_->direct_rows;
  const int64_t block = block_of(w.cols, kBlockF32);
  float* unpacked = nullptr;
  if (!direct) {
    PONDER_ASSIGN_OR_RETURN(
        std::byte * memory,
        unpacked_.reserve(workers_.lanes() * block * kPanel * static_cast<int64_t>(sizeof(float))));
    unpacked = reinterpret_cast<float*>(memory);
  }
  const Tiling tiling(w.panels, rows, w.cols * static_cast<int64_t>(sizeof(float)));
  const double work =
      panel_work(w, rows) * static_cast<double>(w.panels) / static_cast<double>(tiling.tasks());
  workers_.tasks(tiling.tasks(), work, [&](int64_t task, uint32_t lane) {
    const int64_t panel = tiling.panel(task);
    const int64_t first = tiling.first_row(task);
    GemmArgs g;
    g.m = tiling.row_end(task) - first;
    g.lda = p.x.stride[0];
    g.n = static_cast<int32_t>(std::min(kPanel, w.rows - panel * kPanel));
    g.ldc = p.out.stride[0];
    g.c = p.out.f32() + first * g.ldc + panel * kPanel;
    for (int64_t k = 0; k < w.cols; k += block) {
      g.k = std::min(block, w.cols - k);
      g.a = p.x.f32() + first * g.lda + k;
      g.b = w.panel(panel) + k * kPanel * storage_bytes(w.storage);
      g.accumulate = k > 0;
      const bool last = k + g.k == w.cols;
      g.bias = last && p.bias.rank > 0 ? p.bias.f32() + panel * kPanel : nullptr;
      if (direct) {
        kernels_->gemm_direct[w.storage](g);
      } else {
        float* floats = unpacked + lane * block * kPanel;
        kernels_->unpack_block[w.storage](g.b, g.k, floats);
        g.b = floats;
        kernels_->gemm_f32(g);
      }
    }
  });
  return OkStatus();
}

}  // namespace ponder::cpu
