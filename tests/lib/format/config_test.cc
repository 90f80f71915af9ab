#include "lib/format/config.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/lib/format/test_files.h"

namespace ponder {
namespace {

Json config_of(const std::string& more) {
  auto config = read_model_config(R"({"architectures":["Qwen2ForCausalLM"])" + more + "}");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : Json::object();
}
Status config_error(const std::string& more) {
  return read_model_config(R"({"architectures":["Qwen2ForCausalLM"])" + more + "}").status();
}

// ---- config.json ------------------------------------------------------------------------------

TEST(ModelConfig, KeepsWhatItDoesNotKnow) {
  const Json config = config_of(R"(,"hidden_size":256,"new_thing":{"a":[1]})");
  EXPECT_EQ(256, config["hidden_size"]);
  EXPECT_EQ(1, config["new_thing"]["a"][0]);
}

TEST(ModelConfig, NeedsAnArchitecture) {
  for (const char* text : {"{}", R"({"architectures":null})", R"({"architectures":[]})",
                           R"({"architectures":"Qwen2ForCausalLM"})", R"({"architectures":[1]})",
                           R"({"architectures":{"a":"b"}})"}) {
    EXPECT_TRUE(fails(read_model_config(text).status(), kCorrupt, "\"architectures\"")) << text;
  }
}

TEST(ModelConfig, ReadsTheSpellingOfTransformers5) {
  const Json config = config_of(
      R"(,"rope_parameters":{"rope_type":"yarn","rope_theta":1000000.0,"factor":4.0,
           "partial_rotary_factor":0.5},"dtype":"float32")");
  EXPECT_EQ(1000000.0, config["rope_theta"]);
  EXPECT_EQ(0.5, config["partial_rotary_factor"]);
  EXPECT_EQ("yarn", config["rope_scaling"]["rope_type"]);
  EXPECT_EQ(4.0, config["rope_scaling"]["factor"]);
  EXPECT_FALSE(config["rope_scaling"].contains("rope_theta"));
  EXPECT_FALSE(config.contains("rope_parameters"));
  EXPECT_EQ("float32", config["torch_dtype"]);
  EXPECT_FALSE(config.contains("dtype"));
}

TEST(ModelConfig, BothSpellingsGiveTheSameResult) {
  const Json old = config_of(
      R"(,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0},"torch_dtype":"bfloat16")");
  const Json now = config_of(
      R"(,"rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3","factor":8.0},"dtype":"bfloat16")");
  EXPECT_EQ(old.dump(), now.dump());
}

TEST(ModelConfig, DefaultRotaryPositionsAreNoScaling) {
  for (const char* more : {R"(,"rope_parameters":{"rope_type":"default","rope_theta":10000.0})",
                           R"(,"rope_theta":10000.0,"rope_scaling":null)",
                           R"(,"rope_theta":10000.0)", R"(,"rope_theta":10000.0,"rope_scaling":{})",
                           R"(,"rope_theta":10000.0,"rope_parameters":null)",
                           R"(,"rope_parameters":{"rope_theta":10000.0})",
                           R"(,"rope_theta":10000.0,"rope_scaling":{"type":"default"})"}) {
    const Json config = config_of(more);
    EXPECT_FALSE(config.contains("rope_scaling")) << more;
    EXPECT_EQ(10000.0, config["rope_theta"]) << more;
  }
}

TEST(ModelConfig, ReadsTheOldNameOfTheScalingType) {
  const Json config = config_of(R"(,"rope_scaling":{"type":"yarn","factor":40})");
  EXPECT_EQ("yarn", config["rope_scaling"]["rope_type"]);
  EXPECT_FALSE(config["rope_scaling"].contains("type"));
  // Where both are there, the newer one counts.
  EXPECT_EQ(
      "llama3",
      config_of(
          R"(,"rope_scaling":{"type":"x","rope_type":"llama3"})")["rope_scaling"]["rope_type"]);
}

TEST(ModelConfig, RefusesRotarySettingsOfTheWrongForm) {
  EXPECT_TRUE(fails(config_error(R"(,"rope_scaling":"yarn")"), kCorrupt, "\"rope_scaling\""));
  EXPECT_TRUE(fails(config_error(R"(,"rope_scaling":[1])"), kCorrupt, "found an array"));
  EXPECT_TRUE(fails(config_error(R"(,"rope_scaling":{"factor":2})"), kCorrupt, "\"rope_type\""));
  EXPECT_TRUE(fails(config_error(R"(,"rope_scaling":{"rope_type":7})"), kCorrupt, "found 7"));
  EXPECT_TRUE(fails(config_error(R"(,"rope_parameters":7)"), kCorrupt, "\"rope_parameters\""));
  EXPECT_TRUE(fails(config_error(R"(,"rope_parameters":{"full_attention":{"rope_theta":1}})"),
                    kUnsupported, "kind of layer"));
  EXPECT_TRUE(fails(config_error(R"(,"torch_dtype":7)"), kCorrupt, "\"torch_dtype\""));
}

TEST(ModelConfig, RefusesBrokenJson) {
  const std::string good = R"({"architectures":["A"],"x":"y"})";
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(kCorrupt, read_model_config(good.substr(0, n)).status().code()) << n;
  }
  EXPECT_EQ(kCorrupt, read_model_config("[]").status().code());
  EXPECT_EQ(kCorrupt, read_model_config("{\"architectures\":[\"\xff\"]}").status().code());
  EXPECT_EQ(kCorrupt, config_error(",\"x\":" + std::string(100000, '[')).code());
  EXPECT_TRUE(fails(read_model_config("{", "/m/config.json").status(), kCorrupt, "/m/config.json"));
}

