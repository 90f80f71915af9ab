#include "lib/exec/exec.h"

#include <algorithm>

namespace ponder {
namespace {

constexpr uint64_t kAlign = 64;

}  // namespace

void Exec::begin_step(const Batch& batch) {
  status_ = OkStatus();
  step_used_ = 0;
  rope_tables_.clear();
  batch_ = &batch;
  in_slice_ = false;
  if (live()) run(backend_->begin_step(batch));
}

void Exec::start_slice(int index) {
  end_slice();
  half_ = index & 1;
  half_used_ = 0;
  if (live()) run(backend_->start_slice(*batch_, index));
  in_slice_ = true;
}

void Exec::end_slice() {
  if (in_slice_ && live()) run(backend_->end_slice());
  in_slice_ = false;
}

bool Exec::expect(bool ok, absl::string_view op, const Tensor& x, absl::string_view wanted) {
  if (ok) return true;
  run(internal_error(op, ": got ", x.describe(), ", wanted ", wanted));
  return false;
}

std::byte* Exec::take(uint64_t bytes, bool for_step) {
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  uint64_t& used = for_step ? step_used_ : half_used_;
  uint64_t& capacity = for_step ? size_.step : size_.half[half_];
  const uint64_t at = used;
  used += bytes;
  if (backend_ == nullptr) {
    capacity = std::max(capacity, used);
    return nullptr;
  }
  if (used > capacity) {
    run(internal_error("the step's arena of ", capacity, " bytes is too small for ", used));
    return nullptr;
  }
  return arena_ + (for_step ? 0 : size_.step + (half_ == 1 ? size_.half[0] : 0)) + at;
}

Tensor Exec::result(std::initializer_list<int64_t> dims) {
  int64_t elements = 1;
  for (int64_t d : dims) elements *= d;
  return Tensor::make(take(static_cast<uint64_t>(elements) * sizeof(float), false), DType::kF32,
                      dims);
}

KvLayer Exec::kv(int layer) const {
  KvLayer l;
  if (!kv_layers_.empty()) l.base = kv_layers_[static_cast<size_t>(layer)];
  l.layout = kv_layout_;
  l.shape = kv_shape_;
  return l;
}

Tensor Exec::embed(const Embedding& table, std::span<const int32_t> tokens) {
  Tensor out = result({static_cast<int64_t>(tokens.size()), table.table->cols});
  for (int32_t t : tokens) {
    if (t < 0 || t >= table.table->rows) {
      run(invalid_argument_error("token ", t, " is not in the model's vocabulary of ",
                                 table.table->rows));
    }
  }
  if (live()) run(backend_->embed({table.table, tokens, out}));
  return out;
}

Tensor Exec::rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  Tensor out = x.rank == 3 ? result({x.dim[0], x.dim[1], x.dim[2]}) : result({x.dim[0], x.dim[1]});
  if (!expect(x.rank >= 2 && weight.rank == 1 && weight.dim[0] == x.dim[x.rank - 1], "rms_norm", x,
              weight.describe())) {
    return out;
  }
  if (live()) run(backend_->rms_norm({x, weight, static_cast<float>(eps), out}));
  return out;
}

Tensor Exec::rms_norm_both(const Tensor& a, const Tensor& a_weight, const Tensor& b,
                           const Tensor& b_weight, double eps) {
  Tensor out = result({a.dim[0], a.dim[1] + b.dim[1]});
  const auto fits = [&](const Tensor& x, const Tensor& weight) {
    return expect(
        x.rank == 2 && x.dim[0] == a.dim[0] && weight.rank == 1 && weight.dim[0] == x.dim[1],
        "rms_norm_both", x, weight.describe());
  };
  if (!fits(a, a_weight) || !fits(b, b_weight)) return out;
  const std::vector<Tensor> halves = split(out, {a.dim[1], b.dim[1]});
  const auto e = static_cast<float>(eps);
  if (live()) run(backend_->rms_norm({a, a_weight, e, halves[0]}));
  if (live()) run(backend_->rms_norm({b, b_weight, e, halves[1]}));
  return out;
}

Tensor Exec::linear(const Tensor& x, const Linear& w) {
  Tensor out = result({x.dim[0], w.weight->rows});
  if (!expect(x.rank == 2 && x.dim[1] == w.weight->cols, "linear", x,
              absl::StrCat("[T, ", w.weight->cols, "]"))) {
    return out;
  }
  if (live()) run(backend_->linear({x, w.weight, w.bias, out}));
  return out;
}

Tensor Exec::add(const Tensor& a, const Tensor& b) {
  Tensor out = result({a.dim[0], a.dim[1]});
  if (!expect(a.rank == 2 && b.rank == 2 && a.dim[0] == b.dim[0] && a.dim[1] == b.dim[1], "add", a,
              b.describe())) {
    return out;
  }
  if (live()) run(backend_->add({a, b, out}));
  return out;
}

Tensor Exec::swiglu(const Tensor& gate_up) {
  Tensor out = result({gate_up.dim[0], gate_up.dim[1] / 2});
  if (!expect(gate_up.rank == 2 && gate_up.dim[1] % 2 == 0, "swiglu", gate_up, "[T, 2F]")) {
    return out;
  }
  if (live()) run(backend_->swiglu({gate_up, out}));
  return out;
}

