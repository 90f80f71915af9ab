// Matrix products of the CPU backend: packing weights into panels, and activations times panels.
//
// A packed matrix is a list of segments: consecutive rows of W that are stored in one way. One
// task loop covers any number of products (all experts of a mixture, say), and activations are
// rounded once for all of them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/onednn/brgemm.h"
#include "backends/onednn/kernels.h"
#include "backends/onednn/quant.h"
#include "backends/onednn/workers.h"
#include "lib/device/backend.h"

namespace ponder::cpu {

// Some consecutive rows of W, cut into panels of 64 (the last one padded).
struct Segment {
  enum class Form : uint8_t {
    kFloats,  // panels of f32, f16 or bf16 (kernels.h)
    kQuant,   // panels of stored blocks (quant.h)
    kF8,      // [depth / 4][64][4] codes of f8_e4m3, and a scale per 128 inputs of a panel
  };
  Form form = Form::kFloats;
  Storage storage = kStoreF32;   // kFloats
  QuantType quant = kQuantQ4_0;  // kQuant
  // Whether activations are rounded: to bf16 (kFloats of bf16, kF8) or to int8 (kQuant).
  bool rounds = false;
  int64_t first = 0;  // row of W, column of the product
  int64_t rows = 0;
  int64_t depth = 0;   // inputs as stored: K rounded up to 2 (kFloats), 4 (kF8)
  int64_t block = 0;   // inputs that are multiplied at a time; the last block may be shorter
  int64_t offset = 0;  // of the first panel in the matrix' memory
  int64_t panel_bytes = 0;
  int64_t scales = 0;  // kF8: offset of float[panels()][blocks()]

  int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
  int64_t blocks() const { return (depth + block - 1) / block; }
};

// A weight [N, K]. Immutable.
struct PackedMatrix final : PackedWeight {
  std::vector<Segment> segments;
  Buffer data;

  const std::byte* panel(const Segment& s, int64_t i) const {
    return data.as<const std::byte>() + s.offset + i * s.panel_bytes;
  }
};

// An embedding table: the checkpoint's own bytes.
struct TableWeight final : PackedWeight {
  WeightData table;
};

// Rows of activations that one or several products read.
struct LinearInput {
  const float* x = nullptr;
  int64_t stride = 0;  // between rows, in elements
  int64_t rows = 0;
  int64_t cols = 0;  // K
  // Row r is x + from[r] * stride; null: x + r * stride.
  const int32_t* from = nullptr;
};

// out[i] = rows first + i of an input times one weight, 0 <= i < rows.
struct LinearProduct {
  const PackedMatrix* w = nullptr;
  int32_t input = 0;  // of the inputs of the same call
  int64_t first = 0;
  int64_t rows = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  const float* bias = nullptr;  // [N] or null
};

class Linear {
 public:
  // `brgemm` may be null: then all products run on our own kernels, with the same results.
  Linear(const Kernels* kernels, const QuantKernels* quant, std::unique_ptr<Brgemm> brgemm,
         Allocator* allocator, ThreadPool* pool);
  ~Linear();

  // These may run beside everything else. `memory` is used where it is exactly as large as needed:
  // fresh pages are slow.
  StatusOr<std::unique_ptr<PackedMatrix>> pack(std::span<const WeightData> parts,
                                               const PackOptions& options,
                                               Buffer memory = Buffer()) const;
  // What pack() will take; parts that pack() refuses are an error here too.
  StatusOr<uint64_t> packed_bytes(std::span<const WeightData> parts,
                                  const PackOptions& options) const;
  StatusOr<std::unique_ptr<PackedWeight>> pack_table(const WeightData& table) const;

  // Row `row` of a table as floats.
  void read_row(const TableWeight& table, int64_t row, float* out) const;

  // One at a time.
  Status run(const LinearParams& p);
  // All products in one loop over the threads. Those that write the same memory exclude each other.
  Status multiply(std::span<const LinearInput> inputs, std::span<const LinearProduct> products);

 private:
  // The form in which a segment takes activations.
  struct RowForm {
    enum class Kind : uint8_t { kFloats, kBF16, kBytes };
    Kind kind = Kind::kFloats;
    int32_t sub = 0, group = 0, offset = 0;  // kBytes: as in QuantFormat
    bool operator==(const RowForm&) const = default;
  };
  // An input in one form.
  struct FormedRows {
    RowForm form;
    int32_t input = 0;
    const float* floats = nullptr;  // kFloats
    uint16_t* bf16 = nullptr;       // kBF16
    int64_t stride = 0;             // of either, in elements
    QuantRows bytes = {};           // kBytes
  };
  struct Job;  // one product with one segment

  static RowForm form_of(const Segment& s);
  StatusOr<std::unique_ptr<PackedMatrix>> plan(std::span<const WeightData> parts,
                                               const PackOptions& options) const;
  // Whether a scale or element of the panel is a NaN or infinity.
  bool pack_panel(const WeightData* parts, const Segment& s, int64_t cols, int64_t panel,
                  std::byte* matrix) const;
  Status form_rows(std::span<const LinearInput> inputs);
  const FormedRows* formed(int32_t input, const RowForm& form) const;
  const Brgemm::Kernel* find_brgemm(int64_t rows, int64_t k, int64_t lda, int64_t ldc,
                                    bool accumulate);
  // Cuts the last tasks of jobs_.
  Status cut_tasks();
  void run_task(const Job& job, int64_t task, std::byte* room) const;
  // Rows `row` on of the job's input times a panel: inputs [first, end) of floats, else all.
  void run_panel(const Job& job, int64_t panel, GemmArgs g, int64_t row, int64_t first, int64_t end,
                 std::byte* room) const;
  // A task's run of panels with rows that are bf16: block by block of K, so that the rows of a
  // block stay in the core's cache from panel to panel.
  void run_panels(const Job& job, int64_t first, GemmArgs g, int64_t row, std::byte* room) const;
  void run_bf16(const Job& job, int64_t panel, GemmArgs g, int64_t first, int64_t end) const;
  void run_floats(const Job& job, int64_t panel, GemmArgs g, int64_t first, int64_t end,
                  std::byte* room) const;
  void run_quant(const Job& job, int64_t panel, GemmArgs g, int64_t first, std::byte* room) const;
  // One block of a panel of f8; `sums` [g.m, 64] are those of the blocks before it, `next` what is
  // fetched meanwhile.
  void run_f8(const Job& job, int64_t panel, int64_t k, const std::byte* next, GemmArgs g,
              float* sums, std::byte* room) const;
  void add_parts(const Job& job, const GemmArgs& g, float* parts) const;
  static const float* f8_scales(const Job& job, int64_t panel);
  // One block of one panel for g.m rows: full tiles by `brgemm` (or null), the rest by our own.
  void multiply_bf16(const GemmArgs& g, const Brgemm::Kernel* brgemm) const;

  const Kernels* const kernels_;
  const QuantKernels* const quant_;
  const std::unique_ptr<Brgemm> brgemm_;
  Allocator* const allocator_;
  const Workers workers_;
  Scratch formed_;  // activations in the forms that the weights want
  Scratch rooms_;   // per lane: expanded weights and partial sums
  Scratch parts_;   // of panels that several threads share
  // Kept for their memory.
  std::vector<FormedRows> forms_;
  std::vector<Job> jobs_;
};

}  // namespace ponder::cpu
