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
// Inputs, and outputs, that share a scale of f8_e4m3.
constexpr int64_t kF8Tile = 128;
// Up to so many rows the last tasks of a loop are cut along K, beyond it into rows, so many and a
// multiple of so many each: fewer would not pay for expanding the weights again.
constexpr int64_t kRowsCutAlongK = 16;
constexpr int64_t kRowsPerPiece = 64;
constexpr int64_t kPiecesPerTask = 8;
// Up to so many rows expanding a block of quantised weights fetches from the next one.
constexpr int64_t kRowsFetchedEarly = 2;
// Up to so many rows are multiplied one by one where single rows have a kernel of their own: the
// second finds the block in the cache.
constexpr int64_t kRowsOneByOne = 2;
// Fewer rows meet one panel at a time; tasks are runs of panels while there are so many for a
// thread.
constexpr int64_t kLeastRowsOfRuns = 32;
constexpr int64_t kTasksPerLane = 8;
// Nanoseconds of work below which a piece costs more to hand out than it evens out.
constexpr double kPieceWork = 1500;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The tasks of one product: every panel, or run of panels, times every block of rows. Tasks that
// run one after another share what is dearer to read again: the panel, or, when the rows outgrow
// the cache, the rows.
struct Tiling {
  Tiling(int64_t panel_count, int64_t row_count, int64_t row_bytes, int64_t rows_per_task)
      : panels(panel_count),
        rows(row_count),
        row_blocks((row_count + rows_per_task - 1) / rows_per_task),
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
double panel_work(const Segment& s, int64_t rows) {
  const double bytes = static_cast<double>(s.panel_bytes);
  const double products = static_cast<double>(s.depth * kPanel * rows);
  const double rate = !s.rounds ? 80 : s.form == Segment::Form::kQuant ? 400 : 200;
  return std::max(bytes / 30, products / rate);
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

QuantType quant_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return kQuantQ4_0;
    case DType::kQ4_1:
      return kQuantQ4_1;
    case DType::kQ5_0:
      return kQuantQ5_0;
    case DType::kQ5_1:
      return kQuantQ5_1;
    case DType::kQ8_0:
      return kQuantQ8_0;
    case DType::kQ2_K:
      return kQuantQ2_K;
    case DType::kQ3_K:
      return kQuantQ3_K;
    case DType::kQ4_K:
      return kQuantQ4_K;
    case DType::kQ5_K:
      return kQuantQ5_K;
    case DType::kQ6_K:
      return kQuantQ6_K;
    case DType::kIQ4_NL:
      return kQuantIQ4_NL;
    case DType::kIQ4_XS:
      return kQuantIQ4_XS;
    case DType::kIQ1_S:
      return kQuantIQ1_S;
    case DType::kIQ1_M:
      return kQuantIQ1_M;
    case DType::kIQ2_XXS:
      return kQuantIQ2_XXS;
    case DType::kIQ2_XS:
      return kQuantIQ2_XS;
    case DType::kIQ2_S:
      return kQuantIQ2_S;
    case DType::kIQ3_XXS:
      return kQuantIQ3_XXS;
    case DType::kIQ3_S:
      return kQuantIQ3_S;
    case DType::kTQ1_0:
      return kQuantTQ1_0;
    case DType::kTQ2_0:
      return kQuantTQ2_0;
    default:
      return kQuantMXFP4;
  }
}

// K cut into equal blocks of at most `limit`, all but the last a multiple of 32.
int64_t block_of(int64_t k, int64_t limit) {
  const int64_t blocks = (k + limit - 1) / limit;
  return std::min(k, round_up((k + blocks - 1) / blocks, 32));
}

// Bytes of one block of a panel.
int64_t block_bytes(const Segment& s, int64_t k) {
  switch (s.form) {
    case Segment::Form::kQuant:
      return k / kQuantFormats[s.quant].unit * kQuantFormats[s.quant].bytes * kPanel;
    case Segment::Form::kF8:
      return k * kPanel;
    case Segment::Form::kFloats:
      break;
  }
  return k * kPanel * storage_bytes(s.storage);
}

Segment segment_of(const WeightData& part, const PackOptions& options, bool bf16_products) {
  const int64_t cols = part.shape[1];
  const bool fast = options.precision != Precision::kF32;
  Segment s;
  if (part.dtype == DType::kF8_E4M3) {
    s.form = Segment::Form::kF8;
    s.rounds = fast && bf16_products;
    s.depth = round_up(cols, 4);
    s.block = kF8Tile;
  } else if (dtype_is_blocked(part.dtype)) {
    s.form = Segment::Form::kQuant;
    s.quant = quant_of(part.dtype);
    s.rounds = fast;
    s.depth = cols;
    s.block = kQuantBlock;
  } else {
    s.storage = storage_of(part.dtype);
    s.rounds = fast && s.storage == kStoreBF16 && bf16_products;
    s.depth = round_up(cols, 2);
    s.block = s.rounds ? block_of(s.depth, kBlockBF16) : block_of(cols, kBlockF32);
  }
  s.panel_bytes = block_bytes(s, s.depth);
  return s;
}

