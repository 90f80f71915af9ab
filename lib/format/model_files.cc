#include "lib/format/model_files.h"

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "lib/base/quote.h"
#include "lib/format/gguf_model.h"
#include "lib/format/safetensors.h"
#include "lib/format/sha256.h"

namespace ponder {
namespace {

constexpr uint64_t kMaxSettings = 16 << 20;    // config.json and its like: kilobytes in truth
constexpr uint64_t kMaxTokenizer = 512 << 20;  // the largest known has 33 MB
constexpr char kWhatAFolderHolds[] =
    "a model folder holds config.json, tokenizer.json and the weights as model.safetensors, or as "
    "several .safetensors files with a model.safetensors.index.json";

// The text of a file that a model may do without.
StatusOr<std::optional<std::string>> read_optional(const FileSource& source,
                                                   absl::string_view name) {
  StatusOr<std::string> text = read_file(source, name, kMaxSettings);
  if (text.ok()) return std::optional<std::string>(*std::move(text));
  if (absl::IsNotFound(text.status())) return std::optional<std::string>();
  return text.status();
}

std::string path_of(const FileSource& source, absl::string_view name) {
  return absl::StrCat(source.where(), "/", name);
}

Status read_configuration(const FileSource& source, ModelFiles* files) {
  StatusOr<std::string> text = read_file(source, "config.json", kMaxSettings);
  if (absl::IsNotFound(text.status())) {
    return not_found_error(source.where(), ": there is no config.json; ", kWhatAFolderHolds);
  }
  PONDER_RETURN_IF_ERROR(text.status());
  PONDER_ASSIGN_OR_RETURN(files->config, read_model_config(*text, path_of(source, "config.json")));
  files->architecture = files->config["architectures"][0].get<std::string>();

  PONDER_ASSIGN_OR_RETURN(const auto generation, read_optional(source, "generation_config.json"));
  if (generation.has_value()) {
    PONDER_ASSIGN_OR_RETURN(
        files->defaults,
        read_generation_defaults(*generation, path_of(source, "generation_config.json")));
  }
  return in_context(complete_generation_defaults(files->config, &files->defaults), source.where());
}

Status read_tokenizer(const FileSource& source, ModelFiles* files) {
  StatusOr<std::string> text = read_file(source, "tokenizer.json", kMaxTokenizer);
  if (absl::IsNotFound(text.status())) {
    return not_found_error(source.where(), ": there is no tokenizer.json; ", kWhatAFolderHolds,
                           ". Where a model comes with another kind of tokenizer, transformers"
                           " writes this one: AutoTokenizer.from_pretrained(...)"
                           ".save_pretrained(...)");
  }
  PONDER_RETURN_IF_ERROR(text.status());
  files->tokenizer_json = *std::move(text);

  PONDER_ASSIGN_OR_RETURN(const auto settings, read_optional(source, "tokenizer_config.json"));
  if (settings.has_value()) {
    PONDER_ASSIGN_OR_RETURN(
        files->tokenizer,
        read_tokenizer_settings(*settings, path_of(source, "tokenizer_config.json")));
  }
  PONDER_ASSIGN_OR_RETURN(const auto special, read_optional(source, "special_tokens_map.json"));
  if (special.has_value()) {
    PONDER_RETURN_IF_ERROR(complete_special_tokens(*special, &files->tokenizer,
                                                   path_of(source, "special_tokens_map.json")));
  }
  // Newer repositories keep the template in a file of its own, which then counts.
  PONDER_ASSIGN_OR_RETURN(auto chat, read_optional(source, "chat_template.jinja"));
  if (chat.has_value()) {
    files->tokenizer.chat_template = *std::move(chat);
  } else if (files->tokenizer.chat_template.empty()) {
    PONDER_ASSIGN_OR_RETURN(const auto nested, read_optional(source, "chat_template.json"));
    if (nested.has_value()) {
      PONDER_ASSIGN_OR_RETURN(
          TokenizerSettings other,
          read_tokenizer_settings(*nested, path_of(source, "chat_template.json")));
      files->tokenizer.chat_template = std::move(other.chat_template);
    }
  }
  return OkStatus();
}

StatusOr<std::unique_ptr<Checkpoint>> open_weights(std::shared_ptr<const FileSource> source,
                                                   Allocator* allocator) {
  constexpr absl::string_view kSingle = "model.safetensors";
  constexpr absl::string_view kIndex = "model.safetensors.index.json";
  for (absl::string_view name : {kSingle, kIndex}) {
    const StatusOr<uint64_t> size = source->size(name);
    if (size.ok()) {
      return name == kSingle ? open_safetensors(std::move(source), name, allocator)
                             : open_sharded_safetensors(std::move(source), name, allocator);
    }
    if (!absl::IsNotFound(size.status())) return size.status();
  }
  for (absl::string_view old : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (source->size(old).ok()) {
      return unsupported_error(source->where(), ": the weights are PyTorch pickles (", old,
                               "), which run code when they are opened; convert them to safetensors"
                               " with transformers: save_pretrained(..., safe_serialization=True)");
    }
  }
  return not_found_error(source->where(),
                         ": there is neither model.safetensors nor"
                         " model.safetensors.index.json; ",
                         kWhatAFolderHolds);
}

// Hands the bytes of a metadata value to `add`.
template <typename T, typename Add>
void add_value(const T& value, const Add& add) {
  if constexpr (std::is_arithmetic_v<T>) {
    add({reinterpret_cast<const char*>(&value), sizeof value});
  } else if constexpr (std::is_same_v<T, std::string>) {
    add(value);
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    for (const std::string& text : value) add(text);
  } else {
    add({reinterpret_cast<const char*>(value.data()), value.size() * sizeof value[0]});
  }
}

// Hashes the configuration, the tokenizer, the tensor table, and a few bytes from the middle of up
// to 1,023 tensors: enough to tell a model from its siblings, which share all but the weights.
StatusOr<std::string> fingerprint(const ModelFiles& files) {
  constexpr size_t kSamples = 512;
  constexpr uint64_t kSampleBytes = 64;
  Sha256 hash;
  // Lengths go before what varies in length, so that no two inputs run together to the same bytes.
  const auto add = [&hash](absl::string_view text) {
    const uint64_t size = text.size();
    hash.update(&size, sizeof size);
    hash.update(text);
  };
  add("ponder model 1");
  add(files.config.dump());
  add(files.tokenizer_json);
  if (files.gguf.has_value()) {
    for (const auto& [key, value] : files.gguf->entries()) {
      add(key);
      std::visit([&add](const auto& v) { add_value(v, add); }, value);
    }
  }
  const std::vector<std::string> names = files.weights->names();
  const size_t step = std::max<size_t>(1, names.size() / kSamples);
  for (size_t i = 0; i < names.size(); ++i) {
    PONDER_ASSIGN_OR_RETURN(const TensorInfo info, files.weights->info(names[i]));
    add(info.name);
    add(info.dtype);
    hash.update(info.shape.data(), info.shape.size() * sizeof(int64_t));
    if (i % step == 0 && info.bytes > 0) {
      char sample[kSampleBytes];
      const uint64_t size = std::min(info.bytes, kSampleBytes);
      PONDER_RETURN_IF_ERROR(files.weights->read(info.name, (info.bytes - size) / 2, sample, size));
      add({sample, size});
    }
  }
  return hash.finish();
}

// The GGUF file to open; empty when the source is a folder of other files.
StatusOr<std::string> find_gguf(const FileSource& source) {
  constexpr char kOnlyFile[] = "model.gguf";
  if (!source.main_file().empty()) return source.main_file();
  const StatusOr<uint64_t> config = source.size("config.json");
  if (config.ok()) return std::string();
  if (!absl::IsNotFound(config.status())) return config.status();
  const StatusOr<uint64_t> only = source.size(kOnlyFile);
  if (absl::IsNotFound(only.status())) return std::string();
  PONDER_RETURN_IF_ERROR(only.status());
  return std::string(kOnlyFile);
}

// "R1-Q4_K_M-00001-of-00003.gguf" is called "R1-Q4_K_M".
std::string name_from_file(absl::string_view file) {
  file = file.substr(0, file.size() - std::min(file.size(), sizeof ".gguf" - 1));
  constexpr absl::string_view kSplit = "-00001-of-00001";
  if (file.size() > kSplit.size()) {
    const absl::string_view ending = file.substr(file.size() - kSplit.size());
    if (absl::StartsWith(ending, "-00001-of-")) file.remove_suffix(kSplit.size());
  }
  return excerpt(file, 255);
}

// The last part of a path; in a Hugging Face cache (models--org--name/snapshots/<hash>) org/name.
std::string name_from_path(absl::string_view path) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  if (parts.empty()) return "";
  if (parts.size() >= 3 && parts[parts.size() - 2] == "snapshots" &&
      absl::StartsWith(parts[parts.size() - 3], "models--")) {
    const std::vector<absl::string_view> repo =
        absl::StrSplit(parts[parts.size() - 3].substr(8), "--");
    return absl::StrJoin(repo, "/");
  }
  return parts.back() == "." || parts.back() == ".." ? "" : std::string(parts.back());
}

}  // namespace

