#include "backends/cuda/products.h"

#include <algorithm>

namespace ponder::cuda {
namespace {

// Hands out pieces of scratch memory one after the other; without memory it only counts.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(base) {}
  template <typename T>
  T* take(uint64_t bytes) {
    char* const at = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }
  uint64_t used() const { return used_; }

 private:
  char* const base_;
  uint64_t used_ = 0;
};

uint64_t floats(int64_t a, int64_t b) { return static_cast<uint64_t>(a * b) * sizeof(float); }

// Products with all of some stacks, their results side by side.
Status multiply(Stream s, std::span<const DeviceStack> stacks, Rows x, const Places& places,
                const float* bias, Rows out, FormedRows& formed) {
  for (const DeviceStack& stack : stacks) {
    const Weights& w = stack.weights;
    const void* rounded = nullptr;
    if (w.form == Form::kFloats) {
      formed.flush();
    } else {
      PONDER_ASSIGN_OR_RETURN(rounded, formed.get(w.form, x, places.x_rows, w.cols));
    }
    launch_product(s, w, x, rounded, places, bias, out);
    out.data += w.rows;
    if (bias != nullptr) bias += w.rows;
  }
  return OkStatus();
}

// What a round of experts works with.
struct ExpertRoom {
  int32_t* counts;    // [X]
  int32_t* from;      // [places]
  int32_t* place_of;  // [rows, top_k]
  RowTile* tiles;
  float* wide;    // [places, 2 F]
  void* between;  // silu(gate) * up, in the form of the down matrix
  float* narrow;  // [places, D]
};

ExpertRoom take_room(Pieces& pieces, const CudaExperts& e, int64_t rows, int64_t top_k) {
  const int64_t places = rows * top_k;
  const auto words = [](int64_t n) { return static_cast<uint64_t>(n) * sizeof(int32_t); };
  const Form down = e.down.weights.form;
  ExpertRoom room;
  room.counts = pieces.take<int32_t>(words(e.experts));
  room.from = pieces.take<int32_t>(words(places));
  room.place_of = pieces.take<int32_t>(words(places));
  // Tiles of one place are the most there can be.
  room.tiles = pieces.take<RowTile>(static_cast<uint64_t>(most_tiles(places, e.experts, 1)) *
                                    sizeof(RowTile));
  room.wide = pieces.take<float>(floats(places, 2 * e.width));
  room.between = pieces.take<void>(down == Form::kFloats ? floats(places, e.width)
                                                         : form_bytes(down, places, e.width));
  room.narrow = pieces.take<float>(floats(places, e.hidden));
  return room;
}

int64_t rows_of_round(int64_t rows, int64_t top_k, int64_t most_places) {
  return std::min(rows, std::max<int64_t>(1, most_places / top_k));
}

}  // namespace

Status run_linear(Stream s, const CudaWeight& weight, Rows x, const float* bias, Rows out,
                  int64_t rows, FormedRows& formed) {
  Places places;
  places.rows = places.x_rows = rows;
  return multiply(s, weight.stacks, x, places, bias, out, formed);
}

uint64_t experts_scratch_bytes(const CudaExperts& experts, int64_t rows, int64_t top_k,
                               int64_t most_places) {
  Pieces pieces(nullptr);
  take_room(pieces, experts, rows_of_round(rows, top_k, most_places), top_k);
  return pieces.used();
}

Status run_experts(Stream s, const CudaExperts& experts, Rows x, const ChosenExperts& chosen,
                   Rows out, int64_t rows, FormedRows& formed, char* scratch, int64_t most_places) {
  const int64_t top_k = chosen.top_k, round = rows_of_round(rows, top_k, most_places);
  Pieces pieces(scratch);
  const ExpertRoom room = take_room(pieces, experts, round, top_k);
  const Rows wide{room.wide, 2 * experts.width, 0}, narrow{room.narrow, experts.hidden, 0};
  const Weights& down = experts.down.weights;
  for (int64_t first = 0; first < rows; first += round) {
    const int64_t now = std::min(round, rows - first);
    Rows in = x, to = out, weights = chosen.weights;
    in.data += first * x.row;
    to.data += first * out.row;
    weights.data += first * weights.row;

    Places places;
    places.rows = now * top_k;
    places.x_rows = now;
    places.from = room.from;
    places.tiles = room.tiles;
    // An expert has no more places than there are rows, as a row's choices differ.
    places.tile_rows = expert_tile_rows(places.rows, experts.experts, now);
    places.tile_count = most_tiles(places.rows, experts.experts, places.tile_rows);
    launch_sort_choices(s, chosen.ids + first * chosen.id_row, chosen.id_row, now, top_k,
                        experts.experts, places.tile_rows, places.tile_count, room.counts,
                        room.from, room.place_of, room.tiles);
    PONDER_RETURN_IF_ERROR(multiply(s, experts.gate_up, in, places, nullptr, wide, formed));

    places.x_rows = places.rows;
    places.from = nullptr;
    Rows between{static_cast<float*>(room.between), experts.width, 0};
    if (down.form == Form::kFloats) {
      launch_swiglu(s, wide, between, places.rows, experts.width);
    } else {
      launch_form_rows(s, down.form, {RowSource::Kind::kGated, wide, nullptr, 0, {}}, room.between,
                       places.rows, experts.width);
    }
    launch_product(s, down, between, room.between, places, nullptr, narrow);
    launch_sum_choices(s, narrow, room.place_of, weights, to, now, top_k, experts.hidden);
  }
  return OkStatus();
}

void ProductNeeds::note(std::span<const DeviceStack> stacks) {
  for (const DeviceStack& stack : stacks) {
    const std::pair form(stack.weights.form, stack.weights.cols);
    if (std::find(forms_.begin(), forms_.end(), form) == forms_.end()) forms_.push_back(form);
  }
}

void ProductNeeds::note(const CudaWeight& weight) { note(weight.stacks); }

void ProductNeeds::note(const CudaExperts& experts, int64_t top_k) {
  note(experts.gate_up);
  for (const auto& [shape, k] : mixtures_) {
    if (k == top_k && shape.experts == experts.experts && shape.width == experts.width &&
        shape.hidden == experts.hidden && shape.down.weights.form == experts.down.weights.form) {
      return;
    }
  }
  Mixture& mixture = mixtures_.emplace_back();
  mixture.top_k = top_k;
  mixture.shape.experts = experts.experts;
  mixture.shape.width = experts.width;
  mixture.shape.hidden = experts.hidden;
  mixture.shape.down.weights = experts.down.weights;
}

uint64_t ProductNeeds::formed_bytes(int64_t rows) const {
  uint64_t most = 0;
  for (const auto& [form, cols] : forms_) most = std::max(most, form_bytes(form, rows, cols));
  return most;
}

uint64_t ProductNeeds::scratch_bytes(int64_t rows) const {
  uint64_t most = 0;
  for (const auto& [shape, top_k] : mixtures_) {
    most = std::max(most, experts_scratch_bytes(shape, rows, top_k));
  }
  return most;
}

void ProductNeeds::clear() {
  forms_.clear();
  mixtures_.clear();
}

}  // namespace ponder::cuda
