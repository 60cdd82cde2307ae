// AVX-512 F, BW, VL, DQ and VNNI. 32 registers of 16 lanes.
//
//   instruction                 latency  per cycle            what follows from it
//                               Zen 4    Zen 4  Ice Lake SP
//   vpdpbusd zmm                4        1      1 (p0; p5 on  64 MACs each. 4 accumulators hide the latency on Zen; 24 leave room for
//                                               some: 2)      the operands and fewer loads than products
//   vfmadd231ps zmm             4        1      2
//   load zmm                    -        1      2             a tile of 12 x 2 vectors needs 12 broadcasts and 2 loads for 24
//                                                             products, so Zen's single load port is busy 14 cycles of 24
//   store zmm                   -        1/2    1             accumulators never go through memory
//   vpmulld zmm                 3        1      1/2           only once per output, in the last step
//   vpmovdb m128, zmm           -        1/2    1/2           the requantized bytes
#pragma once

#if defined(PC_SIMDE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif

namespace pc {
namespace PC_NS {

constexpr int VL = 16;
typedef __m512 vf;
typedef __m512i vi;

PC_INLINE __mmask16 lanes(int n) { return (__mmask16)((1u << n) - 1); }

#if defined(__GNUC__) && !defined(PC_SIMDE)
template <class T> PC_INLINE void pin(T& x) { __asm__ volatile("" : "+v"(x)); }
#else
template <class T> PC_INLINE void pin(T&) {}
#endif

PC_INLINE vf vf_zero() { return _mm512_setzero_ps(); }
PC_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
PC_INLINE vf vf_load(const float* p) { return _mm512_loadu_ps(p); }
PC_INLINE void vf_store(float* p, vf x) { _mm512_storeu_ps(p, x); }
#if defined(PC_SIMDE)
// SIMDe's masked loads and stores of this release touch whole vectors.
PC_INLINE vf vf_loadn(const float* p, int n) {
  float x[16] = {0};
  memcpy(x, p, 4 * (size_t)n);
  return _mm512_loadu_ps(x);
}
PC_INLINE void vf_storen(float* p, vf v, int n) {
  float x[16];
  _mm512_storeu_ps(x, v);
  memcpy(p, x, 4 * (size_t)n);
}
#else
PC_INLINE vf vf_loadn(const float* p, int n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
PC_INLINE void vf_storen(float* p, vf x, int n) { _mm512_mask_storeu_ps(p, lanes(n), x); }
#endif
PC_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
PC_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
PC_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
PC_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
PC_INLINE vf vf_muladd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
PC_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
PC_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
PC_INLINE vf vf_abs(vf a) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MAX))); }
#if defined(PC_SIMDE)
PC_INLINE vf vf_round(vf a) { return _mm512_cvtepi32_ps(_mm512_cvtps_epi32(a)); }
#else
PC_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#endif
PC_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes); }
PC_INLINE __m256 upper_half(vf a) { return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(a), 1)); }
PC_INLINE float vf_reduce_min(vf a) {
  const __m256 h = _mm256_min_ps(_mm512_castps512_ps256(a), upper_half(a));
  const __m128 b = _mm_min_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 c = _mm_min_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PC_INLINE float vf_reduce_max(vf a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), upper_half(a));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
template <class Op> PC_INLINE vf vf_fold(vf (&r)[16], Op op) {
  PC_UNROLL for (int i = 0; i < 8; ++i) r[i] = op(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
  PC_UNROLL for (int i = 0; i < 4; ++i) r[i] = op(_mm512_shuffle_ps(r[2 * i], r[2 * i + 1], 0x44), _mm512_shuffle_ps(r[2 * i], r[2 * i + 1], 0xee));
  // Each quarter holds what is left of 4 rows.
  for (int n = 2; n >= 1; n /= 2)
    PC_UNROLL for (int i = 0; i < n; ++i)
      r[i] = op(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x88), _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xdd));
  return r[0];
}
PC_INLINE bool vf_any_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }

