// Vectors of four floats in the compiler's own vector type: any architecture.
// Included once by kernels_portable.cc, inside its anonymous namespace.

typedef float V __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
constexpr int W = 4;
constexpr int kGemmRows = 4;     // rows of gemm_f32's tile
constexpr int kGemmColumns = 2;  // vectors of gemm_f32's tile
constexpr int kScoreRows = 1;    // rows of the scores' tile, which is a page wide
constexpr int kDirectRows = 1;   // rows of gemm_direct's tile, which is a panel wide

inline V v_zero() { return V{0, 0, 0, 0}; }
inline V v_set(float x) { return V{x, x, x, x}; }
inline V v_load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
inline void v_store(float* p, V v) { __builtin_memcpy(p, &v, sizeof(v)); }
inline V v_load_part(const float* p, int64_t n) {
  V v = v_zero();
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void v_store_part(float* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}
inline V v_add(V a, V b) { return a + b; }
inline V v_sub(V a, V b) { return a - b; }
inline V v_mul(V a, V b) { return a * b; }
inline V v_div(V a, V b) { return a / b; }
inline V v_fma(V a, V b, V c) { return a * b + c; }
inline V v_max(V a, V b) { return a > b ? a : b; }
// A NaN in x comes out.
inline V v_clamp(V x, float low, float high) {
  x = x < v_set(low) ? v_set(low) : x;
  return x > v_set(high) ? v_set(high) : x;
}
inline V v_round(V x) {
  V r;
  for (int i = 0; i < W; ++i) r[i] = __builtin_rintf(x[i]);
  return r;
}
// 2^n of whole numbers from -126 to 127.
inline V v_pow2(V n) {
  VI i = (__builtin_convertvector(n, VI) + 127) << 23;
  return (V)i;
}
// Lanes below n keep their value, the others get `other`.
inline V v_keep(V v, int64_t n, float other) {
  for (int i = 0; i < W; ++i) {
    if (i >= n) v[i] = other;
  }
  return v;
}
inline float v_sum(V v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float v_highest(V v) {
  float m = v[0];
  for (int i = 1; i < W; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 0x1f;
  const uint32_t mantissa = h & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    __builtin_memcpy(&bits, &magnitude, 4);
    bits |= sign;
  } else {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  }
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline uint16_t float_to_half(float v) {
  uint32_t u;
  __builtin_memcpy(&u, &v, 4);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (a < 0x38800000u) {
    float magnitude;
    __builtin_memcpy(&magnitude, &a, 4);
    magnitude += 0.5f;
    uint32_t bits;
    __builtin_memcpy(&bits, &magnitude, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((a + 0xfffu + ((a >> 13) & 1) - 0x38000000u) >> 13));
}

inline V v_load_f16(const uint16_t* p) {
  return V{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])};
}
// W pairs of bf16: the first of each pair, and the second.
inline void v_load_pairs(const uint16_t* p, V& even, V& odd) {
  typedef uint32_t VU __attribute__((vector_size(16)));
  VU u;
  __builtin_memcpy(&u, p, sizeof(u));
  even = (V)(u << 16);
  odd = (V)(u & 0xffff0000u);
}
// GCC takes a call that only prefetches for one that does nothing; inlined at once it stays.
[[gnu::always_inline]] inline void v_prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