// ---- generation_config.json -------------------------------------------------------------------

TEST(GenerationDefaults, ReadsWhatR1DistillsSay) {
  auto d = read_generation_defaults(
      R"({"_from_model_config":true,"bos_token_id":151646,"eos_token_id":151643,"do_sample":true,
          "temperature":0.6,"top_p":0.95,"transformers_version":"4.39.3"})");
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_TRUE(*d->do_sample);
  EXPECT_FLOAT_EQ(0.6f, *d->temperature);
  EXPECT_FLOAT_EQ(0.95f, *d->top_p);
  EXPECT_EQ(151646, *d->bos_id);
  EXPECT_EQ((std::vector<int32_t>{151643}), d->eos_ids);
  EXPECT_FALSE(d->top_k.has_value());
  EXPECT_FALSE(d->min_p.has_value());
  EXPECT_FALSE(d->repetition_penalty.has_value());
  EXPECT_FALSE(d->pad_id.has_value());
}

TEST(GenerationDefaults, ReadsListsOfEndTokens) {
  auto d = read_generation_defaults(
      R"({"eos_token_id":[128001,128008,128009,128001],"top_k":20,"min_p":0.0,
          "repetition_penalty":1.05,"pad_token_id":7,"max_new_tokens":2048})");
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_EQ((std::vector<int32_t>{128001, 128008, 128009}), d->eos_ids);
  EXPECT_EQ(20, *d->top_k);
  EXPECT_EQ(0.0f, *d->min_p);
  EXPECT_FLOAT_EQ(1.05f, *d->repetition_penalty);
  EXPECT_EQ(7, *d->pad_id);
  EXPECT_EQ(2048, *d->max_new_tokens);
}

TEST(GenerationDefaults, NullAndMinusOneSayNothing) {
  auto d = read_generation_defaults(
      R"({"eos_token_id":null,"pad_token_id":-1,"bos_token_id":null,"top_k":null,"temperature":null,
          "do_sample":null})");
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_TRUE(d->eos_ids.empty());
  EXPECT_FALSE(d->pad_id.has_value());
  EXPECT_FALSE(d->temperature.has_value());
  EXPECT_FALSE(d->do_sample.has_value());
}

TEST(GenerationDefaults, RefusesAbsurdValues) {
  for (const char* text : {R"({"temperature":-1})",
                           R"({"temperature":"hot"})",
                           R"({"temperature":1e300})",
                           R"({"top_p":1.5})",
                           R"({"top_p":-0.1})",
                           R"({"top_p":[]})",
                           R"({"min_p":2})",
                           R"({"top_k":1.5})",
                           R"({"top_k":4294967296})",
                           R"({"repetition_penalty":0})",
                           R"({"do_sample":1})",
                           R"({"eos_token_id":"</s>"})",
                           R"({"eos_token_id":[1,"x"]})",
                           R"({"eos_token_id":[[1]]})",
                           R"({"eos_token_id":2147483648})",
                           R"({"eos_token_id":1.5})",
                           R"({"bos_token_id":[1]})",
                           R"({"max_new_tokens":1e10})",
                           R"({"temperature":1e999})",
                           "[]",
                           "",
                           "{"}) {
    EXPECT_EQ(kCorrupt, read_generation_defaults(text).status().code()) << text;
  }
  std::string many = "{\"eos_token_id\":[0";
  for (int i = 1; i < 100000; ++i) absl::StrAppend(&many, ",", i);
  EXPECT_TRUE(fails(read_generation_defaults(many + "]}").status(), kCorrupt, "1024"));
}

