#include "options.h"

#include <array>
#include <chrono>
#include <limits>
#include <utility>

#include "shipped_model.h"

namespace ponder::tool {
namespace {

constexpr std::array<std::pair<const char*, int32_t>, 6> kKvTypes = {
    {{"auto", PONDER_KV_AUTO},
     {"f32", PONDER_KV_F32},
     {"bf16", PONDER_KV_BF16},
     {"f16", PONDER_KV_F16},
     {"q8_0", PONDER_KV_Q8_0},
     {"f8_e4m3", PONDER_KV_F8_E4M3}}};
constexpr std::array<std::pair<const char*, int32_t>, 3> kPrecisions = {
    {{"auto", PONDER_PRECISION_AUTO},
     {"f32", PONDER_PRECISION_F32},
     {"fp8", PONDER_PRECISION_FP8}}};

int32_t show_load_progress(void*, uint64_t done, uint64_t total) {
  if (total > 0) {
    diagnostics().progress("loading the model: " + std::to_string(done * 100 / total) + "% of " +
                           human_bytes(total));
  }
  return 0;
}

void show_log(void*, int32_t, const char* text, size_t size) {
  diagnostics().line("ponder: " + one_line({text, size}));
}

uint32_t find_device(const Runtime& runtime, const std::string& wanted) {
  std::string known;
  for (uint32_t i = 0; i < runtime.device_count(); ++i) {
    const std::string id = device_id(runtime.device(i));
    if (id == wanted || (wanted == "cuda" && id == "cuda:0")) return i;
    known += (known.empty() ? "" : ", ") + id;
  }
  throw Failure("there is no device '" + wanted + "' here; there are: " + known);
}

}  // namespace

void Loaded::add_draft_model(Request& request) const {
  if (drafts.get() != nullptr) request.draft_model(drafts);
}

void ModelArguments::add_positional(CLI::App& app) {
  app.add_option(
      "MODEL", model,
      "A model's folder in the Hugging Face layout; absent: the model shipped with ponder");
}

void ModelArguments::add_options(CLI::App& app) {
  const std::string group = "Model";
  app.add_option("--device", device,
                 "Where to compute: cpu, cuda:0, ref ('ponder devices' lists them)")
      ->capture_default_str()
      ->group(group);
  app.add_option("-t,--threads", threads, "Threads that compute; 0: one per physical core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->group(group);
  app.add_option(
         "--precision", precision,
         "auto: what is fast; f32: float32 throughout, to compare with a reference; fp8: FP8 "
         "inputs to FP8 weights on GPUs that multiply them, else auto")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "f32", "fp8"}))
      ->group(group);
  app.add_option("--context", context,
                 "Longest sequence in tokens; 0: as the model was trained, memory permitting")
      ->capture_default_str()
      ->group(group);
  app.add_option("--kv-type", kv_type,
                 "Number type of the KV cache: auto, f32, bf16, f16, q8_0, f8_e4m3 (GPUs only)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "f32", "bf16", "f16", "q8_0", "f8_e4m3"}))
      ->group(group);
  app.add_option(
         "--expert-bytes", expert_bytes,
         "Memory for a mixture's experts, such as 8G or 500M; others are read when they are "
         "chosen; 0: all stay in memory")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE")
      ->group(group);
  app.add_option("--vram-bytes", vram_bytes,
                 "Memory of a GPU that the model may take, such as 16G; the processor takes the "
                 "rest; 0: most of what is free")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE")
      ->group(group);
  app.add_flag("--draft-layer", draft_layer,
               "Load the checkpoint's layer for multi-token prediction too; --speculation mtp does")
      ->group(group);
  app.add_option("--hint", hints, "Tuning of this release (docs/api/models.md); may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false)
      ->group(group);
}

Runtime ModelArguments::make_runtime() const {
  const RuntimeOptions options;
  check(ponder_runtime_options_set_threads(options.get(), threads), "--threads");
  check(ponder_runtime_options_set_log(options.get(), show_log, nullptr, PONDER_LOG_WARNING),
        "setting the log");
  return Runtime(options);
}

std::string ModelArguments::path() const { return model.empty() ? shipped_model() : model; }

void ModelArguments::apply(const Runtime& runtime, const ModelOptions& made) const {
  ponder_model_options* options = made.get();
  check(ponder_model_options_set_device(options, find_device(runtime, device)), "--device");
  check(ponder_model_options_set_context(options, context), "--context");
  check(ponder_model_options_set_expert_bytes(options, expert_bytes), "--expert-bytes");
  check(ponder_model_options_set_vram_bytes(options, vram_bytes), "--vram-bytes");
  check(ponder_model_options_set_draft_layer(options, draft_layer), "--draft-layer");
  for (const auto& [name, value] : kPrecisions) {
    if (precision == name) {
      check(ponder_model_options_set_precision(options, value), "--precision");
    }
  }
  for (const auto& [name, value] : kKvTypes) {
    if (kv_type == name) check(ponder_model_options_set_kv_type(options, value), "--kv-type");
  }
  for (const std::string& hint : hints) {
    const size_t equals = hint.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError("--hint takes NAME=VALUE, not '" + hint + "'");
    }
    check(ponder_model_options_set_hint(options, hint.substr(0, equals).c_str(),
                                        hint.substr(equals + 1).c_str()),
          "--hint " + hint);
  }
}

