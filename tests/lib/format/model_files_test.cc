#include "lib/format/model_files.h"

#include <algorithm>
#include <string>

#include "gtest/gtest.h"
#include "tests/lib/format/test_files.h"

namespace ponder {
namespace {

HostFiles small_model() {
  HostFiles host;
  host.files["config.json"] =
      R"({"architectures":["Qwen2ForCausalLM"],"hidden_size":2,"eos_token_id":5})";
  host.files["generation_config.json"] = R"({"temperature":0.6,"top_p":0.95,"do_sample":true})";
  host.files["tokenizer.json"] = R"({"model":{"type":"BPE"}})";
  host.files["tokenizer_config.json"] = R"({"eos_token":"</s>","chat_template":"from config"})";
  host.files["model.safetensors"] = small_safetensors({"a", "b"});
  return host;
}

StatusOr<ModelFiles> open(HostFiles& host) { return open_model(host.source()); }

TEST(ModelFiles, GathersWhatTheFilesSay) {
  HostFiles host = small_model();
  auto files = open(host);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("Qwen2ForCausalLM", files->architecture);
  EXPECT_EQ("Qwen2ForCausalLM", files->name);
  EXPECT_EQ(2, files->config["hidden_size"]);
  EXPECT_FLOAT_EQ(0.6f, *files->defaults.temperature);
  EXPECT_EQ((std::vector<int32_t>{5}), files->defaults.eos_ids);
  EXPECT_EQ(host.files["tokenizer.json"], files->tokenizer_json);
  EXPECT_EQ("from config", files->tokenizer.chat_template);
  EXPECT_EQ("</s>", files->tokenizer.eos_token);
  EXPECT_TRUE(files->weights->has("a"));
  EXPECT_EQ(64u, files->fingerprint.size());
}

TEST(ModelFiles, DoesWithoutWhatIsOptional) {
  HostFiles host = small_model();
  host.files.erase("generation_config.json");
  host.files.erase("tokenizer_config.json");
  auto files = open(host);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_FALSE(files->defaults.temperature.has_value());
  EXPECT_EQ((std::vector<int32_t>{5}), files->defaults.eos_ids);
  EXPECT_EQ("", files->tokenizer.chat_template);
}

TEST(ModelFiles, ATemplateFileOfItsOwnCounts) {
  HostFiles host = small_model();
  host.files["chat_template.jinja"] = "from jinja";
  host.files["chat_template.json"] = R"({"chat_template":"from json"})";
  EXPECT_EQ("from jinja", open(host)->tokenizer.chat_template);
  host.files.erase("chat_template.jinja");
  EXPECT_EQ("from config", open(host)->tokenizer.chat_template);
  host.files["tokenizer_config.json"] = "{}";
  EXPECT_EQ("from json", open(host)->tokenizer.chat_template);
}

TEST(ModelFiles, FillsTokensFromTheSpecialTokensMap) {
  HostFiles host = small_model();
  host.files["special_tokens_map.json"] = R"({"bos_token":"<s>","eos_token":"<other>"})";
  auto files = open(host);
  EXPECT_EQ("<s>", files->tokenizer.bos_token);
  EXPECT_EQ("</s>", files->tokenizer.eos_token);
}

TEST(ModelFiles, SaysWhatAFolderMustHold) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    HostFiles host = small_model();
    host.files.erase(name);
    const Status status = open(host).status();
    EXPECT_TRUE(fails(status, kMissing, name));
    EXPECT_TRUE(fails(status, kMissing, "a model folder holds"));
  }
}

TEST(ModelFiles, SaysHowToConvertPickles) {
  HostFiles host = small_model();
  host.files.erase("model.safetensors");
  host.files["pytorch_model.bin"] = "pickle";
  EXPECT_TRUE(fails(open(host).status(), kUnsupported, "safe_serialization"));
}

