#include <algorithm>
#include <cmath>

#include "backends/ref/ops.h"

namespace ponder::ref {
namespace {

// Numbers of the `count` largest of `scores`, ascending; among equals the lower number goes first.
std::vector<int32_t> largest(const std::vector<double>& scores, int32_t count) {
  std::vector<int32_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto better = [&](int32_t a, int32_t b) {
    const double x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::sort(order.begin(), order.end(), better);
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

double group_score(const double* scores, size_t size, bool top2) {
  double best = -INFINITY, second = -INFINITY;
  for (size_t i = 0; i < size; ++i) {
    second = std::max(second, std::min(best, scores[i]));
    best = std::max(best, scores[i]);
  }
  return top2 && size > 1 ? best + second : best;
}

}  // namespace

Status route(const RouteParams& p) {
  const RouterParams& router = p.router;
  const auto experts = static_cast<size_t>(p.logits.dim[1]);
  const size_t group_size = experts / static_cast<size_t>(router.groups);
  std::vector<double> scores(experts), biased(experts);
  for (int64_t t = 0; t < p.logits.dim[0]; ++t) {
    const float* logits = p.logits.f32() + t * p.logits.stride[0];
    double highest = -INFINITY, total = 0;
    for (size_t e = 0; e < experts; ++e) {
      if (!std::isfinite(logits[e])) {
        return corrupt_error("the router's score of expert ", e, " for row ", t, " of the step is ",
                             logits[e], "; the model's weights are damaged");
      }
      highest = std::max(highest, double{logits[e]});
    }
    for (size_t e = 0; e < experts; ++e) {
      scores[e] = router.sigmoid ? 1 / (1 + std::exp(-double{logits[e]}))
                                 : std::exp(double{logits[e]} - highest);
      total += scores[e];
    }
    for (size_t e = 0; e < experts; ++e) {
      if (!router.sigmoid) scores[e] /= total;
      biased[e] = scores[e] + (p.bias.rank > 0 ? double{p.bias.f32()[e]} : 0.0);
    }
    if (router.groups > 1) {
      std::vector<double> group_scores;
      for (size_t e = 0; e < experts; e += group_size) {
        group_scores.push_back(group_score(&biased[e], group_size, router.group_by_top2));
      }
      const std::vector<int32_t> kept = largest(group_scores, router.groups_kept);
      for (size_t e = 0; e < experts; ++e) {
        const auto group = static_cast<int32_t>(e / group_size);
        if (!std::binary_search(kept.begin(), kept.end(), group)) biased[e] = -INFINITY;
      }
    }
    const std::vector<int32_t> chosen = largest(biased, router.top_k);
    double sum = 0;
    for (int32_t e : chosen) sum += scores[static_cast<size_t>(e)];
    const double factor = router.scale / (router.normalize && sum > 0 ? sum : 1.0);
    for (size_t k = 0; k < chosen.size(); ++k) {
      static_cast<int32_t*>(p.ids.data)[t * p.ids.stride[0] + static_cast<int64_t>(k)] = chosen[k];
      p.weights.f32()[t * p.weights.stride[0] + static_cast<int64_t>(k)] =
          static_cast<float>(scores[static_cast<size_t>(chosen[k])] * factor);
    }
  }
  return OkStatus();
}

}  // namespace ponder::ref