Loaded ModelArguments::load() const {
  Runtime runtime = make_runtime();
  const ModelOptions made;
  apply(runtime, made);
  ponder_model_options* options = made.get();
  if (diagnostics().is_terminal()) {
    check(ponder_model_options_set_progress(options, show_load_progress, nullptr), "progress");
  }

  const auto begin = std::chrono::steady_clock::now();
  Error error;
  Model loaded = Model::load(runtime, path(), made, &error);
  diagnostics().clear_progress();
  if (error) throw error;
  const double load_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {path(), std::move(runtime), std::move(loaded), load_s, Model(nullptr)};
}

void SamplingArguments::add_options(CLI::App& app, bool with_seed) {
  const std::string sampling = "Sampling (default: what the model's makers recommend)";
  app.add_option("--max-tokens", max_tokens,
                 "Most tokens to generate, thought included; 0: no limit")
      ->capture_default_str()
      ->group(sampling);
  CLI::Option* t = app.add_option("--temperature", temperature, "0: always the likeliest token")
                       ->group(sampling);
  app.add_flag("--greedy", greedy, "The same as --temperature 0")->group(sampling)->excludes(t);
  app.add_option("--top-k", top_k, "Only the K likeliest tokens; 0: off")->group(sampling);
  app.add_option("--top-p", top_p, "Only the likeliest tokens that together reach P")
      ->group(sampling);
  app.add_option("--min-p", min_p, "Only tokens at least P times as likely as the likeliest")
      ->group(sampling);
  app.add_option("--repeat-penalty", repeat_penalty, "Above 1: against repetition")
      ->group(sampling);
  if (with_seed) {
    app.add_option("--seed", seed, "The same seed gives the same tokens; absent: another each time")
        ->group(sampling);
  }

  const std::string thinking = "Thinking";
  app.add_option("--think-soft", think_soft,
                 "After N thought tokens close the thought where the model would likely do so")
      ->type_name("N")
      ->group(thinking);
  app.add_option("--think-hard", think_hard, "After N thought tokens close the thought for certain")
      ->type_name("N")
      ->group(thinking);
  app.add_option("--think-closing", think_closing, "Said before the thought is closed by force")
      ->group(thinking);
  CLI::Option* off =
      app.add_flag("--no-think", no_think, "Answer without thinking")->group(thinking);
  app.add_flag("--think", think, "Think even where the template does not ask for it")
      ->group(thinking)
      ->excludes(off);

  const std::string speed = "Speed";
  app.add_option(
         "--speculation", speculation,
         "Guess tokens ahead where that is faster: off; ngram: what followed the same words "
         "earlier; mtp: the checkpoint's own layer for it; draft: --draft-model. The text "
         "stays the same")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "ngram", "mtp", "draft"}))
      ->group(speed);
  app.add_option("--draft-model", draft_model,
                 "A smaller model of the same tokens that guesses: --speculation draft")
      ->type_name("MODEL")
      ->group(speed);
  app.add_option("--max-draft", max_draft, "Most tokens to guess at a time; 0: as suits the method")
      ->capture_default_str()
      ->group(speed);
}

