#include "lib/engine/generation.h"

#include <utility>

#include "absl/time/time.h"
#include "lib/engine/model.h"
#include "lib/engine/runtime.h"
#include "lib/engine/session.h"

namespace ponder::engine {

void GenerationState::publish(Event event) {
  absl::MutexLock lock(&mu_);
  if (ended_) return;
  const bool last = event.kind == EventKind::kFinished;
  events_.push_back(std::move(event));
  ended_ = last;
  news_ = wake_due_ = true;
}

void GenerationState::fail(const Status& status) {
  absl::MutexLock lock(&mu_);
  if (ended_) return;
  ended_ = true;
  failure_ = status;
  news_ = wake_due_ = true;
}

bool GenerationState::wake() {
  Waker waker;
  {
    absl::MutexLock lock(&mu_);
    if (!std::exchange(wake_due_, false)) return false;
    waker = waker_;
    ++waking_;
  }
  waker.wake();
  absl::MutexLock lock(&mu_);
  --waking_;
  return true;
}

void GenerationState::retire_waker() {
  absl::MutexLock lock(&mu_);
  waker_ = {};
  auto at_rest = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return waking_ == 0; };
  mu_.Await(absl::Condition(&at_rest));
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
    *failure = failure_;
    return Next::kFailed;
  }
  return ended_ ? Next::kDone : Next::kPending;
}

bool GenerationState::take_news() {
  absl::MutexLock lock(&mu_);
  return std::exchange(news_, false);
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
  cancel();
  state_->retire_waker();
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
  return session_->model()->runtime()->wait(*state_, timeout_us);
}

}  // namespace ponder::engine