// Whether rows of b may follow those of a in one segment. Tiles of f8_e4m3 start with each tensor.
bool same_segment(const Segment& a, const Segment& b) {
  return a.form == b.form && a.form != Segment::Form::kF8 && a.storage == b.storage &&
         a.quant == b.quant;
}

// Takes aligned pieces of one block of memory, or only counts them.
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}
  template <typename T>
  T* take(int64_t count) {
    const int64_t at = used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return base_ != nullptr ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

// What a lane needs while it multiplies by one block.
struct Room {
  ExpandRoom expanded;               // kQuant
  float floats[kBlockF32 * kPanel];  // a block as floats; kF8: bf16, then sums of products
};
static_assert(sizeof(Room::floats) >= kF8Tile * kPanel * sizeof(uint16_t));

}  // namespace

// The last `cut` of the tiling's tasks are cut into `pieces` each, so that threads finish together.
// Cut along K, a piece leaves what each of its blocks adds in memory of its own, and whoever
// finishes a panel's last piece adds them in their order. That pays where blocks are large: not
// with quantised weights, whose blocks are some 10 KB and leave as many sums (docs/kernels/cpu.md).
struct Linear::Job {
  const LinearProduct* product;
  const PackedMatrix* w;
  const Segment* s;
  const FormedRows* rows;
  Tiling tiling;
  int64_t run;      // panels of a task
  double work;      // nanoseconds that a task takes
  int64_t end = 0;  // of its tasks, among those of all jobs
  int64_t cut = 0;
  int64_t pieces = 1;
  bool along_k = false;
  float* parts = nullptr;                // [cut][blocks()][rows][64]
  std::atomic<int64_t>* done = nullptr;  // [cut] pieces
  // Of the first block, of those between, and of the last, which may be one and the same.
  const Brgemm::Kernel* kernels[3] = {};

  int64_t tasks() const { return tiling.tasks() + cut * (pieces - 1); }
  // Inputs that are multiplied: with those that only fill up, where rows are filled up too.
  int64_t depth() const { return s->rounds ? s->depth : w->cols; }
  int64_t blocks() const { return (depth() + s->block - 1) / s->block; }
};

Linear::Linear(const Kernels* kernels, const QuantKernels* quant, std::unique_ptr<Brgemm> brgemm,
               Allocator* allocator, ThreadPool* pool)
    : kernels_(kernels),
      quant_(quant),
      brgemm_(std::move(brgemm)),
      allocator_(allocator),
      workers_(pool),
      formed_(allocator, "rounded activations of a linear layer"),
      rooms_(allocator, "unpacked weights of a linear layer"),
      parts_(allocator, "partial sums of a linear layer") {}

Linear::~Linear() = default;

// ---- packing ------------------------------------------------------------------------------------

StatusOr<std::unique_ptr<PackedMatrix>> Linear::plan(std::span<const WeightData> parts,
                                                     const PackOptions& options) const {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes(parts));
  auto matrix = std::make_unique<PackedMatrix>();
  matrix->cols = parts[0].shape[1];
  for (const WeightData& part : parts) {
    Segment next = segment_of(part, options, kernels_->gemm_bf16 != nullptr);
    if (matrix->segments.empty() || !same_segment(matrix->segments.back(), next)) {
      next.first = matrix->rows;
      matrix->segments.push_back(next);
    }
    matrix->segments.back().rows += part.shape[0];
    matrix->rows += part.shape[0];
  }
  int64_t bytes = 0;
  for (Segment& s : matrix->segments) {
    s.offset = bytes;
    bytes += s.panels() * s.panel_bytes;
    if (s.form == Segment::Form::kF8) {
      s.scales = bytes;
      bytes += round_up(s.panels() * s.blocks() * static_cast<int64_t>(sizeof(float)), 64);
    }
  }
  matrix->bytes = static_cast<uint64_t>(bytes);
  return matrix;
}

StatusOr<uint64_t> Linear::packed_bytes(std::span<const WeightData> parts,
                                        const PackOptions& options) const {
  PONDER_ASSIGN_OR_RETURN(const std::unique_ptr<PackedMatrix> matrix, plan(parts, options));
  return matrix->bytes;
}

