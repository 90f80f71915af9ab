// DeepSeek-V3, R1, R1-0528 and V3.1 (671B), and their elders DeepSeek-V2 and V2-Lite.
//
// Paper:     "DeepSeek-V3 Technical Report", arXiv 2412.19437, section 2.1; equation numbers below
//            are that paper's. MLA itself: "DeepSeek-V2", arXiv 2405.04434, section 2.1.
// Reference: deepseek-ai/DeepSeek-V3, inference/model.py (classes MLA, Gate, MoE, Block), and
//            transformers, models/deepseek_v3 and deepseek_v2. Tensor names are the checkpoint's
//            own.
//
// Shapes: T tokens in the step's flat batch, D hidden, H heads, Rq and R the ranks of the query and
// key/value latents, N and P the widths of a head's query and key without and with rotary position,
// U the width of a head's value, F feed-forward width, X experts, V vocabulary.

#include <cmath>

#include "lib/models/registry.h"

namespace ponder {
namespace {

struct Dims {
  int64_t D, H, V, layers, dense_layers, draft_layers;
  int64_t Rq;          // 0: queries have no latent (V2-Lite)
  int64_t R, N, P, U;  // multi-head latent attention
  int64_t F, X, expert_F, shared;
  RouterParams router;
  double eps, attention_scale;
  bool tied;  // the output matrix is the embedding matrix

  explicit Dims(const Config& c)
      : D(c.i("hidden_size")),
        H(c.i("num_attention_heads")),
        V(c.i("vocab_size")),
        layers(c.i("num_hidden_layers")),
        dense_layers(c.count("first_k_dense_replace")),
        draft_layers(c.count("num_nextn_predict_layers")),
        Rq(c.i("q_lora_rank", 0)),
        R(c.i("kv_lora_rank")),
        N(c.i("qk_nope_head_dim")),
        P(c.i("qk_rope_head_dim")),
        U(c.i("v_head_dim")),
        F(c.i("intermediate_size")),
        X(c.i("n_routed_experts")),
        expert_F(c.i("moe_intermediate_size")),
        shared(c.count("n_shared_experts")),
        eps(c.f("rms_norm_eps", 1e-6)),
        tied(c.b("tie_word_embeddings", false)) {
    read_router(c);
    // 1/sqrt(N + P), times the square of YaRN's temperature (arXiv 2309.00071, section 3.4); the
    // other temperature, on cos and sin, is make_rope's.
    double m = 1;
    if (c.has("rope_scaling") && c.at("rope_scaling").s("rope_type") == "yarn") {
      const Config yarn = c.at("rope_scaling");
      const double factor = yarn.f("factor");
      if (factor > 1) m = 0.1 * yarn.f("mscale_all_dim", 0) * std::log(factor) + 1;
    }
    attention_scale = m * m / std::sqrt(static_cast<double>(N + P));
    if (c.i("moe_layer_freq", 1) != 1) {
      c.fail(unsupported_error("config.json: moe_layer_freq ", c.i("moe_layer_freq", 1),
                               " is not supported; all layers after the first dense ones must be "
                               "mixtures of experts (1)"));
    }
  }

  // V3 says "noaux_tc": sigmoid scores, groups judged by their two best biased ones. V2 says
  // "group_limited_greedy", or "greedy" without groups: softmax, groups judged by their best.
  void read_router(const Config& c) {
    const bool v2 = c.json().value("model_type", "") == "deepseek_v2";
    const std::string method = c.s("topk_method", v2 ? "greedy" : "noaux_tc");
    const std::string scoring = c.s("scoring_func", v2 ? "softmax" : "sigmoid");
    if (method != "noaux_tc" && method != "group_limited_greedy" && method != "greedy") {
      c.fail(unsupported_error(
          "config.json: topk_method \"", method,
          "\" is not supported; known: ", "noaux_tc, group_limited_greedy, greedy"));
    }
    if (scoring != "sigmoid" && scoring != "softmax") {
      c.fail(unsupported_error("config.json: scoring_func \"", scoring,
                               "\" is not supported; known: sigmoid, softmax"));
    }
    const int64_t k = c.i("num_experts_per_tok");
    const int64_t groups = method == "greedy" ? 1 : c.i("n_group", 1);
    const int64_t kept = method == "greedy" ? 1 : c.i("topk_group", 1);
    if (X % groups != 0 || kept > groups || k > X / groups * kept) {
      c.fail(corrupt_error("config.json: ", k, " experts a token cannot be chosen from ", kept,
                           " of ", groups, " equal groups of ", X, " experts"));
      return;
    }
    router.top_k = static_cast<int32_t>(k);
    router.groups = static_cast<int32_t>(groups);
    router.groups_kept = static_cast<int32_t>(kept);
    router.sigmoid = scoring == "sigmoid";
    router.group_by_top2 = method == "noaux_tc";
    router.normalize = c.b("norm_topk_prob", !v2);
    router.scale = static_cast<float>(c.f("routed_scaling_factor", 1));
  }
};

struct Mla {
  Linear q_down, q_up;     // W^DQ [Rq, D]; W^UQ and W^QR stacked per head [H*(N+P), Rq or D]
  Linear kv_down;          // W^DKV and W^KR stacked [R+P, D]
  MlaUp kv_up;             // W^UK and W^UV
  Linear o;                // W^O [D, H*U]
  Tensor q_norm, kv_norm;  // [Rq], [R]: on the latents

