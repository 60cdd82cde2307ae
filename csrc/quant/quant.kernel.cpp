// Quantization over simd/: one value a lane, no state between vectors, bound by memory (and by the divider where the definition divides).
// Where x may be anything, values are clamped in float32 before they become integers, so that no conversion overflows. Rows that are quantized by
// their own range need no such care: 4 vectors are packed into bytes by saturating instructions, which do the clipping. NaN and infinities are
// noticed by a sum of x * 0, which is 0 for every finite x: one multiply-add a vector.
#include "quant/quant.h"

#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

// Range of a row lane by lane, 0 included, and its sum of x * 0 added to *bad.
PC_INLINE void range_of(const float* x, int64_t count, vf* low, vf* high, vf* bad) {
  const vf zero = vf_zero();
  vf lo0 = zero, lo1 = zero, hi0 = zero, hi1 = zero, bad0 = *bad, bad1 = zero;
  int64_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    const vf a = vf_load(x + i), b = vf_load(x + i + VL);
    lo0 = vf_min(a, lo0);
    lo1 = vf_min(b, lo1);
    hi0 = vf_max(a, hi0);
    hi1 = vf_max(b, hi1);
    bad0 = vf_muladd(a, zero, bad0);
    bad1 = vf_muladd(b, zero, bad1);
  }
  for (; i < count; i += VL) {
    const vf a = vf_loadn(x + i, count - i < VL ? (int)(count - i) : VL);
    lo0 = vf_min(a, lo0);
    hi0 = vf_max(a, hi0);
    bad0 = vf_muladd(a, zero, bad0);
  }
  *low = vf_min(lo0, lo1);
  *high = vf_max(hi0, hi1);
  *bad = vf_add(bad0, bad1);
}

bool range(const float* x, int64_t count, float* low, float* high) {
  vf lo, hi, bad = vf_zero();
  range_of(x, count, &lo, &hi, &bad);
  *low = vf_reduce_min(lo);
  *high = vf_reduce_max(hi);
  return !vf_any_nan(bad);
}

// VL rows are folded into one vector together, which takes a third of the instructions that one by one would.
bool row_ranges(const FloatSpan& x, float* low, float* high) {
  vf bad = vf_zero();
  int64_t r = 0;
  for (; r + VL <= x.rows; r += VL) {
    vf lo[VL], hi[VL];
    for (int i = 0; i < VL; ++i) range_of(x.x + (r + i) * x.ld, x.count, &lo[i], &hi[i], &bad);
    vf_store(low + r, vf_fold(lo, [](vf a, vf b) __attribute__((always_inline)) { return vf_min(a, b); }));
    vf_store(high + r, vf_fold(hi, [](vf a, vf b) __attribute__((always_inline)) { return vf_max(a, b); }));
  }
  bool ok = !vf_any_nan(bad);
  for (; r < x.rows; ++r) ok &= range(x.x + r * x.ld, x.count, &low[r], &high[r]);
  return ok;
}

// Calls step(i, n) for full vectors (n == VL) and once for the rest.
template <class Step> PC_INLINE void for_vectors(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) step(i, VL);
  if (i < count) step(i, (int)(count - i));
}

PC_INLINE vi clipped(vf scaled, vf low, vf high, vi zero_point) { return vi_add(vi_from_vf(vf_min(vf_max(scaled, low), high)), zero_point); }

bool quantize(const float* x, int64_t count, float scale, int32_t zero_point, int32_t low, int32_t high, void* y) {
  const vf s = vf_set1(scale), lo = vf_set1((float)(low - zero_point)), hi = vf_set1((float)(high - zero_point));
  const vi z = vi_set1(zero_point);
  uint8_t* out = (uint8_t*)y;
  bool bad = false;
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    const vf v = n == VL ? vf_load(x + i) : vf_loadn(x + i, n);
    bad |= vf_any_nan(v);
    const vi q = clipped(vf_div(v, s), lo, hi, z);
    if (n == VL)
      vi_store_8(out + i, q);
    else
      vi_store_8n(out + i, q, n);
  });
  return !bad;
}

bool row_qparams(const float* low, const float* high, int64_t count, float* scale, int32_t* zero_point, float* inverse_scale) {
  const vf one = vf_set1(1.0f), levels = vf_set1(255.0f), infinity = vf_set1(__builtin_inff()), least = vf_div(one, levels);
  bool bad = false;
  for_vectors(count, [&](int64_t i, int n) __attribute__((always_inline)) {
    const vf lo = vf_loadn(low + i, n), width = vf_sub(vf_loadn(high + i, n), lo), s = vf_div(width, levels);
    bad |= vf_any_nan(vf_sub(width, width));
    // A scale without a finite inverse makes the row count as zero; then lo / least rounds to the zero point 0 by itself.
    const vf used = vf_select_lt(vf_div(one, s), infinity, s, least);
    const vf z = vf_min(vf_max(vf_sub(vf_zero(), vf_div(lo, used)), vf_zero()), levels);
    vf_storen(scale + i, used, n);
    vi_storen(zero_point + i, vi_from_vf(z), n);
    vf_storen(inverse_scale + i, vf_div(one, used), n);
  });
  return !bad;
}

