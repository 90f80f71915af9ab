#include "lib/format/safetensors.h"

#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/lib/format/test_files.h"

namespace ponder {
namespace {

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

Status parse(const std::string& json, uint64_t data_bytes) {
  return parse_safetensors_header(json, data_bytes, "x.safetensors").status();
}

// ---- the header -------------------------------------------------------------------------------

TEST(SafetensorsHeader, TakesWhatTheFormatAllows) {
  auto entries = parse_safetensors_header(
      "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\"}," + entry("b", "BF16", "[3]", "[4,10]") +
          "," + entry("a", "F32", "[]", "[0,4]") + "," + entry("none", "F64", "[0,5]", "[10,10]") +
          "," + entry("odd", "U8", "[1,1,1]", "[10,11]") + "}  \n ",
      11, "x");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(4u, entries->size());
  EXPECT_EQ("a", (*entries)[0].name);
  EXPECT_TRUE((*entries)[0].shape.empty());
  EXPECT_EQ("b", (*entries)[1].name);
  EXPECT_EQ((std::vector<int64_t>{3}), (*entries)[1].shape);
  EXPECT_EQ("BF16", (*entries)[1].dtype);
  EXPECT_EQ(4u, (*entries)[1].begin);
  EXPECT_EQ(10u, (*entries)[1].end);
  EXPECT_EQ("none", (*entries)[2].name);
}

TEST(SafetensorsHeader, TakesAFileWithoutTensors) {
  EXPECT_TRUE(parse("{}", 0).ok());
  EXPECT_TRUE(parse("{\"__metadata__\":null}", 0).ok());
}

TEST(SafetensorsHeader, KnowsTheSizeOfEveryElementType) {
  const std::pair<const char*, int> bits[] = {
      {"BOOL", 8},    {"U8", 8},      {"I8", 8},   {"I16", 16},    {"U16", 16},
      {"I32", 32},    {"U32", 32},    {"I64", 64}, {"U64", 64},    {"F16", 16},
      {"BF16", 16},   {"F32", 32},    {"F64", 64}, {"C64", 64},    {"F8_E4M3", 8},
      {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, size] : bits) {
    EXPECT_TRUE(
        parse(std::string("{") + entry("t", name, "[8]", absl::StrCat("[0,", size, "]")) + "}",
              size)
            .ok())
        << name;
    EXPECT_TRUE(fails(
        parse(std::string("{") + entry("t", name, "[8]", absl::StrCat("[0,", size + 1, "]")) + "}",
              size + 1),
        kCorrupt, "takes"))
        << name;
  }
  EXPECT_TRUE(fails(parse(std::string("{") + entry("t", "F5", "[8]", "[0,8]") + "}", 8),
                    kUnsupported, "\"F5\""));
}

TEST(SafetensorsHeader, RefusesPartsOfBytes) {
  EXPECT_TRUE(fails(parse(std::string("{") + entry("t", "F4", "[3]", "[0,1]") + "}", 1), kCorrupt,
                    "takes"));
  EXPECT_TRUE(fails(parse(std::string("{") + entry("t", "F4", "[3]", "[0,2]") + "}", 2), kCorrupt,
                    "takes"));
}

TEST(SafetensorsHeader, RefusesTextThatIsNotJson) {
  const std::string good = std::string("{") + entry("t", "F32", "[1]", "[0,4]") + "}";
  ASSERT_TRUE(parse(good, 4).ok());
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(kCorrupt, parse(good.substr(0, n), 4).code()) << n;
  }
  EXPECT_TRUE(fails(parse(good + "}", 4), kCorrupt, "not valid JSON"));
  EXPECT_TRUE(fails(parse(good + std::string(1, '\0') + "?", 4), kCorrupt, "a NUL"));
  EXPECT_TRUE(fails(parse(" " + good, 4), kCorrupt, "begin with '{'"));
  EXPECT_TRUE(fails(parse("[]", 4), kCorrupt, "begin with '{'"));
  EXPECT_TRUE(fails(parse(std::string(16, '\0'), 4), kCorrupt, "begin with '{'"));
  EXPECT_TRUE(fails(parse("{\"\xff\":1}", 4), kCorrupt, "not valid JSON"));
}

TEST(SafetensorsHeader, ErrorsAreThemselvesReadable) {
  const Status status = parse("{\"bad \xff\xfe name", 4);
  EXPECT_EQ(std::string::npos, status.message().find('\xff')) << status;
  const Status huge =
      parse(std::string("{") + entry(std::string(100000, 'n'), "F32", "[1]", "[0,5]") + "}", 5);
  EXPECT_EQ(kCorrupt, huge.code());
  EXPECT_LT(huge.message().size(), 600u);
}

TEST(SafetensorsHeader, RefusesEntriesOfTheWrongForm) {
  const char* cases[] = {
      R"({"t":1})",
      R"({"t":"x"})",
      R"({"t":null})",
      R"({"t":[]})",
      R"({"t":{}})",
      R"({"t":{"dtype":"F32","shape":[1]}})",
      R"({"t":{"dtype":"F32","data_offsets":[0,4]}})",
      R"({"t":{"shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[null],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":"0,4"}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})",
      R"({"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})",
      R"({"__metadata__":1})",
      R"({"__metadata__":[]})",
      R"({"__metadata__":{"a":1}})",
      R"({"__metadata__":{"a":{}}})",
      R"({"__metadata__":{},"__metadata__":{}})",
  };
  for (const char* json : cases) EXPECT_EQ(kCorrupt, parse(json, 4).code()) << json;
}

