// One request under way, as its host sees it: a queue of events, and three signals back.
//
// Threads: next(), wait() and stats() are for one thread at a time (the host's); cancel(),
// close_thought() and set_waker() may come from any thread at any time, callbacks included. The
// driver publishes through GenerationState, which it shares with the public Generation.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/status.h"

namespace ponder::engine {

class Session;
class Runtime;

enum class EventKind : int32_t {
  kStarted = 1,
  kPrefill = 2,
  kThought = 3,
  kThoughtEnd = 4,
  kAnswer = 5,
  kToolCall = 6,
  kFinished = 7,
};

enum class Finish : int32_t {
  kNone = 0,
  kStop = 1,
  kLength = 2,
  kTool = 3,
  kCancelled = 4,
  kBudget = 5,
  kHost = 6,
};

struct Event {
  EventKind kind = EventKind::kStarted;
  Finish finish = Finish::kNone;
  std::string text, name, id;
  std::vector<int32_t> tokens;      // FINISHED: all generated ids, markers and end-of-text included
  std::vector<float> logprobs;      // per token, if asked for
  std::vector<int32_t> top_tokens;  // [tokens, top_count]
  std::vector<float> top_logprobs;
  uint32_t top_count = 0;
  uint32_t prompt_tokens = 0, cached_tokens = 0, done_tokens = 0;
  uint32_t thought_tokens = 0, answer_tokens = 0;
};

struct GenerationStats {
  uint64_t prompt_tokens = 0, cached_tokens = 0, thought_tokens = 0, answer_tokens = 0;
  uint64_t steps = 0, preemptions = 0;
  uint64_t prefill_us = 0, decode_us = 0;  // wall time from submission to first token, and after it
  uint64_t decode_tokens = 0;              // tokens that decode_us covers
  uint64_t drafted_tokens = 0, accepted_tokens = 0;  // verified, and found right
};

// "Poll again": payload-free, any thread.
struct Waker {
  void (*fn)(void* user) = nullptr;
  void* user = nullptr;
  void wake() const {
    if (fn != nullptr) fn(user);
  }
};

// Shared by the driver (which publishes) and the Generation (which pulls).
class GenerationState {
 public:
  // Driver side. The driver publishes with its own lock held and calls wake() after giving it back:
  // the host's waker runs without any lock of ours.
  void publish(Event event);
  void fail(const Status& status);  // the last thing published; takes no memory
  bool wake();  // runs the waker if anything was published since the last time, and says so
  void update(const GenerationStats& stats);

  // Host side.
  enum class Next { kEvent, kPending, kDone, kFailed };
  Next next(Event* event, Status* failure);
  // Something has been published since this was last asked.
  bool take_news();
  // True when has_news() within the time; UINT64_MAX waits without limit.
  bool wait(uint64_t timeout_us) const;
  GenerationStats stats() const;
  void set_waker(Waker waker);
  // No waker, and none running any more when this returns. Not from inside a waker.
  void retire_waker();

  std::atomic<bool> cancelled{false};
  std::atomic<bool> close_thought{false};

 private:
  mutable absl::Mutex mu_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mu_);
  Status failure_ ABSL_GUARDED_BY(mu_);
  bool news_ ABSL_GUARDED_BY(mu_) = false;      // take_news() has not told it yet
  bool wake_due_ ABSL_GUARDED_BY(mu_) = false;  // wake() has not told it yet
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // FINISHED or failure has been published
  GenerationStats stats_ ABSL_GUARDED_BY(mu_);
  Waker waker_ ABSL_GUARDED_BY(mu_);
  int waking_ ABSL_GUARDED_BY(mu_) = 0;  // wakers running now
};

class Generation {
 public:
  // Made by Session::submit.
  Generation(std::shared_ptr<Session> session, std::shared_ptr<GenerationState> state);
  ~Generation();  // cancels if not done
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // kFailed fills *failure, again at each later call.
  GenerationState::Next next(Event* event, Status* failure) { return state_->next(event, failure); }
  // True: next() has news, or the end. False: the time ran out. Drives the runtime itself when it is
  // host-driven; busy_error when called inside a callback.
  StatusOr<bool> wait(uint64_t timeout_us);
  void cancel();
  void close_thought();
  void set_waker(Waker waker) { state_->set_waker(waker); }
  GenerationStats stats() const { return state_->stats(); }
  bool take_news() { return state_->take_news(); }

  // For the layer above: the handle that stands for this generation (Runtime::next_ready).
  std::atomic<void*> handle{nullptr};

 private:
  std::shared_ptr<Session> session_;
  std::shared_ptr<GenerationState> state_;
};

}  // namespace ponder::engine
