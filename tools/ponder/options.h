// The options that several commands share, and what they turn into.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <ponder/ponder.hpp>

#include "failure.h"
#include "output.h"

namespace ponder::tool {

// A runtime and a model in it.
struct Loaded {
  std::string path;
  Runtime runtime;
  Model model;
  double load_s = 0;
  Model drafts = Model(nullptr);  // a second model that guesses for the first; maybe none

  void add_draft_model(Request& request) const;
};

// MODEL, the device and how to compute.
struct ModelArguments {
  std::string model;  // empty: the shipped one
  std::string device = "cpu";
  std::string precision = "auto";
  std::string kv_type = "auto";
  uint32_t threads = 0;
  uint32_t context = 0;
  uint64_t expert_bytes = 0;
  uint64_t vram_bytes = 0;
  bool draft_layer = false;
  std::vector<std::string> hints;

  void add_positional(CLI::App& app);  // [MODEL]
  void add_options(CLI::App& app);
  Runtime make_runtime() const;
  std::string path() const;  // of the model
  void apply(const Runtime& runtime, const ModelOptions& options) const;
  Loaded load() const;  // with progress on a terminal
};

// What the sampler and the thought budget are told; unset is the model's own default.
struct SamplingArguments {
  std::optional<float> temperature, top_p, min_p, repeat_penalty;
  std::optional<uint32_t> top_k;
  std::optional<uint64_t> seed;
  uint32_t max_tokens = 0;
  uint32_t think_soft = 0, think_hard = 0;
  std::string think_closing;
  std::string speculation = "off";
  std::string draft_model;  // a folder or file
  uint32_t max_draft = 0;
  bool greedy = false, no_think = false, think = false;

  // with_seed: false where the command has a --seed of its own.
  void add_options(CLI::App& app, bool with_seed = true);
  void apply(Request& request) const;
  // The model, with what speculation wants of it, and the draft model if there is to be one.
  Loaded load(ModelArguments model) const;
};

// "cpu", "ref", "cuda:0": the name that --device knows a device by.
std::string device_id(const ponder_device_info& info);

// Adds examples below a command's help.
void add_examples(CLI::App& app, const std::string& text);

// Token ids of a JSON array, or of an array of arrays where `many` says so.
std::vector<ponder_token> tokens_of(const Json& json, const std::string& where);
Json parse_json(const std::string& text, const std::string& where);

}  // namespace ponder::tool