bool Linear::pack_panel(const WeightData* parts, const Segment& s, int64_t cols, int64_t panel,
                        std::byte* matrix) const {
  const WeightData* part = parts;
  int64_t row = panel * kPanel;
  while (row >= part->shape[0]) row -= (part++)->shape[0];
  const void* rows[kPanel] = {};
  const WeightData& first_part = *part;
  const int64_t first_row = row;
  for (int64_t n = 0; n < kPanel && panel * kPanel + n < s.rows; ++n, ++row) {
    for (; row == part->shape[0]; ++part) row = 0;
    rows[n] = static_cast<const char*>(part->data) + row * dtype_bytes(part->dtype, cols);
  }
  std::byte* const out = matrix + s.offset + panel * s.panel_bytes;
  switch (s.form) {
    case Segment::Form::kFloats: {
      const bool bad = kernels_->pack_panel[s.storage](rows, cols, out);
      if (s.depth != cols && s.storage != kStoreBF16) {
        std::fill_n(out + cols * kPanel * storage_bytes(s.storage),
                    kPanel * storage_bytes(s.storage), std::byte{0});
      }
      return bad;
    }
    case Segment::Form::kQuant: {
      bool bad = false;
      for (int64_t k = 0; k < cols; k += s.block) {
        const std::byte* columns[kPanel];
        for (int64_t n = 0; n < kPanel; ++n) {
          const auto* stored = static_cast<const std::byte*>(rows[n]);
          if (stored != nullptr)
            stored += k / kQuantFormats[s.quant].unit * kQuantFormats[s.quant].bytes;
          columns[n] = stored;
        }
        const bool found =
            kQuantPack[s.quant](columns, std::min(s.block, cols - k), out + block_bytes(s, k));
        bad = bad || found;
      }
      return bad;
    }
    case Segment::Form::kF8: {
      bool bad = kernels_->pack_f8(rows, cols, out);
      // The panel's rows belong to one tensor, and, 64 of 128, to one row of its tiles.
      auto* scales = reinterpret_cast<float*>(matrix + s.scales) + panel * s.blocks();
      for (int64_t b = 0; b < s.blocks(); ++b) {
        scales[b] = first_part.scales != nullptr
                        ? first_part.scales[first_row / kF8Tile * s.blocks() + b]
                        : 1.0f;
        bad = bad || !(scales[b] - scales[b] == 0.0f);
      }
      return bad;
    }
  }
  return true;
}

StatusOr<std::unique_ptr<PackedMatrix>> Linear::pack(std::span<const WeightData> parts,
                                                     const PackOptions& options,
                                                     Buffer memory) const {
  PONDER_ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> matrix, plan(parts, options));
  if (memory.size() == matrix->bytes) {
    matrix->data = std::move(memory);
  } else {
    memory = Buffer();  // first: the two must not exist at once
    PONDER_ASSIGN_OR_RETURN(
        matrix->data, Buffer::create(allocator_, matrix->bytes,
                                     absl::StrCat("weights ", parts[0].describe(),
                                                  parts.size() > 1 ? " and those beside it" : "")));
  }
  std::atomic<bool> bad{false};
  size_t part = 0;
  for (const Segment& s : matrix->segments) {
    const WeightData* const first = &parts[part];
    for (int64_t rows = 0; rows < s.rows; ++part) rows += parts[part].shape[0];
    workers_.tasks(s.panels(), static_cast<double>(s.panel_bytes) / 3,
                   [&](int64_t panel, uint32_t) {
                     if (pack_panel(first, s, matrix->cols, panel, matrix->data.as<std::byte>())) {
                       bad.store(true);
                     }
                   });
  }
  if (bad.load()) {
    for (const WeightData& p : parts) {
      const int64_t index = ref::find_non_finite(p, 0, p.elements());
      if (index >= 0) return ref::non_finite_error(p, index);
    }
    return internal_error("weights ", parts[0].describe(), " changed while they were packed");
  }
  return matrix;
}

StatusOr<std::unique_ptr<PackedWeight>> Linear::pack_table(const WeightData& table) const {
  PONDER_RETURN_IF_ERROR(ref::check_weight_shapes({&table, 1}));
  auto weight = std::make_unique<TableWeight>();
  weight->rows = table.shape[0];
  weight->cols = table.shape[1];
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

void Linear::read_row(const TableWeight& table, int64_t row, float* out) const {
  const DType dtype = table.table.dtype;
  if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16) {
    kernels_->widen[storage_of(dtype)](
        static_cast<const char*>(table.table.data) + row * dtype_bytes(dtype, table.cols),
        table.cols, out);
  } else {
    ref::widen_rows(table.table, row, row + 1, out);
  }
}

