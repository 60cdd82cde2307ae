// Plain C++: the fallback on any CPU, and the plainest reading of the vocabulary. One lane; the compiler may put several in a vector of
// the baseline.
#pragma once

#include <math.h>

namespace pc {
namespace PC_NS {

constexpr int VL = 1;
typedef float vf;
typedef int32_t vi;

#if defined(__GNUC__) && defined(__x86_64__)
PC_INLINE void pin(float& x) { __asm__ volatile("" : "+x"(x)); }
PC_INLINE void pin(int32_t& x) { __asm__ volatile("" : "+r"(x)); }
#elif defined(__GNUC__) && defined(__aarch64__)
PC_INLINE void pin(float& x) { __asm__ volatile("" : "+w"(x)); }
PC_INLINE void pin(int32_t& x) { __asm__ volatile("" : "+r"(x)); }
#else
template <class T> PC_INLINE void pin(T&) {}
#endif

PC_INLINE vf vf_zero() { return 0.0f; }
PC_INLINE vf vf_set1(float x) { return x; }
PC_INLINE vf vf_load(const float* p) { return *p; }
PC_INLINE vf vf_loadn(const float* p, int n) { return n > 0 ? *p : 0.0f; }
PC_INLINE void vf_store(float* p, vf x) { *p = x; }
PC_INLINE void vf_storen(float* p, vf x, int n) {
  if (n > 0) *p = x;
}
PC_INLINE vf vf_add(vf a, vf b) { return a + b; }
PC_INLINE vf vf_sub(vf a, vf b) { return a - b; }
PC_INLINE vf vf_mul(vf a, vf b) { return a * b; }
PC_INLINE vf vf_div(vf a, vf b) { return a / b; }
PC_INLINE vf vf_muladd(vf a, vf b, vf c) { return a * b + c; }
PC_INLINE vf vf_min(vf a, vf b) { return a < b ? a : b; }
PC_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
PC_INLINE vf vf_abs(vf a) { return fabsf(a); }
PC_INLINE vf vf_round(vf a) { return nearbyintf(a); }
PC_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no) { return a < b ? yes : no; }
PC_INLINE bool vf_any_nan(vf a) { return a != a; }
PC_INLINE float vf_reduce_min(vf a) { return a; }
PC_INLINE float vf_reduce_max(vf a) { return a; }

PC_INLINE vi vi_zero() { return 0; }
PC_INLINE vi vi_set1(int32_t x) { return x; }
PC_INLINE vi vi_load(const int32_t* p) { return *p; }
PC_INLINE vi vi_loadn(const int32_t* p, int n) { return n > 0 ? *p : 0; }
PC_INLINE void vi_store(int32_t* p, vi x) { *p = x; }
PC_INLINE void vi_storen(int32_t* p, vi x, int n) {
  if (n > 0) *p = x;
}
PC_INLINE vi vi_add(vi a, vi b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
PC_INLINE vi vi_sub(vi a, vi b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
PC_INLINE vi vi_mul(vi a, vi b) { return (int32_t)((uint32_t)a * (uint32_t)b); }
PC_INLINE vi vi_add_saturate(vi a, vi b) {
  const int64_t sum = (int64_t)a + b;
  return sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : (int32_t)sum;
}
PC_INLINE vi vi_max(vi a, vi b) { return a > b ? a : b; }
PC_INLINE vi vi_min(vi a, vi b) { return a < b ? a : b; }
PC_INLINE vi vi_from_vf(vf x) { return x <= -2147483648.0f ? INT32_MIN : (int32_t)nearbyintf(x); }
PC_INLINE vf vf_from_vi(vi x) { return (float)x; }
PC_INLINE vf vf_bits(vi x) {
  float value;
  memcpy(&value, &x, 4);
  return value;
}
PC_INLINE vi vi_bits(vf x) {
  int32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
PC_INLINE vf vf_pow2(vi n) {  // 2^n, -126 <= n <= 127
  const int32_t bits = (n + 127) << 23;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// VL bytes or words to and from int32 lanes.
PC_INLINE vi vi_load_u8(const uint8_t* p) {
  return *p;
}
PC_INLINE vi vi_load_s8(const int8_t* p) { return *p; }
PC_INLINE void vi_store_8(void* p, vi x) { *(uint8_t*)p = (uint8_t)x; }
PC_INLINE void vi_store_8n(void* p, vi x, int n) {
  if (n > 0) *(uint8_t*)p = (uint8_t)x;
}
PC_INLINE void vi_store_u8x4(uint8_t* p, const vi (&q)[4]) {
  for (int i = 0; i < 4; ++i) p[i] = (uint8_t)(q[i] < 0 ? 0 : q[i] > 255 ? 255 : q[i]);
}
struct vb {
  uint8_t b[4];
};
struct ByteRangeVectors {
  int32_t zero_point, low, high, flip;
};
PC_INLINE ByteRangeVectors vb_range(int16_t zero_point, uint8_t low, uint8_t high, uint8_t flip) { return {zero_point, low, high, flip}; }
PC_INLINE vb vb_clip(const vi (&q)[4], const ByteRangeVectors& range) {
  vb r;
  for (int i = 0; i < 4; ++i) {
    const int32_t x = q[i] < -512 ? 0 : q[i] > 255 ? 255 : q[i] + range.zero_point;
    r.b[i] = (uint8_t)((x < range.low ? range.low : x > range.high ? range.high : x) ^ range.flip);
  }
  return r;
}
template <int V> PC_INLINE void vb_store(void* p, vb b, int i) { memcpy(p, b.b + i * V, V); }
template <int V> PC_INLINE void vb_storen(void* p, vb b, int i, int n) { memcpy(p, b.b + i * V, (size_t)n); }
PC_INLINE void vi_store_16x2(int16_t* p, vi a, vi b) {
  p[0] = (int16_t)a;
  p[1] = (int16_t)b;
}
PC_INLINE void vi_store_16n(int16_t* p, vi x, int n) {
  if (n > 0) *p = (int16_t)x;
}

// A pair of int16 in each lane.
PC_INLINE vi vi_broadcast_pair(const int16_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return x;
}
PC_INLINE vi vi_load_s8_pairs(const int8_t* p) { return (int32_t)(((uint32_t)(int32_t)p[0] & 0xffffu) | ((uint32_t)(int32_t)p[1] << 16)); }
PC_INLINE vi vi_dot2(vi c, vi a, vi b) { return vi_add(c, (int32_t)(int16_t)a * (int16_t)b + (a >> 16) * (b >> 16)); }

template <class Op> PC_INLINE vf vf_fold(vf (&r)[1], Op) { return r[0]; }
PC_INLINE void vf_transpose(vf (&)[1]) {}
template <class Row> PC_INLINE void vf_load_columns(Row row, vf (&r)[1]) { r[0] = *row(0); }
PC_INLINE vf vf_load_half(const uint16_t* p) { return float_of_half(*p); }

}  // namespace PC_NS
}  // namespace pc
