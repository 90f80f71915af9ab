// Engine: continuous batching of one model's sequences. Plan, run, commit.
//
//   plan    (lock held)  admit waiting sequences, hand out rows and pages -> Step, plain data
//   run     (no lock)    begin, each layer, end, and the draft layer's passes: a slice each, so
//                        that cancel and the host's frame budget take effect at the next boundary
//   commit  (lock held)  advance the timelines, publish full blocks, append the sampled tokens
//
// Only commit changes sequences, so a step that fails or is abandoned leaves no trace.
//
// Threads: run_slice() and set_slice_budget() belong to the driver; the rest may be called from any
// thread. mu_ guards the block cache, all timelines and the queue of newcomers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/allocator.h"
#include "lib/base/status.h"
#include "lib/engine/draft_layer.h"
#include "lib/engine/draft_planner.h"
#include "lib/engine/generation.h"
#include "lib/engine/model.h"
#include "lib/engine/row_reader.h"
#include "lib/engine/sequence.h"
#include "lib/exec/exec.h"
#include "lib/exec/loader.h"
#include "lib/kv/block_cache.h"
#include "lib/models/model.h"

namespace ponder::engine {

class Engine {
 public:
  struct Options {
    uint32_t context = 0;      // tokens of one timeline at the most
    uint64_t kv_bytes = 0;     // of the whole cache; covers at least one full context
    DType kv_dtype = DType::kF32;
    int32_t max_batch = 64;    // sequences in a step
    int32_t step_tokens = 512; // rows in a step
  };

  // Allocates the KV cache and the step's arena; everything passed outlives the engine.
  static StatusOr<std::unique_ptr<Engine>> create(Model* model, Backend* backend,
                                                  std::unique_ptr<ModelGraph> graph,
                                                  std::unique_ptr<WeightStore> weights,
                                                  const Options& options);
  ~Engine();

  // ---- driver ----
  enum class Progress {
    kIdle,     // nothing to do
    kWaiting,  // for another model's drafts
    kWorked,
  };
  // At most one layer of one step.
  Progress run_slice();
  // Prefill chunks shrink so that a layer fits; 0: no limit.
  void set_slice_budget(uint64_t budget_us) { slice_budget_us_ = budget_us; }
  // Of this model as drafter for others: what a drafted token takes (0: not known yet), and how its
  // drafts fare.
  double draft_seconds() const { return draft_seconds_; }
  DraftRecord* draft_record() { return &draft_record_; }

  // ---- timelines ----
  // Gives its pages back, under the lock, when its last holder lets go of it.
  std::shared_ptr<Timeline> add_timeline() ABSL_LOCKS_EXCLUDED(mu_);
  std::shared_ptr<Timeline> fork_timeline(const Timeline& from);  // must not be busy
  // Runs fn with the lock held.
  template <typename Fn>
  auto with_lock(Fn fn) const {
    absl::MutexLock lock(&mu_);
    return fn();
  }
  // Makes `prompt` the timeline's text, keeping what is computed of it, and queues the sequence.
  void submit(std::unique_ptr<Sequence> sequence, std::vector<int32_t> prompt);

  // For a sequence of this engine; nullptr: the model was loaded without a draft layer.
  std::shared_ptr<Drafter> make_layer_drafter();

  ModelStats stats() const;
  uint32_t context() const { return options_.context; }

 private:
  // A token that follows a row, and the gate as it was when the token was chosen.
  struct Choice {
    SampledToken token;
    ReasoningGate gate;
    int32_t said;  // what the gate makes of it: this joins the text
  };
  // One sequence's share of a step: rows of tokens that it owns, then rows of drafted ones.
  struct Item {
    Sequence* sequence;
    int32_t first_row;
    int32_t rows;
    int32_t first_position;
    std::vector<int32_t> pages;
    bool wants_logits;  // of its last own row and the drafted ones, or of all rows when it scores
    std::vector<int32_t> draft;
    // The text with the draft, where the sampler looks at it.
    std::vector<int32_t> text;
    // What follows the last own row, then what follows each drafted token that proved right.
    std::vector<Choice> choices;
    bool settled = false;  // no more choices: the rows left are of drafts that are wrong
    int32_t wanted = 0;    // tokens that the draft pass makes for the next step
    int32_t likeliest = -1;  // of one that drafts for another model: what follows its last row
  };
  struct Step {
    std::vector<Item> items;
    std::vector<int32_t> tokens, positions, logit_rows;
    std::vector<SequenceSlice> slices;
    Batch batch;
    int next_slice = 0;      // 0: begin, 1..L: layers, then logits
    size_t next_logits = 0;  // into logit_rows
    bool drafting = false;   // the logits are read, the draft layer has begun
    std::vector<int32_t> logit_items;  // [R]: which item each of logit_rows belongs to
    Tensor h;
    absl::Time started;
  };

  Engine(Model* model, Backend* backend, std::unique_ptr<ModelGraph> graph,
         std::unique_ptr<WeightStore> weights, const Options& options, const KvLayout& layout);

