#include "backends/onednn/route.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ponder::cpu {
namespace {

// Chooses the `count` best of scores[0, n): sets chosen[i] and clears nothing. Among equals the
// lower number wins. `count` is small beside a sort's logarithm times its constant.
void choose(const double* scores, size_t n, int32_t count, uint8_t* chosen) {
  std::fill(chosen, chosen + n, uint8_t{0});
  for (int32_t k = 0; k < count; ++k) {
    size_t best = n;
    for (size_t i = 0; i < n; ++i) {
      if (chosen[i] == 0 && (best == n || scores[i] > scores[best])) best = i;
    }
    chosen[best] = 1;
  }
}

double group_score(const double* scores, size_t size, bool top2) {
  double best = -INFINITY, second = -INFINITY;
  for (size_t i = 0; i < size; ++i) {
    second = std::max(second, std::min(best, scores[i]));
    best = std::max(best, scores[i]);
  }
  return top2 && size > 1 ? best + second : best;
}

// What one lane needs.
struct Room {
  std::vector<double> scores, biased, group_scores;
  std::vector<uint8_t> chosen;
};

// Scores are finite.
void route_row(const RouteParams& p, int64_t t, Room* room) {
  const RouterParams& router = p.router;
  const float* logits = p.logits.f32() + t * p.logits.stride[0];
  const size_t experts = room->scores.size();
  double* const scores = room->scores.data();
  double* const biased = room->biased.data();
  double highest = -INFINITY, total = 0;
  for (size_t e = 0; e < experts; ++e) highest = std::max(highest, double{logits[e]});
  for (size_t e = 0; e < experts; ++e) {
    scores[e] = router.sigmoid ? 1 / (1 + std::exp(-double{logits[e]}))
                               : std::exp(double{logits[e]} - highest);
    total += scores[e];
  }
  for (size_t e = 0; e < experts; ++e) {
    if (!router.sigmoid) scores[e] /= total;
    biased[e] = scores[e] + (p.bias.rank > 0 ? double{p.bias.f32()[e]} : 0.0);
  }
  const size_t groups = room->group_scores.size();
  if (groups > 1) {
    const size_t size = experts / groups;
    for (size_t g = 0; g < groups; ++g) {
      room->group_scores[g] = group_score(biased + g * size, size, router.group_by_top2);
    }
    choose(room->group_scores.data(), groups, router.groups_kept, room->chosen.data());
    for (size_t g = 0; g < groups; ++g) {
      if (room->chosen[g] == 0) std::fill_n(biased + g * size, size, -INFINITY);
    }
  }
  choose(biased, experts, router.top_k, room->chosen.data());
  double sum = 0;
  for (size_t e = 0; e < experts; ++e) {
    if (room->chosen[e] != 0) sum += scores[e];
  }
  const double factor = router.scale / (router.normalize && sum > 0 ? sum : 1.0);
  auto* ids = static_cast<int32_t*>(p.ids.data) + t * p.ids.stride[0];
  float* weights = p.weights.f32() + t * p.weights.stride[0];
  for (size_t e = 0; e < experts; ++e) {
    if (room->chosen[e] == 0) continue;
    *ids++ = static_cast<int32_t>(e);
    *weights++ = static_cast<float>(scores[e] * factor);
  }
}

}  // namespace

Status route(const RouteParams& p, const Workers& workers) {
  const int64_t rows = p.logits.dim[0];
  const auto experts = static_cast<size_t>(p.logits.dim[1]);
  for (int64_t t = 0; t < rows; ++t) {
    const float* logits = p.logits.f32() + t * p.logits.stride[0];
    float sum = 0;  // of zeros, unless something is not finite
    for (size_t e = 0; e < experts; ++e) sum += logits[e] * 0.0f;
    if (sum == 0.0f) continue;
    const auto* bad =
        std::find_if_not(logits, logits + experts, [](float v) { return std::isfinite(v); });
    return corrupt_error("the router's score of expert ", bad - logits, " for row ", t,
                         " of the step is ", *bad, "; the model's weights are damaged");
  }
  const auto groups = static_cast<size_t>(p.router.groups);
  const Room room{std::vector<double>(experts), std::vector<double>(experts),
                  std::vector<double>(groups), std::vector<uint8_t>(std::max(experts, groups))};
  const int64_t pieces = std::min<int64_t>(rows, workers.lanes());
  std::vector<Room> rooms(static_cast<size_t>(pieces), room);
  workers.tasks(pieces,
                12.0 * static_cast<double>(p.logits.dim[1]) * static_cast<double>(rows) /
                    static_cast<double>(std::max<int64_t>(pieces, 1)),
                [&](int64_t piece, uint32_t) {
                  for (int64_t t = rows * piece / pieces; t < rows * (piece + 1) / pieces; ++t) {
                    route_row(p, t, &rooms[static_cast<size_t>(piece)]);
                  }
                });
  return OkStatus();
}

}  // namespace ponder::cpu
