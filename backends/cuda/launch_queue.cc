#include "backends/cuda/launch_queue.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "absl/hash/hash.h"

namespace ponder::cuda {

void Launches::add(const LaunchShape& shape, std::span<const Argument> arguments) {
  Entry entry;
  entry.shape = shape;
  entry.first = static_cast<uint32_t>(offsets_.size());
  entry.count = static_cast<uint32_t>(arguments.size());
  for (const Argument& a : arguments) {
    offsets_.push_back(static_cast<uint32_t>(values_.size()));
    values_.resize(values_.size() + (a.size + sizeof(Unit) - 1) / sizeof(Unit));
    std::memcpy(&values_[offsets_.back()], a.value, a.size);
  }
  entries_.push_back(entry);
}

void Launches::clear() {
  entries_.clear();
  offsets_.clear();
  values_.clear();
}

void Launches::arguments(size_t i, std::vector<void*>* out) const {
  const Entry& entry = entries_[i];
  out->clear();
  for (uint32_t a = entry.first; a < entry.first + entry.count; ++a) {
    // The driver takes void** and does not write.
    out->push_back(const_cast<Unit*>(&values_[offsets_[a]]));
  }
}

uint64_t Launches::hash() const {
  const std::string_view bytes(reinterpret_cast<const char*>(values_.data()),
                               values_.size() * sizeof(Unit));
  uint64_t hash = absl::HashOf(bytes);
  for (const Entry& e : entries_) {
    hash = absl::HashOf(hash, e.shape.kernel, e.shape.grid[0], e.shape.grid[1], e.shape.grid[2],
                        e.shape.threads, e.shape.shared_bytes);
  }
  return hash;
}

bool Launches::operator==(const Launches& other) const {
  return entries_ == other.entries_ && offsets_ == other.offsets_ &&
         values_.size() == other.values_.size() &&
         (values_.empty() ||
          std::memcmp(values_.data(), other.values_.data(), values_.size() * sizeof(Unit)) == 0);
}

LaunchQueue::~LaunchQueue() {
  for (auto& [hash, known] : known_) {
    if (known.graph != nullptr) runner_->forget(known.graph);
  }
}

void LaunchQueue::add(const LaunchShape& shape, std::span<const Argument> arguments) {
  if (!failure_.ok()) return;
  pending_.add(shape, arguments);
  if (gathering_) return;
  failure_ = runner_->run(pending_);
  pending_.clear();
}

Status LaunchQueue::take_failure() { return std::exchange(failure_, OkStatus()); }

void LaunchQueue::make_room(size_t launches) {
  while (!known_.empty() &&
         (recorded_launches_ + launches > kMostLaunches || known_.size() >= kMostKnown)) {
    auto oldest = known_.begin();
    for (auto it = known_.begin(); it != known_.end(); ++it) {
      if (it->second.last_use < oldest->second.last_use) oldest = it;
    }
    if (oldest->second.graph != nullptr) {
      runner_->forget(oldest->second.graph);
      recorded_launches_ -= oldest->second.launches.size();
    }
    known_.erase(oldest);
  }
}

Status LaunchQueue::submit() {
  PONDER_RETURN_IF_ERROR(take_failure());
  if (pending_.size() == 0) return OkStatus();
  // Whatever happens, these launches are not kept.
  const Launches launches = std::exchange(pending_, Launches());
  const uint64_t hash = launches.hash();
  auto it = known_.find(hash);
  if (it == known_.end()) {
    make_room(0);
    it = known_.try_emplace(hash).first;
    it->second.last_use = ++clock_;
    ++stats_.run;
    return runner_->run(launches);
  }
  Known& known = it->second;
  known.last_use = ++clock_;
  if (known.graph != nullptr && known.launches == launches) {
    ++stats_.replayed;
    return runner_->replay(known.graph);
  }
  if (known.graph != nullptr || known.refused) {  // another with the same hash keeps its place
    ++stats_.run;
    return runner_->run(launches);
  }
  make_room(launches.size());  // `known` is the youngest and stays, but may have moved
  StatusOr<void*> graph = runner_->record(launches);
  it = known_.find(hash);
  if (!graph.ok() || it == known_.end()) {
    if (it != known_.end()) it->second.refused = true;
    ++stats_.run;
    return runner_->run(launches);
  }
  it->second.graph = *graph;
  it->second.launches = launches;
  recorded_launches_ += launches.size();
  ++stats_.recorded;
  return runner_->replay(*graph);
}

}  // namespace ponder::cuda
