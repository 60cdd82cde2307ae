// Quantization over simd/: one value a lane, no state between vectors, bound by memory (and by the divider where the definition divides).
// Values are clamped in float32 before they become integers, so that no conversion overflows. NaN is noticed by a sum of x - x, which is 0 for
// every finite x: one subtraction and one addition a vector.
#include "quant/quant.h"

#include "pycompress.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

bool range(const float* x, int64_t count, float* low, float* high) {
  vf lo0 = vf_zero(), lo1 = vf_zero(), hi0 = vf_zero(), hi1 = vf_zero(), bad0 = vf_zero(), bad1 = vf_zero();
  int64_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    const vf a = vf_load(x + i), b = vf_load(x + i + VL);
    lo0 = vf_min(a, lo0);
    lo1 = vf_min(b, lo1);
    hi0 = vf_max(a, hi0);
    hi1 = vf_max(b, hi1);
    bad0 = vf_add(bad0, vf_sub(a, a));
    bad1 = vf_add(bad1, vf_sub(b, b));
  }
  for (; i < count; i += VL) {
    const vf a = vf_loadn(x + i, count - i < VL ? (int)(count - i) : VL);
    lo0 = vf_min(a, lo0);
    hi0 = vf_max(a, hi0);
    bad0 = vf_add(bad0, vf_sub(a, a));
  }
  *low = vf_reduce_min(vf_min(lo0, lo1));
  *high = vf_reduce_max(vf_max(hi0, hi1));
  return vf_reduce_add(vf_add(bad0, bad1)) == 0.0f;
}

// Calls step(i, n) for full vectors (n == VL) and once for the rest.
template <class Step> PC_INLINE void for_vectors(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) step(i, VL);
  if (i < count) step(i, (int)(count - i));
}

template <bool Divide> PC_INLINE vi quantized(vf x, vf factor, vf low, vf high, vi zero_point) {
  const vf scaled = Divide ? vf_div(x, factor) : vf_mul(x, factor);
  return vi_add(vi_from_vf(vf_min(vf_max(scaled, low), high)), zero_point);
}

// 0 in every lane whose x is not NaN: infinities are clamped first, because inf - inf is NaN.
PC_INLINE vf not_nan(vf x) {
  const vf clamped = vf_max(vf_set1(-1.0f), vf_min(vf_set1(1.0f), x));
  return vf_sub(clamped, clamped);
}

template <bool Divide> bool quantize_to_8(const float* x, int64_t count, float factor, int32_t zero_point, int32_t low, int32_t high, void* y) {
  const vf f = vf_set1(factor), lo = vf_set1((float)(low - zero_point)), hi = vf_set1((float)(high - zero_point));
  const vi z = vi_set1(zero_point);
  uint8_t* out = (uint8_t*)y;
  vf bad = vf_zero();
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    const vf v = n == VL ? vf_load(x + i) : vf_loadn(x + i, n);
    bad = vf_add(bad, not_nan(v));
    const vi q = quantized<Divide>(v, f, lo, hi, z);
    if (n == VL)
      vi_store_8(out + i, q);
    else
      vi_store_8n(out + i, q, n);
  });
  return vf_reduce_add(bad) == 0.0f;
}

bool quantize_centered(const float* x, int64_t count, float inverse_scale, int32_t zero_point, int16_t* y) {
  const vf f = vf_set1(inverse_scale), lo = vf_set1((float)-zero_point), hi = vf_set1((float)(255 - zero_point));
  vf bad = vf_zero();
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    const vf v = n == VL ? vf_load(x + i) : vf_loadn(x + i, n);
    bad = vf_add(bad, not_nan(v));
    const vi q = quantized<false>(v, f, lo, hi, vi_zero());
    if (n == VL)
      vi_store_16(y + i, q);
    else
      vi_store_16n(y + i, q, n);
  });
  return vf_reduce_add(bad) == 0.0f;
}

PC_INLINE vi load_int(const uint8_t* p) { return vi_load_u8(p); }
PC_INLINE vi load_int(const int8_t* p) { return vi_load_s8(p); }
PC_INLINE vi load_int(const int32_t* p) { return vi_load(p); }

