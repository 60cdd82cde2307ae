// What the depthwise kernels need of bytes beyond simd.h: whole vectors of them, interleaved and packed within quarters of 16 bytes.
#pragma once

#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

#if defined(PC_ISA_AVX512VNNI)
PC_INLINE vi by_load(const void* p) { return _mm512_loadu_si512((const void*)p); }
PC_INLINE vi by_load_halves(const void* a, const void* b) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)a)), _mm256_loadu_si256((const __m256i*)b), 1);
}
PC_INLINE vi by_unpack_low8(vi a, vi b) { return _mm512_unpacklo_epi8(a, b); }
PC_INLINE vi by_unpack_high8(vi a, vi b) { return _mm512_unpackhi_epi8(a, b); }
PC_INLINE vi by_unpack_low16(vi a, vi b) { return _mm512_unpacklo_epi16(a, b); }
PC_INLINE vi by_unpack_high16(vi a, vi b) { return _mm512_unpackhi_epi16(a, b); }
PC_INLINE vi by_pack32(vi a, vi b) { return _mm512_packs_epi32(a, b); }
PC_INLINE vi by_pack16(vi a, vi b) { return _mm512_packus_epi16(a, b); }
PC_INLINE vi by_set16(int x) { return _mm512_set1_epi16((short)x); }
PC_INLINE vi by_set8(int x) { return _mm512_set1_epi8((char)x); }
PC_INLINE vi by_add16(vi a, vi b) { return _mm512_adds_epi16(a, b); }
PC_INLINE vi by_max8(vi a, vi b) { return _mm512_max_epu8(a, b); }
PC_INLINE vi by_min8(vi a, vi b) { return _mm512_min_epu8(a, b); }
PC_INLINE vi by_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
PC_INLINE void by_store(void* p, vi x) { _mm512_storeu_si512((void*)p, x); }
PC_INLINE void by_store_half(void* p, vi x, int half) {
  _mm256_storeu_si256((__m256i*)p, half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x));
}
#if defined(PC_SIMDE)
PC_INLINE void by_storen(void* p, vi x, int n) {
  uint8_t b[64];
  _mm512_storeu_si512((void*)b, x);
  memcpy(p, b, (size_t)n);
}
#else
PC_INLINE void by_storen(void* p, vi x, int n) { _mm512_mask_storeu_epi8((void*)p, _cvtu64_mask64(n == 64 ? ~0ull : (1ull << n) - 1), x); }
#endif
PC_INLINE void by_storen_half(void* p, vi x, int half, int n) {
  by_storen(p, half ? _mm512_castsi256_si512(_mm512_extracti64x4_epi64(x, 1)) : x, n);
}
template <int Q> PC_INLINE void by_store_quarter(int32_t* p, vi x) { _mm_storeu_si128((__m128i*)p, _mm512_extracti32x4_epi32(x, Q)); }
#else
PC_INLINE vi by_load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
PC_INLINE vi by_load_halves(const void* a, const void* b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)a)), _mm_loadu_si128((const __m128i*)b), 1);
}
PC_INLINE vi by_unpack_low8(vi a, vi b) { return _mm256_unpacklo_epi8(a, b); }
PC_INLINE vi by_unpack_high8(vi a, vi b) { return _mm256_unpackhi_epi8(a, b); }
PC_INLINE vi by_unpack_low16(vi a, vi b) { return _mm256_unpacklo_epi16(a, b); }
PC_INLINE vi by_unpack_high16(vi a, vi b) { return _mm256_unpackhi_epi16(a, b); }
PC_INLINE vi by_pack32(vi a, vi b) { return _mm256_packs_epi32(a, b); }
PC_INLINE vi by_pack16(vi a, vi b) { return _mm256_packus_epi16(a, b); }
PC_INLINE vi by_set16(int x) { return _mm256_set1_epi16((short)x); }
PC_INLINE vi by_set8(int x) { return _mm256_set1_epi8((char)x); }
PC_INLINE vi by_add16(vi a, vi b) { return _mm256_adds_epi16(a, b); }
PC_INLINE vi by_max8(vi a, vi b) { return _mm256_max_epu8(a, b); }
PC_INLINE vi by_min8(vi a, vi b) { return _mm256_min_epu8(a, b); }
PC_INLINE vi by_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
PC_INLINE void by_store(void* p, vi x) { _mm256_storeu_si256((__m256i*)p, x); }
PC_INLINE __m128i half_of(vi x, int half) { return half ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x); }
PC_INLINE void by_store_half(void* p, vi x, int half) { _mm_storeu_si128((__m128i*)p, half_of(x, half)); }
// n < 16 bytes: halves of halves, since there are no masks of bytes.
PC_INLINE void store_part(char* p, __m128i x, int n) {
  if (n & 8) {
    _mm_storel_epi64((__m128i*)p, x);
    x = _mm_unpackhi_epi64(x, x);
    p += 8;
  }
  uint64_t b = (uint64_t)_mm_cvtsi128_si64(x);
  if (n & 4) {
    memcpy(p, &b, 4);
    b >>= 32;
    p += 4;
  }
  if (n & 2) {
    memcpy(p, &b, 2);
    b >>= 16;
    p += 2;
  }
  if (n & 1) *p = (char)b;
}
PC_INLINE void by_storen_half(void* p, vi x, int half, int n) {
  if (n == 16)
    by_store_half(p, x, half);
  else
    store_part((char*)p, half_of(x, half), n);
}
PC_INLINE void by_storen(void* p, vi x, int n) {
  if (n >= 16) {
    by_store_half(p, x, 0);
    store_part((char*)p + 16, half_of(x, 1), n - 16);
  } else {
    store_part((char*)p, half_of(x, 0), n);
  }
}
template <int Q> PC_INLINE void by_store_quarter(int32_t* p, vi x) { _mm_storeu_si128((__m128i*)p, half_of(x, Q)); }
#endif

}  // namespace
}  // namespace PC_NS
}  // namespace pc
