// Vectors of eight floats: AVX2 with FMA and F16C.
// Included once by kernels_avx2.cc, inside its anonymous namespace.

typedef __m256 V;
constexpr int W = 8;
constexpr int kGemmRows = 6;
constexpr int kGemmColumns = 2;
constexpr int kScoreRows = 3;
constexpr int kDirectRows = 1;

inline V v_zero() { return _mm256_setzero_ps(); }
inline V v_set(float x) { return _mm256_set1_ps(x); }
inline V v_load(const float* p) { return _mm256_loadu_ps(p); }
inline void v_store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline __m256i lanes_below(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V v_load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, lanes_below(n)); }
inline void v_store_part(float* p, V v, int64_t n) { _mm256_maskstore_ps(p, lanes_below(n), v); }
inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
inline V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V v_div(V a, V b) { return _mm256_div_ps(a, b); }
inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V v_max(V a, V b) { return _mm256_max_ps(a, b); }
// The second operand comes out when either is a NaN.
inline V v_clamp(V x, float low, float high) {
  return _mm256_min_ps(v_set(high), _mm256_max_ps(v_set(low), x));
}
inline V v_round(V x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V v_pow2(V n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline V v_keep(V v, int64_t n, float other) {
  return _mm256_blendv_ps(v_set(other), v, _mm256_castsi256_ps(lanes_below(n)));
}
inline float v_sum(V v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float v_highest(V v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline float half_to_float(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
inline uint16_t float_to_half(float v) {
  return static_cast<uint16_t>(_mm_extract_epi16(
      _mm_cvtps_ph(_mm_set_ss(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), 0));
}
inline V v_load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void v_load_pairs(const uint16_t* p, V& even, V& odd) {
  const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  even = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
  odd = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// GCC takes a call that only prefetches for one that does nothing; inlined at once it stays.
[[gnu::always_inline]] inline void v_prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