template <class T> void dequantize(const T* x, int64_t count, float scale, int32_t zero_point, float* y) {
  const vf s = vf_set1(scale);
  const vi z = vi_set1(zero_point);
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    if (n == VL) {
      vf_store(y + i, vf_mul(vf_from_vi(vi_sub(load_int(x + i), z)), s));
    } else {
      T rest[VL] = {0};
      memcpy(rest, x + i, (size_t)n * sizeof(T));
      vf_storen(y + i, vf_mul(vf_from_vi(vi_sub(load_int(rest), z)), s), n);
    }
  });
}

template <int N> PC_INLINE vf horner(vf x, const float (&c)[N]) {
  vf r = vf_set1(c[N - 1]);
  PC_UNROLL for (int i = N - 2; i >= 0; --i) r = vf_add(vf_mul(r, x), vf_set1(c[i]));
  return r;
}

// exp of x <= 0: 2^n * E(r), Cody and Waite's reduction. docs/exactness.md has the constants and their origin.
PC_INLINE vf exp_nonpositive(vf x) {
  constexpr float e[] = {1.0f, 1.0f, 0.499999911f, 0.166664213f, 0.0416683592f, 0.0083747711f, 0.00138294208f};
  const vf least = vf_set1(-87.0f);
  const vf c = vf_max(x, least);
  const vf n = vf_round(vf_mul(c, vf_set1(1.44269504f)));
  const vf r = vf_sub(vf_sub(c, vf_mul(n, vf_set1(0.693359375f))), vf_mul(n, vf_set1(-2.12194440e-4f)));
  return vf_select_lt(x, least, vf_zero(), vf_mul(horner(r, e), vf_pow2(vi_from_vf(n))));
}

PC_INLINE vf hardswish(vf y) {
  const vf gate = vf_min(vf_max(vf_add(y, vf_set1(3.0f)), vf_zero()), vf_set1(6.0f));
  return vf_div(vf_mul(y, gate), vf_set1(6.0f));
}

PC_INLINE vf silu(vf y) {
  const vf one = vf_set1(1.0f), e = exp_nonpositive(vf_sub(vf_zero(), vf_abs(y)));
  return vf_mul(y, vf_div(vf_select_lt(y, vf_zero(), e, one), vf_add(one, e)));
}

PC_INLINE vf gelu(vf y) {
  constexpr float g[] = {1.1283803f,      0.636573851f,     0.103085764f,   -0.0199528635f,   0.000870852557f,
                         0.000938040554f, -0.00034720049f,  6.11964715e-05f, -5.67972938e-06f, 2.2165041e-07f};
  const vf z = vf_mul(vf_abs(y), vf_set1(0.70710678f)), c = vf_min(z, vf_set1(5.0f));
  const vf t = vf_max(vf_mul(horner(c, g), c), vf_mul(z, z));
  const vf e = vf_mul(vf_set1(0.5f), exp_nonpositive(vf_sub(vf_zero(), t)));
  const vf ye = vf_mul(y, e);
  return vf_select_lt(y, vf_zero(), ye, vf_sub(y, ye));
}

template <class F> PC_INLINE void in_place(float* x, int64_t count, F f) {
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    if (n == VL)
      vf_store(x + i, f(vf_load(x + i)));
    else
      vf_storen(x + i, f(vf_loadn(x + i, n)), n);
  });
}

void activate(int32_t activation, float* x, int64_t count) {
  if (activation == PC_ACTIVATION_HARDSWISH) in_place(x, count, [](vf v) __attribute__((always_inline)) { return hardswish(v); });
  if (activation == PC_ACTIVATION_SILU) in_place(x, count, [](vf v) __attribute__((always_inline)) { return silu(v); });
  if (activation == PC_ACTIVATION_GELU) in_place(x, count, [](vf v) __attribute__((always_inline)) { return gelu(v); });
}

}  // namespace

extern const QuantKernel quant;
const QuantKernel quant = {
    "quant/" PC_ISA_NAME, range,           quantize_to_8<true>,  quantize_to_8<false>, quantize_centered,
    dequantize<uint8_t>,  dequantize<int8_t>, dequantize<int32_t>, activate,
};

}  // namespace PC_NS
}  // namespace pc