StatusOr<ModelFiles> open_model(std::shared_ptr<const FileSource> source,
                                const OpenOptions& options) {
  ModelFiles files;
  PONDER_ASSIGN_OR_RETURN(const std::string gguf, find_gguf(*source));
  files.name = options.name;
  if (files.name.empty() && !source->main_file().empty()) files.name = name_from_file(gguf);
  if (files.name.empty() && source->is_folder()) files.name = name_from_path(source->where());
  if (gguf.empty()) {
    PONDER_RETURN_IF_ERROR(read_configuration(*source, &files));
    PONDER_RETURN_IF_ERROR(read_tokenizer(*source, &files));
    PONDER_ASSIGN_OR_RETURN(files.weights, open_weights(std::move(source), options.allocator));
  } else {
    PONDER_RETURN_IF_ERROR(open_gguf(std::move(source), gguf, options.allocator, &files));
  }
  PONDER_ASSIGN_OR_RETURN(files.fingerprint, fingerprint(files));
  if (files.name.empty()) {
    const auto it = files.config.find("_name_or_path");
    if (it != files.config.end() && it->is_string()) {
      files.name = name_from_path(it->get_ref<const std::string&>());
    }
  }
  if (files.name.empty()) files.name = files.architecture;
  return files;
}

StatusOr<ModelFiles> open_model_path(absl::string_view path, const OpenOptions& options) {
  PONDER_ASSIGN_OR_RETURN(std::shared_ptr<const FileSource> source,
                          open_folder(path, options.mapping));
  return open_model(std::move(source), options);
}

}  // namespace ponder
