// Packing as transposition of 8 x 8 blocks of 32-bit elements: floats, or pairs of 16 bits.
// Included once by kernels_avx2.cc, inside its anonymous namespace.

// rows[0..7], eight elements each, become eight columns.
inline void transpose_8x8(__m256i (&r)[8]) {
  __m256i t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  __m256i u[8];
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
}

// Writes one 32-bit column of eight weight rows, `step` being its index along K.
inline void put_f32(char* panel, int64_t step, int64_t n, __m256i v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + (step * kPanel + n) * 4), v);
}
inline void put_pairs(char* panel, int64_t step, int64_t n, __m256i v) { put_f32(panel, step, n, v); }
// Splits the pairs into row 2 * step and row 2 * step + 1.
inline void put_split(char* panel, int64_t step, int64_t n, __m256i v) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1,
                                         4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, order), 0xd8);
  char* even = panel + (2 * step * kPanel + n) * 2;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(even), _mm256_castsi256_si128(v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(even + kPanel * 2), _mm256_extracti128_si256(v, 1));
}

template <Storage S>
bool pack_panel(const void* const* rows, int64_t k, void* panel_out) {
  constexpr int64_t kPerStep = S == kStoreF32 ? 1 : 2;  // elements in 32 bits
  char* panel = static_cast<char*>(panel_out);
  const __m256i exponent = S == kStoreF32   ? _mm256_set1_epi32(0x7f800000)
                           : S == kStoreF16 ? _mm256_set1_epi16(0x7c00)
                                            : _mm256_set1_epi16(0x7f80);
  const int64_t steps = (k + kPerStep - 1) / kPerStep;
  __m256i bad = _mm256_setzero_si256();
  for (int64_t step = 0; step < steps; step += 8) {
    const int64_t bytes = (k - step * kPerStep) * (4 / kPerStep);  // left in each row
    for (int64_t n = 0; n < kPanel; n += 8) {
      __m256i r[8];
      for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_setzero_si256();
        if (rows[n + i] == nullptr) continue;
        const char* from = static_cast<const char*>(rows[n + i]) + step * 4;
        if (bytes >= 32) {
          // Sixty-four rows are more streams than the hardware's prefetcher follows.
          if (bytes >= 512) _mm_prefetch(from + 512, _MM_HINT_T0);
          r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        } else {
          alignas(32) char part[32] = {};
          __builtin_memcpy(part, from, static_cast<size_t>(bytes));
          r[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(part));
        }
        const __m256i e = _mm256_and_si256(r[i], exponent);
        bad = _mm256_or_si256(bad, S == kStoreF32 ? _mm256_cmpeq_epi32(e, exponent)
                                                  : _mm256_cmpeq_epi16(e, exponent));
      }
      transpose_8x8(r);
      for (int i = 0; i < 8 && step + i < steps; ++i) {
        if constexpr (S == kStoreF32) {
          put_f32(panel, step + i, n, r[i]);
        } else if constexpr (S == kStoreBF16) {
          put_pairs(panel, step + i, n, r[i]);
        } else {
          put_split(panel, step + i, n, r[i]);
        }
      }
    }
  }
  return _mm256_movemask_epi8(bad) != 0;
}
