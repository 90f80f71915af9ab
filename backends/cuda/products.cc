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

uint64_t most_form_bytes(std::span<const DeviceStack> stacks, int64_t rows) {
  uint64_t most = 0;
  for (const DeviceStack& stack : stacks) {
    most = std::max(most, form_bytes(stack.weights.form, rows, stack.weights.cols));
  }
  return most;
}

// Products with all of some stacks, their results side by side. `formed` has most_form_bytes.
void multiply(Stream s, std::span<const DeviceStack> stacks, Rows x, const Places& places,
              const float* bias, Rows out, void* formed) {
  Form held = Form::kFloats;
  for (const DeviceStack& stack : stacks) {
    const Weights& w = stack.weights;
    if (w.form != Form::kFloats && w.form != held) {
      launch_form_rows(s, w.form, x, false, formed, places.x_rows, w.cols);
      held = w.form;
    }
    launch_product(s, w, x, formed, places, bias, out);
    out.data += w.rows;
    if (bias != nullptr) bias += w.rows;
  }
}

// What a round of experts works with.
struct ExpertRoom {
  int32_t* counts;    // [X]
  int32_t* from;      // [places]
  int32_t* place_of;  // [rows, top_k]
  RowTile* tiles;
  void* formed;   // x
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
  room.formed = pieces.take<void>(most_form_bytes(e.gate_up, rows));
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

uint64_t linear_scratch_bytes(const CudaWeight& weight, int64_t rows) {
  return most_form_bytes(weight.stacks, rows);
}

void run_linear(Stream s, const CudaWeight& weight, Rows x, const float* bias, Rows out,
                int64_t rows, char* scratch) {
  Places places;
  places.rows = places.x_rows = rows;
  multiply(s, weight.stacks, x, places, bias, out, scratch);
}

uint64_t experts_scratch_bytes(const CudaExperts& experts, int64_t rows, int64_t top_k,
                               int64_t most_places) {
  Pieces pieces(nullptr);
  take_room(pieces, experts, rows_of_round(rows, top_k, most_places), top_k);
  return pieces.used();
}

void run_experts(Stream s, const CudaExperts& experts, Rows x, const ChosenExperts& chosen,
                 Rows out, int64_t rows, char* scratch, int64_t most_places) {
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
    multiply(s, experts.gate_up, in, places, nullptr, wide, room.formed);

    places.x_rows = places.rows;
    places.from = nullptr;
    Rows between{static_cast<float*>(room.between), experts.width, 0};
    if (down.form == Form::kFloats) {
      launch_swiglu(s, wide, between, places.rows, experts.width);
    } else {
      launch_form_rows(s, down.form, wide, true, room.between, places.rows, experts.width);
    }
    launch_product(s, down, between, room.between, places, nullptr, narrow);
    launch_sum_choices(s, narrow, room.place_of, weights, to, now, top_k, experts.hidden);
  }
}

void ProductNeeds::note(const CudaWeight& weight) {
  for (const DeviceStack& stack : weight.stacks) {
    const std::pair form(stack.weights.form, stack.weights.cols);
    if (std::find(forms_.begin(), forms_.end(), form) == forms_.end()) forms_.push_back(form);
  }
}

void ProductNeeds::note(const CudaExperts& experts, int64_t top_k) {
  const auto same_form = [](const DeviceStack& a, const DeviceStack& b) {
    return a.weights.form == b.weights.form && a.weights.cols == b.weights.cols;
  };
  for (const auto& [shape, k] : mixtures_) {
    if (k == top_k && shape.experts == experts.experts && shape.width == experts.width &&
        shape.hidden == experts.hidden && same_form(shape.down, experts.down) &&
        std::equal(shape.gate_up.begin(), shape.gate_up.end(), experts.gate_up.begin(),
                   experts.gate_up.end(), same_form)) {
      return;
    }
  }
  Mixture& mixture = mixtures_.emplace_back();
  mixture.top_k = top_k;
  mixture.shape.experts = experts.experts;
  mixture.shape.width = experts.width;
  mixture.shape.hidden = experts.hidden;
  mixture.shape.down.weights = experts.down.weights;
  for (const DeviceStack& stack : experts.gate_up) {
    mixture.shape.gate_up.emplace_back().weights = stack.weights;
  }
}

uint64_t ProductNeeds::bytes(int64_t rows) const {
  uint64_t most = 0;
  for (const auto& [form, cols] : forms_) most = std::max(most, form_bytes(form, rows, cols));
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
