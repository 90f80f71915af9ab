#include "gguf.h"

#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

#include "stream.h"
#include "tokenizer.h"

namespace ponder::golden {
namespace {

constexpr uint64_t kAlign = 32;

enum Type : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kQ4_K = 12, kBF16 = 30 };

struct TypeInfo {
  int64_t block;
  uint64_t bytes;
};

TypeInfo info_of(Type type) {
  switch (type) {
    case kF32:
      return {1, 4};
    case kF16:
    case kBF16:
      return {1, 2};
    case kQ8_0:
      return {32, 34};
    case kQ4_K:
      return {256, 144};
  }
  return {1, 4};
}

struct Stored {
  TensorSpec spec;  // under its GGUF name, shape outermost first
  Type type;

  uint64_t bytes() const {
    return static_cast<uint64_t>(spec.elements() / info_of(type).block) * info_of(type).bytes;
  }
};

const std::map<std::string, std::string>& names() {
  static const std::map<std::string, std::string> known = {
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.q_a_proj", "attn_q_a"},
      {"self_attn.q_a_layernorm", "attn_q_a_norm"},
      {"self_attn.q_b_proj", "attn_q_b"},
      {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
      {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate", "ffn_gate_inp"},
      {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
      {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
      {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
      {"mlp.experts.0.gate_proj", "ffn_gate_exps"},
      {"mlp.experts.0.up_proj", "ffn_up_exps"},
      {"mlp.experts.0.down_proj", "ffn_down_exps"}};
  return known;
}

// The tensors of the file, from those of a folder.
std::vector<TensorSpec> renamed(const Sizes& s) {
  std::vector<TensorSpec> all;
  const std::map<std::string, std::string> top = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  const std::string layers = "model.layers.";
  for (TensorSpec spec : tensors(s)) {
    if (const auto it = top.find(spec.name); it != top.end()) {
      spec.name = it->second;
      all.push_back(spec);
      continue;
    }
    const size_t dot = spec.name.find('.', layers.size());
    const std::string block = "blk." + spec.name.substr(layers.size(), dot - layers.size()) + ".";
    const std::string rest = spec.name.substr(dot + 1);
    const size_t end = rest.rfind('.');
    const std::string stem = rest.substr(0, end), ending = rest.substr(end);
    if (rest == "mlp.gate.e_score_correction_bias") {
      spec.name = block + "exp_probs_b.bias";
    } else if (stem == "self_attn.kv_b_proj") {
      const LatentSizes& l = s.latent;
      const double deviation = spec.deviation;
      all.push_back({block + "attn_k_b.weight", {s.heads, l.kv_rank, l.nope_dim}, 0, deviation});
      spec.name = block + "attn_v_b.weight";
      spec.shape = {s.heads, l.value_dim, l.kv_rank};
    } else if (const auto it = names().find(stem); it != names().end()) {
      spec.name = block + it->second + ending;
      if (stem.starts_with("mlp.experts.")) {
        spec.shape.insert(spec.shape.begin(), s.mixture.experts);
      }
    } else {
      continue;  // an expert other than the first: in the stack already
    }
    all.push_back(spec);
  }
  return all;
}

Type type_for(const TensorSpec& spec, const std::string& wanted) {
  static const std::map<std::string, Type> known = {
      {"f32", kF32}, {"f16", kF16}, {"bf16", kBF16}, {"q8_0", kQ8_0}, {"q4_k", kQ4_K}};
  Type type = known.at(wanted);
  // As the converter: vectors and routers are f32.
  if (spec.shape.size() == 1 || spec.name.find("ffn_gate_inp") != std::string::npos) return kF32;
  if (type == kQ4_K && spec.shape.back() % 256 != 0) type = kQ8_0;
  if (type == kQ8_0 && spec.shape.back() % 32 != 0) type = kF16;
  return type;
}

class Metadata {
 public:
  uint64_t entries = 0;
  std::string bytes;

  template <typename T>
  static std::string raw(T v) {
    std::string out(sizeof v, '\0');
    std::memcpy(out.data(), &v, sizeof v);
    return out;
  }
  static std::string text(const std::string& v) { return raw<uint64_t>(v.size()) + v; }

  void add(const std::string& key, uint32_t type, const std::string& value) {
    bytes += text(key) + raw(type) + value;
    ++entries;
  }
  void whole(const std::string& key, int64_t v) { add(key, 4, raw(static_cast<uint32_t>(v))); }
  void number(const std::string& key, double v) { add(key, 6, raw(static_cast<float>(v))); }
  void boolean(const std::string& key, bool v) { add(key, 7, raw(static_cast<uint8_t>(v))); }
  void string(const std::string& key, const std::string& v) { add(key, 8, text(v)); }
  void strings(const std::string& key, const std::vector<std::string>& list) {
    std::string value = raw<uint32_t>(8) + raw<uint64_t>(list.size());
    for (const std::string& one : list) value += text(one);
    add(key, 9, value);
  }
};

void add_sizes(const Sizes& s, const std::string& architecture, Metadata* m) {
  const std::string a = architecture + ".";
  m->whole(a + "block_count", s.layers);
  m->whole(a + "context_length", s.context);
  m->whole(a + "embedding_length", s.hidden);
  m->whole(a + "feed_forward_length", s.intermediate);
  m->whole(a + "attention.head_count", s.heads);
  m->number(a + "attention.layer_norm_rms_epsilon", s.architecture == "llama" ? 1e-5 : 1e-6);
  m->number(a + "rope.freq_base", s.rope_theta);
  m->whole(a + "vocab_size", s.vocabulary);
  const MixtureSizes& x = s.mixture;
  if (s.is_deepseek() || s.architecture == "qwen3moe") {
    m->whole(a + "expert_count", x.experts);
    m->whole(a + "expert_used_count", x.chosen);
    m->whole(a + "expert_feed_forward_length", x.intermediate);
  }
  if (!s.is_deepseek()) {
    const int64_t head_dim = s.head_dim != 0 ? s.head_dim : s.hidden / s.heads;
    m->whole(a + "attention.head_count_kv", s.kv_heads);
    m->whole(a + "attention.key_length", head_dim);
    m->whole(a + "attention.value_length", head_dim);
    m->whole(a + "rope.dimension_count", head_dim);
    return;
  }
  const LatentSizes& l = s.latent;
  const bool v3 = s.architecture == "deepseek3";
  m->whole(a + "attention.head_count_kv", 1);
  if (l.q_rank > 0) m->whole(a + "attention.q_lora_rank", l.q_rank);
  m->whole(a + "attention.kv_lora_rank", l.kv_rank);
  m->whole(a + "attention.key_length", l.kv_rank + l.rope_dim);
  m->whole(a + "attention.value_length", l.kv_rank);
  m->whole(a + "attention.key_length_mla", l.nope_dim + l.rope_dim);
  m->whole(a + "attention.value_length_mla", l.value_dim);
  m->whole(a + "rope.dimension_count", l.rope_dim);
  m->whole(a + "leading_dense_block_count", x.dense_layers);
  m->whole(a + "expert_shared_count", x.shared);
  m->whole(a + "expert_group_count", x.groups);
  m->whole(a + "expert_group_used_count", x.groups_kept);
  m->number(a + "expert_weights_scale", x.scale);
  m->boolean(a + "expert_weights_norm", v3);
  m->whole(a + "expert_gating_func", v3 ? 2 : 1);
  if (s.context > 4096) {
    m->string(a + "rope.scaling.type", "yarn");
    m->number(a + "rope.scaling.factor", 40);
    m->whole(a + "rope.scaling.original_context_length", 4096);
    m->number(a + "rope.scaling.yarn_log_multiplier", v3 ? 0.1 : 0.0707);
  }
}

void add_tokenizer(const Sizes& s, Metadata* m) {
  const Json json = tokenizer(s.vocabulary);
  std::vector<std::string> tokens(static_cast<size_t>(s.vocabulary)), merges;
  std::vector<int32_t> types(tokens.size(), 1);
  for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id.get<size_t>()] = token;
  for (const Json& one : json["added_tokens"]) {
    const auto id = one["id"].get<size_t>();
    tokens[id] = one["content"].get<std::string>();
    types[id] = one["special"].get<bool>() ? 3 : 4;  // control, user defined
  }
  for (const Json& pair : json["model"]["merges"]) {
    merges.push_back(pair[0].get<std::string>() + " " + pair[1].get<std::string>());
  }
  m->string("tokenizer.ggml.model", "gpt2");
  m->string("tokenizer.ggml.pre", "qwen2");
  m->strings("tokenizer.ggml.tokens", tokens);
  std::string value = Metadata::raw<uint32_t>(5) + Metadata::raw<uint64_t>(types.size());
  for (const int32_t type : types) value += Metadata::raw(type);
  m->add("tokenizer.ggml.token_type", 9, value);
  m->strings("tokenizer.ggml.merges", merges);
  m->whole("tokenizer.ggml.bos_token_id", bos_id(s.vocabulary));
  m->whole("tokenizer.ggml.eos_token_id", eos_id(s.vocabulary));
  m->string("tokenizer.chat_template", tokenizer_config(s.context)["chat_template"]);
}

// Blocks made one after the other: `make` writes block n.
template <typename Make>
void write_blocks(File& file, const Stored& tensor, const Make& make,
                  const std::function<void(uint64_t)>& wrote) {
  const TypeInfo info = info_of(tensor.type);
  const int64_t blocks = tensor.spec.elements() / info.block, at_once = kChunk / info.block;
  std::string chunk;
  for (int64_t begin = 0; begin < blocks; begin += at_once) {
    const int64_t count = std::min(at_once, blocks - begin);
    chunk.resize(static_cast<size_t>(count) * info.bytes);
    for (int64_t i = 0; i < count; ++i) {
      make(begin + i,
           reinterpret_cast<uint8_t*>(chunk.data()) + static_cast<size_t>(i) * info.bytes);
    }
    file.write(chunk.data(), chunk.size());
    wrote(chunk.size());
  }
}

void put_f16(uint8_t* at, double v) {
  const uint16_t half = to_f16(static_cast<float>(v));
  std::memcpy(at, &half, sizeof half);
}

// d times codes that are spread as the quantiles are.
void write_q8_0(File& file, const Stored& tensor, uint64_t seed,
                const std::vector<float>& quantiles, const std::function<void(uint64_t)>& wrote) {
  constexpr double kSpread = 29;  // the largest quantile is 4.33
  std::vector<int8_t> codes(quantiles.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::lrint(quantiles[i] * kSpread));
  }
  write_blocks(
      file, tensor,
      [&](int64_t block, uint8_t* out) {
        put_f16(out, tensor.spec.deviation / kSpread);
        for (uint64_t i = 0; i < 32; i += 4) {
          const uint64_t bits = random_bits(seed, static_cast<uint64_t>(block) * 8 + i / 4);
          for (uint64_t j = 0; j < 4; ++j) {
            out[2 + i + j] = static_cast<uint8_t>(codes[bits >> 16 * j & 0xffff]);
          }
        }
      },
      wrote);
}

// d s (q - 7.5) with even q of 4 bits and s from 24 to 39: minima are 7.5 times the scales.
void write_q4_k(File& file, const Stored& tensor, uint64_t seed,
                const std::function<void(uint64_t)>& wrote) {
  constexpr double kSpread = 4.61 * 31.5;  // of q - 7.5, times the mean of s
  const double d = tensor.spec.deviation / kSpread;
  write_blocks(
      file, tensor,
      [&](int64_t block, uint8_t* out) {
        const uint64_t first = static_cast<uint64_t>(block) * 17;
        put_f16(out, d);
        put_f16(out + 2, 7.5 * d);
        const uint64_t random = random_bits(seed, first);
        uint8_t s[8];
        for (int i = 0; i < 8; ++i) s[i] = static_cast<uint8_t>(24 + (random >> 4 * i & 15));
        // Scales and minima, which are equal: six bits each, the upper ones of the last four apart.
        for (int i = 0; i < 4; ++i) {
          out[4 + i] = out[8 + i] = static_cast<uint8_t>(s[i] | (s[4 + i] >> 4) << 6);
          out[12 + i] = static_cast<uint8_t>((s[4 + i] & 15) | (s[4 + i] & 15) << 4);
        }
        for (uint64_t i = 0; i < 16; ++i) {
          const uint64_t bits = random_bits(seed, first + 1 + i);
          std::memcpy(out + 16 + 8 * i, &bits, sizeof bits);
        }
      },
      wrote);
}

}  // namespace

void write_gguf(const std::filesystem::path& path, const Sizes& given, const GgufOptions& options) {
  if (given.llama3_scaling) {
    throw std::invalid_argument("--llama3-scaling is not written to GGUF files");
  }
  Sizes sizes = given;
  sizes.mixture.draft_layer = false;  // conversions have none
  const std::string architecture = sizes.is_deepseek() ? "deepseek2" : sizes.architecture;
  std::vector<Stored> all;
  for (const TensorSpec& spec : renamed(sizes)) all.push_back({spec, type_for(spec, options.type)});

  Metadata m;
  m.string("general.architecture", architecture);
  m.string("general.name", path.stem().string());
  add_sizes(sizes, architecture, &m);
  add_tokenizer(sizes, &m);
  m.whole("general.quantization_version", 2);

  std::string head = "GGUF" + Metadata::raw<uint32_t>(3) + Metadata::raw<uint64_t>(all.size()) +
                     Metadata::raw(m.entries) + m.bytes;
  uint64_t total = 0;
  for (const Stored& tensor : all) {
    const std::vector<int64_t>& shape = tensor.spec.shape;
    head += Metadata::text(tensor.spec.name) + Metadata::raw(static_cast<uint32_t>(shape.size()));
    for (auto d = shape.rbegin(); d != shape.rend(); ++d) head += Metadata::raw<uint64_t>(*d);
    head += Metadata::raw<uint32_t>(tensor.type) + Metadata::raw(total);
    total += (tensor.bytes() + kAlign - 1) / kAlign * kAlign;
  }
  head.resize((head.size() + kAlign - 1) / kAlign * kAlign);

  const std::vector<float> quantiles = normal_quantiles();
  uint64_t done = 0;
  const std::function<void(uint64_t)> wrote = [&](uint64_t bytes) {
    done += bytes;
    if (options.progress) options.progress(done, total);
  };
  File file(path);
  file.write(head.data(), head.size());
  for (const Stored& tensor : all) {
    const uint64_t seed = seed_of(options.seed, tensor.spec.name);
    switch (tensor.type) {
      case kF32:
        write_tensor<float>(
            file, tensor.spec, seed, quantiles, [](float v) { return v; }, wrote);
        break;
      case kF16:
        write_tensor<uint16_t>(file, tensor.spec, seed, quantiles, to_f16, wrote);
        break;
      case kBF16:
        write_tensor<uint16_t>(file, tensor.spec, seed, quantiles, to_bf16, wrote);
        break;
      case kQ8_0:
        write_q8_0(file, tensor, seed, quantiles, wrote);
        break;
      case kQ4_K:
        write_q4_k(file, tensor, seed, wrote);
        break;
    }
    const std::string padding((kAlign - tensor.bytes() % kAlign) % kAlign, '\0');
    file.write(padding.data(), padding.size());
    wrote(padding.size());
  }
  file.close();
}

}  // namespace ponder::golden