TEST(SafetensorsHeader, RefusesNumbersBeyondAllSense) {
  const auto with_shape = [](const std::string& shape) {
    return parse(std::string("{") + entry("t", "F32", shape, "[0,4]") + "}", 4);
  };
  EXPECT_TRUE(fails(with_shape("[9223372036854775808]"), kCorrupt, "beyond all sense"));
  EXPECT_TRUE(fails(with_shape("[18446744073709551616]"), kCorrupt, "not a whole number"));
  EXPECT_TRUE(fails(with_shape("[1e400]"), kCorrupt, "not valid JSON"));
  EXPECT_TRUE(fails(with_shape("[4294967296,4294967296]"), kCorrupt, "more than any file"));
  // 2^62 elements of 4 bytes are 2^64 bytes: zero, if nobody looks.
  EXPECT_TRUE(fails(with_shape("[4611686018427387904]"), kCorrupt, "more than any file"));
  EXPECT_TRUE(fails(with_shape("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), kCorrupt, "16 dim"));
  EXPECT_TRUE(
      fails(parse(std::string("{") + entry("t", "F32", "[1]", "[18446744073709551612,0]") + "}", 4),
            kCorrupt, "backwards"));
  EXPECT_TRUE(fails(parse(std::string("{") +
                              entry("t", "F32", "[1]",
                                    "[18446744073709551611,"
                                    "18446744073709551615]") +
                              "}",
                          4),
                    kCorrupt, "truncated"));
}

TEST(SafetensorsHeader, RefusesRangesThatOverlapOrLeaveHoles) {
  const std::string a = entry("a", "U8", "[4]", "[0,4]");
  EXPECT_TRUE(parse(std::string("{") + a + "," + entry("b", "U8", "[4]", "[4,8]") + "}", 8).ok());
  EXPECT_TRUE(fails(parse(std::string("{") + a + "," + entry("b", "U8", "[4]", "[3,7]") + "}", 7),
                    kCorrupt, "inside tensor \"a\""));
  EXPECT_TRUE(fails(parse(std::string("{") + a + "," + entry("b", "U8", "[4]", "[0,4]") + "}", 4),
                    kCorrupt, "inside tensor"));
  EXPECT_TRUE(fails(parse(std::string("{") + a + "," + entry("b", "U8", "[4]", "[5,9]") + "}", 9),
                    kCorrupt, "1 bytes between tensor \"a\" and tensor \"b\""));
  EXPECT_TRUE(fails(parse(std::string("{") + entry("b", "U8", "[4]", "[2,6]") + "}", 6), kCorrupt,
                    "2 bytes between the header"));
  EXPECT_TRUE(
      fails(parse(std::string("{") + a + "}", 9), kCorrupt, "5 bytes behind the last tensor"));
  EXPECT_TRUE(fails(parse("{}", 1), kCorrupt, "1 bytes behind"));
  EXPECT_TRUE(fails(parse(std::string("{") + a + "}", 3), kCorrupt, "truncated"));
}

TEST(SafetensorsHeader, RefusesTheSameNameTwice) {
  EXPECT_TRUE(fails(
      parse(std::string("{") + entry("a", "U8", "[0]", "[0,0]") + "," +
                entry("b", "U8", "[0]", "[0,0]") + "," + entry("a", "U8", "[0]", "[0,0]") + "}",
            0),
      kCorrupt, "\"a\" occurs twice"));
}

TEST(SafetensorsHeader, IsNotTroubledByDepth) {
  const std::string deep(1'000'000, '[');
  EXPECT_EQ(kCorrupt, parse("{\"t\":" + deep, 4).code());
  EXPECT_EQ(kCorrupt, parse(std::string("{\"__metadata__\":{\"a\":") + deep, 4).code());
}

TEST(SafetensorsHeader, ReadsAHundredThousandTensors) {
  std::string json = "{";
  for (int i = 0; i < 100'000; ++i) {
    if (i > 0) json += ",";
    json +=
        entry(absl::StrCat("model.layers.", i / 800, ".mlp.experts.", i % 800, ".up_proj.weight"),
              "BF16", "[1,2]", absl::StrCat("[", 4 * i, ",", 4 * i + 4, "]"));
  }
  auto entries = parse_safetensors_header(json + "}", 400'000, "x");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(100'000u, entries->size());
}

// ---- the file ---------------------------------------------------------------------------------

Status open_single(const std::string& file) {
  HostFiles host;
  host.files["m.safetensors"] = file;
  return open_safetensors(host.source(), "m.safetensors", default_allocator()).status();
}

TEST(SafetensorsFile, GivesMappedBytesWithoutCopying) {
  HostFiles host;
  host.maps = true;
  host.files["m"] = small_safetensors({"a", "b"});
  const std::string& file = host.files["m"];
  auto checkpoint = open_safetensors(host.source(), "m", default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto b = (*checkpoint)->find("b");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ("b", b->name);
  EXPECT_EQ(DType::kF32, b->dtype);
  EXPECT_EQ((std::vector<int64_t>{2, 2}), b->shape);
  EXPECT_EQ(0, std::memcmp(b->data, "1111111111111111", 16));
  EXPECT_EQ(file.data() + file.size() - 16, b->data);
  // The bytes keep the source open after the checkpoint is gone.
  checkpoint->reset();
  EXPECT_EQ(0, host.closed);
  b->owner.reset();
  EXPECT_EQ(1, host.closed);
}

TEST(SafetensorsFile, ReadsIntoMemoryWhatCannotBeMapped) {
  HostFiles host;
  host.files["m"] = small_safetensors({"a", "b"});
  auto checkpoint = open_safetensors(host.source(), "m", default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto a = (*checkpoint)->find("a");
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(0, std::memcmp(a->data, "0000000000000000", 16));
  host.fail_at = host.calls + 1;
  EXPECT_TRUE(fails((*checkpoint)->find("b").status(), kIo, "\"b\""));
}

TEST(SafetensorsFile, CopiesWhatIsNotAlignedToItsElements) {
  for (int pad = 0; pad < 8; ++pad) {
    HostFiles host;
    host.maps = true;
    host.files["m"] = safetensors_file(
        std::string("{") + entry("a", "F32", "[2]", "[0,8]") + "}" + std::string(pad, ' '),
        "abcdefgh");
    auto checkpoint = open_safetensors(host.source(), "m", default_allocator());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto a = (*checkpoint)->find("a");
    ASSERT_TRUE(a.ok()) << a.status();
    EXPECT_EQ(0u, reinterpret_cast<uintptr_t>(a->data) % 4) << pad;
    EXPECT_EQ(0, std::memcmp(a->data, "abcdefgh", 8)) << pad;
  }
}

TEST(SafetensorsFile, TellsWhatItHolds) {
  HostFiles host;
  host.files["m"] = safetensors_file(std::string("{") + entry("z", "BF16", "[2,3]", "[0,12]") +
                                         "," + entry("a", "F8_E4M3", "[4]", "[12,16]") + "}",
                                     std::string(16, 'x'));
  auto opened = open_safetensors(host.source(), "m", default_allocator());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ((std::vector<std::string>{"a", "z"}), checkpoint.names());
  EXPECT_EQ(16u, checkpoint.total_bytes());
  EXPECT_EQ(10u, checkpoint.parameters());
  EXPECT_TRUE(checkpoint.has("z"));
  EXPECT_FALSE(checkpoint.has("y"));
  auto info = checkpoint.info("z");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ("BF16", info->dtype);
  EXPECT_EQ(6u, info->elements());
  EXPECT_EQ(12u, info->bytes);
  EXPECT_EQ("m", info->file);
  EXPECT_TRUE(fails(checkpoint.find("y").status(), kMissing, "\"y\" among the 2"));
  EXPECT_TRUE(fails(checkpoint.info("y").status(), kMissing, "\"y\""));
}

TEST(SafetensorsFile, GivesPartsOfStackedTensors) {
  HostFiles host;
  host.files["m"] = safetensors_file(
      std::string("{") + entry("a", "F8_E4M3", "[3,1,2]", "[0,6]") + "}", "uvwxyz");
  auto checkpoint = open_safetensors(host.source(), "m", default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto part = (*checkpoint)->find_slice("a", 1);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ((std::vector<int64_t>{1, 2}), part->shape);
  EXPECT_EQ(DType::kF8_E4M3, part->dtype);
  EXPECT_EQ("wx", std::string(static_cast<const char*>(part->data), 2));
  EXPECT_TRUE(fails((*checkpoint)->find_slice("a", 3).status(), kInvalid, "part 3"));
  EXPECT_TRUE(fails((*checkpoint)->find_slice("a", -1).status(), kInvalid, "part -1"));
  EXPECT_TRUE(fails((*checkpoint)->find_slice("b", 0).status(), kMissing, "\"b\""));
}

TEST(SafetensorsFile, ListsElementTypesThatItDoesNotComputeWith) {
  HostFiles host;
  host.files["m"] =
      safetensors_file(std::string("{") + entry("a", "F8_E5M2", "[4]", "[0,4]") + "}", "wxyz");
  auto checkpoint = open_safetensors(host.source(), "m", default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(fails((*checkpoint)->find("a").status(), kUnsupported, "stored as F8_E5M2"));
  char part[2];
  ASSERT_TRUE((*checkpoint)->read("a", 1, part, 2).ok());
  EXPECT_EQ('x', part[0]);
  EXPECT_TRUE(fails((*checkpoint)->read("a", 3, part, 2), kInvalid, "which has 4"));
  EXPECT_TRUE(fails((*checkpoint)->read("a", UINT64_MAX, part, 2), kInvalid, "which has 4"));
}

TEST(SafetensorsFile, RefusesEveryTruncation) {
  const std::string file = small_safetensors({"a", "b"});
  ASSERT_TRUE(open_single(file).ok());
  for (size_t n = 0; n < file.size(); ++n) {
    EXPECT_EQ(kCorrupt, open_single(file.substr(0, n)).code()) << n;
  }
}

TEST(SafetensorsFile, RefusesLengthsThatLie) {
  std::string file = small_safetensors({"a"});
  for (uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{7}, file.size() - 8, file.size() - 7,
        kSafetensorsMaxHeader, kSafetensorsMaxHeader + 1, uint64_t{1} << 63, UINT64_MAX}) {
    std::memcpy(file.data(), &length, 8);
    EXPECT_EQ(kCorrupt, open_single(file).code()) << length;
  }
}

TEST(SafetensorsFile, NamesTheUsualMistakes) {
  EXPECT_TRUE(fails(open_single("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
                    kCorrupt, "git lfs pull"));
  EXPECT_TRUE(fails(open_single("<!DOCTYPE html><html></html>"), kCorrupt, "not a safetensors"));
  EXPECT_TRUE(fails(open_single(""), kCorrupt, "download complete"));
}

TEST(SafetensorsFile, NoticesAFileThatShrinksAfterwards) {
  TemporaryFolder folder;
  folder.write("m", safetensors_file(std::string("{") + entry("a", "U8", "[9000]", "[0,9000]") +
                                         "," + entry("b", "F32", "[1000]", "[9000,13000]") + "}",
                                     std::string(13000, 'x')));
  auto checkpoint =
      open_safetensors(*open_folder(folder.path(), Mapping::kAlways), "m", default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_TRUE((*checkpoint)->find("b").ok());
  ASSERT_EQ(0, truncate(folder.path("m").c_str(), 4096));
  EXPECT_TRUE(fails((*checkpoint)->find("b").status(), kIo, "was cut from"));
}

// ---- shards -----------------------------------------------------------------------------------

constexpr char kIndex[] = "model.safetensors.index.json";

HostFiles two_shards() {
  HostFiles host;
  // The names say nothing: R1's own say "of 000163" (six digits) and only the index is right.
  host.files["model-00001-of-000002.safetensors"] = small_safetensors({"a", "b"});
  host.files["second.safetensors"] = small_safetensors({"c", "stray"});
  host.files[kIndex] = R"({"metadata":{"total_size":48,"more":[{"x":null}]},"weight_map":{
      "a":"model-00001-of-000002.safetensors","c":"second.safetensors",
      "b":"model-00001-of-000002.safetensors"}})";
  return host;
}

Status open_sharded(HostFiles& host) {
  return open_sharded_safetensors(host.source(), kIndex, default_allocator()).status();
}

TEST(SafetensorsShards, TrustsTheIndexAndNotTheNames) {
  HostFiles host = two_shards();
  auto checkpoint = open_sharded_safetensors(host.source(), kIndex, default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((std::vector<std::string>{"a", "b", "c"}), (*checkpoint)->names());
  EXPECT_EQ(48u, (*checkpoint)->total_bytes());
  EXPECT_EQ("second.safetensors", (*checkpoint)->info("c")->file);
  EXPECT_EQ(0, std::memcmp((*checkpoint)->find("c")->data, "0000", 4));
  EXPECT_EQ(0, std::memcmp((*checkpoint)->find("b")->data, "1111", 4));
}

TEST(SafetensorsShards, ATensorInTwoShardsComesFromTheOneThatTheIndexNames) {
  HostFiles host;
  host.files["1"] = small_safetensors({"x", "a"});
  host.files["2"] = small_safetensors({"a"});
  host.files[kIndex] = R"({"weight_map":{"x":"1","a":"2"}})";
  auto checkpoint = open_sharded_safetensors(host.source(), kIndex, default_allocator());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(0, std::memcmp((*checkpoint)->find("a")->data, "0000", 4));
}

TEST(SafetensorsShards, SaysWhichFileIsMissing) {
  HostFiles host = two_shards();
  host.files.erase("second.safetensors");
  EXPECT_TRUE(fails(open_sharded(host), kMissing, "\"second.safetensors\""));
}

TEST(SafetensorsShards, SaysWhichTensorIsNotWhereTheIndexSays) {
  HostFiles host = two_shards();
  host.files["second.safetensors"] = small_safetensors({"d"});
  EXPECT_TRUE(fails(open_sharded(host), kCorrupt, "tensor \"c\" is in \"second.safetensors\""));
}

TEST(SafetensorsShards, NamesTheShardThatIsBroken) {
  HostFiles host = two_shards();
  host.files["second.safetensors"].pop_back();
  EXPECT_TRUE(fails(open_sharded(host), kCorrupt, "second.safetensors: tensor"));
}

TEST(SafetensorsShards, NeverLeavesTheFolder) {
  HostFiles host;
  for (const char* name : {"../model.safetensors", "/etc/passwd", "..", "", "a/b"}) {
    host.files[kIndex] = absl::StrCat(R"({"weight_map":{"a":")", name, "\"}}");
    EXPECT_TRUE(fails(open_sharded(host), kCorrupt, "plain file name")) << name;
  }
}

TEST(SafetensorsShards, RefusesIndexesOfTheWrongForm) {
  const char* cases[] = {
      "",
      "[]",
      "1",
      "\"x\"",
      "null",
      "{",
      "{}",
      R"({"weight_map":{}})",
      R"({"weight_map":[]})",
      R"({"weight_map":1})",
      R"({"weight_map":null})",
      R"({"weight_map":"x"})",
      R"({"weight_map":true})",
      R"({"weight_map":1.5})",
      R"({"weight_map":-1})",
      R"({"weight_map":{"a":1}})",
      R"({"weight_map":{"a":-1}})",
      R"({"weight_map":{"a":1.5}})",
      R"({"weight_map":{"a":null}})",
      R"({"weight_map":{"a":false}})",
      R"({"weight_map":{"a":{}}})",
      R"({"weight_map":{"a":["x"]}})",
      R"({"weight_map":{"a":"x","a":"x"}})",
      R"({"weight_map":{"a":"x"},"weight_map":{"b":"x"}})",
      R"({"metadata":{"weight_map":{"a":"x"}}})",
      "{\"weight_map\":{\"\xc0\xaf\":\"x\"}}",
  };
  for (const char* json : cases) {
    EXPECT_EQ(kCorrupt, parse_safetensors_index(json, "index").status().code()) << json;
  }
  const std::string deep(1'000'000, '[');
  EXPECT_EQ(kCorrupt, parse_safetensors_index("{\"metadata\":" + deep, "index").status().code());
}

TEST(SafetensorsShards, RefusesAnIndexBeyondAllSense) {
  TemporaryFolder folder;
  folder.write(kIndex, "");
  ASSERT_EQ(0, truncate(folder.path(kIndex).c_str(), kSafetensorsMaxHeader + 1));
  EXPECT_TRUE(fails(
      open_sharded_safetensors(*open_folder(folder.path()), kIndex, default_allocator()).status(),
      kCorrupt, "100000001 bytes"));
}

// ---- failures of the machine ------------------------------------------------------------------

TEST(SafetensorsShards, EveryFailingReadIsAnErrorOfItsOwn) {
  const auto open_and_read = [](HostFiles& host) -> Status {
    PONDER_ASSIGN_OR_RETURN(auto checkpoint,
                            open_sharded_safetensors(host.source(), kIndex, default_allocator()));
    for (const std::string& name : checkpoint->names()) {
      PONDER_RETURN_IF_ERROR(checkpoint->find(name).status());
    }
    return OkStatus();
  };
  HostFiles good = two_shards();
  ASSERT_TRUE(open_and_read(good).ok());
  ASSERT_GT(good.calls, 8);
  for (int n = 1; n <= good.calls; ++n) {
    HostFiles host = two_shards();
    host.fail_at = n;
    EXPECT_TRUE(fails(open_and_read(host), kIo, "failed with status -6")) << n;
    EXPECT_EQ(1, host.closed) << n;
  }
}

class FailingAllocator final : public Allocator {
 public:
  explicit FailingAllocator(int fail_at) : fail_at_(fail_at) {}
  ~FailingAllocator() override { EXPECT_EQ(0, live_); }
  void* allocate(size_t size, size_t align) override {
    if (++calls_ == fail_at_) return nullptr;
    ++live_;
    return default_allocator()->allocate(size, align);
  }
  void free(void* ptr, size_t size, size_t align) override {
    --live_;
    default_allocator()->free(ptr, size, align);
  }
  int calls() const { return calls_; }

 private:
  int fail_at_, calls_ = 0, live_ = 0;
};

TEST(SafetensorsShards, AFailingAllocatorIsAnErrorThatNamesTheTensor) {
  for (int n = 1; n <= 4; ++n) {
    FailingAllocator allocator(n);
    HostFiles host = two_shards();
    auto checkpoint = open_sharded_safetensors(host.source(), kIndex, &allocator);
    ASSERT_TRUE(checkpoint.ok());
    int found = 0;
    for (const char* name : {"a", "b", "c"}) {
      auto weight = (*checkpoint)->find(name);
      if (weight.ok()) {
        ++found;
      } else {
        EXPECT_TRUE(fails(weight.status(), kNoMemory, absl::StrCat("tensor \"", name, "\"")));
        EXPECT_NE(std::string::npos, weight.status().message().find("16 bytes")) << weight.status();
      }
    }
    EXPECT_EQ(n <= 3 ? 2 : 3, found) << n;
  }
}

}  // namespace
}  // namespace ponder
