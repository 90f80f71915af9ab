// The kernels in terms of the vector type V of simd_*.h. Included once per instruction set, inside
// an anonymous namespace, so that every copy stays in its own object file.

constexpr float kInfinity = __builtin_inff();

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- scalars --------------------------------------------------------------------------------------

inline uint32_t bits_of(float v) {
  uint32_t u;
  __builtin_memcpy(&u, &v, 4);
  return u;
}
inline float float_of(uint32_t u) {
  float v;
  __builtin_memcpy(&v, &u, 4);
  return v;
}
inline float bf16_to_float(uint16_t v) { return float_of(uint32_t{v} << 16); }
inline uint16_t float_to_bf16(float v) {
  const uint32_t u = bits_of(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// ---- exp ------------------------------------------------------------------------------------------

// exp(x) to about 1e-7 of its value for -87.3 <= x <= 88, constant outside.
inline V v_exp(V x) {
  x = v_clamp(x, -87.33654f, 88.0f);
  const V n = v_round(v_mul(x, v_set(1.44269504088896341f)));
  // ln 2 in two parts, the first exact in the product.
  V r = v_fma(n, v_set(-0.693359375f), x);
  r = v_fma(n, v_set(2.12194440e-4f), r);
  V p = v_set(1.9875691500e-4f);
  p = v_fma(p, r, v_set(1.3981999507e-3f));
  p = v_fma(p, r, v_set(8.3334519073e-3f));
  p = v_fma(p, r, v_set(4.1665795894e-2f));
  p = v_fma(p, r, v_set(1.6666665459e-1f));
  p = v_fma(p, r, v_set(5.0000001201e-1f));
  p = v_fma(v_mul(p, r), r, v_add(r, v_set(1.0f)));
  return v_mul(p, v_pow2(n));
}

inline float exp_one(float x) {
  float out[W];
  v_store(out, v_exp(v_set(x)));
  return out[0];
}

// ---- packing: plain versions ----------------------------------------------------------------------

template <typename T>
inline T load_raw(const void* row, int64_t i) {
  T v;
  __builtin_memcpy(&v, static_cast<const char*>(row) + i * static_cast<int64_t>(sizeof(T)),
                   sizeof(T));
  return v;
}

// [K][64]
template <typename T, T kExponent>
bool pack_plain(const void* const* rows, int64_t k, void* panel) {
  T* out = static_cast<T*>(panel);
  bool bad = false;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t n = 0; n < kPanel; ++n) {
      const T v = rows[n] != nullptr ? load_raw<T>(rows[n], i) : T{0};
      bad |= (v & kExponent) == kExponent;
      out[i * kPanel + n] = v;
    }
  }
  return bad;
}

// [K/2][64][2], an odd K padded with a zero
template <uint16_t kExponent>
bool pack_pairs(const void* const* rows, int64_t k, void* panel) {
  uint16_t* out = static_cast<uint16_t*>(panel);
  bool bad = false;
  for (int64_t i = 0; i < (k + 1) / 2 * 2; ++i) {
    for (int64_t n = 0; n < kPanel; ++n) {
      const bool exists = rows[n] != nullptr && i < k;
      const uint16_t v = exists ? load_raw<uint16_t>(rows[n], i) : uint16_t{0};
      bad |= (v & kExponent) == kExponent;
      out[i / 2 * kPanel * 2 + n * 2 + i % 2] = v;
    }
  }
  return bad;
}

// ---- linear ---------------------------------------------------------------------------------------

// A tile's chains into c: R rows of C vectors, of which the first n columns exist.
template <int R, int C>
inline void finish_tile(const V (&acc)[R][C], const GemmArgs& g, float* c, const float* bias,
                        int64_t n) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* row = c + r * g.ldc;
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      const int64_t left = n - j * W;
      if (left >= W) {
        V v = acc[r][j];
        if (g.accumulate) v = v_add(v_load(row + j * W), v);
        if (bias != nullptr) v = v_add(v, v_load(bias + j * W));
        v_store(row + j * W, v);
      } else if (left > 0) {
        V v = acc[r][j];
        if (g.accumulate) v = v_add(v_load_part(row + j * W, left), v);
        if (bias != nullptr) v = v_add(v, v_load_part(bias + j * W, left));
        v_store_part(row + j * W, v, left);
      }
    }
  }
}

