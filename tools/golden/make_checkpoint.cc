// ponder-make-checkpoint: writes a model folder with random weights of any size, for tests and
// benchmarks. Deterministic: the same arguments give the same bytes on every machine.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "architectures.h"
#include "gguf.h"
#include "tokenizer.h"
#include "weights.h"

namespace ponder::golden {
namespace {

constexpr char kUsage[] = R"(usage: ponder-make-checkpoint OUT [options]

Writes a model folder in the Hugging Face layout with random weights into OUT, or a GGUF file where
OUT ends in .gguf.

  --shape NAME        start from a known model's sizes: tiny (default), qwen2.5-0.5b, qwen2.5-1.5b,
                      qwen2.5-7b, llama-3.2-1b, llama-3.1-8b, qwen3-8b, qwen3-30b-a3b,
                      deepseek-v2-lite, deepseek-v2, deepseek-r1
  --arch NAME         qwen2, llama, qwen3, qwen3moe, deepseek2 or deepseek3
  --layers N --hidden N --ffn N --heads N --kv-heads N --head-dim N --vocab N --context N
  --experts N --experts-chosen N --expert-ffn N     mixtures of experts
  --shared-experts N --expert-groups N --expert-groups-kept N --dense-layers N
  --mtp, --no-mtp     whether there is a layer for multi-token prediction (deepseek3)
  --q-rank N --kv-rank N --nope-dim N --rope-dim N --value-dim N    latent attention (deepseek)
  --rope-theta X      base of the rotary positions
  --llama3-scaling    Llama 3.1's scaling of rotary positions
  --tied, --untied    whether the output matrix is the embedding
  --dtype TYPE        f32, f16, bf16 (default) or fp8: linear layers in f8_e4m3 with scales, as
                      DeepSeek publishes them. GGUF: f32, f16 (default), bf16, q8_0 or q4_k
  --shard-size SIZE   cut the weights into files of this size: 500M, 4G (default: one file)
  --seed N            another seed, other weights (default 0)
  --tokenizer FILE    use this tokenizer.json (and the tokenizer_config.json beside it) instead of a
                      made-up byte-level one

Examples, what the benchmarks use; the second is R1's first mixture and nothing else:
  ponder-make-checkpoint /tmp/qwen-1.5b --shape qwen2.5-1.5b
  ponder-make-checkpoint /tmp/r1-layer --shape deepseek-r1 --layers 1 --dense-layers 0 --no-mtp
    --vocab 1024 --dtype fp8 --shard-size 4G
  ponder-make-checkpoint /tmp/v2-lite.gguf --shape deepseek-v2-lite --layers 8 --dtype q8_0
)";

struct Options {
  std::filesystem::path out;
  Sizes sizes;
  std::string dtype;  // empty: the format's default
  uint64_t shard_bytes = 0;
  uint64_t seed = 0;
  std::filesystem::path tokenizer;
};

int64_t whole(const std::string& option, const std::string& text) {
  size_t used = 0;
  int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size()) {
    throw std::invalid_argument(option + " wants a whole number, found '" + text + "'");
  }
  return value;
}

uint64_t byte_size(const std::string& option, std::string text) {
  uint64_t unit = 1;
  if (!text.empty() && std::strchr("KMG", text.back()) != nullptr) {
    unit = text.back() == 'K' ? 1000u : text.back() == 'M' ? 1000'000u : 1000'000'000u;
    text.pop_back();
  }
  const int64_t value = whole(option, text);
  if (value < 1) throw std::invalid_argument(option + " must be positive");
  return static_cast<uint64_t>(value) * unit;
}

Options parse(int argc, char** argv) {
  Options o;
  // The shape is the base of all sizes, wherever it stands.
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--shape") o.sizes = preset(argv[i + 1]);
  }
  const std::map<std::string, int64_t*> sizes = {
      {"--layers", &o.sizes.layers},
      {"--hidden", &o.sizes.hidden},
      {"--ffn", &o.sizes.intermediate},
      {"--heads", &o.sizes.heads},
      {"--kv-heads", &o.sizes.kv_heads},
      {"--head-dim", &o.sizes.head_dim},
      {"--vocab", &o.sizes.vocabulary},
      {"--context", &o.sizes.context},
      {"--experts", &o.sizes.mixture.experts},
      {"--experts-chosen", &o.sizes.mixture.chosen},
      {"--expert-ffn", &o.sizes.mixture.intermediate},
      {"--shared-experts", &o.sizes.mixture.shared},
      {"--expert-groups", &o.sizes.mixture.groups},
      {"--expert-groups-kept", &o.sizes.mixture.groups_kept},
      {"--dense-layers", &o.sizes.mixture.dense_layers},
      {"--q-rank", &o.sizes.latent.q_rank},
      {"--kv-rank", &o.sizes.latent.kv_rank},
      {"--nope-dim", &o.sizes.latent.nope_dim},
      {"--rope-dim", &o.sizes.latent.rope_dim},
      {"--value-dim", &o.sizes.latent.value_dim}};
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc) throw std::invalid_argument(option + " wants a value");
      return argv[i];
    };
    if (const auto it = sizes.find(option); it != sizes.end()) {
      *it->second = whole(option, value());
    } else if (option == "--shape") {
      value();
    } else if (option == "--arch") {
      o.sizes.architecture = value();
    } else if (option == "--rope-theta") {
      o.sizes.rope_theta = static_cast<double>(whole(option, value()));
    } else if (option == "--llama3-scaling") {
      o.sizes.llama3_scaling = true;
    } else if (option == "--mtp" || option == "--no-mtp") {
      o.sizes.mixture.draft_layer = option == "--mtp";
    } else if (option == "--tied") {
      o.sizes.tied = true;
    } else if (option == "--untied") {
      o.sizes.tied = false;
    } else if (option == "--dtype") {
      o.dtype = value();
    } else if (option == "--shard-size") {
      o.shard_bytes = byte_size(option, value());
    } else if (option == "--seed") {
      o.seed = static_cast<uint64_t>(whole(option, value()));
    } else if (option == "--tokenizer") {
      o.tokenizer = value();
    } else if (option.starts_with("-") || !o.out.empty()) {
      throw std::invalid_argument("unknown argument '" + option + "'");
    } else {
      o.out = option;
    }
  }
  if (o.out.empty()) throw std::invalid_argument("where to? Name the folder to write");
  check(o.sizes);
  return o;
}

