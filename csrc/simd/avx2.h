// AVX2 with FMA, and AVX-VNNI where PC_ISA_AVXVNNI is set. 16 registers of 8 lanes.
//
//   instruction                 latency  per cycle        what follows from it
//                               Zen 3    Zen 3  Golden Cove
//   vfmadd231ps ymm             4        2      2         8 accumulators hide the latency; 6 x 2 use 12 registers, 2 for the weight, 1
//                                                         for the broadcast
//   vpmaddwd ymm                3        2      2         a product and an add for 16 MACs: the add shares the ports, so the bound is
//   vpaddd ymm                  1        4      3         16 MACs a cycle on Zen (2 multiplies) and less on Intel
//   vpmaddubsw ymm              3        2      2         with vpmaddwd and vpaddd 32 MACs; exact where neighbours stay in int16
//   vpdpbusd ymm (VEX)          4        2      2         32 MACs each, nothing else to do
//   vpmovsxbw ymm, m128         4        2      1         once per weight vector, used by 6 rows
//   vpbroadcastd ymm, m32       load     3      3         a load, no shuffle
//   vpmulld ymm                 3        2      1/2       only once per output, in the last step
#pragma once

#include <immintrin.h>

namespace pc {
namespace PC_NS {

constexpr int VL = 8;
typedef __m256 vf;
typedef __m256i vi;

// The first n lanes.
PC_INLINE __m256i lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

#if defined(__GNUC__)
template <class T> PC_INLINE void pin(T& x) { __asm__ volatile("" : "+x"(x)); }
#else
template <class T> PC_INLINE void pin(T&) {}
#endif

PC_INLINE vf vf_zero() { return _mm256_setzero_ps(); }
PC_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
PC_INLINE vf vf_load(const float* p) { return _mm256_loadu_ps(p); }
PC_INLINE vf vf_loadn(const float* p, int n) { return _mm256_maskload_ps(p, lanes(n)); }
PC_INLINE void vf_store(float* p, vf x) { _mm256_storeu_ps(p, x); }
PC_INLINE void vf_storen(float* p, vf x, int n) { _mm256_maskstore_ps(p, lanes(n), x); }
PC_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
PC_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
PC_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
PC_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
PC_INLINE vf vf_muladd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
PC_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
PC_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
PC_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
PC_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
PC_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
PC_INLINE float vf_reduce_min(vf a) {
  const __m128 b = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_min_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PC_INLINE float vf_reduce_max(vf a) {
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
template <class Op> PC_INLINE vf vf_fold(vf (&r)[8], Op op) {
  PC_UNROLL for (int i = 0; i < 4; ++i) r[i] = op(_mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]));
  PC_UNROLL for (int i = 0; i < 2; ++i) r[i] = op(_mm256_shuffle_ps(r[2 * i], r[2 * i + 1], 0x44), _mm256_shuffle_ps(r[2 * i], r[2 * i + 1], 0xee));
  return op(_mm256_permute2f128_ps(r[0], r[1], 0x20), _mm256_permute2f128_ps(r[0], r[1], 0x31));
}
PC_INLINE bool vf_any_nan(vf a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }

PC_INLINE vi vi_zero() { return _mm256_setzero_si256(); }
PC_INLINE vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
PC_INLINE vi vi_load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
PC_INLINE vi vi_loadn(const int32_t* p, int n) { return _mm256_maskload_epi32((const int*)p, lanes(n)); }
PC_INLINE void vi_store(int32_t* p, vi x) { _mm256_storeu_si256((__m256i*)p, x); }
PC_INLINE void vi_storen(int32_t* p, vi x, int n) { _mm256_maskstore_epi32((int*)p, lanes(n), x); }
PC_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
PC_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
PC_INLINE vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
// Overflow where the sum's sign differs from both operands'; then the result is the limit on a's side.
PC_INLINE vi vi_add_saturate(vi a, vi b) {
  const __m256i sum = _mm256_add_epi32(a, b);
  const __m256i over = _mm256_andnot_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(a, sum));
  const __m256i limit = _mm256_xor_si256(_mm256_srai_epi32(a, 31), _mm256_set1_epi32(INT32_MAX));
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(limit), _mm256_castsi256_ps(over)));
}
PC_INLINE vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
PC_INLINE vi vi_min(vi a, vi b) { return _mm256_min_epi32(a, b); }
PC_INLINE vi vi_from_vf(vf x) { return _mm256_cvtps_epi32(x); }
PC_INLINE vf vf_from_vi(vi x) { return _mm256_cvtepi32_ps(x); }
PC_INLINE vf vf_bits(vi x) { return _mm256_castsi256_ps(x); }
PC_INLINE vi vi_bits(vf x) { return _mm256_castps_si256(x); }
PC_INLINE vf vf_pow2(vi n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }

PC_INLINE vi vi_load_u16(const uint16_t* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
PC_INLINE vi vi_load_u8(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
PC_INLINE vi vi_load_s8(const int8_t* p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
// The low word of each lane.
PC_INLINE __m128i words(vi x) {
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_packus_epi32(low, low);
  return _mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
}
PC_INLINE __m128i bytes(vi x) {
  const __m128i w = _mm_and_si128(words(x), _mm_set1_epi16(0xff));
  return _mm_packus_epi16(w, w);
}
PC_INLINE void vi_store_8(void* p, vi x) { _mm_storel_epi64((__m128i*)p, bytes(x)); }
PC_INLINE void vi_store_8n(void* p, vi x, int n) {
  const uint64_t b = (uint64_t)_mm_cvtsi128_si64(bytes(x));
  memcpy(p, &b, (size_t)n);
}
PC_INLINE void vi_store_u8x4(uint8_t* p, const vi (&q)[4]) {
  const __m256i w = _mm256_packus_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  // Packing works within halves: their groups of 4 bytes are now 0 2 4 6 and 1 3 5 7.
  _mm256_storeu_si256((__m256i*)p, _mm256_permutevar8x32_epi32(w, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
typedef __m256i vb;
struct ByteRangeVectors {
  vb zero_point, low, high, flip;
};
PC_INLINE ByteRangeVectors vb_range(int16_t zero_point, uint8_t low, uint8_t high, uint8_t flip) {
  return {_mm256_set1_epi16(zero_point), _mm256_set1_epi8((char)low), _mm256_set1_epi8((char)high), _mm256_set1_epi8((char)flip)};
}
PC_INLINE vb vb_clip(const vi (&q)[4], const ByteRangeVectors& r) {
  const vb a = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), r.zero_point), b = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), r.zero_point);
  const vb bytes = _mm256_xor_si256(_mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(a, b), r.low), r.high), r.flip);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
template <int V> PC_INLINE void vb_store(void* p, vb b, int i) {
  static_assert(V == 1 || V == 2, "");
  const __m128i half = i * V / 2 ? _mm256_extracti128_si256(b, 1) : _mm256_castsi256_si128(b);
  if (V == 2)
    _mm_storeu_si128((__m128i*)p, half);
  else if (i % 2)
    _mm_storel_epi64((__m128i*)p, _mm_unpackhi_epi64(half, half));  // _mm_storeh_pd wants an aligned double
  else
    _mm_storel_epi64((__m128i*)p, half);
}
template <int V> PC_INLINE void vb_storen(void* p, vb b, int i, int n) {
  char bytes[32];
  _mm256_storeu_si256((__m256i*)bytes, b);
  memcpy(p, bytes + i * V * VL, (size_t)n);
}
PC_INLINE void vi_store_16x2(int16_t* p, vi a, vi b) {
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
}
PC_INLINE void vi_store_16n(int16_t* p, vi x, int n) {
  int16_t w[8];
  _mm_storeu_si128((__m128i*)w, words(x));
  memcpy(p, w, 2 * (size_t)n);
}

PC_INLINE vi vi_broadcast_pair(const int16_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
PC_INLINE vi vi_load_s8_pairs(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
PC_INLINE vi vi_dot2(vi c, vi a, vi b) { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }
PC_INLINE vi vi_broadcast_quad(const uint8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
#if !defined(PC_ISA_AVXVNNI)  // exact where no two neighbouring products leave int16 together
PC_INLINE vi vi_dot4(vi c, vi a, vi b) { return _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))); }
// The same with the ones in memory, where registers are scarce.
PC_INLINE vi vi_dot4_tight(vi c, vi a, vi b) {
  alignas(32) static const int16_t ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  __m256i pairs = _mm256_maddubs_epi16(a, b);
#if defined(__GNUC__)
  __asm__("vpmaddwd %1, %0, %0" : "+x"(pairs) : "m"(ones));
#else
  pairs = _mm256_madd_epi16(pairs, _mm256_load_si256((const __m256i*)ones));
#endif
  return _mm256_add_epi32(c, pairs);
}
#elif defined(PC_VNNI_VL)  // the EVEX form of the same instruction, to test this source on a CPU that has only AVX-512
PC_INLINE vi vi_dot4(vi c, vi a, vi b) { return _mm256_dpbusd_epi32(c, a, b); }
#else
PC_INLINE vi vi_dot4(vi c, vi a, vi b) { return _mm256_dpbusd_avx_epi32(c, a, b); }
#endif

PC_INLINE vi vi_low_nibbles(vi x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
PC_INLINE vi vi_high_nibbles(vi x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }
PC_INLINE vi vi_top_nibbles(vi x) { return _mm256_and_si256(x, _mm256_set1_epi8(-16)); }
PC_INLINE vi vi_sixteenth(vi x) { return _mm256_srai_epi32(x, 4); }
PC_INLINE vi vi_set1_8(int8_t x) { return _mm256_set1_epi8(x); }
PC_INLINE vi vi_sub_8(vi a, vi b) { return _mm256_sub_epi8(a, b); }
PC_INLINE vi vi_madd_16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
PC_INLINE vi vi_parts(vi x) {
  return _mm256_or_si256(_mm256_and_si256(x, _mm256_set1_epi32(127)), _mm256_slli_epi32(_mm256_srai_epi32(x, 7), 16));
}

PC_INLINE void vf_transpose(vf (&r)[8]) {
  __m256 s[8];
  PC_UNROLL for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  PC_UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
  PC_UNROLL for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    r[i] = low;
  }
}

// A square of rows in memory, transposed: the loads put the halves where they belong, so that 2 of 3 steps are left.
template <class Row> PC_INLINE void vf_load_columns(Row row, vf (&r)[8]) {
  PC_UNROLL for (int c = 0; c < 2; ++c) {
    __m256 t[4];  // of row 4 * h + i, columns 4 * c .. 4 * c + 3 in half h
    PC_UNROLL for (int i = 0; i < 4; ++i)
      t[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(i) + 4 * c)), _mm_loadu_ps(row(4 + i) + 4 * c), 1);
    const __m256 a = _mm256_unpacklo_ps(t[0], t[1]), b = _mm256_unpacklo_ps(t[2], t[3]);
    const __m256 d = _mm256_unpackhi_ps(t[0], t[1]), e = _mm256_unpackhi_ps(t[2], t[3]);
    r[4 * c] = _mm256_shuffle_ps(a, b, 0x44);
    r[4 * c + 1] = _mm256_shuffle_ps(a, b, 0xee);
    r[4 * c + 2] = _mm256_shuffle_ps(d, e, 0x44);
    r[4 * c + 3] = _mm256_shuffle_ps(d, e, 0xee);
  }
}
PC_INLINE vf vf_load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

}  // namespace PC_NS
}  // namespace pc