PC_INLINE vi vi_zero() { return _mm512_setzero_si512(); }
PC_INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
PC_INLINE vi vi_load(const int32_t* p) { return _mm512_loadu_si512((const void*)p); }
PC_INLINE void vi_store(int32_t* p, vi x) { _mm512_storeu_si512((void*)p, x); }
#if defined(PC_SIMDE)
PC_INLINE vi vi_loadn(const int32_t* p, int n) {
  int32_t x[16] = {0};
  memcpy(x, p, 4 * (size_t)n);
  return _mm512_loadu_si512(x);
}
PC_INLINE void vi_storen(int32_t* p, vi v, int n) {
  int32_t x[16];
  _mm512_storeu_si512(x, v);
  memcpy(p, x, 4 * (size_t)n);
}
#else
PC_INLINE vi vi_loadn(const int32_t* p, int n) { return _mm512_maskz_loadu_epi32(lanes(n), p); }
PC_INLINE void vi_storen(int32_t* p, vi x, int n) { _mm512_mask_storeu_epi32(p, lanes(n), x); }
#endif
PC_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
PC_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
PC_INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
// Overflow where the sum's sign differs from both operands'; then the result is the limit on a's side.
PC_INLINE vi vi_add_saturate(vi a, vi b) {
  const __m512i sum = _mm512_add_epi32(a, b);
  const __m512i over = _mm512_andnot_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(a, sum));
  const __m512i limit = _mm512_xor_si512(_mm512_srai_epi32(a, 31), _mm512_set1_epi32(INT32_MAX));
  return _mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(_mm512_setzero_si512(), over), sum, limit);
}
PC_INLINE vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
PC_INLINE vi vi_min(vi a, vi b) { return _mm512_min_epi32(a, b); }
PC_INLINE vi vi_from_vf(vf x) { return _mm512_cvtps_epi32(x); }
PC_INLINE vf vf_from_vi(vi x) { return _mm512_cvtepi32_ps(x); }
PC_INLINE vf vf_bits(vi x) { return _mm512_castsi512_ps(x); }
PC_INLINE vi vi_bits(vf x) { return _mm512_castps_si512(x); }
PC_INLINE vf vf_pow2(vi n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)); }

#if defined(PC_SIMDE)
// What SIMDe lacks: vpmovzxbd, vpmovsxbd, vpmovdb and vpmovdw of whole vectors.
template <class T> PC_INLINE vi widen(const T* p) {
  int32_t x[16];
  for (int i = 0; i < 16; ++i) x[i] = p[i];
  return _mm512_loadu_si512(x);
}
template <class T> PC_INLINE void narrow(T* p, vi v, int n) {
  int32_t x[16];
  _mm512_storeu_si512(x, v);
  for (int i = 0; i < n; ++i) p[i] = (T)x[i];
}
PC_INLINE vi vi_load_u16(const uint16_t* p) { return widen(p); }
PC_INLINE vi vi_load_u8(const uint8_t* p) { return widen(p); }
PC_INLINE vi vi_load_s8(const int8_t* p) { return widen(p); }
PC_INLINE void vi_store_8(void* p, vi x) { narrow((uint8_t*)p, x, 16); }
PC_INLINE void vi_store_8n(void* p, vi x, int n) { narrow((uint8_t*)p, x, n); }
PC_INLINE void vi_store_16n(int16_t* p, vi x, int n) { narrow(p, x, n); }
#else
PC_INLINE vi vi_load_u16(const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
PC_INLINE vi vi_load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
PC_INLINE vi vi_load_s8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
PC_INLINE void vi_store_8(void* p, vi x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x)); }
PC_INLINE void vi_store_8n(void* p, vi x, int n) { _mm512_mask_cvtepi32_storeu_epi8(p, lanes(n), x); }
PC_INLINE void vi_store_16n(int16_t* p, vi x, int n) { _mm512_mask_cvtepi32_storeu_epi16(p, lanes(n), x); }
#endif

PC_INLINE void vi_store_u8x4(uint8_t* p, const vi (&q)[4]) {
  const __m512i w = _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
  // Packing works within quarters: group i of 4 bytes belongs to vector i % 4, quarter i / 4.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512((void*)p, _mm512_permutexvar_epi32(order, w));
}
typedef __m512i vb;
struct ByteRangeVectors {
  vb zero_point, low, high, flip;
};
PC_INLINE ByteRangeVectors vb_range(int16_t zero_point, uint8_t low, uint8_t high, uint8_t flip) {
  return {_mm512_set1_epi16(zero_point), _mm512_set1_epi8((char)low), _mm512_set1_epi8((char)high), _mm512_set1_epi8((char)flip)};
}
PC_INLINE vb vb_clip(const vi (&q)[4], const ByteRangeVectors& r) {
  const vb a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), r.zero_point), b = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), r.zero_point);
  const vb bytes = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(a, b), r.low), r.high), r.flip);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}
