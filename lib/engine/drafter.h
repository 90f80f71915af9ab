// Drafters propose how a text may go on, and the model verifies it.
//
// A proposal can be wrong in any way; only speed hangs on it. One drafter per sequence, used by the
// driver alone. There are three: NgramDrafter looks into the text, LayerDrafter (draft_layer.h) has
// the checkpoint's own layer guess, ModelDrafter (draft_model.h) a second model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ponder::engine {

struct DraftRecord;  // lib/engine/drafting.h

class Drafter {
 public:
  // How good a proposal looks; each kind has its own acceptance statistics.
  static constexpr int32_t kKinds = 3;
  // When tokens are made.
  enum class Moment {
    kAtOnce,   // by propose(), at next to no cost: nobody asks before
    kInStep,   // as the last part of the step that is planned when it is asked; see deliver()
    kBetween,  // between two steps: the text's next step waits while working() says so
  };

  virtual ~Drafter() = default;
  virtual Moment moment() const { return Moment::kAtOnce; }

  // Of kInStep and kBetween: up to `count` tokens, at least one, are wanted after `text` (kInStep:
  // after what the step adds to it). What was made for an earlier text is forgotten. False: nobody
  // works for it.
  virtual bool ask(std::span<const int32_t> /*text*/, int32_t /*count*/) { return false; }
  // Tokens that were asked for will be there if the text waits.
  virtual bool working() { return false; }
  // kInStep: the step's draft pass made these for the text that will then have `text_size` tokens.
  virtual void deliver(size_t /*text_size*/, std::span<const int32_t> /*tokens*/) {}
  // What making a token costs; 0: nothing, or not known yet.
  virtual double seconds_each() const { return 0; }
  // What is known of the maker's drafts for all texts; nullptr: each text has to find out.
  virtual DraftRecord* record() { return nullptr; }

  // Fills *draft with at most `most` tokens that may follow `text`, or none; returns its kind, in
  // [0, kKinds). `text` is that of the last call, longer.
  virtual int32_t propose(std::span<const int32_t> text, int32_t most,
                          std::vector<int32_t>* draft) = 0;
};

// Prompt lookup: what followed when the end of the text stood in it before. Among the newest kTries
// places where the last two tokens stand, the one that agrees with most of what precedes them.
// Text that repeats itself is followed round and round. The kind: 2 and 3 tokens agree, 4 to 7, more.
class NgramDrafter : public Drafter {
 public:
  int32_t propose(std::span<const int32_t> text, int32_t most,
                  std::vector<int32_t>* draft) override;

 private:
  static constexpr int32_t kNone = -1;
  static constexpr int kTries = 64;
  static constexpr int kMaxMatch = 32;  // agreeing more than so far back makes no difference

  void index(std::span<const int32_t> text);
  size_t bucket(int32_t first, int32_t second) const;

  // Chains of the places i whose pair (text[i - 1], text[i]) falls into a bucket, newest first.
  std::vector<int32_t> buckets_;
  std::vector<int32_t> before_;  // [i]: the next in i's chain
};

}  // namespace ponder::engine