std::vector<Tensor> Exec::split(const Tensor& x, std::initializer_list<int64_t> widths) {
  std::vector<Tensor> parts;
  int64_t at = 0;
  for (int64_t width : widths) {
    Tensor part = x;
    part.dim[x.rank - 1] = width;
    if (x.data != nullptr) part.data = x.f32() + at;
    parts.push_back(part);
    at += width;
  }
  expect(at == x.dim[x.rank - 1], "split", x, absl::StrCat("a last dimension of ", at));
  return parts;
}

Tensor Exec::heads(const Tensor& x, int64_t n) {
  Tensor out = x;
  if (!expect(x.rank == 2 && n > 0 && x.dim[1] % n == 0, "heads", x,
              absl::StrCat("[T, ", n, " * E]"))) {
    return out;
  }
  out.rank = 3;
  out.dim[1] = n;
  out.dim[2] = x.dim[1] / n;
  out.stride[1] = out.dim[2];
  out.stride[2] = 1;
  return out;
}

void Exec::rope(const Tensor& x, const Rope& rope, const Batch& b) {
  const int64_t width = 2 * static_cast<int64_t>(rope.inv_freq.size());
  if (!expect(x.rank == 3 && x.dim[2] >= width, "rope", x,
              absl::StrCat("[T, H, at least ", width, "]"))) {
    return;
  }
  Tensor table;
  for (const auto& [made_for, made] : rope_tables_) {
    if (made_for == &rope) table = made;
  }
  if (table.rank == 0) {
    table = Tensor::make(take(static_cast<uint64_t>(x.dim[0] * width) * sizeof(float), true),
                         DType::kF32, {x.dim[0], width});
    if (live()) {
      run(backend_->rope_table({rope.inv_freq, rope.magnitude, b.positions, table}));
    }
    rope_tables_.emplace_back(&rope, table);
  }
  if (live()) run(backend_->rope({x, table, rope.interleaved}));
}

void Exec::kv_write(const KvLayer& cache, const Tensor& k, const Tensor& v, const Batch& b) {
  if (live()) run(backend_->kv_write({cache, k, v, &b}));
}

Tensor Exec::attention(const Tensor& q, const KvLayer& cache, const Batch& b, double scale) {
  // In measuring mode there is no cache to ask for the width of a value: heads are square there.
  const int64_t v_dim = cache.shape.v_dim > 0 ? cache.shape.v_dim : q.dim[2];
  Tensor out = result({q.dim[0], q.dim[1] * v_dim});
  if (live()) run(backend_->attention({q, cache, &b, static_cast<float>(scale), out}));
  return out;
}

void Exec::mla_write(const KvLayer& cache, const Tensor& latent, const Tensor& k_rope,
                     const Batch& b) {
  if (!expect(latent.rank == 2 && k_rope.rank == 2 && k_rope.dim[0] == latent.dim[0], "mla_write",
              k_rope, absl::StrCat("[", latent.dim[0], ", P]"))) {
    return;
  }
  if (live()) run(backend_->mla_write({cache, latent, k_rope, &b}));
}

Tensor Exec::mla_attention(const Tensor& q_nope, const Tensor& q_rope, const KvLayer& cache,
                           const MlaUp& up, const Batch& b, double scale) {
  Tensor out = result({q_nope.dim[0], up.heads * up.value_dim});
  if (!expect(q_nope.rank == 3 && q_nope.dim[1] == up.heads && q_nope.dim[2] == up.nope_dim,
              "mla_attention", q_nope, absl::StrCat("[T, ", up.heads, ", ", up.nope_dim, "]")) ||
      !expect(q_rope.rank == 3 && q_rope.dim[0] == q_nope.dim[0] && q_rope.dim[1] == up.heads,
              "mla_attention", q_rope, absl::StrCat("[T, ", up.heads, ", P]"))) {
    return out;
  }
  if (live()) {
    run(backend_->mla_attention(
        {q_nope, q_rope, cache, up.weight, &b, static_cast<float>(scale), out}));
  }
  return out;
}

Routing Exec::route(const Tensor& logits, const Tensor& bias, const RouterParams& router) {
  Routing routing{result({logits.dim[0], router.top_k}), result({logits.dim[0], router.top_k})};
  routing.ids.dtype = DType::kI32;  // as wide as an f32
  if (!expect(logits.rank == 2 && logits.dim[1] >= router.top_k &&
                  (bias.rank == 0 || bias.dim[0] == logits.dim[1]),
              "route", logits, "a score for each expert")) {
    return routing;
  }
  if (live()) run(backend_->route({logits, bias, router, routing.ids, routing.weights}));
  return routing;
}

Tensor Exec::experts(const Tensor& x, const Routing& routing, const Experts& w) {
  Tensor out = result({x.dim[0], x.dim[1]});
  if (!expect(x.rank == 2 && x.dim[1] == w.weight->hidden, "experts", x,
              absl::StrCat("[T, ", w.weight->hidden, "]"))) {
    return out;
  }
  if (live()) run(backend_->experts({x, routing.ids, routing.weights, w.weight, out}));
  return out;
}

Tensor Exec::rows_wanted(const Tensor& x, const Batch& b) {
  Tensor out = result({static_cast<int64_t>(b.logit_rows.size()), x.dim[1]});
  if (live()) run(backend_->gather_rows({x, b.logit_rows, out}));
  return out;
}

}  // namespace ponder
