// `ponder info` and `ponder devices`: what there is.

#include <memory>
#include <string>

#include "commands.h"
#include "options.h"

namespace ponder::tool {
namespace {

const char* precision_name(int32_t precision) {
  switch (precision) {
    case PONDER_PRECISION_F32:
      return "f32";
    case PONDER_PRECISION_FP8:
      return "fp8";
    default:
      return "auto";
  }
}

const char* kv_type_name(int32_t type) {
  switch (type) {
    case PONDER_KV_F32:
      return "f32";
    case PONDER_KV_BF16:
      return "bf16";
    case PONDER_KV_F16:
      return "f16";
    case PONDER_KV_Q8_0:
      return "q8_0";
    case PONDER_KV_F8_E4M3:
      return "f8_e4m3";
    default:
      return "auto";
  }
}

Json describe(const Loaded& loaded) {
  const ponder_model_info info = loaded.model.info();
  const ponder_stats stats = loaded.model.stats();
  return {
      {"model", loaded.path},
      {"name", text_of(info.name)},
      {"architecture", text_of(info.architecture)},
      {"fingerprint", text_of(info.fingerprint)},
      {"parameters", info.parameters},
      {"layers", info.layers},
      {"draft_layer", info.has_draft_layer != 0},
      {"vocabulary", info.vocabulary},
      {"context", info.context},
      {"trained_context", info.trained_context},
      {"reasons", info.reasons != 0},
      {"thought_open", text_of(info.thought_open)},
      {"thought_close", text_of(info.thought_close)},
      {"eos_tokens", std::vector<ponder_token>(info.eos_tokens, info.eos_tokens + info.eos_count)},
      {"has_template", info.has_template != 0},
      {"sampling",
       {{"temperature", info.temperature},
        {"top_k", info.top_k},
        {"top_p", info.top_p},
        {"min_p", info.min_p},
        {"repeat_penalty", info.repeat_penalty}}},
      {"device", device_id(loaded.runtime.device(info.device))},
      {"precision", precision_name(info.precision)},
      {"kv_type", kv_type_name(info.kv_type)},
      {"weight_bytes", info.weight_bytes},
      {"kv_bytes", info.kv_bytes},
      {"kv_bytes_per_1000_tokens", info.kv_bytes_per_1000},
      {"scratch_bytes", stats.scratch_bytes},
      {"memory_bytes", info.weight_bytes + info.kv_bytes + stats.scratch_bytes},
      {"load_s", loaded.load_s},
  };
}

Json describe_needs(const ponder_model_needs& n) {
  const char* fits = n.fits == PONDER_FITS_ALL         ? "all"
                     : n.fits == PONDER_FITS_ON_DEMAND ? "experts on demand"
                     : n.fits == PONDER_FITS_PLACED    ? "on GPU and processor"
                                                       : "not";
  return {{"fits", fits},
          {"parameters", n.parameters},
          {"weight_bytes", n.weight_bytes},
          {"attention_bytes", n.attention_bytes},
          {"feed_forward_bytes", n.feed_forward_bytes},
          {"expert_bytes", n.expert_bytes},
          {"other_bytes", n.other_bytes},
          {"token_bytes", n.token_bytes},
          {"kv_bytes", n.kv_bytes},
          {"kv_bytes_per_1000_tokens", n.kv_bytes_per_1000},
          {"scratch_bytes", n.scratch_bytes},
          {"memory_total", n.memory_total},
          {"memory_free", n.memory_free},
          {"expert_budget", n.expert_budget},
          {"layers", n.layers},
          {"host_layers", n.host_layers},
          {"host_expert_layers", n.host_expert_layers},
          {"vram_bytes", n.vram_bytes},
          {"experts", n.experts},
          {"experts_chosen", n.experts_chosen},
          {"context", n.context},
          {"trained_context", n.trained_context}};
}

// What stays, what streams, what does not fit and what would.
std::string plan(const ponder_model_needs& n) {
  const uint64_t cache = n.kv_bytes + n.scratch_bytes;
  const uint64_t resident = n.attention_bytes + n.feed_forward_bytes + n.other_bytes + cache;
  const uint64_t all = resident + n.expert_bytes;
  const std::string free = human_bytes(n.memory_free) + " free";
  if (n.fits == PONDER_FITS_ALL) return "fits: " + human_bytes(all) + " of " + free;
  if (n.fits == PONDER_FITS_PLACED) {
    return "fits on both: of " + human_bytes(all) + " the GPU may take " +
           human_bytes(n.vram_bytes) + "; the processor takes the embedding, " +
           std::to_string(n.host_layers) + " of " + std::to_string(n.layers) +
           " layers and the experts of " + std::to_string(n.host_expert_layers) + " others";
  }
  if (n.fits == PONDER_FITS_ON_DEMAND) {
    return "fits with experts on demand: " + human_bytes(resident) + " stay, experts share " +
           human_bytes(n.expert_budget) + " for their " + human_bytes(n.expert_bytes) +
           " and are read again when they return (--expert-bytes " +
           std::to_string(n.expert_budget) + "); whole it takes " + human_bytes(all) + " of " +
           free;
  }
  std::string text = "does not fit: ";
  if (n.expert_bytes > 0) {
    text += "whole it takes " + human_bytes(all) + ", with experts on demand more than " +
            human_bytes(resident);
  } else {
    text += "it takes " + human_bytes(all);
  }
  text += ", and " + free;
  const uint64_t room = n.memory_free - n.memory_free / 20;
  const uint64_t fixed = resident - n.kv_bytes + n.expert_bytes;
  const uint64_t tokens =
      room > fixed && n.kv_bytes_per_1000 > 0 ? (room - fixed) / n.kv_bytes_per_1000 * 1000 : 0;
  if (tokens > 0) {
    text += "; a context of " + std::to_string(tokens) + " tokens would fit (--context " +
            std::to_string(tokens) + ")";
  } else {
    text += "; a conversion with fewer bits a weight, or more memory, would do";
  }
  return text;
}

void print_needs(const std::string& model, const ponder_model_needs& n) {
  const auto row = [](const std::string& name, const std::string& value) {
    output().write(name + std::string(name.size() < 14 ? 14 - name.size() : 1, ' ') + value + "\n");
  };
  row("model", model);
  std::string weights = human_bytes(n.weight_bytes) + ": attention " +
                        human_bytes(n.attention_bytes) + ", feed-forward " +
                        human_bytes(n.feed_forward_bytes);
  if (n.experts > 0) {
    weights += ", routed experts " + human_bytes(n.expert_bytes) + " (" +
               std::to_string(n.experts_chosen) + " of " + std::to_string(n.experts) +
               " a layer for each token)";
  }
  row("weights", weights + ", the rest " + human_bytes(n.other_bytes));
  row("per token", human_bytes(n.token_bytes) + " of weights are read");
  row("KV cache", human_bytes(n.kv_bytes_per_1000) + " per 1000 tokens, " +
                      human_bytes(n.kv_bytes) + " for contexts of " + std::to_string(n.context));
  row("plan", plan(n));
}

void print_description(const Json& d) {
  const auto row = [](const std::string& name, const std::string& value) {
    output().write(name + std::string(name.size() < 14 ? 14 - name.size() : 1, ' ') + value + "\n");
  };
  const auto bytes = [&d](const char* key) { return human_bytes(d[key].get<uint64_t>()); };
  const auto number = [&d](const char* key) { return std::to_string(d[key].get<uint64_t>()); };
  const Json& s = d["sampling"];
  row("model", d["model"].get<std::string>());
  row("architecture", d["architecture"].get<std::string>());
  row("size", number("parameters") + " parameters, " + number("layers") + " layers" +
                  (d["draft_layer"].get<bool>() ? " and a draft layer, " : ", ") +
                  number("vocabulary") + " tokens in the vocabulary");
  row("context", number("context") + " tokens (made for " + number("trained_context") + ")");
  row("thinks", !d["reasons"].get<bool>() ? "no"
                                          : "yes, between " + d["thought_open"].get<std::string>() +
                                                " and " + d["thought_close"].get<std::string>());
  row("chat template", d["has_template"].get<bool>() ? "yes" : "no");
  row("sampling", "temperature " + human_number(s["temperature"].get<double>()) + ", top-p " +
                      human_number(s["top_p"].get<double>()) + ", top-k " +
                      std::to_string(s["top_k"].get<uint32_t>()));
  row("device",
      d["device"].get<std::string>() + ", KV cache in " + d["kv_type"].get<std::string>());
  row("memory", bytes("memory_bytes") + ": weights " + bytes("weight_bytes") + ", KV cache " +
                    bytes("kv_bytes") + " (" + bytes("kv_bytes_per_1000_tokens") +
                    " per 1000 tokens), work area " + bytes("scratch_bytes"));
  row("fingerprint", d["fingerprint"].get<std::string>());
}

Json describe_devices(const Runtime& runtime) {
  Json devices = Json::array();
  for (uint32_t i = 0; i < runtime.device_count(); ++i) {
    const ponder_device_info info = runtime.device(i);
    devices.push_back({{"id", device_id(info)},
                       {"kind", info.kind == PONDER_DEVICE_GPU ? "gpu" : "cpu"},
                       {"backend", text_of(info.backend)},
                       {"name", text_of(info.name)},
                       {"memory_total", info.memory_total},
                       {"memory_free", info.memory_free}});
  }
  return {{"devices", std::move(devices)},
          {"build", parse_json(ponder_build_info(), "build info")}};
}

}  // namespace

void add_info(CLI::App& app) {
  struct Arguments {
    ModelArguments model;
    bool json = false, plan = false;
  };
  CLI::App* command =
      app.add_subcommand("info", "What a model needs, and, where it fits, what it is");
  const auto args = std::make_shared<Arguments>();
  args->model.add_positional(*command);
  command->add_flag("--json", args->json, "One JSON object");
  command->add_flag("--plan", args->plan, "Only what it needs: nothing is loaded");
  args->model.add_options(*command);
  add_examples(*command,
               "  ponder info\n"
               "  ponder info ~/models/DeepSeek-R1 --plan\n"
               "  ponder info ~/models/R1-Distill-Qwen-1.5B --json --context 8192");
  command->callback([args] {
    const ponder_model_needs needs = [&] {
      const Runtime runtime = args->model.make_runtime();
      const ModelOptions options;
      args->model.apply(runtime, options);
      Error error;
      const auto known = Model::examine(runtime, args->model.path(), options, &error);
      if (error) throw error;
      return known;
    }();
    // What does not fit whole would take its time to load, or fail.
    if (args->plan || needs.fits != PONDER_FITS_ALL) {
      if (args->json) {
        output().json_line({{"model", args->model.path()},
                            {"needs", describe_needs(needs)},
                            {"plan", plan(needs)}});
      } else {
        print_needs(args->model.path(), needs);
        output().flush();
      }
      return;
    }
    Json description = describe(args->model.load());
    description["needs"] = describe_needs(needs);
    if (args->json) {
      output().json_line(description);
    } else {
      print_description(description);
      output().flush();
    }
  });
}

void add_devices(CLI::App& app) {
  struct Arguments {
    ModelArguments model;
    bool json = false;
  };
  CLI::App* command = app.add_subcommand("devices", "Where models can run on this machine");
  const auto args = std::make_shared<Arguments>();
  command->add_flag("--json", args->json, "One JSON object");
  add_examples(*command, "  ponder devices\n  ponder devices --json");
  command->callback([args] {
    const Json description = describe_devices(args->model.make_runtime());
    if (args->json) {
      output().json_line(description);
      return;
    }
    for (const Json& device : description["devices"]) {
      std::string line = device["id"].get<std::string>() + "  " +
                         device["name"].get<std::string>() + " (" +
                         device["backend"].get<std::string>();
      if (const uint64_t total = device["memory_total"].get<uint64_t>(); total > 0) {
        line += ", " + human_bytes(device["memory_free"].get<uint64_t>()) + " of " +
                human_bytes(total) + " free";
      }
      output().write(line + ")\n");
    }
    output().flush();
  });
}

}  // namespace ponder::tool
