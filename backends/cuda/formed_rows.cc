#include "backends/cuda/formed_rows.h"

#include <algorithm>

#include "backends/cuda/enqueue.h"

namespace ponder::cuda {
namespace {

void launch_alone(Stream s, const RowSource& source, int64_t rows, int64_t cols) {
  if (source.kind == RowSource::Kind::kNormed) {
    launch_rms_norm(s, source.x, source.weight, source.eps, source.out, rows, 1, cols);
  } else {
    launch_swiglu(s, source.x, source.out, rows, cols);
  }
}

bool same_rows(const Rows& a, const Rows& b) { return a.data == b.data && a.row == b.row; }

}  // namespace

Status FormedRows::reserve(Kept* kept, uint64_t bytes) {
  if (bytes <= kept->memory.bytes()) return OkStatus();
  PONDER_RETURN_IF_ERROR(device_->drain());  // launches under way may still read the old one
  kept->memory = DeviceBuffer();
  const uint64_t size = std::max<uint64_t>(bytes + bytes / 4, uint64_t{1} << 16);
  PONDER_ASSIGN_OR_RETURN(kept->memory,
                          DeviceBuffer::create(device_, size, "a step's rounded activations"));
  return OkStatus();
}

Status FormedRows::reserve(uint64_t bytes) {
  waiting_.reset();
  end();
  for (Kept& kept : kept_) PONDER_RETURN_IF_ERROR(reserve(&kept, bytes));
  return OkStatus();
}

void FormedRows::begin() {
  waiting_.reset();  // of a slice that was broken off
  for (Kept& kept : kept_) {
    kept.form = Form::kFloats;
    kept.last_use = 0;  // equal slices use equal memory, or they would not be replayed
  }
  active_ = true;
}

void FormedRows::end() {
  flush();
  for (Kept& kept : kept_) kept.form = Form::kFloats;
  active_ = false;
}

void FormedRows::make(const RowSource& source, int64_t rows, int64_t cols) {
  const Stream s = device_->stream();
  const bool fits =
      source.kind != RowSource::Kind::kNormed || cols <= most_normed_cols(shared_memory_limit(s));
  if (!active_ || !fits) return launch_alone(s, source, rows, cols);
  waiting_ = Waiting{source, rows, cols};
}

void FormedRows::flush() {
  if (!waiting_) return;
  launch_alone(device_->stream(), waiting_->source, waiting_->rows, waiting_->cols);
  waiting_.reset();
}

void FormedRows::forget(const void* data, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  for (Kept& kept : kept_) {
    const auto from = reinterpret_cast<uintptr_t>(kept.x.data);
    const auto to =
        from + static_cast<uint64_t>((kept.rows - 1) * kept.x.row + kept.cols) * sizeof(float);
    if (begin < to && from < begin + bytes) kept.form = Form::kFloats;
  }
}

StatusOr<const void*> FormedRows::get(Form form, Rows x, int64_t rows, int64_t cols) {
  RowSource source{RowSource::Kind::kStored, x, nullptr, 0, {}};
  if (waiting_) {
    if (same_rows(waiting_->source.out, x) && waiting_->rows == rows && waiting_->cols == cols) {
      source = waiting_->source;
    } else {
      flush();
    }
  } else if (active_) {
    for (Kept& kept : kept_) {
      if (kept.form != form || !same_rows(kept.x, x) || kept.rows != rows || kept.cols != cols) {
        continue;
      }
      kept.last_use = ++clock_;
      return kept.memory.data();
    }
  }
  Kept& to = kept_[kept_[0].last_use <= kept_[1].last_use ? 0 : 1];
  PONDER_RETURN_IF_ERROR(reserve(&to, form_bytes(form, rows, cols)));
  launch_form_rows(device_->stream(), form, source, to.memory.data(), rows, cols);
  waiting_.reset();
  to.form = active_ ? form : Form::kFloats;
  to.x = x;
  to.rows = rows;
  to.cols = cols;
  to.last_use = ++clock_;
  return to.memory.data();
}

}  // namespace ponder::cuda
