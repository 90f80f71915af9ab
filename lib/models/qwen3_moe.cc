// Qwen3 mixtures of experts (30B-A3B, 235B-A22B).
//
// Paper:     "Qwen3 Technical Report", arXiv 2505.09388, section 2.
// Reference: transformers, models/qwen3_moe/modeling_qwen3_moe.py. Tensor names are the
//            checkpoint's own.
//
// Qwen3 whose feed-forward parts are mixtures of experts without shared ones; single layers may be
// dense. Shapes: T tokens in the step's flat batch, D hidden, H query heads, G key/value heads, E
// head width, F feed-forward width, X experts, V vocabulary.

#include <algorithm>
#include <cmath>

#include "lib/models/registry.h"

namespace ponder {
namespace {

struct Dims {
  int64_t D, H, G, E, F, V, layers;
  int64_t X, expert_F, step;
  std::vector<int64_t> dense_layers;
  RouterParams router;
  double eps;
  bool tied;  // the output matrix is the embedding matrix

  explicit Dims(const Config& c)
      : D(c.i("hidden_size")),
        H(c.i("num_attention_heads")),
        G(c.i("num_key_value_heads", H)),
        E(c.i("head_dim", 128)),
        F(c.i("intermediate_size")),
        V(c.i("vocab_size")),
        layers(c.i("num_hidden_layers")),
        X(c.i("num_experts")),
        expert_F(c.i("moe_intermediate_size")),
        step(c.i("decoder_sparse_step", 1)),
        eps(c.f("rms_norm_eps", 1e-6)),
        tied(c.b("tie_word_embeddings", false)) {
    if (H % G != 0) {
      c.fail(corrupt_error("config.json: num_attention_heads ", H,
                           " is not a multiple of num_key_value_heads ", G));
    }
    const int64_t k = c.i("num_experts_per_tok");
    if (k > X) {
      c.fail(
          corrupt_error("config.json: num_experts_per_tok ", k, " is more than num_experts ", X));
    }
    router.top_k = static_cast<int32_t>(k);
    router.normalize = c.b("norm_topk_prob", false);
    if (const Json* list = c.find("mlp_only_layers"); list != nullptr && list->is_array()) {
      for (const Json& i : *list) {
        if (i.is_number_integer()) dense_layers.push_back(i.get<int64_t>());
      }
    }
  }

  bool dense(int64_t i) const {
    return (i + 1) % step != 0 ||
           std::find(dense_layers.begin(), dense_layers.end(), i) != dense_layers.end();
  }
};

struct Layer {
  Tensor attn_norm, mlp_norm;  // [D]
  Tensor q_norm, k_norm;       // [E], shared by the heads
  Linear qkv;                  // [H*E + 2*G*E, D]
  Linear o;                    // [D, H*E]
  bool dense;
  Linear gate_up;   // [2*F, D], where dense
  Linear down;      // [D, F]
  Linear router;    // [X, D], else
  Experts experts;  // X times [2*expert_F, D] and [D, expert_F]

  Layer(const Loader& w, const Dims& d, int64_t i)
      : attn_norm(w.vector("input_layernorm.weight", d.D)),
        mlp_norm(w.vector("post_attention_layernorm.weight", d.D)),
        q_norm(w.vector("self_attn.q_norm.weight", d.E)),
        k_norm(w.vector("self_attn.k_norm.weight", d.E)),
        qkv(w.fused({{"self_attn.q_proj", d.H * d.E},
                     {"self_attn.k_proj", d.G * d.E},
                     {"self_attn.v_proj", d.G * d.E}},
                    d.D)),
        o(w.linear("self_attn.o_proj", d.D, d.H * d.E)),
        dense(d.dense(i)) {
    if (dense) {
      gate_up = w.fused({{"mlp.gate_proj", d.F}, {"mlp.up_proj", d.F}}, d.D);
      down = w.linear("mlp.down_proj", d.D, d.F);
    } else {
      router = w.linear("mlp.gate", d.X, d.D);
      experts = w.experts("mlp.experts", d.X, d.expert_F, d.D);
    }
  }
};

class Qwen3Moe final : public ModelGraph {
 public:
  Qwen3Moe(const Config& config, const Loader& w)
      : d_(config),
        embed_(w.embedding("model.embed_tokens", d_.V, d_.D)),
        norm_(w.vector("model.norm.weight", d_.D)),
        head_(w.linear(d_.tied ? "model.embed_tokens" : "lm_head", d_.V, d_.D)),
        rope_(make_rope(config, d_.E)) {
    for (int64_t i = 0; i < d_.layers && w.status().ok(); ++i) {
      layers_.emplace_back(w.in("model.layers", i), d_, i);
    }
  }

