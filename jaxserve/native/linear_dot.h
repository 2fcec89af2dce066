/* Part of linear.c: products of codes and activations in integers, by what the processor has for them. They are exact, so
 * that all give the same bits. */
/* Without an instruction for it, products of bytes are added in pairs, to 16 bits. Codes with a zero of 128 are taken with
   their sign, as pairs of 255 * 127 do not fit: their size, times an activation that has the sign. */
#if defined(__AVX2__) && !defined(__AVXVNNI__) && LANES == 8
#define ADDS_PAIRS 1
#else
#define ADDS_PAIRS 0
#endif
INLINE int is_signed(Form f) { return ADDS_PAIRS && f.zero == 128; }
/* The code of dot() that means 0. */
INLINE int zero_of(Form f) { return is_signed(f) ? 0 : f.zero; }

#if ADDS_PAIRS
INLINE __m256i multiply_pairs(Form f, __m256i codes, __m256i four) {
  if (!is_signed(f)) return _mm256_maddubs_epi16(codes, four);
  codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
  return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(four, codes));
}

/* sum + the four products of each lane of some quads: codes, four activations with sign. */
INLINE IVec dot(Form f, IVec sum, int quads, const Bytes* codes, const int32_t* four) {
  const int fit = is_signed(f) ? 1 : f.bits < 5 ? 8 : f.bits == 5 ? 4 : 2; /* times 2 * 127 * code into 16 bits */
#pragma GCC unroll 8
  for (int first = 0; first < quads; first += fit) {
    __m256i pairs = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int q = first; q < first + fit && q < quads; q++)
      pairs = _mm256_add_epi16(pairs, multiply_pairs(f, (__m256i)codes[q], _mm256_set1_epi32(four[q])));
    sum += (IVec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  return sum;
}
#else
INLINE IVec dot_quad(IVec sum, Bytes codes, int32_t four) {
#if defined(__AVX512VNNI__) && LANES == 16
  return (IVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
#elif defined(__AVXVNNI__) && LANES == 8
  return (IVec)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, _mm256_set1_epi32(four));
#elif defined(__AVX512BW__) && LANES == 16
  __m512i x = _mm512_set1_epi32(four), w = (__m512i)codes;
  __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), odd = _mm512_srai_epi16(x, 8);
  __m512i low = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), even);
  return sum + (IVec)low + (IVec)_mm512_madd_epi16(_mm512_srli_epi16(w, 8), odd);
#else
  for (int k = 0; k < 4; k++) sum += ((IVec)codes >> 8 * k & 255) * (int8_t)(four >> 8 * k);
  return sum;
#endif
}

/* sum + the four products of each lane of some quads: codes, four activations with sign. */
INLINE IVec dot(Form f, IVec sum, int quads, const Bytes* codes, const int32_t* four) {
  (void)f;
#pragma GCC unroll 8
  for (int q = 0; q < quads; q++) sum = dot_quad(sum, codes[q], four[q]);
  return sum;
}
#endif
