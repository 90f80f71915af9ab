// DraftLayer: the passes of a checkpoint's own layer for multi-token prediction
// (lib/models/model.h).
//
// At the end of each step, when its tokens are chosen, a pass goes over the pairs of all rows that
// stay, in all sequences, whether they speculate or not: so wherever a page of the cache is found
// again, the layer's part of it is there too. Rows whose drafts are wanted get logits, and as many
// further passes, fed with their own results, as tokens are asked for. A slice is a third of a
// pass, at most one layer.
//
// The pair of a block's last token depends on the token after it, which may be another where the
// block is shared: then that one entry is of another text. It may cost a wrong guess, never a
// token.
//
// Owned by the Engine, used by the driver alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/status.h"
#include "lib/device/backend.h"
#include "lib/engine/drafter.h"
#include "lib/engine/drafting.h"
#include "lib/engine/row_reader.h"
#include "lib/exec/exec.h"
#include "lib/models/model.h"

namespace ponder::engine {

// A step's rows as pairs: P of them, those of a text one after the other.
struct DraftPairs {
  struct Text {
    int32_t rows = 0;  // at least 1
    int32_t first_position = 0;
    std::span<const int32_t> pages;  // cover the rows and wanted - 1 more
    int32_t wanted = 0;              // tokens to draft
    std::vector<int32_t> made;
  };
  std::vector<Text> texts;
  std::vector<int32_t> tokens;  // [P] the token after each row's own
  std::vector<int32_t> rows;    // [P] which of h
};

class DraftLayer {
 public:
  // At most as many texts get drafts in a step as `reader` takes rows. Both outlive this.
  DraftLayer(const ModelGraph* graph, RowReader* reader);

  // In measuring mode: what passes after a step of `batch` need of the arena.
  static void measure(const ModelGraph& graph, Exec& cx, const Batch& batch, const Tensor& h);

  // h, of the last layer, is in the arena's half of slice layers().
  void begin(DraftPairs pairs, const Tensor& h);
  bool done() const { return done_; }
  Status run_slice(Exec& cx);
  // When done.
  std::span<const DraftPairs::Text> texts() const { return pairs_.texts; }
  // Spent on drafted tokens since begin(), without what the pairs of all rows take anyway.
  double seconds() const { return seconds_; }

  int32_t most_texts() const { return most_texts_; }
  double seconds_each() const { return seconds_each_; }
  DraftRecord* record() { return &record_; }

 private:
  void collect();  // the next pass's rows
  Status take(const Tensor& logits);

  const ModelGraph* graph_;
  RowReader* reader_;
  int32_t most_texts_;
  double seconds_each_ = 0;
  DraftRecord record_{Acceptance(0.8)};

  DraftPairs pairs_;
  bool done_ = true;
  int32_t pass_ = 0, part_ = 0;
  int slice_ = 0;
  double seconds_ = 0;
  Tensor from_;  // h, then each pass's own state: the next pass's rows are taken from it
  Tensor h_;
  // The pass under way.
  std::vector<int32_t> tokens_, positions_, rows_, logit_rows_;
  std::vector<size_t> whose_;  // [R]: the text of each of logit_rows_
  std::vector<SequenceSlice> slices_;
  Batch batch_;
};

// Hands out what the draft pass made at the end of the last step.
class LayerDrafter final : public Drafter {
 public:
  explicit LayerDrafter(DraftLayer* layer) : layer_(layer) {}
  Moment moment() const override { return Moment::kInStep; }
  bool ask(std::span<const int32_t>, int32_t count) override {
    tokens_.clear();
    return count > 0;
  }
  void deliver(size_t text_size, std::span<const int32_t> tokens) override;
  double seconds_each() const override { return layer_->seconds_each(); }
  DraftRecord* record() override { return layer_->record(); }
  int32_t propose(std::span<const int32_t> text, int32_t most,
                  std::vector<int32_t>* draft) override;

 private:
  DraftLayer* layer_;
  size_t text_size_ = 0;
  std::vector<int32_t> tokens_;
};

}  // namespace ponder::engine