// Calls fn<R>(first row) over all m rows in tiles of at most kMax rows, as even as they can be.
template <int kMax, typename Fn>
inline void for_row_tiles(int64_t m, const Fn& fn) {
  int64_t tiles = (m + kMax - 1) / kMax;
  for (int64_t row = 0; row < m; --tiles) {
    const int64_t rows = (m - row + tiles - 1) / tiles;
    fn(row, rows);
    row += rows;
  }
}

template <int N>
struct Int {
  static constexpr int value = N;
};

// fn(Int<r>) for the r that rows is; 1 <= rows <= kMax <= 8.
template <int kMax, typename Fn>
inline void with_rows(int64_t rows, const Fn& fn) {
  switch (rows) {
    case 1: fn(Int<1>{}); break;
    case 2: if constexpr (kMax >= 2) fn(Int<2>{}); break;
    case 3: if constexpr (kMax >= 3) fn(Int<3>{}); break;
    case 4: if constexpr (kMax >= 4) fn(Int<4>{}); break;
    case 5: if constexpr (kMax >= 5) fn(Int<5>{}); break;
    case 6: if constexpr (kMax >= 6) fn(Int<6>{}); break;
    case 7: if constexpr (kMax >= 7) fn(Int<7>{}); break;
    case 8: if constexpr (kMax >= 8) fn(Int<8>{}); break;
    default: break;
  }
}

constexpr int kSub = W * kGemmColumns;  // columns of gemm_f32's tile; divides kPanel

// Floats in the order that gemm_f32 reads: [64 / kSub][k][kSub].
inline void store_unpacked(float* out, int64_t k, int64_t i, int j, V v) {
  const int column = j * W;
  v_store(out + column / kSub * k * kSub + i * kSub + column % kSub, v);
}

void unpack_f32(const void* block, int64_t k, float* out) {
  const float* b = static_cast<const float*>(block);
  for (int64_t i = 0; i < k; ++i) {
    for (int j = 0; j < kPanel / W; ++j) store_unpacked(out, k, i, j, v_load(b + i * kPanel + j * W));
  }
}
void unpack_f16(const void* block, int64_t k, float* out) {
  const uint16_t* b = static_cast<const uint16_t*>(block);
  for (int64_t i = 0; i < k; ++i) {
    for (int j = 0; j < kPanel / W; ++j) {
      store_unpacked(out, k, i, j, v_load_f16(b + i * kPanel + j * W));
    }
  }
}
void unpack_bf16(const void* block, int64_t k, float* out) {
  const uint16_t* b = static_cast<const uint16_t*>(block);
  for (int64_t i = 0; i < k; i += 2) {
    for (int j = 0; j < kPanel / W; ++j) {
      V even, odd;
      v_load_pairs(b + (i * kPanel + j * W * 2), even, odd);
      store_unpacked(out, k, i, j, even);
      if (i + 1 < k) store_unpacked(out, k, i + 1, j, odd);
    }
  }
}

template <int R>
inline void gemm_f32_tile(const GemmArgs& g, int64_t row, const float* b, int64_t column) {
  const float* a = static_cast<const float*>(g.a) + row * g.lda;
  V acc[R][kGemmColumns];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kGemmColumns; ++j) acc[r][j] = v_zero();
  }
  for (int64_t i = 0; i < g.k; ++i) {
    V w[kGemmColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kGemmColumns; ++j) w[j] = v_load(b + i * kSub + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V x = v_set(a[r * g.lda + i]);
#pragma GCC unroll 8
      for (int j = 0; j < kGemmColumns; ++j) acc[r][j] = v_fma(x, w[j], acc[r][j]);
    }
  }
  finish_tile(acc, g, g.c + row * g.ldc + column, g.bias != nullptr ? g.bias + column : nullptr,
              g.n - column);
}

void gemm_f32(const GemmArgs& g) {
  for (int64_t column = 0; column < g.n; column += kSub) {
    const float* b = static_cast<const float*>(g.b) + column / kSub * g.k * kSub;
    for_row_tiles<kGemmRows>(g.m, [&](int64_t row, int64_t rows) {
      with_rows<kGemmRows>(rows, [&](auto r) { gemm_f32_tile<r.value>(g, row, b, column); });
    });
  }
}

