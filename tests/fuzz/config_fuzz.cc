// The JSON files beside a checkpoint. The first byte chooses which; the rest is the text.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "lib/format/config.h"

namespace {

// Reads the keys that model files read, as they do.
void read_as_a_model_does(const ponder::Json& json) {
  const ponder::Config c(json, "config.json");
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    c.i(key);
    c.i(key, 0);
  }
  c.f("rms_norm_eps", 1e-6);
  c.f("rope_theta");
  c.b("tie_word_embeddings", false);
  c.s("hidden_act", "silu");
  if (c.has("rope_scaling")) {
    const ponder::Config scaling = c.at("rope_scaling");
    scaling.s("rope_type");
    scaling.f("factor");
    scaling.i("original_max_position_embeddings", 0);
  }
  (void)c.status();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: {
      auto config = ponder::read_model_config(text);
      if (!config.ok()) break;
      read_as_a_model_does(*config);
      ponder::GenerationDefaults defaults;
      (void)ponder::complete_generation_defaults(*config, &defaults);
      (void)config->dump();
      break;
    }
    case 1:
      (void)ponder::read_generation_defaults(text);
      break;
    case 2:
      (void)ponder::read_tokenizer_settings(text);
      break;
    case 3: {
      ponder::TokenizerSettings settings;
      (void)ponder::complete_special_tokens(text, &settings);
      break;
    }
    case 4: {
      auto json = ponder::parse_json(text, "fuzz");
      if (json.ok()) (void)json->dump();
      break;
    }
  }
  return 0;
}