TEST(ModelFiles, AnIndexServesWhereThereIsNoSingleFile) {
  HostFiles host = small_model();
  host.files["first"] = std::move(host.files["model.safetensors"]);
  host.files.erase("model.safetensors");
  host.files["model.safetensors.index.json"] = R"({"weight_map":{"a":"first","b":"first"}})";
  auto files = open(host);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ("first", files->weights->info("a")->file);
}

TEST(ModelFiles, EveryBrokenFileIsNamed) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json",
                           "special_tokens_map.json", "model.safetensors"}) {
    for (const char* text : {"", "{\"a\":", "\xff\xfe", "[1]", "17"}) {
      HostFiles host = small_model();
      host.files[name] = text;
      EXPECT_TRUE(fails(open(host).status(), kCorrupt, name)) << text;
    }
  }
}

TEST(ModelFiles, EveryFailingReadIsAnErrorAndNothingLeaks) {
  HostFiles good = small_model();
  ASSERT_TRUE(open(good).ok());
  for (int n = 1; n <= good.calls; ++n) {
    HostFiles host = small_model();
    host.fail_at = n;
    EXPECT_EQ(kIo, open(host).status().code()) << n;
    EXPECT_EQ(1, host.closed) << n;
  }
}

TEST(ModelFiles, AFolderIsNamedAfterItself) {
  TemporaryFolder folder;
  HostFiles host = small_model();
  std::filesystem::create_directories(folder.path("models--org--R1-mini/snapshots/0a1b"));
  std::filesystem::create_directories(folder.path("R1-mini"));
  for (const char* place : {"models--org--R1-mini/snapshots/0a1b/", "R1-mini/"}) {
    for (const auto& [name, text] : host.files) folder.write(place + name, text);
  }
  EXPECT_EQ("R1-mini", open_model_path(folder.path("R1-mini/"))->name);
  EXPECT_EQ("org/R1-mini",
            open_model_path(folder.path("models--org--R1-mini/snapshots/0a1b"))->name);
  EXPECT_EQ("mine", open_model_path(folder.path("R1-mini"), {.name = "mine"})->name);
}

// ---- the fingerprint --------------------------------------------------------------------------

std::string fingerprint_of(HostFiles& host) {
  auto files = open(host);
  EXPECT_TRUE(files.ok()) << files.status();
  return files.ok() ? files->fingerprint : "";
}

TEST(Fingerprint, IsTheSameEachTimeAndHoweverTheFilesAreCut) {
  HostFiles one = small_model(), again = small_model(), sharded = small_model(),
            mapped = small_model();
  mapped.maps = true;
  sharded.files.erase("model.safetensors");
  sharded.files["1"] = small_safetensors({"a"});
  sharded.files["2"] = small_safetensors({"b"});
  // The second tensor of small_safetensors holds the digit one.
  std::string& second = sharded.files["2"];
  std::fill(second.end() - 16, second.end(), '1');
  sharded.files["model.safetensors.index.json"] = R"({"weight_map":{"b":"2","a":"1"}})";
  EXPECT_EQ(fingerprint_of(one), fingerprint_of(again));
  EXPECT_EQ(fingerprint_of(one), fingerprint_of(mapped));
  EXPECT_EQ(fingerprint_of(one), fingerprint_of(sharded));
}

TEST(Fingerprint, ChangesWithConfigurationTokenizerTableAndWeights) {
  HostFiles base = small_model();
  const std::string original = fingerprint_of(base);
  HostFiles host = small_model();
  host.files["config.json"] =
      R"({"architectures":["Qwen2ForCausalLM"],"hidden_size":3,"eos_token_id":5})";
  EXPECT_NE(original, fingerprint_of(host));
  host = small_model();
  host.files["tokenizer.json"] += " ";
  EXPECT_NE(original, fingerprint_of(host));
  host = small_model();
  host.files["model.safetensors"] = small_safetensors({"a", "c"});
  EXPECT_NE(original, fingerprint_of(host));
  host = small_model();
  host.files["model.safetensors"].back() = 'X';
  EXPECT_NE(original, fingerprint_of(host));
}

}  // namespace
}  // namespace ponder