PC_INLINE bool bytes_of_row(const float* x, int64_t count, float inverse_scale, int32_t zero_point, bool finite, uint8_t* y) {
  const vf f = vf_set1(inverse_scale);
  const vi z = vi_set1(zero_point);
  int64_t i = 0;
  for (; finite && i + 4 * VL <= count; i += 4 * VL) {
    vi q[4];
  PC_UNROLL for (int j = 0; j < 4; ++j) q[j] = vi_add(vi_from_vf(vf_mul(vf_load(x + i + j * VL), f)), z);
    vi_store_u8x4(y + i, q);
  }
  const vf lo = vf_set1((float)-zero_point), hi = vf_set1((float)(255 - zero_point));
  bool bad = false;
  for (; i < count; i += VL) {
    const int n = count - i < VL ? (int)(count - i) : VL;
    const vf v = vf_loadn(x + i, n);
    bad |= vf_any_nan(v);
    vi_store_8n(y + i, clipped(vf_mul(v, f), lo, hi, z), n);
  }
  return !bad;
}

PC_INLINE bool quantize_row_centered(const float* x, int64_t count, float inverse_scale, int32_t zero_point, bool finite, int16_t* y) {
  const vf f = vf_set1(inverse_scale), lo = vf_set1((float)-zero_point), hi = vf_set1((float)(255 - zero_point));
  int64_t i = 0;
  for (; finite && i + 2 * VL <= count; i += 2 * VL)
    vi_store_16x2(y + i, clipped(vf_mul(vf_load(x + i), f), lo, hi, vi_zero()), clipped(vf_mul(vf_load(x + i + VL), f), lo, hi, vi_zero()));
  bool bad = false;
  for (; i < count; i += VL) {
    const int n = count - i < VL ? (int)(count - i) : VL;
    const vf v = vf_loadn(x + i, n);
    bad |= vf_any_nan(v);
    vi_store_16n(y + i, clipped(vf_mul(v, f), lo, hi, vi_zero()), n);
  }
  return !bad;
}

bool quantize_row(const float* x, int64_t count, float inverse_scale, int32_t zero_point, bool finite, uint8_t* y) {
  return bytes_of_row(x, count, inverse_scale, zero_point, finite, y);
}

bool quantize_rows(const FloatSpan& x, const float* inverse_scale, const int32_t* zero_point, bool finite, void* y, ptrdiff_t ldy) {
  bool ok = true;
  for (int64_t r = 0; r < x.rows; ++r)
    ok &= bytes_of_row(x.x + r * x.ld, x.count, inverse_scale[r], zero_point[r], finite, (uint8_t*)y + r * ldy);
  return ok;
}

bool quantize_rows_centered(const FloatSpan& x, const float* inverse_scale, const int32_t* zero_point, bool finite, void* y, ptrdiff_t ldy) {
  bool ok = true;
  for (int64_t r = 0; r < x.rows; ++r)
    ok &= quantize_row_centered(x.x + r * x.ld, x.count, inverse_scale[r], zero_point[r], finite, (int16_t*)((char*)y + r * ldy));
  return ok;
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

// Operation by operation as prepare_panel() of the int8 GEMM does it.
bool requantization(const Requantization& p, bool* safe) {
  const vf sx = vf_set1(p.x_scale), sy = vf_set1(p.y_scale), zero = vf_zero(), least = vf_set1(-2147483648.0f), limit = vf_set1(2147483648.0f);
  const vi zx = vi_set1(p.x_zero_point);
  vf bad = zero, most_sum = zero, most_result = zero;
  for (int64_t i = 0; i < p.count; i += VL) {
    const int n = p.count - i < VL ? (int)(p.count - i) : VL;
    const vf scale = n == VL ? vf_load(p.scale + i) : vf_loadn(p.scale + i, n);
    const vf product = vf_mul(sx, scale), mult = vf_div(product, sy);
    vf_storen(p.mult + i, mult, n);
    bad = vf_add(bad, vf_mul(mult, zero));
    vi bias = vi_zero();
    vf size = vf_set1(p.most);
    if (p.bias) {
      const vf b = vf_loadn(p.bias + i, n);
      bad = vf_add(bad, vf_mul(b, zero));
      // Lanes beyond n divide 0 by 0: kept out by the next line.
      const vf q = vf_select_lt(zero, product, vf_div(b, product), vf_select_lt(zero, b, limit, vf_select_lt(b, zero, least, zero)));
      const vf inside = vf_min(vf_max(q, least), vf_set1(2147483520.0f));
      bias = vi_from_vf(inside);
      // Too large for an int32: 2^31 - 1, which no float32 is.
      vi_storen(p.bias_q + i, bias, n);
      size = vf_add(size, vf_abs(q));
      most_sum = vf_max(size, most_sum);
    }
    most_result = vf_max(vf_mul(size, vf_abs(mult)), most_result);
    vi_storen(p.start + i, vi_sub(bias, vi_mul(zx, vi_loadn(p.sum + i, n))), n);
  }
  const float half = 1073741824.0f;  // well within, whatever the rounding
  *safe = vf_reduce_max(most_sum) < half && vf_reduce_max(most_result) < half && !vf_any_nan(most_result);
  return !vf_any_nan(bad);
}

}  // namespace

extern const QuantKernel quant;
const QuantKernel quant = {
    "quant/" PC_ISA_NAME, range, row_ranges, quantize, row_qparams, quantize_row, quantize_rows, quantize_rows_centered,
    dequantize<uint8_t>, dequantize<int8_t>, dequantize<int32_t>, requantization,
};

}  // namespace PC_NS
}  // namespace pc