TEST(GenerationDefaults, TakesMissingIdsFromTheModelConfig) {
  GenerationDefaults d;
  ASSERT_TRUE(complete_generation_defaults(
                  config_of(R"(,"eos_token_id":[1,2],"bos_token_id":3,"pad_token_id":4)"), &d)
                  .ok());
  EXPECT_EQ((std::vector<int32_t>{1, 2}), d.eos_ids);
  EXPECT_EQ(3, *d.bos_id);
  EXPECT_EQ(4, *d.pad_id);
  GenerationDefaults own;
  own.eos_ids = {9};
  own.bos_id = 8;
  ASSERT_TRUE(
      complete_generation_defaults(config_of(R"(,"eos_token_id":1,"bos_token_id":2)"), &own).ok());
  EXPECT_EQ((std::vector<int32_t>{9}), own.eos_ids);
  EXPECT_EQ(8, *own.bos_id);
  GenerationDefaults bad;
  EXPECT_TRUE(fails(complete_generation_defaults(config_of(R"(,"eos_token_id":"x")"), &bad),
                    kCorrupt, "\"eos_token_id\""));
}

// ---- tokenizer_config.json --------------------------------------------------------------------

TEST(TokenizerSettings, ReadsTokensAsTextAndAsObjects) {
  auto s = read_tokenizer_settings(
      R"({"bos_token":{"__type":"AddedToken","content":"<s>","lstrip":false},"eos_token":"</s>",
          "pad_token":null,"add_bos_token":true,"add_eos_token":null,"tokenizer_class":"X",
          "model_max_length":16384,"chat_template":"{{ bos_token }}"})");
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_EQ("<s>", s->bos_token);
  EXPECT_EQ("</s>", s->eos_token);
  EXPECT_EQ("", s->pad_token);
  EXPECT_TRUE(*s->add_bos);
  EXPECT_FALSE(s->add_eos.has_value());
  EXPECT_EQ("X", s->tokenizer_class);
  EXPECT_EQ(16384u, *s->max_length);
  EXPECT_EQ("{{ bos_token }}", s->chat_template);
}

TEST(TokenizerSettings, NoLimitIsNoLimit) {
  auto s = read_tokenizer_settings(R"({"model_max_length":1000000000000000019884624838656})");
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_FALSE(s->max_length.has_value());
}

TEST(TokenizerSettings, ReadsNamedTemplates) {
  auto s = read_tokenizer_settings(
      R"({"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]})");
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_EQ("D", s->chat_template);
  ASSERT_EQ(1u, s->named_templates.size());
  EXPECT_EQ("tool_use", s->named_templates[0].first);
  EXPECT_EQ("T", s->named_templates[0].second);
}

TEST(TokenizerSettings, RefusesValuesOfTheWrongForm) {
  for (const char* text :
       {R"({"bos_token":1})", R"({"bos_token":{}})", R"({"bos_token":{"content":1}})",
        R"({"bos_token":["a"]})", R"({"add_bos_token":"yes"})", R"({"chat_template":1})",
        R"({"chat_template":{}})", R"({"chat_template":["x"]})",
        R"({"chat_template":[{"name":"default"}]})", R"({"chat_template":[{"template":"x"}]})",
        R"({"model_max_length":"long"})", R"({"model_max_length":-1})", "[]", "nonsense"}) {
    EXPECT_EQ(kCorrupt, read_tokenizer_settings(text).status().code()) << text;
  }
}

TEST(TokenizerSettings, TakesMissingTokensFromTheSpecialTokensMap) {
  TokenizerSettings s;
  s.bos_token = "<own>";
  ASSERT_TRUE(
      complete_special_tokens(
          R"({"bos_token":"<other>","eos_token":{"content":"</s>"},"unk_token":"<unk>"})", &s)
          .ok());
  EXPECT_EQ("<own>", s.bos_token);
  EXPECT_EQ("</s>", s.eos_token);
  EXPECT_EQ("<unk>", s.unk_token);
  EXPECT_EQ(kCorrupt, complete_special_tokens("[]", &s).code());
}

}  // namespace
}  // namespace ponder