// ---- activations --------------------------------------------------------------------------------

Linear::RowForm Linear::form_of(const Segment& s) {
  RowForm form;
  if (!s.rounds) return form;
  if (s.form != Segment::Form::kQuant) {
    form.kind = RowForm::Kind::kBF16;
    return form;
  }
  const QuantFormat& f = kQuantFormats[s.quant];
  form.kind = RowForm::Kind::kBytes;
  form.sub = f.sub;
  form.group = f.group;
  form.offset = f.offset;
  return form;
}

const Linear::FormedRows* Linear::formed(int32_t input, const RowForm& form) const {
  for (const FormedRows& rows : forms_) {
    if (rows.input == input && rows.form == form) return &rows;
  }
  return nullptr;
}

Status Linear::form_rows(std::span<const LinearInput> inputs) {
  // Rows start on a line of their own, and one line more than needed keeps them from falling onto
  // the same cache sets.
  const auto lay_out = [&](std::byte* memory) {
    Pieces pieces(memory);
    for (FormedRows& f : forms_) {
      const LinearInput& input = inputs[static_cast<size_t>(f.input)];
      switch (f.form.kind) {
        case RowForm::Kind::kFloats:
          f.floats = input.x;
          f.stride = input.stride;
          if (input.from != nullptr) {
            f.stride = round_up(input.cols, 16) + 16;
            f.floats = pieces.take<float>(input.rows * f.stride);
          }
          break;
        case RowForm::Kind::kBF16:
          f.stride = round_up(input.cols, 32) + 32;
          f.bf16 = pieces.take<uint16_t>(input.rows * f.stride);
          break;
        case RowForm::Kind::kBytes:
          f.bytes.ldq = round_up(input.cols, 64) + 64;
          f.bytes.ld_group = (input.cols + f.form.group - 1) / f.form.group;
          f.bytes.ld_sub = input.cols / f.form.sub;
          f.bytes.q = pieces.take<int8_t>(input.rows * f.bytes.ldq);
          f.bytes.scale = pieces.take<float>(input.rows * f.bytes.ld_group);
          f.bytes.start = pieces.take<int32_t>(input.rows * f.bytes.ld_sub);
          f.bytes.sum = pieces.take<float>(input.rows * f.bytes.ld_sub);
          break;
      }
    }
    return pieces.used();
  };
  PONDER_ASSIGN_OR_RETURN(std::byte * memory, formed_.reserve(lay_out(nullptr)));
  lay_out(memory);

  int64_t all = 0, cols = 0;
  for (const FormedRows& f : forms_) {
    const LinearInput& input = inputs[static_cast<size_t>(f.input)];
    all += input.rows;
    cols = std::max(cols, input.cols);
  }
  workers_.ranges(all, 0.06 * static_cast<double>(cols), [&](int64_t first, int64_t last) {
    for (const FormedRows& f : forms_) {
      const LinearInput& input = inputs[static_cast<size_t>(f.input)];
      for (int64_t r = first; r < std::min(last, input.rows); ++r) {
        const float* x = input.x + (input.from != nullptr ? input.from[r] : r) * input.stride;
        switch (f.form.kind) {
          case RowForm::Kind::kFloats:
            if (input.from != nullptr) {
              std::copy_n(x, input.cols, const_cast<float*>(f.floats) + r * f.stride);
            }
            break;
          case RowForm::Kind::kBF16:
            kernels_->round_bf16(x, input.cols, round_up(input.cols, 4), f.bf16 + r * f.stride);
            break;
          case RowForm::Kind::kBytes: {
            const QuantFormat format = {0, 0, f.form.sub, f.form.group, f.form.offset, false, 0};
            QuantRows row = f.bytes;
            row.q += r * row.ldq;
            row.scale += r * row.ld_group;
            row.start += r * row.ld_sub;
            row.sum += r * row.ld_sub;
            quant_->quantize_row(x, input.cols, format, row);
            break;
          }
        }
      }
      first = std::max<int64_t>(first - input.rows, 0);
      last -= input.rows;
      if (last <= 0) break;
    }
  });
  return OkStatus();
}

// ---- products -----------------------------------------------------------------------------------

Status Linear::run(const LinearParams& p) {
  LinearInput input;
  input.x = p.x.f32();
  input.stride = p.x.stride[0];
  input.rows = p.x.dim[0];
  input.cols = p.w->cols;
  LinearProduct product;
  product.w = static_cast<const PackedMatrix*>(p.w);
  product.rows = input.rows;
  product.out = p.out.f32();
  product.out_stride = p.out.stride[0];
  product.bias = p.bias.rank > 0 ? p.bias.f32() : nullptr;
  return multiply({&input, 1}, {&product, 1});
}

