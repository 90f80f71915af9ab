#include "backends/cuda/step_inputs.h"

#include <algorithm>
#include <cstring>

namespace ponder::cuda {
namespace {

constexpr uint64_t kLeast = uint64_t{64} << 10;

uint64_t aligned(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

bool same(const SequenceSlice& a, const SequenceSlice& b) {
  return a.first_row == b.first_row && a.rows == b.rows && a.first_position == b.first_position &&
         a.pages.data() == b.pages.data() && a.pages.size() == b.pages.size();
}

}  // namespace

Status StepInputs::reserve(Channel* channel, uint64_t bytes) {
  channel->turn ^= 1;
  // What was sent two turns ago has been read: as good as always true.
  PONDER_RETURN_IF_ERROR(device_->pass(channel->first_mark + channel->turn));
  if (bytes <= channel->capacity) return OkStatus();
  PONDER_RETURN_IF_ERROR(device_->drain());
  uint64_t capacity = std::max(kLeast, channel->capacity);
  while (capacity < bytes) capacity *= 2;
  channel->capacity = 0;
  PONDER_ASSIGN_OR_RETURN(channel->device,
                          DeviceBuffer::create(device_, capacity, "a step's inputs"));
  for (std::shared_ptr<char>& half : channel->staging) {
    void* const memory = device_->allocate_staging(capacity);
    if (memory == nullptr) {
      PONDER_RETURN_IF_ERROR(device_->use());
      return out_of_memory_error("no memory of the host that the device can read: ", capacity,
                                 " bytes for a step's inputs; use a smaller context");
    }
    half = std::shared_ptr<char>(static_cast<char*>(memory),
                                 [device = device_](char* p) { device->free_staging(p); });
  }
  channel->capacity = capacity;
  return OkStatus();
}

Status StepInputs::send(Channel* channel, void* device, uint64_t bytes) {
  PONDER_RETURN_IF_ERROR(
      device_->upload_staged(channel->staging[channel->turn].get(), device, bytes));
  return device_->mark(channel->first_mark + channel->turn);
}

Status StepInputs::send(const void* host, void* device, uint64_t bytes) {
  other_.first_mark = 2 * kBatches;
  PONDER_RETURN_IF_ERROR(reserve(&other_, bytes));
  std::memcpy(other_.staging[other_.turn].get(), host, bytes);
  return send(&other_, device, bytes);
}

Status StepInputs::stage(const Batch& batch, Staged* to) {
  if (to->batch != &batch) to->plans.clear();
  to->batch = nullptr;
  uint64_t rows = 0, pages = 0;
  for (const SequenceSlice& slice : batch.sequences) {
    rows = std::max(rows, static_cast<uint64_t>(slice.first_row + slice.rows));
    pages += slice.pages.size();
  }
  to->lists[0] = batch.tokens;
  to->lists[1] = batch.positions;
  to->lists[2] = batch.logit_rows;
  uint64_t bytes = aligned(rows * sizeof(RowPlace));
  for (int i = 0; i < 3; ++i) {
    to->at[i] = bytes;
    bytes += aligned(to->lists[i].size_bytes());
  }
  for (Planned& p : to->plans) {
    p.plan = plan_step(batch, p.shape);
    p.tiles_at = bytes;
    bytes += aligned(p.plan.tiles.size() * sizeof(Tile));
    p.rows_at = bytes;
    bytes += aligned(p.plan.rows.size() * sizeof(SplitRow));
  }
  // Last: there are more and more of them, and what is before keeps its address.
  to->pages_at = bytes;
  bytes += pages * sizeof(int32_t);
  PONDER_RETURN_IF_ERROR(reserve(&to->channel, bytes));
  char* const base = to->channel.staging[to->channel.turn].get();
  auto* const places = reinterpret_cast<RowPlace*>(base);
  std::fill_n(places, rows, RowPlace{0, 0});
  auto* const first_page = reinterpret_cast<int32_t*>(base + to->pages_at);
  int32_t* page = first_page;
  for (const SequenceSlice& slice : batch.sequences) {
    for (int32_t r = 0; r < slice.rows; ++r) {
      places[slice.first_row + r] = {slice.first_position + r,
                                     static_cast<int32_t>(page - first_page)};
    }
    page = std::copy(slice.pages.begin(), slice.pages.end(), page);
  }
  for (int i = 0; i < 3; ++i) {
    if (to->lists[i].empty()) continue;
    std::memcpy(base + to->at[i], to->lists[i].data(), to->lists[i].size_bytes());
  }
  for (const Planned& p : to->plans) {
    std::copy(p.plan.tiles.begin(), p.plan.tiles.end(), reinterpret_cast<Tile*>(base + p.tiles_at));
    std::copy(p.plan.rows.begin(), p.plan.rows.end(),
              reinterpret_cast<SplitRow*>(base + p.rows_at));
  }
  PONDER_RETURN_IF_ERROR(send(&to->channel, to->channel.device.data(), bytes));
  to->slices.assign(batch.sequences.begin(), batch.sequences.end());
  to->batch = &batch;
  to->last_use = ++clock_;
  return OkStatus();
}

Status StepInputs::begin(const Batch& batch) {
  Staged* place = &staged_[0];
  for (int i = 0; i < kBatches; ++i) {
    staged_[i].channel.first_mark = 2 * i;
    if (staged_[i].batch == &batch) {
      place = &staged_[i];
      std::erase_if(place->plans, [](const Planned& p) { return !p.used; });
      for (Planned& p : place->plans) p.used = false;
      break;
    }
    if (staged_[i].last_use < place->last_use) place = &staged_[i];
  }
  return stage(batch, place);
}

StatusOr<StepInputs::Staged*> StepInputs::staged(const Batch& batch) {
  const auto find_batch = [&]() -> Staged* {
    for (Staged& s : staged_) {
      if (s.batch == &batch && std::equal(s.slices.begin(), s.slices.end(), batch.sequences.begin(),
                                          batch.sequences.end(), same)) {
        return &s;
      }
    }
    return nullptr;
  };
  Staged* found = find_batch();
  if (found == nullptr) {
    PONDER_RETURN_IF_ERROR(begin(batch));
    found = find_batch();
  }
  found->last_use = ++clock_;
  return found;
}

StepInputs::Places StepInputs::places_of(const Staged& staged) {
  const char* const base = staged.channel.device.as<char>();
  return {reinterpret_cast<const RowPlace*>(base),
          reinterpret_cast<const int32_t*>(base + staged.pages_at)};
}

StatusOr<StepInputs::Places> StepInputs::places(const Batch& batch) {
  PONDER_ASSIGN_OR_RETURN(const Staged* const found, staged(batch));
  return places_of(*found);
}

StatusOr<StepInputs::Plan> StepInputs::plan(const Batch& batch, const PlanShape& shape) {
  PONDER_ASSIGN_OR_RETURN(Staged* const found, staged(batch));
  const auto find_shape = [&] {
    return std::find_if(found->plans.begin(), found->plans.end(),
                        [&](const Planned& p) { return p.shape == shape; });
  };
  auto planned = find_shape();
  if (planned == found->plans.end()) {
    found->plans.push_back({shape, {}, 0, 0, true});
    PONDER_RETURN_IF_ERROR(stage(batch, found));
    planned = find_shape();
  }
  planned->used = true;
  const char* const base = found->channel.device.as<char>();
  return Plan{&planned->plan, reinterpret_cast<const Tile*>(base + planned->tiles_at),
              reinterpret_cast<const SplitRow*>(base + planned->rows_at), places_of(*found)};
}

uint64_t StepInputs::plan_scratch_bytes(const Batch& batch) const {
  int64_t bytes = 0;
  for (const Staged& s : staged_) {
    if (s.batch != &batch) continue;
    for (const Planned& p : s.plans) bytes = std::max(bytes, p.plan.scratch_bytes);
  }
  return static_cast<uint64_t>(bytes);
}

StatusOr<const int32_t*> StepInputs::find(std::span<const int32_t> values) {
  for (Staged& s : staged_) {
    for (int i = 0; i < 3 && s.batch != nullptr; ++i) {
      if (s.lists[i].data() != values.data() || s.lists[i].size() != values.size()) continue;
      // The host's memory may be another step's by now.
      const char* const sent = s.channel.staging[s.channel.turn].get() + s.at[i];
      if (std::memcmp(sent, values.data(), values.size_bytes()) != 0) continue;
      return reinterpret_cast<const int32_t*>(s.channel.device.as<char>() + s.at[i]);
    }
  }
  other_.first_mark = 2 * kBatches;
  PONDER_RETURN_IF_ERROR(reserve(&other_, values.size_bytes()));
  std::copy(values.begin(), values.end(),
            reinterpret_cast<int32_t*>(other_.staging[other_.turn].get()));
  PONDER_RETURN_IF_ERROR(send(&other_, other_.device.data(), values.size_bytes()));
  return other_.device.as<int32_t>();
}

StatusOr<const float*> StepInputs::constant(std::span<const float> values) {
  for (const Constant& c : constants_) {
    if (std::equal(c.values.begin(), c.values.end(), values.begin(), values.end())) {
      return c.device.as<float>();
    }
  }
  Constant made{{values.begin(), values.end()}, {}};
  PONDER_ASSIGN_OR_RETURN(made.device,
                          DeviceBuffer::create(device_, values.size_bytes(), "rotary angles"));
  PONDER_RETURN_IF_ERROR(device_->upload(values.data(), made.device.data(), values.size_bytes()));
  PONDER_RETURN_IF_ERROR(device_->settle());
  constants_.push_back(std::move(made));
  return constants_.back().device.as<float>();
}

}  // namespace ponder::cuda