// The whole panel's width at once, weights widened in registers.
template <Storage S, int R>
inline void gemm_direct_tile(const GemmArgs& g, int64_t row) {
  constexpr int C = kPanel / W;
  constexpr int64_t kAhead = 2048;  // bytes; the hardware's prefetcher stops at page borders
  const float* a = static_cast<const float*>(g.a) + row * g.lda;
  V acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) acc[r][j] = v_zero();
  }
  if constexpr (S == kStoreBF16) {
    const uint16_t* b = static_cast<const uint16_t*>(g.b);
    int64_t i = 0;
    for (; i + 2 <= g.k; i += 2, b += kPanel * 2) {
      V x[R][2];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        x[r][0] = v_set(a[r * g.lda + i]);
        x[r][1] = v_set(a[r * g.lda + i + 1]);
      }
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        if (j * W * 4 % 64 == 0) v_prefetch(b + j * W * 2 + kAhead / 2);
        V even, odd;
        v_load_pairs(b + j * W * 2, even, odd);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          acc[r][j] = v_fma(x[r][0], even, acc[r][j]);
          acc[r][j] = v_fma(x[r][1], odd, acc[r][j]);
        }
      }
    }
    if (i < g.k) {
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        V even, odd;
        v_load_pairs(b + j * W * 2, even, odd);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][j] = v_fma(v_set(a[r * g.lda + i]), even, acc[r][j]);
      }
    }
  } else {
    const char* b = static_cast<const char*>(g.b);
    constexpr int64_t kStep = storage_bytes(S);
    for (int64_t i = 0; i < g.k; ++i, b += kPanel * kStep) {
      V x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) x[r] = v_set(a[r * g.lda + i]);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        const char* at = b + j * W * kStep;
        if (j * W * kStep % 64 == 0) v_prefetch(at + kAhead);
        V w;
        if constexpr (S == kStoreF16) {
          w = v_load_f16(reinterpret_cast<const uint16_t*>(at));
        } else {
          w = v_load(reinterpret_cast<const float*>(at));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][j] = v_fma(x[r], w, acc[r][j]);
      }
    }
  }
  finish_tile(acc, g, g.c + row * g.ldc, g.bias, g.n);
}

template <Storage S>
void gemm_direct(const GemmArgs& g) {
  for_row_tiles<kDirectRows>(g.m, [&](int64_t row, int64_t rows) {
    with_rows<kDirectRows>(rows, [&](auto r) { gemm_direct_tile<S, r.value>(g, row); });
  });
}

void add_bias(float* c, int64_t ldc, int64_t m, int64_t n, const float* bias) {
  for (int64_t r = 0; r < m; ++r, c += ldc) {
    int64_t j = 0;
    for (; j + W <= n; j += W) v_store(c + j, v_add(v_load(c + j), v_load(bias + j)));
    if (j < n) {
      v_store_part(c + j, v_add(v_load_part(c + j, n - j), v_load_part(bias + j, n - j)), n - j);
    }
  }
}

void round_bf16(const float* x, int64_t n, int64_t n_padded, uint16_t* out) {
  int64_t i = 0;
  for (; i < n; ++i) out[i] = float_to_bf16(x[i]);
  for (; i < n_padded; ++i) out[i] = 0;
}

void widen_f32(const void* x, int64_t n, float* out) {
  __builtin_memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
}
void widen_f16(const void* x, int64_t n, float* out) {
  const char* in = static_cast<const char*>(x);  // checkpoints align nothing
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    uint16_t h[W];
    __builtin_memcpy(h, in + i * 2, sizeof(h));
    v_store(out + i, v_load_f16(h));
  }
  for (; i < n; ++i) out[i] = half_to_float(load_raw<uint16_t>(in, i));
}
void widen_bf16(const void* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(load_raw<uint16_t>(x, i));
}

// ---- element by element ---------------------------------------------------------------------------

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  V sums[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    for (int j = 0; j < 4; ++j) {
      const V v = v_load(x + i + j * W);
      sums[j] = v_fma(v, v, sums[j]);
    }
  }
  for (; i < n; i += W) {
    const V v = v_load_part(x + i, at_most(W, n - i));
    sums[0] = v_fma(v, v, sums[0]);
  }
  const float sum = v_sum(v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])));
  const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
  const V factor = v_set(scale);
  for (i = 0; i + W <= n; i += W) {
    v_store(out + i, v_mul(v_mul(v_load(x + i), factor), v_load(weight + i)));
  }
  if (i < n) {
    const V v = v_mul(v_mul(v_load_part(x + i, n - i), factor), v_load_part(weight + i, n - i));
    v_store_part(out + i, v, n - i);
  }
}

inline V silu_times(V gate, V up) {
  const V e = v_exp(v_sub(v_zero(), gate));
  return v_mul(v_div(gate, v_add(e, v_set(1.0f))), up);
}

