// Model files that exist only in a test: in memory behind the host's callbacks, or in a folder that
// is deleted again.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/format/file_source.h"

namespace ponder {

// A safetensors file of that header and data.
inline std::string safetensors_file(const std::string& json, const std::string& data) {
  std::string file(8, '\0');
  const uint64_t length = json.size();
  std::memcpy(file.data(), &length, 8);
  return file + json + data;
}

// A file of one F32 tensor per name, each [2, 2], filled with one digit; aligned as real ones are.
inline std::string small_safetensors(std::initializer_list<std::string> names) {
  std::string json = "{", data;
  for (const std::string& name : names) {
    absl::StrAppend(&json, json.size() > 1 ? "," : "", "\"", name,
                    "\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[", data.size(), ",",
                    data.size() + 16, "]}");
    data += std::string(16, static_cast<char>('0' + data.size() / 16 % 10));
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return safetensors_file(json, data);
}

// Files in memory behind IoCallbacks. Outlives the source made of it.
struct HostFiles {
  std::map<std::string, std::string> files;
  bool maps = false;
  int calls = 0;         // of size and read
  int fail_at = 0;       // this call fails (counted from 1); 0: none
  int32_t failure = -6;  // what it returns
  int closed = 0;

  IoCallbacks io() {
    IoCallbacks io;
    io.user = this;
    io.size = [](void* user, const char* name, uint64_t* size) -> int32_t {
      auto& self = *static_cast<HostFiles*>(user);
      if (++self.calls == self.fail_at) return self.failure;
      const auto it = self.files.find(name);
      if (it == self.files.end()) return IoCallbacks::kIoNotFound;
      *size = it->second.size();
      return 0;
    };
    io.read = [](void* user, const char* name, uint64_t offset, void* dst, size_t n) -> int32_t {
      auto& self = *static_cast<HostFiles*>(user);
      if (++self.calls == self.fail_at) return self.failure;
      const auto it = self.files.find(name);
      if (it == self.files.end()) return IoCallbacks::kIoNotFound;
      if (offset > it->second.size() || n > it->second.size() - offset) return -6;
      std::memcpy(dst, it->second.data() + offset, n);
      return 0;
    };
    io.map = [](void* user, const char* name) -> const void* {
      auto& self = *static_cast<HostFiles*>(user);
      const auto it = self.files.find(name);
      return self.maps && it != self.files.end() ? it->second.data() : nullptr;
    };
    io.close = [](void* user) { ++static_cast<HostFiles*>(user)->closed; };
    return io;
  }

  std::shared_ptr<const FileSource> source() {
    auto source = open_callbacks(io());
    EXPECT_TRUE(source.ok()) << source.status();
    return *source;
  }
};

// A folder of its own for the running test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ponder-test-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path(const std::string& name = "") const {
    return name.empty() ? path_.string() : (path_ / name).string();
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream out(path(name), std::ios::binary);
    out << text;
    EXPECT_TRUE(out.good());
  }

 private:
  std::filesystem::path path_;
};

// Whether a status is of a class and its words contain a text.
inline ::testing::AssertionResult fails(const Status& status, absl::StatusCode code,
                                        absl::string_view words) {
  if (status.code() == code && status.message().find(words) != absl::string_view::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << status << "\n  where " << absl::StatusCodeToString(code)
                                       << " with \"" << words << "\" was expected";
}

constexpr auto kCorrupt = absl::StatusCode::kDataLoss;
constexpr auto kMissing = absl::StatusCode::kNotFound;
constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kIo = absl::StatusCode::kUnavailable;
constexpr auto kNoMemory = absl::StatusCode::kResourceExhausted;

}  // namespace ponder