  int layers() const override { return static_cast<int>(d_.layers); }
  int64_t vocabulary() const override { return d_.V; }
  KvShape kv_shape() const override { return {d_.layers, d_.G, d_.E, d_.E}; }

  Tensor begin(Exec& cx, const Batch& b) const override { return cx.embed(embed_, b.tokens); }

  Tensor layer(Exec& cx, const Batch& b, int i, const Tensor& h) const override {
    const Layer& L = layers_[static_cast<size_t>(i)];
    const Tensor a = cx.add(h, attention(cx, b, i, cx.rms_norm(h, L.attn_norm, d_.eps)));
    const Tensor x = cx.rms_norm(a, L.mlp_norm, d_.eps);
    return cx.add(a, L.dense ? mlp(cx, L, x) : mixture_of_experts(cx, L, x));
  }

  Tensor end(Exec& cx, const Batch& b, const Tensor& h) const override {
    const Tensor wanted = cx.rows_wanted(h, b);  // only the rows whose logits somebody will read
    return cx.linear(cx.rms_norm(wanted, norm_, d_.eps), head_);
  }

 private:
  // softmax(q k^T / sqrt(E)) v over the pages of each sequence; head g serves H/G query heads.
  Tensor attention(Exec& cx, const Batch& b, int i, const Tensor& x) const {
    const Layer& L = layers_[static_cast<size_t>(i)];
    const auto qkv = cx.split(cx.linear(x, L.qkv), {d_.H * d_.E, d_.G * d_.E, d_.G * d_.E});
    const Tensor q = cx.rms_norm(cx.heads(qkv[0], d_.H), L.q_norm, d_.eps);  // [T, H, E]
    const Tensor k = cx.rms_norm(cx.heads(qkv[1], d_.G), L.k_norm, d_.eps);  // [T, G, E]
    const Tensor v = cx.heads(qkv[2], d_.G);                                 // [T, G, E]
    cx.rope(q, rope_, b);
    cx.rope(k, rope_, b);
    cx.kv_write(cx.kv(i), k, v, b);
    const Tensor a =
        cx.attention(q, cx.kv(i), b, 1.0 / std::sqrt(static_cast<double>(d_.E)));  // [T, H*E]
    return cx.linear(a, L.o);
  }

  // down( silu(gate(x)) * up(x) ), SwiGLU (arXiv 2002.05202, equation 6).
  Tensor mlp(Exec& cx, const Layer& L, const Tensor& x) const {
    return cx.linear(cx.swiglu(cx.linear(x, L.gate_up)), L.down);
  }

  // The k experts with the largest softmax(x . e_i), weighted by it.
  Tensor mixture_of_experts(Exec& cx, const Layer& L, const Tensor& x) const {
    return cx.experts(x, cx.route(cx.linear(x, L.router), {}, d_.router), L.experts);
  }

  Dims d_;
  Embedding embed_;
  Tensor norm_;
  Linear head_;
  Rope rope_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<ModelGraph> make_qwen3_moe(const Config& config, const Loader& w) {
  if (config.b("use_sliding_window", false)) {
    config.fail(unsupported_error("config.json: use_sliding_window is not supported"));
  }
  return std::make_unique<Qwen3Moe>(config, w);
}

}  // namespace ponder
