// Vectors of sixteen floats: AVX-512 F, BW, DQ and VL.
// Included once by kernels_avx512.cc and kernels_avx512bf16.cc, inside their anonymous namespaces.

typedef __m512 V;
constexpr int W = 16;
constexpr int kGemmRows = 6;
constexpr int kGemmColumns = 4;
constexpr int kScoreRows = 8;
constexpr int kDirectRows = 4;

inline V v_zero() { return _mm512_setzero_ps(); }
inline V v_set(float x) { return _mm512_set1_ps(x); }
inline V v_load(const float* p) { return _mm512_loadu_ps(p); }
inline void v_store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline __mmask16 lanes_below(int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : n <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << n) - 1);
}
inline V v_load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
inline void v_store_part(float* p, V v, int64_t n) { _mm512_mask_storeu_ps(p, lanes_below(n), v); }
inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
inline V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V v_div(V a, V b) { return _mm512_div_ps(a, b); }
inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V v_max(V a, V b) { return _mm512_max_ps(a, b); }
// The second operand comes out when either is a NaN.
inline V v_clamp(V x, float low, float high) {
  return _mm512_min_ps(v_set(high), _mm512_max_ps(v_set(low), x));
}
inline V v_round(V x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V v_pow2(V n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline V v_keep(V v, int64_t n, float other) {
  return _mm512_mask_blend_ps(lanes_below(n), v_set(other), v);
}
inline float v_sum(V v) {
  const __m256 half =
      _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float v_highest(V v) {
  const __m256 half =
      _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline float half_to_float(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
inline uint16_t float_to_half(float v) {
  return static_cast<uint16_t>(_mm_extract_epi16(
      _mm_cvtps_ph(_mm_set_ss(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), 0));
}
inline V v_load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void v_load_pairs(const uint16_t* p, V& even, V& odd) {
  const __m512i u = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
  odd = _mm512_castsi512_ps(
      _mm512_and_si512(u, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// GCC takes a call that only prefetches for one that does nothing; inlined at once it stays.
[[gnu::always_inline]] inline void v_prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
