#include "lib/format/gguf.h"

#include <cmath>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "lib/base/json.h"
#include "tests/lib/format/gguf_builder.h"
#include "tests/lib/format/test_files.h"
#include "tests/paths/paths.h"

namespace ponder {
namespace {

using G = GgufBuilder;

StatusOr<GgufFiles> read(const std::string& bytes) {
  HostFiles host;
  host.files["m.gguf"] = bytes;
  return read_gguf(*host.source(), "m.gguf");
}
Status error(const std::string& bytes) { return read(bytes).status(); }

constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8, kQ4_K = 12;

// ---- what is right ----------------------------------------------------------------------------

TEST(Gguf, ReadsMetadataOfEveryKind) {
  G g;
  g.entry("u8", 0, G::raw<uint8_t>(200)).entry("i8", 1, G::raw<int8_t>(-100));
  g.entry("u16", 2, G::raw<uint16_t>(60000)).entry("i16", 3, G::raw<int16_t>(-30000));
  g.u32("u32", 4000000000u).i32("i32", -2000000000);
  g.entry("u64", 10, G::raw<uint64_t>(UINT64_MAX)).entry("i64", 11, G::raw<int64_t>(INT64_MIN));
  g.f32("f32", 0.5f).entry("f64", 12, G::raw(1e-300));
  g.boolean("yes", true)
      .boolean("no", false)
      .string("s", std::string("a\0b", 3))
      .string("empty", "");
  g.strings("ss", {"x", "", "yz"}).array<float>("fs", 6, {1.5f, -2.0f});
  g.array<int8_t>("is", 1, {-1, 2}).array<uint8_t>("bs", 7, {1, 0}).array<double>("ds", 12, {});
  auto files = read(g.build());
  ASSERT_TRUE(files.ok()) << files.status();
  const GgufMetadata& m = files->metadata;
  EXPECT_EQ(19u, m.entries().size());
  EXPECT_EQ(200, **m.integer("u8"));
  EXPECT_EQ(-100, **m.integer("i8"));
  EXPECT_EQ(60000, **m.integer("u16"));
  EXPECT_EQ(-30000, **m.integer("i16"));
  EXPECT_EQ(4000000000, **m.integer("u32"));
  EXPECT_EQ(-2000000000, **m.integer("i32"));
  EXPECT_EQ(INT64_MIN, **m.integer("i64"));
  EXPECT_EQ(UINT64_MAX, std::get<uint64_t>(*m.find("u64")));
  EXPECT_EQ(0.5, **m.number("f32"));
  EXPECT_EQ(1e-300, **m.number("f64"));
  EXPECT_EQ(200.0, **m.number("u8"));
  EXPECT_TRUE(**m.boolean("yes"));
  EXPECT_FALSE(**m.boolean("no"));
  EXPECT_EQ(std::string("a\0b", 3), **m.text("s"));
  EXPECT_EQ("", **m.text("empty"));
  EXPECT_EQ((std::vector<std::string>{"x", "", "yz"}), **m.texts("ss"));
  EXPECT_EQ((std::vector<double>{1.5, -2}), **m.numbers("fs"));
  EXPECT_EQ((std::vector<int64_t>{-1, 2}), **m.integers("is"));
  EXPECT_EQ((std::vector<int64_t>{1, 0}), **m.integers("bs"));
  EXPECT_TRUE((*m.numbers("ds"))->empty());
}

TEST(Gguf, SaysWhenMetadataAreAbsentOrOfAnotherKind) {
  auto files = read(G().u32("i", 1).string("s", "x").strings("ss", {}).build());
  ASSERT_TRUE(files.ok()) << files.status();
  const GgufMetadata& m = files->metadata;
  EXPECT_FALSE(m.has("none"));
  EXPECT_FALSE(m.integer("none")->has_value());
  EXPECT_FALSE(m.text("none")->has_value());
  EXPECT_EQ(nullptr, *m.texts("none"));
  EXPECT_TRUE(
      fails(m.integer("s").status(), kCorrupt, "\"s\" must be a whole number, found a text"));
  EXPECT_TRUE(fails(m.text("i").status(), kCorrupt, "\"i\" must be a text"));
  EXPECT_TRUE(fails(m.boolean("i").status(), kCorrupt, "true or false"));
  EXPECT_TRUE(fails(m.number("ss").status(), kCorrupt, "a number, found texts"));
  EXPECT_TRUE(fails(m.integers("ss").status(), kCorrupt, "whole numbers"));
  EXPECT_TRUE(fails(m.numbers("i").status(), kCorrupt, "numbers"));
  EXPECT_TRUE(fails(m.texts("i").status(), kCorrupt, "texts"));
}

TEST(Gguf, ReadsTheTensorTable) {
  G g;
  g.tensor("b", {64, 2}, kQ4_0, std::string(72, 'q')).tensor("a", {3}, kF32, "abcdefghijkl");
  const std::string bytes = g.build();
  auto files = read(bytes);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(2u, files->tensors.size());
  const GgufTensor* a = files->find("a");
  const GgufTensor* b = files->find("b");
  ASSERT_TRUE(a != nullptr && b != nullptr);
  EXPECT_EQ(nullptr, files->find("c"));
  EXPECT_EQ((std::vector<int64_t>{2, 64}), b->shape);
  EXPECT_EQ("Q4_0", b->type->name);
  EXPECT_EQ(72u, b->bytes);
  EXPECT_EQ(12u, a->bytes);
  EXPECT_EQ("abcdefghijkl", bytes.substr(a->offset, a->bytes));
  EXPECT_EQ(std::string(72, 'q'), bytes.substr(b->offset, b->bytes));
}

TEST(Gguf, TakesVersionTwoAndOtherAlignments) {
  for (uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    G g;
    g.version = 2;
    g.alignment = alignment;
    g.u32("general.alignment", alignment)
        .tensor("a", {1}, kF32, "abcd")
        .tensor("b", {1}, kF32, "efgh");
    const std::string bytes = g.build();
    auto files = read(bytes);
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_EQ("efgh", bytes.substr(files->find("b")->offset, 4)) << alignment;
  }
}

TEST(Gguf, TakesAFileWithoutTensors) { EXPECT_TRUE(read(G().build()).ok()); }

TEST(Gguf, ReadsAVocabularyOfRealSize) {
  std::vector<std::string> tokens;
  for (int i = 0; i < 152'000; ++i) tokens.push_back(absl::StrCat("token", i));
  HostFiles host;
  host.files["m.gguf"] = G().strings("tokenizer.ggml.tokens", tokens).build();
  auto files = read_gguf(*host.source(), "m.gguf");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(tokens, **files->metadata.texts("tokenizer.ggml.tokens"));
  EXPECT_LT(host.calls, 30);  // read in pieces of a sensible size
}

// ---- what is wrong ----------------------------------------------------------------------------

TEST(GgufHostile, EveryTruncationIsAnError) {
  const std::string good = G().u32("k", 1)
                               .strings("ss", {"a", "bc"})
                               .tensor("t", {32, 2}, kQ8_0, std::string(68, 'x'))
                               .build();
  ASSERT_TRUE(read(good).ok());
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(kCorrupt, error(good.substr(0, n)).code()) << n;
  }
}

TEST(GgufHostile, OtherFormatsAreNamed) {
  EXPECT_TRUE(fails(error(""), kCorrupt, "truncated"));
  EXPECT_TRUE(fails(error("PK\3\4" + std::string(100, 'x')), kCorrupt, "not a GGUF file"));
  EXPECT_TRUE(fails(error("version https://git-lfs.github.com/spec/v1"), kCorrupt, "git lfs pull"));
  EXPECT_TRUE(fails(error("lmgg" + std::string(100, 'x')), kUnsupported, "before GGUF"));
  G g;
  for (uint32_t version : {0u, 1u, 4u, 0xFFFFFFFFu}) {
    g.version = version;
    EXPECT_TRUE(fails(error(g.build()), kUnsupported, "version")) << version;
  }
  g.version = 3u << 24;
  EXPECT_TRUE(fails(error(g.build()), kUnsupported, "big-endian"));
}

TEST(GgufHostile, CountsThatLie) {
  G g;
  g.u32("k", 1).tensor("t", {1}, kF32, "abcd");
  for (int64_t count : {int64_t{2}, int64_t{1000}, int64_t{1} << 32, INT64_MAX}) {
    G tensors = g, entries = g;
    tensors.claimed_tensors = count;
    entries.claimed_entries = count;
    EXPECT_EQ(kCorrupt, error(tensors.build()).code()) << count;
    EXPECT_EQ(kCorrupt, error(entries.build()).code()) << count;
  }
  // Fewer than there are: what follows is read as something else, and does not pass for it.
  G fewer = g;
  fewer.claimed_entries = 0;
  EXPECT_FALSE(read(fewer.build()).ok());
}

TEST(GgufHostile, TextLengthsThatLie) {
  for (uint64_t length : {uint64_t{4}, uint64_t{1} << 20, uint64_t{1} << 32, uint64_t{1} << 63,
                          UINT64_MAX, UINT64_MAX - 7}) {
    EXPECT_TRUE(fails(error(G().entry("k", 8, G::raw(length) + "abc").build()), kCorrupt, "claims"))
        << length;
    const std::string key = "GGUF" + G::raw<uint32_t>(3) + G::raw<uint64_t>(0) +
                            G::raw<uint64_t>(1) + G::raw(length) + std::string(40, 'k');
    EXPECT_EQ(kCorrupt, error(key).code()) << length;
  }
  EXPECT_TRUE(fails(error(G().string(std::string(70000, 'k'), "v").build()), kCorrupt, "70000"));
  EXPECT_TRUE(fails(error(G().tensor(std::string(2000, 'n'), {1}, kF32, "abcd").build()), kCorrupt,
                    "2000"));
}

TEST(GgufHostile, ArraysThatLie) {
  for (uint32_t type : {0u, 4u, 6u, 8u, 10u}) {
    for (uint64_t count : {uint64_t{100}, uint64_t{1} << 32, uint64_t{1} << 61, UINT64_MAX}) {
      const std::string bytes =
          G().entry("k", 9, G::raw(type) + G::raw(count) + std::string(24, '\0')).build();
      EXPECT_TRUE(fails(error(bytes), kCorrupt, "claims")) << type << " " << count;
    }
  }
  EXPECT_TRUE(
      fails(error(G().entry("k", 9, G::raw<uint32_t>(13) + G::raw<uint64_t>(1) + "x").build()),
            kCorrupt, "array element type 13"));
  const std::string nested = G::raw<uint32_t>(9) + G::raw<uint64_t>(1) + G::raw<uint32_t>(4) +
                             G::raw<uint64_t>(1) + G::raw<uint32_t>(7);
  EXPECT_TRUE(fails(error(G().entry("k", 9, nested).build()), kUnsupported, "array of arrays"));
  EXPECT_TRUE(
      fails(error(G().array<uint64_t>("k", 10, {UINT64_MAX}).build()), kCorrupt, "beyond 2^63"));
}

TEST(GgufHostile, ValuesOfUnknownType) {
  for (uint32_t type : {13u, 100u, 0xFFFFFFFFu}) {
    const Status status = error(G().entry("some.key", type, "xxxxxxxx").build());
    EXPECT_TRUE(fails(status, kCorrupt, "is unknown")) << type;
    EXPECT_TRUE(fails(status, kCorrupt, "\"some.key\"")) << type;
  }
  EXPECT_TRUE(fails(error(G().entry("k", 7, G::raw<uint8_t>(2)).build()), kCorrupt, "truth value"));
}

TEST(GgufHostile, NamesThatOccurTwice) {
  EXPECT_TRUE(fails(error(G().u32("k", 1).u32("j", 2).u32("k", 1).build()), kCorrupt,
                    "\"k\" occurs twice"));
  EXPECT_TRUE(
      fails(error(G().tensor("t", {1}, kF32, "abcd").tensor("t", {1}, kF32, "abcd").build()),
            kCorrupt, "\"t\" occurs twice"));
}

TEST(GgufHostile, AlignmentsThatMakeNoSense) {
  for (uint32_t alignment : {0u, 3u, 33u, 1u << 21, 1u << 31}) {
    G g;
    g.u32("general.alignment", alignment).tensor("t", {1}, kF32, "abcd");
    EXPECT_TRUE(fails(error(g.build()), kCorrupt, "power of two")) << alignment;
  }
  EXPECT_TRUE(fails(error(G().i32("general.alignment", -32).build()), kCorrupt, "power of two"));
  EXPECT_TRUE(
      fails(error(G().string("general.alignment", "32").build()), kCorrupt, "whole number"));
}

TEST(GgufHostile, ShapesThatMakeNoSense) {
  const auto shape = [](const std::vector<uint64_t>& dims, uint32_t type = kF32) {
    return error(G().info("t", dims, type, 0).build() + std::string(64, '\0'));
  };
  EXPECT_TRUE(fails(shape({}), kCorrupt, "0 dimensions"));
  EXPECT_TRUE(fails(shape({1, 1, 1, 1, 1}), kCorrupt, "5 dimensions"));
  EXPECT_TRUE(fails(shape({0}), kCorrupt, "dimension 0"));
  EXPECT_TRUE(fails(shape({UINT64_MAX}), kCorrupt, "makes no sense"));
  EXPECT_TRUE(fails(shape({uint64_t{1} << 62}), kCorrupt, "more than any file"));
  EXPECT_TRUE(fails(shape({uint64_t{1} << 32, uint64_t{1} << 32}), kCorrupt, "more than any file"));
  EXPECT_TRUE(fails(shape({uint64_t{1} << 31, uint64_t{1} << 31, 2}), kCorrupt, "more than any"));
  EXPECT_TRUE(fails(shape({256, uint64_t{1} << 56}, kQ4_K), kCorrupt, "more than any file"));
  EXPECT_TRUE(fails(shape({100}, kQ4_K), kCorrupt, "blocks of 256"));
  EXPECT_TRUE(fails(shape({33}, kQ4_0), kCorrupt, "blocks of 32"));
  EXPECT_TRUE(fails(error(G().info("", {1}, kF32, 0).build() + "abcd"), kCorrupt, "no name"));
}

TEST(GgufHostile, TypesThatAreUnknown) {
  for (uint32_t type : {4u, 5u, 31u, 36u, 40u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(fails(error(G().info("t", {32}, type, 0).build() + std::string(256, 'x')),
                      kUnsupported, absl::StrCat("type number ", type)))
        << type;
  }
}

TEST(GgufHostile, OffsetsThatLie) {
  const std::string pad(256, '\0');
  EXPECT_TRUE(
      fails(error(G().info("t", {8}, kF32, 4).build() + pad), kCorrupt, "no multiple of 32"));
  EXPECT_TRUE(
      fails(error(G().info("t", {8}, kF32, 1 << 20).build() + pad), kCorrupt, "reach past"));
  EXPECT_TRUE(fails(error(G().info("t", {8}, kF32, UINT64_MAX - 31).build() + pad), kCorrupt,
                    "reach past"));
  EXPECT_TRUE(fails(error(G().info("t", {1024}, kF32, 0).build() + pad), kCorrupt, "reach past"));
  EXPECT_TRUE(fails(error(G().info("a", {16}, kF16, 0).info("b", {16}, kF16, 0).build() + pad),
                    kCorrupt, "inside tensor"));
  EXPECT_TRUE(fails(error(G().info("a", {32}, kF32, 0).info("b", {16}, kF16, 32).build() + pad),
                    kCorrupt, "inside tensor \"a\""));
}

TEST(GgufHostile, AFileThatClaimsToBeEndlessIsReadNoFurtherThanTheLimit) {
  struct Endless {
    uint64_t most = 0;
  } endless;
  IoCallbacks io;
  io.user = &endless;
  io.size = [](void*, const char*, uint64_t* size) -> int32_t {
    *size = UINT64_MAX;
    return 0;
  };
  io.read = [](void* user, const char*, uint64_t offset, void* dst, size_t n) -> int32_t {
    auto& most = static_cast<Endless*>(user)->most;
    most = std::max(most, offset + n);
    const std::string start =
        "GGUF" + G::raw<uint32_t>(3) + G::raw<uint64_t>(1) + G::raw<uint64_t>(uint64_t{1} << 22);
    std::memset(dst, 0, n);  // entries without key, of type uint8
    if (offset == 0) std::memcpy(dst, start.data(), std::min(n, start.size()));
    return 0;
  };
  auto source = open_callbacks(io);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(kCorrupt, read_gguf(**source, "m").status().code());
  EXPECT_LE(endless.most, uint64_t{64} << 20);
}

TEST(GgufHostile, EveryFailingReadIsAnError) {
  const std::string bytes = G().u32("k", 1).tensor("t", {1}, kF32, "abcd").build();
  for (int n = 1; n <= 2; ++n) {
    HostFiles host;
    host.files["m.gguf"] = bytes;
    host.fail_at = n;
    EXPECT_TRUE(fails(read_gguf(*host.source(), "m.gguf").status(), kIo, "m.gguf")) << n;
  }
}

// ---- split files ------------------------------------------------------------------------------

HostFiles three_files() {
  HostFiles host;
  for (int i = 0; i < 3; ++i) {
    G g;
    if (i == 0) g.string("general.architecture", "qwen2");
    g.u16("split.no", static_cast<uint16_t>(i)).u16("split.count", 3).i32("split.tensors.count", 2);
    if (i > 0) g.tensor(i == 1 ? "b" : "a", {1}, kF32, i == 1 ? "bbbb" : "aaaa");
    host.files[absl::StrCat("m-0000", i + 1, "-of-00003.gguf")] = g.build();
  }
  return host;
}
constexpr char kFirst[] = "m-00001-of-00003.gguf";

Status split_error(HostFiles& host, const char* first = kFirst) {
  return read_gguf(*host.source(), first).status();
}

TEST(GgufSplit, GathersTheTensorsOfAllFiles) {
  HostFiles host = three_files();
  auto files = read_gguf(*host.source(), kFirst);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(3u, files->files.size());
  EXPECT_EQ("qwen2", **files->metadata.text("general.architecture"));
  const GgufTensor* a = files->find("a");
  ASSERT_NE(nullptr, a);
  EXPECT_EQ("m-00003-of-00003.gguf", files->files[a->file]);
  EXPECT_EQ("aaaa", host.files[files->files[a->file]].substr(a->offset, 4));
}

TEST(GgufSplit, WantsTheFirstFile) {
  HostFiles host = three_files();
  EXPECT_TRUE(fails(split_error(host, "m-00002-of-00003.gguf"), kInvalid, "number 2 of"));
  host.files["renamed.gguf"] = host.files[kFirst];
  EXPECT_TRUE(fails(split_error(host, "renamed.gguf"), kInvalid, "-00001-of-00003.gguf"));
}

TEST(GgufSplit, SaysWhichFileIsMissing) {
  HostFiles host = three_files();
  host.files.erase("m-00002-of-00003.gguf");
  EXPECT_TRUE(fails(split_error(host), kMissing, "\"m-00002-of-00003.gguf\" is not there"));
}

TEST(GgufSplit, RefusesFilesThatDisagree) {
  HostFiles swapped = three_files();
  std::swap(swapped.files["m-00002-of-00003.gguf"], swapped.files["m-00003-of-00003.gguf"]);
  EXPECT_TRUE(fails(split_error(swapped), kCorrupt, "number 3 of 3 files, but its name"));
  HostFiles foreign = three_files();
  foreign.files["m-00003-of-00003.gguf"] =
      G().u16("split.no", 2).u16("split.count", 4).tensor("a", {1}, kF32, "aaaa").build();
  EXPECT_TRUE(fails(split_error(foreign), kCorrupt, "do not belong together"));
  HostFiles without = three_files();
  without.files["m-00003-of-00003.gguf"] = G().tensor("a", {1}, kF32, "aaaa").build();
  EXPECT_TRUE(fails(split_error(without), kCorrupt, "do not belong together"));
  HostFiles fewer = three_files();
  fewer.files["m-00003-of-00003.gguf"] = G().u16("split.no", 2).u16("split.count", 3).build();
  EXPECT_TRUE(fails(split_error(fewer), kCorrupt, "2 tensors in all"));
  HostFiles twice = three_files();
  twice.files["m-00003-of-00003.gguf"] =
      G().u16("split.no", 2).u16("split.count", 3).tensor("b", {1}, kF32, "bbbb").build();
  EXPECT_TRUE(fails(split_error(twice), kCorrupt, "\"b\" occurs twice"));
}

TEST(GgufSplit, RefusesCountsThatMakeNoSense) {
  for (int32_t count : {-1, 65536, 2147483647}) {
    HostFiles host;
    host.files["m.gguf"] = G().i32("split.count", count).build();
    EXPECT_TRUE(fails(split_error(host, "m.gguf"), kCorrupt, "is split into")) << count;
  }
  HostFiles text;
  text.files["m.gguf"] = G().string("split.count", "3").build();
  EXPECT_TRUE(fails(split_error(text, "m.gguf"), kCorrupt, "\"split.count\""));
}

// ---- real files -------------------------------------------------------------------------------

// Every tensor of every reference file has the type and the dimensions that its manifest lists.
TEST(GgufReference, TablesAreThoseOfTheManifests) {
  const std::filesystem::path root = std::string(kSharedDir) + "/oracle/B";
  if (!std::filesystem::exists(root)) GTEST_SKIP() << "no reference data at " << root;
  int compared = 0;
  for (const auto& folder : std::filesystem::directory_iterator(root)) {
    auto source = open_folder(folder.path().string());
    ASSERT_TRUE(source.ok()) << source.status();
    auto text = read_file(**source, "manifest.json", 64 << 20);
    ASSERT_TRUE(text.ok()) << text.status();
    auto manifest = parse_json(*text, "manifest.json");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    for (const auto& [name, entry] : (*manifest)["files"].items()) {
      auto files = read_gguf(**source, name);
      ASSERT_TRUE(files.ok()) << files.status();
      const Json& expected = entry["tensors"];
      EXPECT_EQ(expected.size(), files->tensors.size()) << name;
      for (const auto& [tensor, facts] : expected.items()) {
        const GgufTensor* found = files->find(tensor);
        ASSERT_NE(nullptr, found) << name << " " << tensor;
        EXPECT_EQ(facts["type"].get<std::string>(), found->type->name) << name << " " << tensor;
        std::vector<int64_t> ne(found->shape.rbegin(), found->shape.rend());
        EXPECT_EQ(facts["ne"].get<std::vector<int64_t>>(), ne) << name << " " << tensor;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 100);
}

}  // namespace
}  // namespace ponder