void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + W <= n; i += W) v_store(out + i, silu_times(v_load(gate + i), v_load(up + i)));
  if (i < n) {
    const int64_t left = n - i;
    v_store_part(out + i, silu_times(v_load_part(gate + i, left), v_load_part(up + i, left)), left);
  }
}

void add(const float* a, const float* b, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + W <= n; i += W) v_store(out + i, v_add(v_load(a + i), v_load(b + i)));
  for (; i < n; ++i) out[i] = a[i] + b[i];
}

void rope(float* x, const float* cosines, const float* sines, int64_t half, bool interleaved) {
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i];
      const float b = x[2 * i + 1];
      x[2 * i] = a * cosines[i] - b * sines[i];
      x[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
    return;
  }
  int64_t i = 0;
  for (; i + W <= half; i += W) {
    const V a = v_load(x + i), b = v_load(x + half + i);
    const V c = v_load(cosines + i), s = v_load(sines + i);
    v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
    v_store(x + half + i, v_add(v_mul(b, c), v_mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cosines[i] - b * sines[i];
    x[half + i] = b * cosines[i] + a * sines[i];
  }
}

void scale_row(const float* x, float scale, int64_t n, int64_t n_padded, float* out) {
  int64_t i = 0;
  for (; i < n; ++i) out[i] = x[i] * scale;
  for (; i < n_padded; ++i) out[i] = 0.0f;
}

void scale_out(const float* x, float factor, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

// ---- attention ------------------------------------------------------------------------------------

// binary16 ends at 65504: beyond it a cached value is held there, not made infinite.
inline uint16_t float_to_half_held(float v) {
  v = v < -65504.0f ? -65504.0f : v;
  return float_to_half(v > 65504.0f ? 65504.0f : v);
}

template <Storage S>
void kv_store(const float* k, int64_t k_dim, const float* v, int64_t v_dim, int64_t v_padded,
              int64_t slot, std::byte* k_page, std::byte* v_page) {
  if constexpr (S == kStoreF32) {
    float* keys = reinterpret_cast<float*>(k_page) + slot;
    for (int64_t e = 0; e < k_dim; ++e) keys[e * kPageTokens] = k[e];
    if (k_dim % 2 != 0) keys[k_dim * kPageTokens] = 0.0f;
    float* values = reinterpret_cast<float*>(v_page) + slot * v_padded;
    for (int64_t e = 0; e < v_dim; ++e) values[e] = v[e];
  } else if constexpr (S == kStoreF16) {
    uint16_t* keys = reinterpret_cast<uint16_t*>(k_page) + slot;
    for (int64_t e = 0; e < k_dim; ++e) keys[e * kPageTokens] = float_to_half_held(k[e]);
    if (k_dim % 2 != 0) keys[k_dim * kPageTokens] = 0;
    uint16_t* values = reinterpret_cast<uint16_t*>(v_page) + slot * v_padded;
    for (int64_t e = 0; e < v_dim; ++e) values[e] = float_to_half_held(v[e]);
  } else {
    uint16_t* keys = reinterpret_cast<uint16_t*>(k_page) + slot * 2;
    for (int64_t e = 0; e < k_dim; ++e) {
      keys[e / 2 * kPageTokens * 2 + e % 2] = float_to_bf16(k[e]);
    }
    if (k_dim % 2 != 0) keys[k_dim / 2 * kPageTokens * 2 + 1] = 0;
    uint16_t* values = reinterpret_cast<uint16_t*>(v_page) + slot / 2 * v_padded * 2 + slot % 2;
    for (int64_t e = 0; e < v_dim; ++e) values[e * 2] = float_to_bf16(v[e]);
  }
}

// Vectors 2i and 2i+1 (rows `width` wide, at column `column`) of a matrix stored as keys and values
// are: pairs for bf16, rows for the others.
template <Storage S>
inline void load_two(const std::byte* base, int64_t i, int64_t width, int64_t column, V& even,
                     V& odd) {
  if constexpr (S == kStoreBF16) {
    v_load_pairs(reinterpret_cast<const uint16_t*>(base) + (i * width + column) * 2, even, odd);
  } else if constexpr (S == kStoreF16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(base) + i * 2 * width + column;
    even = v_load_f16(p);
    odd = v_load_f16(p + width);
  } else {
    const float* p = reinterpret_cast<const float*>(base) + i * 2 * width + column;
    even = v_load(p);
    odd = v_load(p + width);
  }
}

// The lines that load_two() of vector j of a tile will read, of another page. Pages are scattered, so
// no hardware prefetcher knows which one comes next.
template <Storage S>
[[gnu::always_inline]] inline void prefetch_two(const std::byte* base, int64_t i, int64_t width, int64_t column, int j) {
  if constexpr (S == kStoreBF16) {
    if (j * W * 4 % 64 == 0) v_prefetch(base + (i * width + column + j * W) * 4);
  } else {
    constexpr int64_t kBytes = storage_bytes(S);
    if (j * W * kBytes % 64 == 0) {
      const std::byte* p = base + (i * 2 * width + column + j * W) * kBytes;
      v_prefetch(p);
      v_prefetch(p + width * kBytes);
    }
  }
}

// R rows against the keys of one page; `next` is the page that is read after it.
template <Storage S, int R>
inline void score_tile(const float* q, int64_t k_dim, const std::byte* page, const std::byte* next,
                       float* scores) {
  constexpr int C = kPageTokens / W;
  V acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) acc[r][j] = v_zero();
  }
  for (int64_t i = 0; i < k_dim / 2; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      V even, odd;
      prefetch_two<S>(next, i, kPageTokens, 0, j);
      load_two<S>(page, i, kPageTokens, j * W, even, odd);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        acc[r][j] = v_fma(v_set(q[r * k_dim + 2 * i]), even, acc[r][j]);
        acc[r][j] = v_fma(v_set(q[r * k_dim + 2 * i + 1]), odd, acc[r][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) v_store(scores + r * kChunk + j * W, acc[r][j]);
  }
}

// R rows of weights times C vectors of the values' columns; `after` is what is read after the last
// page.
template <Storage S, int R, int C>
inline void value_tile(const float* weights, const std::byte* const* pages, const std::byte* after,
                       int64_t keys, int64_t v_dim, int64_t column, float* out) {
  V acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) acc[r][j] = v_zero();
  }
  for (int64_t first = 0; first < keys; first += kPageTokens, ++pages) {
    const int64_t count = at_most(kPageTokens, keys - first);
    const std::byte* next = first + kPageTokens < keys ? pages[1] : after;
    const float* w = weights + first;
    int64_t i = 0;
    for (; i < count / 2; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) {
        V even, odd;
        prefetch_two<S>(next, i, v_dim, column, j);
        load_two<S>(*pages, i, v_dim, column + j * W, even, odd);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          acc[r][j] = v_fma(v_set(w[r * kChunk + 2 * i]), even, acc[r][j]);
          acc[r][j] = v_fma(v_set(w[r * kChunk + 2 * i + 1]), odd, acc[r][j]);
        }
      }
    }
    if (count % 2 != 0) {  // the slot after the last key was never written
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) {
        V even, odd;
        load_two<S>(*pages, i, v_dim, column + j * W, even, odd);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          acc[r][j] = v_fma(v_set(w[r * kChunk + 2 * i]), even, acc[r][j]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) v_store(out + r * v_dim + column + j * W, acc[r][j]);
  }
}