Status Linear::multiply(std::span<const LinearInput> inputs,
                        std::span<const LinearProduct> products) {
  forms_.clear();
  bool rooms = false;
  for (const LinearProduct& p : products) {
    if (p.rows == 0) continue;
    for (const Segment& s : p.w->segments) {
      rooms = rooms || s.form != Segment::Form::kFloats ||
              (!s.rounds && p.rows > kernels_->direct_rows);
      const RowForm form = form_of(s);
      if (formed(p.input, form) == nullptr) forms_.push_back({form, p.input});
    }
  }
  if (forms_.empty()) return OkStatus();
  PONDER_RETURN_IF_ERROR(form_rows(inputs));
  // And sums of all rows of a task; with f8 weights those of one block too.
  constexpr auto kRoom =
      static_cast<int64_t>(sizeof(Room) + 2 * kRowsPerTask * kPanel * sizeof(float));
  std::byte* room = nullptr;
  if (rooms) {
    PONDER_ASSIGN_OR_RETURN(room, rooms_.reserve(workers_.lanes() * kRoom));
  }

  jobs_.clear();
  double work = 0;
  for (const LinearProduct& p : products) {
    if (p.rows == 0) continue;
    for (const Segment& s : p.w->segments) {
      const FormedRows* rows = formed(p.input, form_of(s));
      const int64_t row_bytes = s.depth * (!s.rounds ? 4 : s.form == Segment::Form::kQuant ? 1 : 2);
      const bool bf16 = s.rounds && s.form != Segment::Form::kQuant;
      // Runs of panels, unless threads would then wait for the last ones.
      const int64_t row_count = bf16 ? kernels_->bf16_rows : kRowsPerTask;
      const int64_t tasks_wanted = kTasksPerLane * workers_.lanes();
      const int64_t blocks = (p.rows + row_count - 1) / row_count;
      const int64_t run =
          bf16 && p.rows >= kLeastRowsOfRuns
              ? std::clamp<int64_t>(s.panels() * blocks / tasks_wanted, 1, kernels_->bf16_panels)
              : 1;
      const Tiling tiling((s.panels() + run - 1) / run, p.rows, row_bytes, row_count);
      Job job{&p, p.w, &s, rows, tiling, run, 0};
      const double job_work = panel_work(s, p.rows) * static_cast<double>(s.panels());
      job.work = job_work / static_cast<double>(job.tiling.tasks());
      work += job_work;
      if (bf16) {
        const bool f8 = s.form == Segment::Form::kF8;
        const int64_t ldc = f8 ? kPanel : p.out_stride;
        const int64_t last_k = (s.depth - 1) / s.block * s.block;
        job.kernels[0] = find_brgemm(p.rows, std::min(s.block, s.depth), rows->stride, ldc, false);
        if (last_k > s.block) {
          job.kernels[1] =
              f8 ? job.kernels[0] : find_brgemm(p.rows, s.block, rows->stride, ldc, true);
        }
        if (last_k > 0) {
          job.kernels[2] = find_brgemm(p.rows, s.depth - last_k, rows->stride, ldc, !f8);
        }
      }
      jobs_.push_back(job);
    }
  }
  PONDER_RETURN_IF_ERROR(cut_tasks());
  int64_t tasks = 0;
  for (Job& job : jobs_) job.end = tasks += job.tasks();
  workers_.tasks(tasks, work / static_cast<double>(tasks), [&](int64_t task, uint32_t lane) {
    const Job& job = *std::upper_bound(jobs_.begin(), jobs_.end(), task,
                                       [](int64_t t, const Job& j) { return t < j.end; });
    run_task(job, task - (job.end - job.tasks()), room != nullptr ? room + lane * kRoom : nullptr);
  });
  return OkStatus();
}