  Status allocate();
  Progress run_slice_or_throw();
  bool plan() ABSL_LOCKS_EXCLUDED(mu_);
  void admit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Room for `rows` more tokens, taking pages back from the idle and from later sequences; false:
  // not now, and the sequence may have ended.
  bool make_room(Sequence* sequence, int32_t rows) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Room for up to `wanted` drafted tokens after the `rows` that there is room for, without taking
  // anything that anybody holds or may want to find again. Returns how many fit.
  int32_t room_for_drafts(Sequence* sequence, int32_t rows, int32_t wanted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Which idle timeline with pages was used least recently; nullptr: none has any.
  Timeline* longest_idle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Status copy_page(const PageCopy& copy);
  void run_logits();
  // What a reduced row of logits must have to do for its sequence.
  RowNeeds row_needs(const Item& item, int32_t row) const;
  // What one row of logits means for its sequence. A sequence's rows are read in order, by one
  // thread at a time. False: the reduced row does not tell, nothing has changed.
  StatusOr<bool> read_row(Item& item, int32_t row, const LogitRow& logits);
  StatusOr<bool> score_row(const Item& item, int32_t row, const LogitRow& logits);
  StatusOr<bool> choose(Item& item, const LogitRow& logits);
  // The token that row `row` of a sequence that is scored should give; -1: the text ends there.
  int32_t scored_token(const Item& item, int32_t row) const;
  void commit() ABSL_LOCKS_EXCLUDED(mu_);
  // Seconds in slices since this was last asked: all that steps take, planning included, without
  // what a host does between two polls.
  double take_busy();
  // Returns how many tokens the item's sequence got.
  size_t take_choices(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void take_token(Sequence& s, const SampledToken& token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void abandon(const Status& failure);  // every sequence of the step fails
  void fail_waiting(const Status& failure) ABSL_LOCKS_EXCLUDED(mu_);
  void reap();  // cancelled and ended sequences leave, their hosts are told
  void set_admitted(Sequence* sequence, bool admitted);
  void set_ended(Sequence* sequence);
  void finish(Sequence* sequence, Finish reason);
  void fail(Sequence* sequence, const Status& status);
  void tell() ABSL_LOCKS_EXCLUDED(mu_);  // wakes the hosts of what was published
  int64_t row_budget() const;

  // ---- speculation: engine_drafts.cc ----
  // Drafters begin what pays. True: the next step waits for them.
  bool wait_for_drafts();
  // What the draft pass is to make for each of `chosen`, of whom some are null, for the next step.
  std::vector<int32_t> want_drafts(std::span<Sequence* const> chosen, std::span<const int32_t> rows)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The rows that stay, with the tokens after them.
  DraftPairs pairs_of(const Step& step) const;
  void run_draft_layer();
  // What others' drafts ask of this model.
  void drop_drafts_without_room() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void take_draft(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void measure_drafts(const Step& step, double seconds);

  Model* model_;
  Backend* backend_;
  std::unique_ptr<WeightStore> weights_;  // before graph_, whose views point into it
  std::unique_ptr<ModelGraph> graph_;
  Options options_;
  KvLayout kv_layout_;
  std::vector<Buffer> kv_;  // by layer
  Buffer arena_;
  Buffer logits_;  // host copy of up to kLogitRows rows
  std::optional<RowReader> reader_;  // once there is memory
  Exec exec_;
  const Status no_memory_;  // made beforehand: copying it takes no memory

  mutable absl::Mutex mu_;
  BlockCache cache_ ABSL_GUARDED_BY(mu_);
  std::vector<Timeline*> timelines_ ABSL_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Sequence>> newcomers_ ABSL_GUARDED_BY(mu_);
  ModelStats totals_ ABSL_GUARDED_BY(mu_);
  // Sequences that have not ended, and those of them that were admitted.
  std::atomic<uint32_t> active_{0}, admitted_{0};
  double prefill_s_ ABSL_GUARDED_BY(mu_) = 0, decode_s_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t prefill_rows_ ABSL_GUARDED_BY(mu_) = 0, decode_rows_ ABSL_GUARDED_BY(mu_) = 0;

  // The driver's own.
  std::vector<std::unique_ptr<Sequence>> waiting_, running_;  // oldest first
  std::optional<Step> step_;
  Sequence* culprit_ = nullptr;  // whom an exception is about while planning or committing
  uint64_t slice_budget_us_ = 0;
  double us_per_row_ = 0;  // of one layer, as measured
  uint64_t steps_ = 0;
  absl::Time slice_began_;
  absl::Time round_began_ = absl::InfinitePast();  // the last step's end, if it only generated
  double busy_s_ = 0, taken_busy_s_ = 0;  // in slices before this one, and of that accounted for
  DraftPlanner drafts_;
  std::unique_ptr<DraftLayer> draft_layer_;  // null: none was loaded
  bool draft_layer_failed_ = false;          // it is left alone then; the text does not need it
  double draft_seconds_ = 0;
  DraftRecord draft_record_;
};

}  // namespace ponder::engine
