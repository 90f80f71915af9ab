// What an architecture is to the engine: three steps from tokens to logits, cut between layers.
//
// A model file holds its Config, its weights as structs with their shapes, and one private function
// per box in its paper's figure. It sees Exec and Loader and nothing below them: no device, no
// dtype, no cache policy, no threads. Immutable after construction; one step at a time.
#pragma once

#include "lib/exec/exec.h"

namespace ponder {

class ModelGraph {
 public:
  virtual ~ModelGraph() = default;
  virtual KvShape kv_shape() const = 0;
  virtual int layers() const = 0;
  virtual int64_t vocabulary() const = 0;
  virtual Tensor begin(Exec& cx, const Batch& b) const = 0;  // tokens -> h [T, D]
  virtual Tensor layer(Exec& cx, const Batch& b, int i, const Tensor& h) const = 0;  // h -> h
  virtual Tensor end(Exec& cx, const Batch& b, const Tensor& h) const = 0;  // h -> logits [R, V]
};

}  // namespace ponder
