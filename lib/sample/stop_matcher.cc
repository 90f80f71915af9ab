#include "lib/sample/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace ponder {

StatusOr<StopMatcher> StopMatcher::create(std::vector<std::string> stops) {
  constexpr size_t kMaxStops = 256, kMaxBytes = 64 << 10;
  if (stops.size() > kMaxStops) {
    return invalid_argument_error("there are ", stops.size(), " stop strings; at most ", kMaxStops,
                                  " are allowed");
  }
  StopMatcher matcher;
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) {
      return invalid_argument_error("stop string ", i,
                                    " is empty: it would stop every text at once");
    }
    if (stops[i].size() > kMaxBytes) {
      return invalid_argument_error("stop string ", i, " has ", stops[i].size(), " bytes; at most ",
                                    kMaxBytes, " are allowed");
    }
    Stop stop{.text = std::move(stops[i]), .fallback = {}, .state = 0};
    stop.fallback.resize(stop.text.size());
    for (uint32_t end = 1, border = 0; end < stop.text.size(); ++end) {
      while (border > 0 && stop.text[border] != stop.text[end]) border = stop.fallback[border - 1];
      if (stop.text[border] == stop.text[end]) ++border;
      stop.fallback[end] = border;
    }
    matcher.stops_.push_back(std::move(stop));
  }
  return matcher;
}

StopMatcher::Result StopMatcher::feed(absl::string_view piece) {
  Result result;
  if (matched()) {
    result.matched = matched_;
    return result;
  }
  if (stops_.empty()) {
    result.text.assign(piece);
    return result;
  }
  for (size_t i = 0; i < piece.size(); ++i) {
    size_t longest = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      Stop& stop = stops_[s];
      while (stop.state > 0 && stop.text[stop.state] != piece[i]) {
        stop.state = stop.fallback[stop.state - 1];
      }
      if (stop.text[stop.state] == piece[i]) ++stop.state;
      if (stop.state == stop.text.size() && stop.text.size() > longest) {
        longest = stop.text.size();
        matched_ = static_cast<int32_t>(s);
      }
    }
    if (longest == 0) continue;
    // What is held back is at least the longest unfinished beginning, so the cut lies within.
    result.text = std::exchange(held_, {});
    result.text.append(piece.substr(0, i + 1));
    result.text.erase(result.text.size() - longest);
    result.matched = matched_;
    return result;
  }
  size_t hold = 0;
  for (const Stop& stop : stops_) hold = std::max<size_t>(hold, stop.state);
  held_.append(piece);
  result.text = held_.substr(0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return result;
}

std::string StopMatcher::finish() {
  std::string text = std::exchange(held_, {});
  reset();
  return text;
}

void StopMatcher::reset() {
  for (Stop& stop : stops_) stop.state = 0;
  held_.clear();
  matched_ = -1;
}

}  // namespace ponder