void write_json(const std::filesystem::path& path, const Json& json, int indent = 2) {
  std::ofstream out(path, std::ios::binary);
  out << json.dump(indent) << "\n";
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return Json::parse(in);
}

struct SpecialIds {
  int64_t bos, eos;
};

// The id of a token of tokenizer_config.json in a tokenizer.json.
int64_t find_id(const Json& tokenizer, const Json& token) {
  if (!token.is_string() && !token.is_object()) return 0;
  const std::string text =
      token.is_object() ? token.at("content").get<std::string>() : token.get<std::string>();
  for (const Json& one : tokenizer.at("added_tokens")) {
    if (one.at("content") == text) return one.at("id").get<int64_t>();
  }
  return 0;
}

SpecialIds write_tokenizer(const Options& o) {
  if (o.tokenizer.empty()) {
    write_json(o.out / "tokenizer.json", tokenizer(o.sizes.vocabulary), -1);
    write_json(o.out / "tokenizer_config.json", tokenizer_config(o.sizes.context));
    return {bos_id(o.sizes.vocabulary), eos_id(o.sizes.vocabulary)};
  }
  const auto overwrite = std::filesystem::copy_options::overwrite_existing;
  std::filesystem::copy_file(o.tokenizer, o.out / "tokenizer.json", overwrite);
  const std::filesystem::path settings = o.tokenizer.parent_path() / "tokenizer_config.json";
  if (!std::filesystem::exists(settings)) {
    write_json(o.out / "tokenizer_config.json", tokenizer_config(o.sizes.context));
    return {0, 0};
  }
  std::filesystem::copy_file(settings, o.out / "tokenizer_config.json", overwrite);
  const Json json = read_json(o.tokenizer), config = read_json(settings);
  return {find_id(json, config.value("bos_token", Json())),
          find_id(json, config.value("eos_token", Json()))};
}

// Percents on a terminal, else nothing.
std::function<void(uint64_t, uint64_t)> progress() {
  if (isatty(STDERR_FILENO) == 0) return nullptr;
  return [shown = -1](uint64_t done, uint64_t total) mutable {
    const int percent =
        static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
    if (percent == shown) return;
    shown = percent;
    std::fprintf(stderr, "\r%3d%% of %.2f GB%s", percent, static_cast<double>(total) / 1e9,
                 done == total ? "\n" : "");
  };
}

int run_gguf(const Options& o) {
  GgufOptions options;
  if (!o.dtype.empty()) options.type = o.dtype;
  if (std::string(" f32 f16 bf16 q8_0 q4_k ").find(" " + options.type + " ") == std::string::npos) {
    throw std::invalid_argument("unknown --dtype '" + o.dtype +
                                "' of GGUF files; known: f32, f16, bf16, q8_0, q4_k");
  }
  if (!o.tokenizer.empty() || o.shard_bytes != 0) {
    throw std::invalid_argument("--tokenizer and --shard-size are for folders");
  }
  options.seed = o.seed;
  options.progress = progress();
  write_gguf(o.out, o.sizes, options);
  return 0;
}

int run(int argc, char** argv) {
  if (argc < 2 || std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h") {
    std::fputs(kUsage, argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
  }
  const Options o = parse(argc, argv);
  WriteOptions write;
  if (o.out.extension() == ".gguf") return run_gguf(o);
  const std::map<std::string, ElementType> types = {{"f32", ElementType::kF32},
                                                    {"f16", ElementType::kF16},
                                                    {"bf16", ElementType::kBF16},
                                                    {"fp8", ElementType::kF8}};
  const auto type = types.find(o.dtype.empty() ? "bf16" : o.dtype);
  if (type == types.end()) {
    throw std::invalid_argument("unknown --dtype '" + o.dtype + "'; known: f32, f16, bf16, fp8");
  }
  write.type = type->second;
  if (o.sizes.is_deepseek()) write.total_digits = 6;
  write.seed = o.seed;
  write.shard_bytes = o.shard_bytes;
  write.progress = progress();

  std::filesystem::create_directories(o.out);
  const SpecialIds ids = write_tokenizer(o);
  write_json(o.out / "config.json", config(o.sizes, write.type, ids.bos, ids.eos));
  write_json(o.out / "generation_config.json", {{"bos_token_id", ids.bos},
                                                {"eos_token_id", ids.eos},
                                                {"do_sample", true},
                                                {"temperature", 0.6},
                                                {"top_p", 0.95}});
  write_weights(o.out, tensors(o.sizes), write);
  return 0;
}

}  // namespace
}  // namespace ponder::golden

int main(int argc, char** argv) {
  try {
    return ponder::golden::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ponder-make-checkpoint: %s\n", e.what());
    return 1;
  }
}