  Mla(const Loader& w, const Dims& d)
      : q_up(w.linear(d.Rq > 0 ? "q_b_proj" : "q_proj", d.H * (d.N + d.P), d.Rq > 0 ? d.Rq : d.D)),
        kv_down(w.linear("kv_a_proj_with_mqa", d.R + d.P, d.D)),
        kv_up(w.mla_up(d.H, d.N, d.U, d.R)),
        o(w.linear("o_proj", d.D, d.H * d.U)),
        kv_norm(w.vector("kv_a_layernorm.weight", d.R)) {
    if (d.Rq == 0) return;
    q_down = w.linear("q_a_proj", d.Rq, d.D);
    q_norm = w.vector("q_a_layernorm.weight", d.Rq);
  }
};

struct Ffn {       // SwiGLU
  Linear gate_up;  // [2*F, D]
  Linear down;     // [D, F]

  Ffn() = default;
  Ffn(const Loader& w, int64_t D, int64_t F)
      : gate_up(w.fused({{"gate_proj", F}, {"up_proj", F}}, D)),
        down(w.linear("down_proj", D, F)) {}
};

struct Moe {
  Linear router;    // the experts' centroids e_i [X, D]
  Tensor bias;      // b_i [X], moves the choice of experts but not their weight; rank 0: none
  Experts experts;  // X times [2*expert_F, D] and [D, expert_F]
  Ffn shared;       // of all shared experts together

  Moe() = default;
  Moe(const Loader& w, const Dims& d)
      : router(w.linear("gate", d.X, d.D)), experts(w.experts("experts", d.X, d.expert_F, d.D)) {
    if (w.has("gate.e_score_correction_bias")) bias = w.vector("gate.e_score_correction_bias", d.X);
    if (d.shared > 0) shared = Ffn(w.in("shared_experts"), d.D, d.shared * d.expert_F);
  }
};

struct Layer {
  Tensor attn_norm, ffn_norm;  // [D]
  Mla attn;
  bool dense;
  Ffn ffn;  // where dense
  Moe moe;  // else

  Layer(const Loader& w, const Dims& d, int64_t i)
      : attn_norm(w.vector("input_layernorm.weight", d.D)),
        ffn_norm(w.vector("post_attention_layernorm.weight", d.D)),
        attn(w.in("self_attn"), d),
        dense(i < d.dense_layers) {
    if (dense) {
      ffn = Ffn(w.in("mlp"), d.D, d.F);
    } else {
      moe = Moe(w.in("mlp"), d);
    }
  }
};

// What the layer for multi-token prediction has besides: equations (21) to (23).
struct DraftHead {
  Embedding embed;
  Tensor token_norm, state_norm;  // [D]
  Linear join;                    // M_k [D, 2*D]
  Tensor norm;                    // [D]
  Linear head;                    // [V, D]
};

class DeepSeekV3 final : public ModelGraph {
 public:
  DeepSeekV3(const Config& config, const Loader& w, const GraphOptions& options)
      : d_(config),
        embed_(w.embedding("model.embed_tokens", d_.V, d_.D)),
        norm_(w.vector("model.norm.weight", d_.D)),
        head_(w.linear(d_.tied ? "model.embed_tokens" : "lm_head", d_.V, d_.D)),
        rope_(make_rope(config, d_.P)) {
    // Neighbours turn together, unless a configuration of transformers says otherwise.
    rope_.interleaved = config.b("rope_interleave", true);
    for (int64_t i = 0; i < d_.layers && w.status().ok(); ++i) {
      layers_.emplace_back(w.in("model.layers", i), d_, i);
    }
    const Loader extra = w.in("model.layers", d_.layers);
    draft_ = options.draft_layer && d_.draft_layers > 0 && extra.has("eh_proj.weight");
    if (draft_) load_draft(extra);
  }

  int layers() const override { return static_cast<int>(d_.layers); }
  int64_t vocabulary() const override { return d_.V; }

  // What is cached per token and layer is the latent c^KV and the one shared rotary key, R + P
  // numbers, whatever the number of heads.
  KvShape kv_shape() const override { return {d_.layers + (draft_ ? 1 : 0), 1, d_.R + d_.P, 0}; }

  Tensor begin(Exec& cx, const Batch& b) const override { return cx.embed(embed_, b.tokens); }

  Tensor layer(Exec& cx, const Batch& b, int i, const Tensor& h) const override {
    const Layer& L = layers_[static_cast<size_t>(i)];
    const Tensor a = cx.add(h, attention(cx, b, i, cx.rms_norm(h, L.attn_norm, d_.eps)));
    const Tensor x = cx.rms_norm(a, L.ffn_norm, d_.eps);
    return cx.add(a, L.dense ? feed_forward(cx, L.ffn, x) : mixture_of_experts(cx, L.moe, x));
  }