Status Linear::cut_tasks() {
  const int64_t lanes = workers_.lanes();
  if (lanes == 1) return OkStatus();
  int64_t tasks = 0;
  for (const Job& job : jobs_) tasks += job.tiling.tasks();
  // What is left for the threads when whole tasks no longer go round, and one task for each.
  int64_t left = std::min(tasks, lanes + tasks % lanes);
  for (auto job = jobs_.rbegin(); job != jobs_.rend() && left > 0; ++job) {
    const int64_t rows = job->product->rows;
    job->along_k = rows <= kRowsCutAlongK;
    int64_t most = std::min(rows, kRowsPerTask) / kRowsPerPiece;
    if (job->along_k) most = job->s->form == Segment::Form::kFloats ? job->blocks() : 1;
    const auto worth = static_cast<int64_t>(std::min(job->work / kPieceWork, 1e6));
    const int64_t pieces = std::min({most, worth, kPiecesPerTask});
    const int64_t cut = std::min(left, job->tiling.tasks());
    left -= cut;
    if (pieces < 2) continue;
    job->pieces = pieces;
    job->cut = cut;
  }

  const auto lay_out = [&](std::byte* memory) {
    Pieces pieces(memory);
    for (Job& job : jobs_) {
      if (job.cut == 0 || !job.along_k) continue;
      job.parts = pieces.take<float>(job.cut * job.blocks() * job.product->rows * kPanel);
      job.done = pieces.take<std::atomic<int64_t>>(job.cut);
    }
    return pieces.used();
  };
  PONDER_ASSIGN_OR_RETURN(std::byte * memory, parts_.reserve(lay_out(nullptr)));
  lay_out(memory);
  for (Job& job : jobs_) {
    if (job.done == nullptr) continue;
    for (int64_t i = 0; i < job.cut; ++i) new (&job.done[i]) std::atomic<int64_t>(0);
  }
  return OkStatus();
}

void Linear::run_task(const Job& job, int64_t task, std::byte* room) const {
  const LinearProduct& p = *job.product;
  const Segment& s = *job.s;
  const int64_t whole = job.tiling.tasks() - job.cut;
  const int64_t which = task < whole ? 0 : (task - whole) / job.pieces;  // of those that are cut
  const int64_t piece = task < whole ? 0 : (task - whole) % job.pieces;
  const bool cut = task >= whole;
  if (cut) task = whole + which;

  const int64_t panel = job.tiling.panel(task) * job.run;
  int64_t first = job.tiling.first_row(task), end = job.tiling.row_end(task);
  if (cut && !job.along_k) {
    const int64_t step = round_up((end - first + job.pieces - 1) / job.pieces, kRowsPerPiece);
    first = std::min(end, first + piece * step);
    end = std::min(end, first + step);
    if (first == end) return;
  }
  GemmArgs g{};
  g.m = end - first;
  g.n = static_cast<int32_t>(std::min(kPanel, s.rows - panel * kPanel));
  g.ldc = p.out_stride;
  g.c = p.out + first * p.out_stride + s.first + panel * kPanel;
  g.bias = p.bias != nullptr ? p.bias + s.first + panel * kPanel : nullptr;
  const int64_t row = p.first + first;
  if (s.rounds && s.form != Segment::Form::kQuant && (!cut || !job.along_k)) {
    return run_panels(job, panel, g, row, room);
  }
  if (!cut || !job.along_k) return run_panel(job, panel, g, row, 0, job.depth(), room);

  const int64_t blocks = job.blocks();
  float* const parts = job.parts + which * blocks * g.m * kPanel;
  GemmArgs part = g;
  part.n = static_cast<int32_t>(kPanel);
  part.ldc = kPanel;
  part.bias = nullptr;
  for (int64_t b = blocks * piece / job.pieces; b < blocks * (piece + 1) / job.pieces; ++b) {
    part.c = parts + b * g.m * kPanel;
    const int64_t k = b * s.block;
    run_panel(job, panel, part, row, k, std::min(k + s.block, job.depth()), room);
  }
  if (job.done[which].fetch_add(1, std::memory_order_acq_rel) + 1 == job.pieces) {
    add_parts(job, g, parts);
  }
}

void Linear::run_panel(const Job& job, int64_t panel, GemmArgs g, int64_t row, int64_t first,
                       int64_t end, std::byte* room) const {
  const Segment& s = *job.s;
  if (s.rounds && s.form == Segment::Form::kQuant) return run_quant(job, panel, g, row, room);
  g.lda = job.rows->stride;
  if (!s.rounds) {
    g.a = job.rows->floats + row * g.lda;
    return run_floats(job, panel, g, first, end, room);
  }
  g.a = job.rows->bf16 + row * g.lda;
  run_bf16(job, panel, g, first, end);
}

