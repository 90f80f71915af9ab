#include "lib/engine/draft_layer.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "lib/sample/logprobs.h"

namespace ponder::engine {
namespace {

// Rows of `from` that a pass starts with.
Tensor taken(Exec& cx, const Tensor& from, std::span<const int32_t> rows) {
  Batch gather;
  gather.logit_rows = rows;
  return cx.rows_wanted(from, gather);
}

}  // namespace

DraftLayer::DraftLayer(const ModelGraph* graph, RowReader* reader)
    : graph_(graph), reader_(reader), most_texts_(static_cast<int32_t>(reader->most_rows())) {}

void DraftLayer::measure(const ModelGraph& graph, Exec& cx, const Batch& batch, const Tensor& h) {
  const int layers = graph.layers();
  Batch pass = batch;
  Tensor from = h;
  int slice = layers;
  // All rows of the step first; then a row of each text, which may fall into either half.
  for (int i = 0; i < 3; ++i) {
    cx.begin_step(pass);
    cx.start_slice(++slice);
    Tensor state = taken(cx, from, pass.positions);
    if (i == 0) state = graph.draft_state(cx, state);
    Tensor x = graph.draft_begin(cx, pass, state);
    cx.start_slice(++slice);
    x = graph.layer(cx, pass, layers, x);
    cx.start_slice(++slice);
    from = graph.draft_end(cx, pass, x).state;
    pass.tokens = pass.positions = batch.logit_rows;
  }
}

void DraftLayer::begin(DraftPairs pairs, const Tensor& h) {
  pairs_ = std::move(pairs);
  from_ = h;
  int32_t texts = 0;
  for (DraftPairs::Text& text : pairs_.texts) {
    if (text.wanted > 0 && ++texts > most_texts_) text.wanted = 0;
  }
  pass_ = part_ = 0;
  slice_ = graph_->layers();
  seconds_ = 0;
  done_ = pairs_.tokens.empty();
}

void DraftLayer::collect() {
  const std::vector<int32_t> last_rows = std::exchange(logit_rows_, {});
  const std::vector<size_t> last_whose = std::exchange(whose_, {});
  tokens_.clear();
  positions_.clear();
  rows_.clear();
  slices_.clear();
  const auto add = [this](size_t i, int32_t rows, int32_t first_position) {
    const DraftPairs::Text& text = pairs_.texts[i];
    const auto row = static_cast<int32_t>(positions_.size());
    slices_.push_back({row, rows, first_position, text.pages});
    for (int32_t r = 0; r < rows; ++r) positions_.push_back(first_position + r);
    if (text.wanted <= pass_) return;
    logit_rows_.push_back(row + rows - 1);
    whose_.push_back(i);
  };
  if (pass_ == 0) {
    tokens_ = pairs_.tokens;
    rows_ = pairs_.rows;
    for (size_t i = 0; i < pairs_.texts.size(); ++i) {
      add(i, pairs_.texts[i].rows, pairs_.texts[i].first_position);
    }
  } else {  // the rows that gave a token, with that token, of texts that want one more
    for (size_t r = 0; r < last_whose.size(); ++r) {
      const DraftPairs::Text& text = pairs_.texts[last_whose[r]];
      if (text.wanted <= pass_) continue;
      tokens_.push_back(text.made.back());
      rows_.push_back(last_rows[r]);
      add(last_whose[r], 1, text.first_position + text.rows - 1 + pass_);
    }
  }
  batch_ = {tokens_, positions_, slices_, logit_rows_};
}

Status DraftLayer::run_slice(Exec& cx) {
  const absl::Time start = absl::Now();
  // The pairs of all rows are computed in any case; logits and further passes are for drafts.
  const bool for_drafts = pass_ > 0 || part_ == 2;
  if (part_ == 0) {
    collect();
    cx.begin_step(batch_);
    cx.start_slice(++slice_);
    Tensor state = taken(cx, from_, rows_);
    if (pass_ == 0) state = graph_->draft_state(cx, state);
    h_ = graph_->draft_begin(cx, batch_, state);
    part_ = 1;
  } else if (part_ == 1) {
    cx.start_slice(++slice_);
    h_ = graph_->layer(cx, batch_, graph_->layers(), h_);
    part_ = 2;
    done_ = whose_.empty();
  } else {
    cx.start_slice(++slice_);
    const ModelGraph::Draft draft = graph_->draft_end(cx, batch_, h_);
    from_ = draft.state;
    PONDER_RETURN_IF_ERROR(cx.status());
    PONDER_RETURN_IF_ERROR(take(draft.logits));
    ++pass_;
    part_ = 0;
    done_ = std::none_of(whose_.begin(), whose_.end(),
                         [this](size_t i) { return pairs_.texts[i].wanted > pass_; });
  }
  if (for_drafts) seconds_ += absl::ToDoubleSeconds(absl::Now() - start);
  if (!done_ || !cx.status().ok()) return cx.status();
  size_t made = 0;
  for (const DraftPairs::Text& text : pairs_.texts) made += text.made.size();
  if (made > 0) settle(&seconds_each_, seconds_ / static_cast<double>(made));
  return OkStatus();
}

// The likeliest token of each row.
Status DraftLayer::take(const Tensor& logits) {
  const size_t n = whose_.size();
  PONDER_RETURN_IF_ERROR(reader_->read(logits, std::vector<RowNeeds>(n)));
  for (size_t r = 0; r < n; ++r) {
    StatusOr<int32_t> token = likeliest(reader_->row(r));
    if (token.ok() && *token < 0) {
      PONDER_RETURN_IF_ERROR(reader_->fetch(r));
      token = likeliest(reader_->row(r));
    }
    PONDER_RETURN_IF_ERROR(token.status());
    pairs_.texts[whose_[r]].made.push_back(*token);
  }
  return OkStatus();
}

// ---- the drafter --------------------------------------------------------------------------------

void LayerDrafter::deliver(size_t text_size, std::span<const int32_t> tokens) {
  text_size_ = text_size;
  tokens_.assign(tokens.begin(), tokens.end());
}

int32_t LayerDrafter::propose(std::span<const int32_t> text, int32_t most,
                              std::vector<int32_t>* draft) {
  draft->clear();
  if (text.size() != text_size_) return 0;
  const size_t n = std::min(tokens_.size(), static_cast<size_t>(std::max(most, 0)));
  draft->assign(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(n));
  return 0;
}

}  // namespace ponder::engine
