// The sampler's distributions against those of transformers and llama.cpp (shared/oracle/F).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "lib/sample/sampler.h"
#include "nlohmann/json.hpp"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

using Json = nlohmann::json;

Json load_oracle() {
  std::ifstream file(std::string(kSharedDir) + "/oracle/F/sampling.json");
  return file ? Json::parse(file, nullptr, false) : Json();
}

// The steps of a case as parameters; false where they come in an order we do not offer.
bool to_params(const Json& steps, SamplingParams* params) {
  std::string order;
  for (const Json& step : steps) {
    const std::string name = step[0];
    order += name + " ";
    if (name == "temp") {
      params->temperature = step[1].get<float>();
    } else if (name == "top_k") {
      params->top_k = step[1].get<uint32_t>();
    } else if (name == "top_p") {
      params->top_p = step[1].get<float>();
    } else if (name == "min_p") {
      params->min_p = step[1].get<float>();
    } else if (name == "penalties") {
      params->repeat_penalty = step[1].get<float>();
      params->frequency_penalty = step[2].get<float>();
      params->presence_penalty = step[3].get<float>();
    } else {
      return false;
    }
  }
  const auto at = [&](const char* name) { return order.find(name); };
  params->temperature_last = at("temp") != std::string::npos && at("top_") < at("temp");
  return true;
}

TEST(Sampler, AgreesWithTransformersAndLlamaCpp) {
  const Json oracle = load_oracle();
  if (!oracle.is_object()) GTEST_SKIP() << "no " << kSharedDir << "/oracle/F/sampling.json";

  int compared = 0, against_llama_cpp = 0;
  for (const Json& c : oracle["cases"]) {
    const std::string vector = c["vec"];
    SCOPED_TRACE(vector + " " + c["steps"].dump());
    std::vector<float> logits;
    for (const Json& x : oracle["vectors"][vector]) {
      logits.push_back(x.is_string() ? -std::numeric_limits<float>::infinity() : x.get<float>());
    }
    SamplingParams params;
    ASSERT_TRUE(to_params(c["steps"], &params));
    ASSERT_TRUE(params.validate(static_cast<int64_t>(logits.size())).ok());

    const std::vector<int32_t> past = c["past"];
    Sampler sampler(params);
    const auto result = sampler.distribution({.logits = logits, .history = past});
    ASSERT_TRUE(result.ok()) << result.status();
    std::vector<double> mine(logits.size(), 0.0);
    for (const Candidate& candidate : *result) mine[candidate.id] = candidate.probability;

    // Among equal logits the references keep whichever their sort puts first; what can be compared
    // is how much probability is kept, on how many.
    const bool ties = vector == "flat40" || vector == "ties40";
    const auto largest_difference = [&](std::vector<double> theirs) {
      std::vector<double> ours = mine;
      if (ties) {
        std::ranges::sort(ours);
        std::ranges::sort(theirs);
      }
      double largest = 0.0;
      for (size_t i = 0; i < ours.size(); ++i) {
        largest = std::max(largest, std::fabs(ours[i] - theirs[i]));
      }
      return largest;
    };
    EXPECT_LE(largest_difference(c["prob_transformers"]), 1e-6);
    ++compared;
    // Theirs is given only where it differs from transformers', that is among ties.
    if (!c.contains("prob_llama_cpp")) ++against_llama_cpp;
  }
  EXPECT_GE(compared, 224);
  EXPECT_GE(against_llama_cpp, 190);
}

}  // namespace
}  // namespace ponder
