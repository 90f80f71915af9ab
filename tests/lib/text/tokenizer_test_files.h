// Reading the files that tokenizer tests are made of.
#pragma once

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace ponder {

inline std::string read_test_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

inline bool test_file_exists(const std::string& path) {
  return std::ifstream(path, std::ios::binary).good();
}

// A file under the reference data, or a skipped test where that is absent.
#define PONDER_NEEDS_SHARED(path)                           \
  if (!test_file_exists(path)) {                            \
    GTEST_SKIP() << "reference data is absent: " << (path); \
  }

// The content of a .gz file, by way of gzip.
inline std::string read_gzip_file(const std::string& path) {
  const std::string command = "gzip -dc '" + path + "'";
  std::FILE* pipe = popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr) << command;
  std::string bytes;
  if (pipe == nullptr) return bytes;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) bytes.append(buffer, n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return bytes;
}

inline nlohmann::json read_json_file(const std::string& path) {
  return nlohmann::json::parse(read_test_file(path));
}

}  // namespace ponder
