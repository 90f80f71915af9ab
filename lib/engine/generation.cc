#include "lib/engine/generation.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "lib/engine/model.h"
#include "lib/engine/runtime.h"
#include "lib/engine/session.h"

namespace ponder::engine {

void GenerationState::publish(Event event) {
  Waker waker;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    ended_ = event.kind == EventKind::kFinished;
    events_.push_back(std::move(event));
    waker = waker_;
  }
  waker.wake();
}

void GenerationState::fail(Status status) {
  Waker waker;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    ended_ = true;
    failure_ = std::move(status);
    waker = waker_;
  }
  waker.wake();
}

void GenerationState::update(const GenerationStats& stats) {
  absl::MutexLock lock(&mu_);
  stats_ = stats;
}

GenerationState::Next GenerationState::next(Event* event, Status* failure) {
  absl::MutexLock lock(&mu_);
  if (!events_.empty()) {
    *event = std::move(events_.front());
    events_.pop_front();
    return Next::kEvent;
  }
  if (!failure_.ok()) {
    failure_told_ = true;
    *failure = failure_;
    return Next::kFailed;
  }
  return ended_ ? Next::kDone : Next::kPending;
}

bool GenerationState::has_news() const {
  absl::MutexLock lock(&mu_);
  return !events_.empty() || (!failure_.ok() && !failure_told_);
}

bool GenerationState::wait(uint64_t timeout_us) const {
  // After the end there is always news: DONE, or the failure again.
  auto news = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return !events_.empty() || ended_; };
  absl::MutexLock lock(&mu_);
  if (timeout_us > static_cast<uint64_t>(INT64_MAX)) {
    mu_.Await(absl::Condition(&news));
    return true;
  }
  return mu_.AwaitWithTimeout(absl::Condition(&news),
                              absl::Microseconds(static_cast<int64_t>(timeout_us)));
}

GenerationStats GenerationState::stats() const {
  absl::MutexLock lock(&mu_);
  return stats_;
}

void GenerationState::set_waker(Waker waker) {
  absl::MutexLock lock(&mu_);
  waker_ = waker;
}

Generation::Generation(std::shared_ptr<Session> session, std::shared_ptr<GenerationState> state)
    : session_(std::move(session)), state_(std::move(state)) {
  session_->model()->runtime()->add_generation(this);
}

Generation::~Generation() {
  set_waker({});
  cancel();
  session_->model()->runtime()->remove_generation(this);
}

void Generation::cancel() {
  state_->cancelled.store(true);
  session_->model()->runtime()->notify();
}

void Generation::close_thought() {
  state_->close_thought.store(true);
  session_->model()->runtime()->notify();
}

StatusOr<bool> Generation::wait(uint64_t timeout_us) {
  Runtime& runtime = *session_->model()->runtime();
  if (!runtime.host_driven()) {
    if (runtime.on_driver_thread()) return busy_error("wait() was called inside a callback");
    return state_->wait(timeout_us);
  }
  const absl::Time end = timeout_us > static_cast<uint64_t>(INT64_MAX)
                             ? absl::InfiniteFuture()
                             : absl::Now() + absl::Microseconds(static_cast<int64_t>(timeout_us));
  while (!state_->wait(0)) {
    const int64_t left_us = absl::ToInt64Microseconds(end - absl::Now());
    if (left_us <= 0) return false;
    // A short budget: news is looked for after each slice or two.
    PONDER_ASSIGN_OR_RETURN(
        bool more, runtime.poll(static_cast<uint64_t>(std::min<int64_t>(left_us, 1000))));
    // Nothing to do and no news cannot last: another thread is polling, or the end is being told.
    if (!more && !state_->wait(0)) return state_->wait(static_cast<uint64_t>(left_us));
  }
  return true;
}

}  // namespace ponder::engine
