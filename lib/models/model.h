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

  // Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): a further layer, number
  // layers(), with key/value layer layers() of its own, that guesses the token after the next.
  // False: the checkpoint has none (GGUF files never do), or it was not asked for.
  //
  // A draft pass runs over pairs. Row t of its batch stands for position p = b.positions[t]; its
  // token is the one at p + 1 (just sampled, for the last pair) and row t of `state` is the main
  // model's hidden state at p *after the final norm*, which is what draft_state makes of the last
  // layer's h (all rows, while end() looks at some). The pass is draft_begin, layer(cx, b,
  // layers(), h), draft_end, each in a slice of its own; b.logit_rows of it get logits, for the
  // token at p + 2. Its cache must hold the pairs of positions 0 .. p - 1: run it over the prompt
  // as well, and overwrite, by running the pass again, the pairs whose tokens were rejected.
  //
  // To draft further ahead feed the pass its own result: `state` after draft_end is that of each
  // row, to stand beside the drafted token at position p + 1. `state` may lie in any of the
  // backend's memory: copy it out of the step's arena before the next step starts.
  virtual bool has_draft_layer() const { return false; }
  virtual Tensor draft_state(Exec& cx, const Tensor& h) const;  // [T, D] -> [T, D]
  virtual Tensor draft_begin(Exec& cx, const Batch& b, const Tensor& state) const;  // -> h [T, D]
  struct Draft {
    Tensor state;   // [T, D]
    Tensor logits;  // [R, V]
  };
  virtual Draft draft_end(Exec& cx, const Batch& b, const Tensor& h) const;
};

}  // namespace ponder