void Linear::run_panels(const Job& job, int64_t first, GemmArgs g, int64_t row,
                        std::byte* room) const {
  const Segment& s = *job.s;
  const int64_t end = std::min(first + job.run, s.panels());
  g.lda = job.rows->stride;
  const uint16_t* const a = job.rows->bf16 + row * g.lda;
  const bool f8 = s.form == Segment::Form::kF8;
  float* const sums =
      f8 ? reinterpret_cast<float*>(room + sizeof(Room)) + kRowsPerTask * kPanel : nullptr;
  for (int64_t k = 0; k < s.depth; k += s.block) {
    for (int64_t panel = first; panel < end; ++panel) {
      GemmArgs part = g;
      part.a = a;
      part.accumulate = k > 0;
      part.c += (panel - first) * kPanel;
      if (part.bias != nullptr) part.bias += (panel - first) * kPanel;
      part.n = static_cast<int32_t>(std::min(kPanel, s.rows - panel * kPanel));
      if (f8) {
        // After the last of them mostly this thread's next block.
        const std::byte* const next = panel + 1 < end
                                          ? job.w->panel(s, panel + 1) + k * kPanel
                                          : job.w->panel(s, first) + (k + s.block) * kPanel;
        run_f8(job, panel, k, next, part, sums + (panel - first) * g.m * kPanel, room);
      } else {
        run_bf16(job, panel, part, k, std::min(k + s.block, s.depth));
      }
    }
  }
}

// The same additions, in the same order, as when one thread does all blocks; into the first part.
void Linear::add_parts(const Job& job, const GemmArgs& g, float* parts) const {
  const int64_t blocks = job.blocks();
  for (int64_t b = 1; b < blocks; ++b) {
    const bool last = b + 1 == blocks;
    kernels_->add_scaled(parts + b * g.m * kPanel, g.m, last ? g.n : kPanel, 1.0f, parts,
                         last ? g.bias : nullptr, last ? g.c : parts, last ? g.ldc : kPanel);
  }
}