// Scores to weights in place; zeros from `limit` up to `keys`.
inline void softmax_row(float* s, int64_t limit, int64_t keys, float& highest, float& total) {
  V m = v_set(-kInfinity);
  for (int64_t i = 0; i < limit; i += W) m = v_max(m, v_keep(v_load(s + i), limit - i, -kInfinity));
  highest = v_highest(m);
  m = v_set(highest);
  V sum = v_zero();
  for (int64_t i = 0; i < limit; i += W) {
    const V e = v_keep(v_exp(v_sub(v_load(s + i), m)), limit - i, 0.0f);
    v_store(s + i, e);
    sum = v_add(sum, e);
  }
  for (int64_t i = (limit + W - 1) / W * W; i < keys; i += W) v_store(s + i, v_zero());
  total = v_sum(sum);
}

inline int64_t highest_limit(const int32_t* limits, int64_t rows) {
  int32_t keys = 0;
  for (int64_t r = 0; r < rows; ++r) keys = limits[r] > keys ? limits[r] : keys;
  return keys;
}

template <Storage S>
void attend(const ChunkArgs& c) {
  // Elements of 16 bits are widened in registers by every tile of rows: it costs nothing beside the
  // multiplications, whereas writing them out as floats first cost a tenth.
  const std::byte* const* const k_pages = c.k_pages;
  const std::byte* const* const v_pages = c.v_pages;
  const std::byte* const after = c.next != nullptr ? c.next : v_pages[0];
  float* const scores = c.scratch;
  for_row_tiles<kScoreRows>(c.rows, [&](int64_t row, int64_t rows) {
    const int64_t keys = highest_limit(c.limits + row, rows);
    for (int64_t first = 0; first < keys; first += kPageTokens) {
      const std::byte* const* page = k_pages + first / kPageTokens;
      const std::byte* next = first + kPageTokens < keys ? page[1] : v_pages[0];
      with_rows<kScoreRows>(rows, [&](auto r) {
        score_tile<S, r.value>(c.q + row * c.k_dim, c.k_dim, *page, next,
                               scores + row * kChunk + first);
      });
    }
  });
  for (int64_t r = 0; r < c.rows; ++r) {
    if (c.limits[r] > 0) {
      softmax_row(scores + r * kChunk, c.limits[r], c.keys, c.highest[r], c.total[r]);
    } else {
      for (int64_t i = 0; i < c.keys; i += W) v_store(scores + r * kChunk + i, v_zero());
    }
  }
  for_row_tiles<kGemmRows>(c.rows, [&](int64_t row, int64_t rows) {
    const int64_t keys = highest_limit(c.limits + row, rows);
    with_rows<kGemmRows>(rows, [&](auto r) {
      const float* weights = scores + row * kChunk;
      float* out = c.out + row * c.v_dim;
      int64_t column = 0;
      for (; column + kGemmColumns * W <= c.v_dim; column += kGemmColumns * W) {
        value_tile<S, r.value, kGemmColumns>(weights, v_pages, after, keys, c.v_dim, column, out);
      }
      for (; column < c.v_dim; column += W) {
        value_tile<S, r.value, 1>(weights, v_pages, after, keys, c.v_dim, column, out);
      }
    });
  });
}

