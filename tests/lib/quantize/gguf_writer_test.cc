// What is written is what is read, and nothing is left of what was not finished.
#include "lib/format/gguf_writer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "lib/format/file_source.h"

namespace ponder {
namespace {

namespace fs = std::filesystem;

class GgufWriterTest : public ::testing::Test {
 protected:
  GgufWriterTest()
      : folder_(fs::path(::testing::TempDir()) /
                (std::string("gguf_writer_test.") +
                 ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~GgufWriterTest() override { fs::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  const fs::path folder_;
};

TEST_F(GgufWriterTest, EverythingComesBack) {
  const std::vector<std::pair<std::string, GgufValue>> metadata = {
      {"a.bool", true},
      {"a.count", int64_t{7}},
      {"a.negative", int64_t{-3}},
      {"a.wide", int64_t{1} << 40},
      {"a.number", 0.5},
      {"a.text", std::string("\xe2\x96\x81x\0y", 6)},
      {"a.texts", std::vector<std::string>{"one", "", "three"}},
      {"a.list", std::vector<int64_t>{1, -2, 3}},
      {"a.numbers", std::vector<double>{0.25, -1}},
  };
  const std::vector<GgufTensorPlan> tensors = {{"first", DType::kF32, {3}},
                                               {"second", DType::kQ8_0, {2, 32}},
                                               {"third", DType::kF16, {2, 1, 5}}};
  const std::vector<std::vector<char>> bytes = {
      std::vector<char>(12, 'a'), std::vector<char>(68, 'b'), std::vector<char>(20, 'c')};
  auto writer = GgufWriter::create(path("x.gguf"), metadata, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_FALSE(fs::exists(path("x.gguf")));
  for (const auto& b : bytes) {  // in pieces
    ASSERT_TRUE((*writer)->write(b.data(), 5).ok());
    ASSERT_TRUE((*writer)->write(b.data() + 5, b.size() - 5).ok());
  }
  ASSERT_TRUE((*writer)->finish().ok());

  const auto source = open_folder(folder_.string());
  ASSERT_TRUE(source.ok());
  const auto files = read_gguf(**source, "x.gguf");
  ASSERT_TRUE(files.ok()) << files.status();
  for (const auto& [key, value] : metadata) {
    ASSERT_NE(files->metadata.find(key), nullptr) << key;
    EXPECT_EQ(*files->metadata.find(key), value) << key;
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor* tensor = files->find(tensors[i].name);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->shape, tensors[i].shape);
    EXPECT_EQ(tensor->type->dtype, tensors[i].type);
    EXPECT_EQ(tensor->offset % 32, 0u);
    std::vector<char> got(tensor->bytes);
    ASSERT_TRUE((*source)->read("x.gguf", tensor->offset, got.data(), got.size()).ok());
    EXPECT_EQ(got, bytes[i]);
  }
}

TEST_F(GgufWriterTest, AnUnfinishedFileIsRemoved) {
  const std::vector<GgufTensorPlan> tensors = {{"t", DType::kF32, {4}}};
  {
    auto writer = GgufWriter::create(path("x.gguf"), {}, tensors);
    ASSERT_TRUE(writer.ok());
    const float some[3] = {};
    ASSERT_TRUE((*writer)->write(some, sizeof(some)).ok());
    EXPECT_EQ((*writer)->finish().code(), absl::StatusCode::kInternal);
    EXPECT_EQ((*writer)->write(some, sizeof(some)).code(), absl::StatusCode::kInternal);
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(GgufWriterTest, WhatCannotBeWrittenIsAnError) {
  const std::vector<GgufTensorPlan> uneven = {{"rows of 33", DType::kQ8_0, {2, 33}}};
  const Status status = GgufWriter::create(path("x.gguf"), {}, uneven).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("rows of 33"), std::string::npos);
  EXPECT_EQ(GgufWriter::create(path("no/such/x.gguf"), {}, {}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace ponder