void SamplingArguments::apply(Request& target) const {
  ponder_request* request = target.get();
  check(ponder_request_set_max_tokens(request, max_tokens), "--max-tokens");
  if (greedy) check(ponder_request_set_temperature(request, 0), "--greedy");
  if (temperature) {
    check(ponder_request_set_temperature(request, *temperature), "--temperature (0 to 100)");
  }
  if (top_k) check(ponder_request_set_top_k(request, *top_k), "--top-k");
  if (top_p) check(ponder_request_set_top_p(request, *top_p), "--top-p (above 0, at most 1)");
  if (min_p) check(ponder_request_set_min_p(request, *min_p), "--min-p (0 to 1)");
  if (repeat_penalty) {
    check(ponder_request_set_penalties(request, *repeat_penalty, 0, 0),
          "--repeat-penalty (above 0)");
  }
  if (seed) check(ponder_request_set_seed(request, *seed), "--seed");
  check(ponder_request_set_thought_budget(request, think_soft, think_hard),
        "--think-soft and --think-hard (soft is at most hard)");
  if (!think_closing.empty()) {
    check(ponder_request_set_thought_closing(request, think_closing.data(), think_closing.size()),
          "--think-closing (is it UTF-8?)");
  }
  const int32_t reasoning = no_think ? PONDER_REASONING_OFF
                            : think  ? PONDER_REASONING_ON
                                     : PONDER_REASONING_MODEL;
  check(ponder_request_set_reasoning(request, reasoning), "--think, --no-think");
  const int32_t method = speculation == "ngram"   ? PONDER_SPECULATION_NGRAM
                         : speculation == "mtp"   ? PONDER_SPECULATION_MTP
                         : speculation == "draft" ? PONDER_SPECULATION_DRAFT_MODEL
                                                  : PONDER_SPECULATION_OFF;
  check(ponder_request_set_speculation(request, method, max_draft), "--speculation");
}

Loaded SamplingArguments::load(ModelArguments model) const {
  if ((speculation == "draft") == draft_model.empty()) {
    throw UsageError("--speculation draft and --draft-model MODEL go together");
  }
  model.draft_layer |= speculation == "mtp";
  Loaded loaded = model.load();
  if (!draft_model.empty()) {
    // What is about the first one's size is not about this one's.
    model.draft_layer = false;
    model.context = 0;
    model.expert_bytes = 0;
    const ModelOptions options;
    model.apply(loaded.runtime, options);
    Error error;
    loaded.drafts = Model::load(loaded.runtime, draft_model, options, &error);
    if (error) throw error;
  }
  return loaded;
}

std::string device_id(const ponder_device_info& info) {
  const std::string backend(text_of(info.backend));
  if (info.kind == PONDER_DEVICE_GPU) return backend + ":" + std::to_string(info.index);
  return backend == "ref" ? backend : "cpu";
}

void add_examples(CLI::App& app, const std::string& text) { app.footer("\nExamples:\n" + text); }

std::vector<ponder_token> tokens_of(const Json& json, const std::string& where) {
  if (!json.is_array()) throw Failure(where + ": expected a JSON array of token ids");
  std::vector<ponder_token> tokens;
  tokens.reserve(json.size());
  for (const Json& item : json) {
    // Unsigned covers every valid id; a negative one is the library's to refuse, with its words.
    const bool fits = item.is_number_unsigned()
                          ? item.get<uint64_t>() <= std::numeric_limits<ponder_token>::max()
                          : item.is_number_integer() &&
                                item.get<int64_t>() >= std::numeric_limits<ponder_token>::min();
    if (!fits) {
      throw Failure(where + ": item " + std::to_string(tokens.size()) +
                    " of the array is not a token id: " + one_line(item.dump()).substr(0, 60));
    }
    tokens.push_back(item.get<ponder_token>());
  }
  return tokens;
}

Json parse_json(const std::string& text, const std::string& where) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    throw Failure(where + ": " + one_line(e.what()));
  }
}

}  // namespace ponder::tool
