// The reference GGUF files (oracle B) and what their manifests say of each tensor.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "gtest/gtest.h"
#include "lib/format/gguf.h"
#include "lib/tensor/dtype.h"
#include "nlohmann/json.hpp"
#include "tests/paths/paths.h"

namespace ponder {

inline std::string shared(const std::string& path) { return std::string(kSharedDir) + "/" + path; }

inline nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

// Every type, for tests that go through all of them.
inline constexpr DType kAllTypes[] = {
    DType::kF32,   DType::kF16,     DType::kBF16,   DType::kI32,    DType::kF8_E4M3, DType::kQ4_0,
    DType::kQ4_1,  DType::kQ5_0,    DType::kQ5_1,   DType::kQ8_0,   DType::kQ2_K,    DType::kQ3_K,
    DType::kQ4_K,  DType::kQ5_K,    DType::kQ6_K,   DType::kIQ4_NL, DType::kIQ4_XS,  DType::kIQ1_S,
    DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS, DType::kIQ2_S,  DType::kIQ3_XXS, DType::kIQ3_S,
    DType::kTQ1_0, DType::kTQ2_0,   DType::kMXFP4};

// "Q4_K" of a file to the type.
inline std::optional<DType> type_named(const std::string& name) {
  for (const DType type : kAllTypes) {
    if (absl::AsciiStrToUpper(dtype_name(type)) == name) return type;
  }
  return std::nullopt;
}

// One file of the oracle, open.
struct ReferenceFile {
  nlohmann::json tensors;  // the manifest's, by name
  std::shared_ptr<const FileSource> source;
  GgufFiles table;

  std::string bytes(const GgufTensor& tensor) const {
    std::string data(tensor.bytes, '\0');
    const Status status =
        source->read(table.files[tensor.file], tensor.offset, data.data(), data.size());
    EXPECT_TRUE(status.ok()) << status;
    return data;
  }
};

// `path` under oracle/B: "qwen2-bf16/qwen2-bf16-ZOO.gguf".
inline void open_reference(const std::string& path, ReferenceFile* file) {
  const std::filesystem::path full = shared("oracle/B/" + path);
  const nlohmann::json manifest = read_json(full.parent_path() / "manifest.json");
  file->tensors = manifest.at("files").at(full.filename().string()).at("tensors");
  auto source = open_folder(full.parent_path().string());
  ASSERT_TRUE(source.ok()) << source.status();
  file->source = *source;
  auto table = read_gguf(*file->source, full.filename().string());
  ASSERT_TRUE(table.ok()) << table.status();
  file->table = *std::move(table);
}

// All files of the oracle; none when it is not there.
inline std::vector<std::string> reference_files() {
  std::vector<std::string> paths;
  std::error_code none;
  const std::filesystem::path root = shared("oracle/B");
  for (const auto& one : std::filesystem::recursive_directory_iterator(root, none)) {
    if (one.path().extension() == ".gguf") {
      paths.push_back(std::filesystem::relative(one.path(), root).string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// For names of parameterised tests.
inline std::string test_name(std::string text) {
  for (char& c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return text;
}

}  // namespace ponder