const float* Linear::f8_scales(const Job& job, int64_t panel) {
  return reinterpret_cast<const float*>(job.w->data.as<std::byte>() + job.s->scales) +
         panel * job.s->blocks();
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

void Linear::run_bf16(const Job& job, int64_t panel, GemmArgs g, int64_t first, int64_t end) const {
  const Segment& s = *job.s;
  const auto* a = static_cast<const uint16_t*>(g.a);
  const float* bias = g.bias;
  const bool add = g.accumulate;
  for (int64_t k = first; k < end; k += s.block) {
    g.k = std::min(s.block, end - k);
    g.a = a + k;
    g.b = job.w->panel(s, panel) + k * kPanel * 2;
    g.accumulate = add || k > first;
    const bool last = k + g.k == s.depth;
    g.bias = last ? bias : nullptr;
    multiply_bf16(g, job.kernels[k == 0 ? 0 : last ? 2 : 1]);
  }
}

void Linear::run_f8(const Job& job, int64_t panel, int64_t k, const std::byte* next, GemmArgs g,
                    float* sums, std::byte* room) const {
  const Segment& s = *job.s;
  auto* const pairs = reinterpret_cast<uint16_t*>(reinterpret_cast<Room*>(room)->floats);
  auto* const part_sums = reinterpret_cast<float*>(room + sizeof(Room));
  // With few rows there is more time to fetch memory in turning codes than in multiplying.
  const bool few = g.m <= 2;
  GemmArgs part = g;
  part.k = std::min(s.block, s.depth - k);
  part.a = static_cast<const uint16_t*>(g.a) + k;
  part.b = pairs;
  part.c = part_sums;
  part.ldc = kPanel;
  part.n = static_cast<int32_t>(kPanel);
  part.bias = nullptr;
  part.accumulate = false;
  part.cached = true;
  part.next = few ? nullptr : next;
  const std::byte* const codes = job.w->panel(s, panel) + k * kPanel;
  const bool last = k + part.k == s.depth;
  if (g.m == 1 && kernels_->f8_row_bf16 != nullptr) {
    part.b = codes;
    part.next = next;
    kernels_->f8_row_bf16(part);
  } else {
    kernels_->f8_to_bf16(codes, part.k, few ? next : nullptr, pairs);
    multiply_bf16(part, job.kernels[k == 0 ? 0 : last ? 2 : 1]);
  }
  kernels_->add_scaled(part_sums, g.m, last ? g.n : kPanel, f8_scales(job, panel)[k / s.block],
                       k > 0 ? sums : nullptr, last ? g.bias : nullptr, last ? g.c : sums,
                       last ? g.ldc : kPanel);
}

namespace {

// Row `row` of several.
QuantGemmArgs row_of(const QuantGemmArgs& g, int64_t row) {
  QuantGemmArgs one = g;
  one.m = 1;
  one.x.q += row * g.x.ldq;
  one.x.scale += row * g.x.ld_group;
  one.x.start += row * g.x.ld_sub;
  one.x.sum += row * g.x.ld_sub;
  if (g.before != nullptr) one.before += row * g.ld_before;
  one.c += row * g.ldc;
  return one;
}

}  // namespace

void Linear::run_quant(const Job& job, int64_t panel, GemmArgs g, int64_t first,
                       std::byte* room) const {
  const Segment& s = *job.s;
  // Rows of the output lie far apart; sums that are added to meanwhile lie together.
  float* const sums = reinterpret_cast<float*>(room + sizeof(Room));
  const QuantFormat& format = kQuantFormats[s.quant];
  QuantGemmArgs q{};
  q.sub = format.sub;
  q.group = format.group;
  q.offset = format.offset;
  q.m = g.m;
  q.ld_before = kPanel;
  q.x = job.rows->bytes;
  q.x.q += first * q.x.ldq;
  q.x.scale += first * q.x.ld_group;
  q.x.start += first * q.x.ld_sub;
  q.x.sum += first * q.x.ld_sub;
  const auto one_row = g.m <= kRowsOneByOne ? quant_->one_row[s.quant] : nullptr;
  // For few rows much of the time goes into expanding, which then fetches most of what is next;
  // with more rows multiplying leaves time enough for all of it, and one_row sees to it itself.
  const bool few = g.m <= kRowsFetchedEarly && one_row == nullptr;
  ExpandRoom* const expanded = &reinterpret_cast<Room*>(room)->expanded;
  const std::byte* b = job.w->panel(s, panel);
  for (int64_t k = 0; k < s.depth; k += s.block) {
    q.k = std::min(s.block, s.depth - k);
    const std::byte* const packed = b;
    const bool last = k + q.k == s.depth;
    q.before = k > 0 ? sums : nullptr;
    q.c = last ? g.c : sums;
    q.ldc = last ? g.ldc : kPanel;
    q.n = last ? g.n : static_cast<int32_t>(kPanel);
    q.bias = last ? g.bias : nullptr;
    b += block_bytes(s, q.k);
    // The next panel follows, and one thread mostly takes several in a row.
    const int64_t next_k = k + q.k == s.depth ? 0 : k + q.k;
    const int64_t fetched = few ? q.k / format.unit * format.first * kPanel : 0;
    q.next = next_k > 0 || panel + 1 < s.panels() ? b + fetched : nullptr;
    q.next_bytes = block_bytes(s, std::min(s.block, s.depth - next_k)) - fetched;
    if (one_row != nullptr) {
      for (int64_t row = 0; row < g.m; ++row) one_row(packed, row_of(q, row), expanded);
    } else {
      q.w = quant_->expand[s.quant]({packed, few ? block_bytes(s, q.k) : 0}, q.k, expanded);
      quant_->gemm(q);
    }
    q.x.q += q.k;
    q.x.scale += (q.k + q.group - 1) / q.group;
    q.x.start += q.k / q.sub;
    q.x.sum += q.k / q.sub;
  }
}

void Linear::run_floats(const Job& job, int64_t panel, GemmArgs g, int64_t first, int64_t end,
                        std::byte* room) const {
  const Segment& s = *job.s;
  const auto* a = static_cast<const float*>(g.a);
  const float* bias = g.bias;
  auto* const scratch = reinterpret_cast<Room*>(room);
  const bool direct =
      s.form == Segment::Form::kFloats && job.product->rows <= kernels_->direct_rows;
  for (int64_t k = first; k < end; k += s.block) {
    g.k = std::min(s.block, end - k);
    g.a = a + k;
    g.b = job.w->panel(s, panel) + block_bytes(s, k);
    g.accumulate = k > first;
    g.bias = k + g.k == job.depth() ? bias : nullptr;
    if (direct) {
      kernels_->gemm_direct[s.storage](g);
      continue;
    }
    switch (s.form) {
      case Segment::Form::kFloats:
        kernels_->unpack_block[s.storage](g.b, g.k, scratch->floats);
        break;
      case Segment::Form::kQuant:
        quant_->to_floats(quant_->expand[s.quant]({static_cast<const std::byte*>(g.b), 0}, g.k,
                                                  &scratch->expanded),
                          kQuantFormats[s.quant], g.k, scratch->floats);
        break;
      case Segment::Form::kF8: {
        const float scale = f8_scales(job, panel)[k / s.block];
        if (g.m == 1 && kernels_->f8_row != nullptr && kernels_->f8_row(g, scale)) continue;
        kernels_->unpack_f8(g.b, g.k, scale, scratch->floats);
        break;
      }
    }
    g.b = scratch->floats;
    kernels_->gemm_f32(g);
  }
}

}  // namespace ponder::cpu
