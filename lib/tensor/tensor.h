// Tensor: a view of elements in some device's memory. Owns nothing; copied freely.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/tensor/dtype.h"

namespace ponder {

// Up to four dimensions, outermost first; strides count elements. The last dimension is contiguous
// (stride 1) in every tensor that an op takes, which is what lets a view name some columns of a
// wider matrix.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int8_t rank = 0;
  int64_t dim[4] = {};
  int64_t stride[4] = {};

  // A contiguous tensor over `data`.
  static Tensor make(void* data, DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t;
    t.data = data;
    t.dtype = dtype;
    for (int64_t d : dims) t.dim[t.rank++] = d;
    int64_t step = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
      t.stride[i] = step;
      step *= t.dim[i];
    }
    return t;
  }

  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  float* f32() const { return static_cast<float*>(data); }

  // "f32[512, 1536]" for messages.
  std::string describe() const {
    std::string text = absl::StrCat(dtype_name(dtype), "[");
    for (int i = 0; i < rank; ++i) absl::StrAppend(&text, i > 0 ? ", " : "", dim[i]);
    return text + "]";
  }
};

// One tensor as a checkpoint stores it: bytes in host memory (mapped or read), not yet checked for
// sense beyond its size: data holds exactly the bytes that dtype and shape say.
struct WeightData {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  // Keeps `data` valid: a mapped file or a buffer. Whoever keeps a pointer into data keeps this too.
  std::shared_ptr<const void> owner;
  // f8_e4m3 only: one scale per 128 x 128 elements of a matrix, finite, [ceil(rows / 128),
  // ceil(cols / 128)]. Null: all are 1.
  std::shared_ptr<const float[]> scales;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  std::string describe() const {
    std::string text = absl::StrCat("\"", name, "\" ", dtype_name(dtype), "[");
    for (size_t i = 0; i < shape.size(); ++i) absl::StrAppend(&text, i > 0 ? ", " : "", shape[i]);
    return text + "]";
  }
};

}  // namespace ponder