  Tensor end(Exec& cx, const Batch& b, const Tensor& h) const override {
    const Tensor wanted = cx.rows_wanted(h, b);  // only the rows whose logits somebody will read
    return cx.linear(cx.rms_norm(wanted, norm_, d_.eps), head_);
  }

  bool has_draft_layer() const override { return draft_; }
  Tensor draft_state(Exec& cx, const Tensor& h) const override {
    return cx.rms_norm(h, norm_, d_.eps);
  }
  // (21), in the order of the released weights: the token first, then the state.
  Tensor draft_begin(Exec& cx, const Batch& b, const Tensor& state) const override {
    const Tensor token = cx.embed(draft_head_.embed, b.tokens);
    return cx.linear(
        cx.rms_norm_both(token, draft_head_.token_norm, state, draft_head_.state_norm, d_.eps),
        draft_head_.join);
  }
  Draft draft_end(Exec& cx, const Batch& b, const Tensor& h) const override {
    const Tensor state = cx.rms_norm(h, draft_head_.norm, d_.eps);
    return {state, cx.linear(cx.rows_wanted(state, b), draft_head_.head)};
  }

 private:
  // Multi-head latent attention, equations (1) to (11).
  Tensor attention(Exec& cx, const Batch& b, int i, const Tensor& x) const {
    const Mla& a = layers_[static_cast<size_t>(i)].attn;

    // (6) to (9): queries, through a latent of their own where there is one.
    const Tensor cq = d_.Rq > 0 ? cx.rms_norm(cx.linear(x, a.q_down), a.q_norm, d_.eps) : x;
    const auto q = cx.split(cx.heads(cx.linear(cq, a.q_up), d_.H), {d_.N, d_.P});  // q^C, q^R
    cx.rope(q[1], rope_, b);

    // (1), (3): the latent, and one rotary key that all heads share. Only these are cached.
    const auto kv = cx.split(cx.linear(x, a.kv_down), {d_.R, d_.P});  // c^KV, k^R
    const Tensor c = cx.rms_norm(kv[0], a.kv_norm, d_.eps);
    cx.rope(cx.heads(kv[1], 1), rope_, b);
    cx.mla_write(cx.kv(i), c, kv[1], b);

    // (2), (4), (5), (10): keys and values are expanded from the latents with W^UK and W^UV. A
    // backend may instead fold W^UK into the query and W^UV into the result: its choice, with the
    // same outcome (docs/kernels/mla.md).
    const Tensor o = cx.mla_attention(q[0], q[1], cx.kv(i), a.kv_up, b, d_.attention_scale);
    return cx.linear(o, a.o);  // (11)
  }

  // down( silu(gate(x)) * up(x) ), SwiGLU (arXiv 2002.05202, equation 6).
  Tensor feed_forward(Exec& cx, const Ffn& f, const Tensor& x) const {
    return cx.linear(cx.swiglu(cx.linear(x, f.gate_up)), f.down);
  }

  // (12) to (16): s_i = sigmoid(x . e_i); experts are chosen by s_i + b_i inside the best groups,
  // but weighted by s_i alone; the shared experts always run.
  Tensor mixture_of_experts(Exec& cx, const Moe& m, const Tensor& x) const {
    const Routing routing = cx.route(cx.linear(x, m.router), m.bias, d_.router);
    const Tensor routed = cx.experts(x, routing, m.experts);
    return d_.shared > 0 ? cx.add(routed, feed_forward(cx, m.shared, x)) : routed;
  }

  void load_draft(const Loader& w) {
    layers_.emplace_back(w, d_, d_.layers);
    // The checkpoint may repeat the embedding and the output matrix, which the paper shares.
    draft_head_.embed =
        w.has("embed_tokens.weight") ? w.embedding("embed_tokens", d_.V, d_.D) : embed_;
    draft_head_.head =
        w.has("shared_head.head.weight") ? w.linear("shared_head.head", d_.V, d_.D) : head_;
    draft_head_.token_norm = w.vector("enorm.weight", d_.D);
    draft_head_.state_norm = w.vector("hnorm.weight", d_.D);
    draft_head_.join = w.linear("eh_proj", d_.D, 2 * d_.D);
    draft_head_.norm = w.vector("shared_head.norm.weight", d_.D);
  }

  Dims d_;
  Embedding embed_;
  Tensor norm_;
  Linear head_;
  Rope rope_;
  std::vector<Layer> layers_;  // and, last, the layer for multi-token prediction
  bool draft_ = false;
  DraftHead draft_head_;
};

}  // namespace

std::unique_ptr<ModelGraph> make_deepseek_v3(const Config& config, const Loader& w,
                                             const GraphOptions& options) {
  return std::make_unique<DeepSeekV3>(config, w, options);
}

}  // namespace ponder
