#include "lib/format/file_source.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/lib/format/test_files.h"

namespace ponder {
namespace {

TEST(FolderSource, ReadsAndMapsAFile) {
  TemporaryFolder folder;
  folder.write("a.bin", "0123456789");
  auto source = open_folder(folder.path(), Mapping::kAlways);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(10u, *(*source)->size("a.bin"));
  char part[4] = {};
  ASSERT_TRUE((*source)->read("a.bin", 3, part, 3).ok());
  EXPECT_STREQ("345", part);
  auto view = (*source)->map("a.bin");
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_NE(nullptr, (*view)->data());
  EXPECT_EQ("0123456789", std::string(reinterpret_cast<const char*>((*view)->data()), 10));
}

TEST(FolderSource, MappedBytesOutliveTheSource) {
  TemporaryFolder folder;
  folder.write("a.bin", "abc");
  std::shared_ptr<const FileView> view;
  {
    auto source = open_folder(folder.path(), Mapping::kAlways);
    ASSERT_TRUE(source.ok());
    view = *(*source)->map("a.bin");
  }
  EXPECT_EQ('b', static_cast<char>(view->data()[1]));
  EXPECT_TRUE(view->check().ok());
}

TEST(FolderSource, MapsNothingWhenToldSo) {
  TemporaryFolder folder;
  folder.write("a.bin", "abc");
  auto source = open_folder(folder.path(), Mapping::kNever);
  ASSERT_TRUE(source.ok());
  auto view = (*source)->map("a.bin");
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(nullptr, (*view)->data());
  EXPECT_EQ(3u, (*view)->size());
}

TEST(FolderSource, AnEmptyFileHasAViewWithoutData) {
  TemporaryFolder folder;
  folder.write("empty", "");
  auto source = open_folder(folder.path(), Mapping::kAlways);
  auto view = (*source)->map("empty");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(nullptr, (*view)->data());
  EXPECT_EQ(0u, (*view)->size());
}

TEST(FolderSource, SaysThatAFileIsAbsent) {
  TemporaryFolder folder;
  auto source = open_folder(folder.path());
  EXPECT_TRUE(fails((*source)->size("config.json").status(), kMissing, "config.json"));
  char c;
  EXPECT_TRUE(fails((*source)->read("config.json", 0, &c, 1), kMissing, folder.path()));
  EXPECT_TRUE(fails((*source)->map("config.json").status(), kMissing, "config.json"));
}

TEST(FolderSource, RefusesNamesThatLeaveTheFolder) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder.path("inner"));
  folder.write("secret", "x");
  folder.write("inner/file", "x");
  auto source = open_folder(folder.path("inner"));
  for (const std::string& name :
       {std::string("../secret"), std::string(".."), std::string("."), std::string(""),
        std::string("/etc/passwd"), std::string("a/b"), std::string("./file"),
        std::string("file\0.json", 10), std::string(256, 'a')}) {
    EXPECT_TRUE(fails((*source)->size(name).status(), kCorrupt, "not the name of a file")) << name;
  }
  EXPECT_TRUE((*source)->size("file").ok());
  EXPECT_TRUE((*source)->size("..file").status().code() == kMissing);
}

TEST(FolderSource, FollowsLinksAsDownloadCachesMakeThem) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder.path("blobs"));
  std::filesystem::create_directory(folder.path("snapshot"));
  folder.write("blobs/1f2e", "{}");
  std::filesystem::create_symlink("../blobs/1f2e", folder.path("snapshot/config.json"));
  auto source = open_folder(folder.path("snapshot"));
  EXPECT_EQ("{}", *read_file(**source, "config.json", 100));
}

TEST(FolderSource, RefusesWhatIsNotARegularFile) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder.path("config.json"));
  ASSERT_EQ(0, mkfifo(folder.path("tokenizer.json").c_str(), 0600));
  auto source = open_folder(folder.path());
  EXPECT_TRUE(fails((*source)->size("config.json").status(), kIo, "not a regular file"));
  EXPECT_TRUE(fails((*source)->size("tokenizer.json").status(), kIo, "not a regular file"));
}

TEST(FolderSource, SaysWhatIsWrongWithAPath) {
  TemporaryFolder folder;
  folder.write("file", "x");
  EXPECT_TRUE(fails(open_folder(folder.path("none")).status(), kMissing, "no such file or folder"));
  EXPECT_TRUE(fails(open_folder(folder.path("file")).status(), kInvalid, "config.json"));
  EXPECT_TRUE(fails(open_folder("").status(), kInvalid, "not a path"));
  EXPECT_TRUE(fails(open_folder(std::string("/tmp\0/x", 7)).status(), kInvalid, "not a path"));
}

TEST(FolderSource, RefusesToReadPastTheEnd) {
  TemporaryFolder folder;
  folder.write("a", "0123456789");
  auto source = open_folder(folder.path());
  char buffer[16];
  EXPECT_TRUE(fails((*source)->read("a", 8, buffer, 3), kIo, "of a file of 10"));
  EXPECT_TRUE(fails((*source)->read("a", UINT64_MAX, buffer, 3), kIo, "of a file of 10"));
  EXPECT_TRUE((*source)->read("a", 10, buffer, 0).ok());
}

