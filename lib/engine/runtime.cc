#include "lib/engine/runtime.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/engine/engine.h"
#include "lib/engine/model.h"

namespace ponder::engine {

Runtime::Runtime(RuntimeOptions options) : options_(std::move(options)) {}

StatusOr<std::shared_ptr<Runtime>> Runtime::create(RuntimeOptions options) {
  if (options.allocator == nullptr) {
    options.allocator = std::shared_ptr<Allocator>(default_allocator(), [](Allocator*) {});
  }
  if (options.pool == nullptr) {
    PONDER_ASSIGN_OR_RETURN(options.pool, make_thread_pool(options.threads));
  }
  std::shared_ptr<Runtime> runtime(new Runtime(std::move(options)));
  const BackendContext context{runtime->allocator(), runtime->pool(), runtime->log()};
  {
    absl::MutexLock lock(&runtime->devices_mu_);
    for (const BackendFactory* factory : builtin_backends()) {
      uint32_t index = 0;
      for (DeviceInfo& info : factory->devices(context)) {
        runtime->device_infos_.push_back(std::move(info));
        runtime->devices_.push_back({factory, index++, nullptr});
      }
    }
  }
  if (!runtime->host_driven()) {
    try {
      runtime->driver_ = std::thread([raw = runtime.get()] { raw->drive(); });
    } catch (const std::system_error& e) {
      return out_of_memory_error("could not start the engine's thread: ", e.what());
    }
  }
  return runtime;
}

Runtime::~Runtime() {
  stop_.store(true);
  notify();
  if (driver_.joinable()) driver_.join();
}

StatusOr<Backend*> Runtime::backend(uint32_t index) {
  absl::MutexLock lock(&devices_mu_);
  if (index >= devices_.size()) {
    return not_found_error("device ", index, " does not exist; there are ", devices_.size(),
                           ", counted from 0");
  }
  DeviceSlot& slot = devices_[index];
  if (slot.backend == nullptr) {
    PONDER_ASSIGN_OR_RETURN(slot.backend,
                            slot.factory->create(slot.index, {allocator(), pool(), log()}));
  }
  return slot.backend.get();
}

StatusOr<Backend*> Runtime::processor() {
  for (uint32_t i = 0; i < device_infos_.size(); ++i) {
    if (device_infos_[i].kind == DeviceInfo::Kind::kCpu) return backend(i);
  }
  return unsupported_error("this build cannot compute on the processor");
}

// ---- driving ----------------------------------------------------------------------------------

void Runtime::notify() {
  work_.fetch_add(1);
  work_.notify_all();
  if (host_driven()) wake_host();
}

bool Runtime::on_driver_thread() const {
  return driver_id_.load() == std::this_thread::get_id();
}

void Runtime::drive() {
  driver_id_.store(std::this_thread::get_id());
  while (!stop_.load()) {
    const uint32_t seen = work_.load();  // before looking: a later notify() is then not missed
    if (run_slice()) continue;
    if (!stop_.load()) work_.wait(seen);
  }
}

bool Runtime::run_slice() {
  // One model after another; the first that has work gets one slice.
  size_t tried = 0;
  bool waiting = false;  // one waits for another, which will have work by then
  while (true) {
    Model* model = nullptr;
    {
      absl::MutexLock lock(&models_mu_);
      if (models_.empty() || tried >= models_.size()) return waiting;
      model = models_[next_model_++ % models_.size()];
      active_ = model;
    }
    ++tried;
    const Engine::Progress progress = model->engine().run_slice();
    {
      absl::MutexLock lock(&models_mu_);
      active_ = nullptr;
    }
    if (progress == Engine::Progress::kWorked) return true;
    waiting |= progress == Engine::Progress::kWaiting;
  }
}

StatusOr<bool> Runtime::poll(uint64_t budget_us) {
  if (!host_driven()) {
    return unsupported_error(
        "poll is for runtimes made with PONDER_DRIVE_HOST; this one has its own thread");
  }
  if (polling_.exchange(true)) {
    return busy_error("poll is already running, on another thread or further up this one");
  }
  driver_id_.store(std::this_thread::get_id());
  const absl::Time end = budget_us > static_cast<uint64_t>(INT64_MAX)
                             ? absl::InfiniteFuture()
                             : absl::Now() + absl::Microseconds(static_cast<int64_t>(budget_us));
  {
    absl::MutexLock lock(&models_mu_);
    for (Model* model : models_) model->engine().set_slice_budget(budget_us);
  }
  bool more = true;
  do {
    more = run_slice();
  } while (more && absl::Now() < end);
  driver_id_.store(std::thread::id());
  polling_.store(false);
  return more;
}

StatusOr<bool> Runtime::wait(const GenerationState& state, uint64_t timeout_us) {
  if (on_driver_thread()) return busy_error("waiting was asked for inside a callback");
  if (!host_driven()) return state.wait(timeout_us);
  const absl::Time end = timeout_us > static_cast<uint64_t>(INT64_MAX)
                             ? absl::InfiniteFuture()
                             : absl::Now() + absl::Microseconds(static_cast<int64_t>(timeout_us));
  while (!state.wait(0)) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    // Short turns: news is looked for after each.
    const absl::Duration turn = std::min(left, absl::Milliseconds(1));
    PONDER_ASSIGN_OR_RETURN(const bool more,
                            poll(static_cast<uint64_t>(absl::ToInt64Microseconds(turn))));
    if (!more && !state.wait(0)) {
      return internal_error("the runtime has nothing to do, but a generation has not ended");
    }
  }
  return true;
}

// ---- who there is -------------------------------------------------------------------------------

void Runtime::add_model(Model* model) {
  absl::MutexLock lock(&models_mu_);
  models_.push_back(model);
}

void Runtime::remove_model(Model* model) {
  absl::MutexLock lock(&models_mu_);
  models_.erase(std::remove(models_.begin(), models_.end(), model), models_.end());
  auto let_go = [this, model]() ABSL_SHARED_LOCKS_REQUIRED(models_mu_) { return active_ != model; };
  models_mu_.Await(absl::Condition(&let_go));
}

void Runtime::add_generation(Generation* generation) {
  absl::MutexLock lock(&generations_mu_);
  generations_.push_back(generation);
}

void Runtime::remove_generation(Generation* generation) {
  absl::MutexLock lock(&generations_mu_);
  generations_.erase(std::remove(generations_.begin(), generations_.end(), generation),
                     generations_.end());
}

void* Runtime::next_ready() {
  absl::MutexLock lock(&generations_mu_);
  for (size_t i = 0; i < generations_.size(); ++i) {
    Generation* g = generations_[next_generation_++ % generations_.size()];
    void* const handle = g->handle.load();
    if (handle != nullptr && g->take_news()) return handle;
  }
  return nullptr;
}

void Runtime::set_waker(Waker waker) {
  absl::MutexLock lock(&waker_mu_);
  waker_ = waker;
}

void Runtime::wake_host() const {
  Waker waker;
  {
    absl::MutexLock lock(&waker_mu_);
    waker = waker_;
  }
  waker.wake();
}

}  // namespace ponder::engine
