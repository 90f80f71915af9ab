// Activations rounded for the products that read them: once for all of them, and in the same launch
// as the op that makes them.
//
// Between begin() and end() the launch of a norm or of swiglu waits for the next call. If that is
// a product of its result, one kernel computes, stores and rounds; else the op is launched by
// itself. What was rounded is kept until its source is written again or two others came after it.
// The numbers are the same either way, to the bit. Outside of begin() and end() nothing waits and
// nothing is kept: others may write the memory then.
//
// Threads: the driver's.
#pragma once

#include <cstdint>
#include <optional>

#include "backends/cuda/launch_linear.h"
#include "backends/cuda/pack.h"

namespace ponder::cuda {

class FormedRows {
 public:
  explicit FormedRows(Device* device) : device_(device) {}

  // A step begins, of which every call of get() wants at most `bytes` (form_bytes). What waited or
  // was kept is gone.
  Status reserve(uint64_t bytes);
  void begin();
  void end();

  // out = norm or swiglu, as RowSource says; `source.out` is where.
  void make(const RowSource& source, int64_t rows, int64_t cols);
  // Launches what waits. Every op but products calls this first.
  void flush();
  // Somebody writes `bytes` from `data` on.
  void forget(const void* data, uint64_t bytes);
  // x [rows, cols] in `form`, which is not kFloats. Valid until the next call but one.
  StatusOr<const void*> get(Form form, Rows x, int64_t rows, int64_t cols);

 private:
  struct Waiting {
    RowSource source;
    int64_t rows = 0, cols = 0;
  };
  // Of which x, and where.
  struct Kept {
    DeviceBuffer memory;
    Form form = Form::kFloats;  // kFloats: nothing
    Rows x;
    int64_t rows = 0, cols = 0;
    uint64_t last_use = 0;
  };
  Status reserve(Kept* kept, uint64_t bytes);

  Device* const device_;
  bool active_ = false;
  std::optional<Waiting> waiting_;
  Kept kept_[2];
  uint64_t clock_ = 0;
};

}  // namespace ponder::cuda