void attend_chunk(const ChunkArgs& c) {
  switch (c.storage) {
    case kStoreF32: return attend<kStoreF32>(c);
    case kStoreF16: return attend<kStoreF16>(c);
    case kStoreBF16: return attend<kStoreBF16>(c);
  }
}

void merge_chunk(float* highest, float* total, float* out, float chunk_highest, float chunk_total,
                 const float* chunk_out, int64_t n) {
  const float m = chunk_highest > *highest ? chunk_highest : *highest;
  const float keep = exp_one(*highest - m);
  const float take = exp_one(chunk_highest - m);
  *highest = m;
  *total = *total * keep + chunk_total * take;
  const V keep_v = v_set(keep), take_v = v_set(take);
  for (int64_t i = 0; i < n; i += W) {  // n is a multiple of 16
    v_store(out + i, v_fma(v_load(out + i), keep_v, v_mul(v_load(chunk_out + i), take_v)));
  }
}

constexpr Kernels generic_kernels() {
  Kernels k{};
  k.pack_panel[kStoreF32] = pack_plain<uint32_t, 0x7f800000u>;
  k.pack_panel[kStoreF16] = pack_plain<uint16_t, 0x7c00u>;
  k.pack_panel[kStoreBF16] = pack_pairs<0x7f80u>;
  k.gemm_direct[kStoreF32] = gemm_direct<kStoreF32>;
  k.gemm_direct[kStoreF16] = gemm_direct<kStoreF16>;
  k.gemm_direct[kStoreBF16] = gemm_direct<kStoreBF16>;
  k.unpack_block[kStoreF32] = unpack_f32;
  k.unpack_block[kStoreF16] = unpack_f16;
  k.unpack_block[kStoreBF16] = unpack_bf16;
  k.gemm_f32 = gemm_f32;
  k.direct_rows = 3 * kDirectRows;
  k.add_bias = add_bias;
  k.round_bf16 = round_bf16;
  k.widen[kStoreF32] = widen_f32;
  k.widen[kStoreF16] = widen_f16;
  k.widen[kStoreBF16] = widen_bf16;
  k.rms_norm = rms_norm;
  k.swiglu = swiglu;
  k.add = add;
  k.rope = rope;
  k.scale_row = scale_row;
  k.kv_store[kStoreF32] = kv_store<kStoreF32>;
  k.kv_store[kStoreF16] = kv_store<kStoreF16>;
  k.kv_store[kStoreBF16] = kv_store<kStoreBF16>;
  k.attend_chunk = attend_chunk;
  k.merge_chunk = merge_chunk;
  k.scale_out = scale_out;
  return k;
}