TEST(FolderSource, NoticesAFileThatWasCutOffWhileInUse) {
  TemporaryFolder folder;
  folder.write("a", std::string(20000, 'x'));
  auto source = open_folder(folder.path(), Mapping::kAlways);
  auto view = (*source)->map("a");
  ASSERT_TRUE((*view)->check().ok());
  ASSERT_EQ(0, truncate(folder.path("a").c_str(), 5000));
  EXPECT_TRUE(fails((*view)->check(), kIo, "from 20000 to 5000 bytes"));
  EXPECT_TRUE(fails((*source)->map("a").status(), kIo, "from 20000 to 5000 bytes"));
  std::string buffer(20000, 0);
  EXPECT_TRUE(fails((*source)->read("a", 0, buffer.data(), 20000), kIo, "ends at byte 5000"));
}

TEST(FolderSource, KeepsReadingAFileWhoseNameWasTakenByAnother) {
  TemporaryFolder folder;
  folder.write("a", "old");
  folder.write("b", "newer");
  auto source = open_folder(folder.path());
  ASSERT_EQ(3u, *(*source)->size("a"));
  std::filesystem::rename(folder.path("b"), folder.path("a"));
  EXPECT_EQ("old", *read_file(**source, "a", 100));
}

TEST(FolderSource, ServesManyThreads) {
  TemporaryFolder folder;
  for (int i = 0; i < 8; ++i) folder.write(absl::StrCat("f", i), std::string(1000, '0' + i));
  auto source = open_folder(folder.path());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        char c = 0;
        ASSERT_TRUE((*source)->read(absl::StrCat("f", i % 8), 500, &c, 1).ok());
        ASSERT_EQ('0' + i % 8, c);
      }
    });
  }
  for (std::thread& t : threads) t.join();
}

TEST(ReadFile, RefusesALargeFileBeforeItAllocates) {
  TemporaryFolder folder;
  folder.write("config.json", "");
  ASSERT_EQ(0, truncate(folder.path("config.json").c_str(), int64_t{1} << 40));
  auto source = open_folder(folder.path());
  EXPECT_TRUE(
      fails(read_file(**source, "config.json", 1 << 20).status(), kCorrupt, "1099511627776 bytes"));
}

TEST(CallbackSource, ReadsThroughTheHostAndClosesOnce) {
  HostFiles host;
  host.files["a"] = "hello";
  {
    auto source = host.source();
    EXPECT_EQ("hello", *read_file(*source, "a", 100));
    EXPECT_EQ(nullptr, (*source->map("a"))->data());
  }
  EXPECT_EQ(1, host.closed);
}

TEST(CallbackSource, AViewKeepsTheHostsIoOpen) {
  HostFiles host;
  host.files["a"] = "hello";
  host.maps = true;
  auto source = host.source();
  auto view = *source->map("a");
  source.reset();
  EXPECT_EQ(0, host.closed);
  EXPECT_EQ('e', static_cast<char>(view->data()[1]));
  view.reset();
  EXPECT_EQ(1, host.closed);
}

TEST(CallbackSource, PassesTheHostsAnswersOn) {
  HostFiles host;
  host.files["a"] = "hello";
  auto source = host.source();
  EXPECT_TRUE(fails(source->size("b").status(), kMissing, "\"b\""));
  char buffer[5];
  const std::pair<int32_t, absl::StatusCode> cases[] = {
      {-6, kIo}, {-10, absl::StatusCode::kCancelled}, {-7, kNoMemory}, {1, kIo}, {-99, kIo}};
  for (const auto& [answer, code] : cases) {
    host.failure = answer;
    host.fail_at = host.calls + 1;
    EXPECT_TRUE(fails(source->read("a", 0, buffer, 5), code, "\"a\"")) << answer;
  }
}

TEST(CallbackSource, HandsTheHostPlainNamesOnly) {
  HostFiles host;
  auto source = host.source();
  for (const char* name : {"../a", "a/b", "..", ".", "", "a\\b"}) {
    EXPECT_TRUE(fails(source->size(name).status(), kCorrupt, "plain file name")) << name;
  }
  EXPECT_EQ(0, host.calls);
}

TEST(CallbackSource, NeedsSizeAndRead) {
  HostFiles host;
  IoCallbacks io = host.io();
  io.read = nullptr;
  EXPECT_TRUE(fails(open_callbacks(io).status(), kInvalid, "`read` is missing"));
  io = host.io();
  io.size = nullptr;
  EXPECT_TRUE(fails(open_callbacks(io).status(), kInvalid, "`size` is missing"));
  io = host.io();
  io.map = nullptr;
  io.close = nullptr;
  host.files["a"] = "x";
  auto source = open_callbacks(io);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(nullptr, (*(*source)->map("a"))->data());
  EXPECT_EQ(0, host.closed);
}

}  // namespace
}  // namespace ponder
