// The product of int8: 4 values of k in a dword.
#pragma once

#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

#if defined(PC_ISA_AVX2)
constexpr bool SATURATES = true;
#else
constexpr bool SATURATES = false;
#endif

PC_INLINE vi dot4(vi c, vi a, vi b) {
#if defined(PC_ISA_SCALAR)
  for (int i = 0; i < 4; ++i) c = vi_add(c, (int32_t)(((uint32_t)a >> (8 * i)) & 255) * (int8_t)((uint32_t)b >> (8 * i)));
  return c;
#else
  return vi_dot4(c, a, b);
#endif
}

struct Dot {
  typedef vi Vector;
  typedef vi Weight;
  typedef vi Rows;
  static constexpr int kShared = 2;  // vectors of AVX2 by 4 outputs
  static constexpr bool kFillsUp = false;
  static PC_INLINE_MEMBER vi zero() { return vi_zero(); }
  static PC_INLINE_MEMBER vi weight(const uint32_t* w) {
    int32_t value;
    memcpy(&value, w, 4);
    return vi_set1(value);
  }
  static PC_INLINE_MEMBER vi rows(const char* x) { return vi_load((const int32_t*)x); }
  static PC_INLINE_MEMBER vi rows(vi x) { return x; }
  static PC_INLINE_MEMBER vi multiply(vi acc, vi x, vi w) { return dot4(acc, x, w); }
  static PC_INLINE_MEMBER vi multiply(vi acc, const char* x, vi w) { return dot4(acc, rows(x), w); }
};

}  // namespace
}  // namespace PC_NS
}  // namespace pc