template <int V> PC_INLINE void vb_store(void* p, vb b, int i) {
  static_assert(V == 1 || V == 2, "");
  if (V == 2) {
    _mm256_storeu_si256((__m256i*)p, i ? _mm512_extracti64x4_epi64(b, 1) : _mm512_castsi512_si256(b));
  } else {
    const __m256i half = i / 2 ? _mm512_extracti64x4_epi64(b, 1) : _mm512_castsi512_si256(b);
    _mm_storeu_si128((__m128i*)p, i % 2 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half));
  }
}
#if defined(PC_SIMDE)
template <int V> PC_INLINE void vb_storen(void* p, vb b, int i, int n) {
  char bytes[64];
  _mm512_storeu_si512((void*)bytes, b);
  memcpy(p, bytes + i * V * VL, (size_t)n);
}
#else
template <int V> PC_INLINE void vb_storen(void* p, vb b, int i, int n) {
  const __m256i half = i * V / 2 ? _mm512_extracti64x4_epi64(b, 1) : _mm512_castsi512_si256(b);
  if (V == 2)
    _mm256_mask_storeu_epi8(p, (__mmask32)((1ull << n) - 1), half);
  else
    _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), i % 2 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half));
}
#endif
PC_INLINE void vi_store_16x2(int16_t* p, vi a, vi b) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  _mm512_storeu_si512((void*)p, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b)));
}

PC_INLINE vi vi_broadcast_quad(const uint8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
PC_INLINE vi vi_dot4(vi c, vi a, vi b) { return _mm512_dpbusd_epi32(c, a, b); }

PC_INLINE vi vi_low_nibbles(vi x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
PC_INLINE vi vi_high_nibbles(vi x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
PC_INLINE vi vi_top_nibbles(vi x) { return _mm512_and_si512(x, _mm512_set1_epi8(-16)); }
PC_INLINE vi vi_sixteenth(vi x) { return _mm512_srai_epi32(x, 4); }
PC_INLINE vi vi_set1_8(int8_t x) { return _mm512_set1_epi8(x); }
PC_INLINE vi vi_sub_8(vi a, vi b) { return _mm512_sub_epi8(a, b); }
PC_INLINE vi vi_madd_16(vi a, vi b) { return _mm512_madd_epi16(a, b); }
PC_INLINE vi vi_parts(vi x) {
  return _mm512_or_si512(_mm512_and_si512(x, _mm512_set1_epi32(127)), _mm512_slli_epi32(_mm512_srai_epi32(x, 7), 16));
}

PC_INLINE void vf_transpose(vf (&r)[16]) {
  __m512 s[16];
  PC_UNROLL for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  PC_UNROLL for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
  // r[4 * i + j] now holds, in its quarter q, rows 4 * i .. 4 * i + 3 of column 4 * q + j.
  PC_UNROLL for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88), d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

// A square of rows in memory, transposed. Loads of 8 floats with broadcast and mask do one of the 4 steps: the mask is a blend, for which there are
// more ports than for shuffles. (Loads of 4 that do two of them are slower on Zen 5.)
#if defined(PC_SIMDE)
template <class Row> PC_INLINE void vf_load_columns(Row row, vf (&r)[16]) {
  for (int i = 0; i < 16; ++i) r[i] = vf_load(row(i));
  vf_transpose(r);
}
PC_INLINE vf vf_load_half(const uint16_t* p) {
  float x[16];
  for (int i = 0; i < 16; ++i) x[i] = float_of_half(p[i]);
  return _mm512_loadu_ps(x);
}
#else
template <class Row> PC_INLINE void vf_load_columns(Row row, vf (&r)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
  const __m512i high = _mm512_setr_epi32(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  __m512 t[4][4];  // [c][i]: of rows i, 4 + i, 8 + i, 12 + i, columns 4 * c .. 4 * c + 3
  PC_UNROLL for (int i = 0; i < 4; ++i)
    PC_UNROLL for (int h = 0; h < 2; ++h) {
      __m512 a = _mm512_castps256_ps512(_mm256_loadu_ps(row(i) + 8 * h)), b = _mm512_castps256_ps512(_mm256_loadu_ps(row(4 + i) + 8 * h));
      a = _mm512_mask_broadcast_f32x8(a, 0xff00, _mm256_loadu_ps(row(8 + i) + 8 * h));
      b = _mm512_mask_broadcast_f32x8(b, 0xff00, _mm256_loadu_ps(row(12 + i) + 8 * h));
      t[2 * h][i] = _mm512_permutex2var_ps(a, low, b);
      t[2 * h + 1][i] = _mm512_permutex2var_ps(a, high, b);
    }
  PC_UNROLL for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_unpacklo_ps(t[c][0], t[c][1]), b = _mm512_unpacklo_ps(t[c][2], t[c][3]);
    const __m512 d = _mm512_unpackhi_ps(t[c][0], t[c][1]), e = _mm512_unpackhi_ps(t[c][2], t[c][3]);
    r[4 * c] = _mm512_shuffle_ps(a, b, 0x44);
    r[4 * c + 1] = _mm512_shuffle_ps(a, b, 0xee);
    r[4 * c + 2] = _mm512_shuffle_ps(d, e, 0x44);
    r[4 * c + 3] = _mm512_shuffle_ps(d, e, 0xee);
  }
}
PC_INLINE vf vf_load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
#endif

}  // namespace PC_NS
}  // namespace pc
