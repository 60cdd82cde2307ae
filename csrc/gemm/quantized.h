// What the drivers of integer weights share: types and scales of x and y, the checks of operands, and rows of float32 x as integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/memory.h"
#include "quant/quant.h"

namespace pc {

struct Bounds {
  int32_t low, high;
};

inline Bounds bounds_of(pc_type type) { return type == PC_U8 ? Bounds{0, 255} : Bounds{-128, 127}; }

inline size_t size_of(pc_type type) { return type == PC_F32 || type == PC_S32 ? 4 : 1; }

inline bool positive(float x) { return x > 0 && std::isfinite(x); }

// rint(value / scale) + zero_point within the bounds.
inline int32_t quantized_bound(float value, float scale, int32_t zero_point, Bounds bounds) {
  const float q = value / scale;
  if (q >= 512.0f) return bounds.high;
  if (q <= -512.0f) return bounds.low;
  return std::clamp(static_cast<int32_t>(std::llrintf(q)) + zero_point, bounds.low, bounds.high);
}

template <class Desc> pc_status check_x_type(const Desc& d) {
  PC_CHECK(d.x_type == PC_F32 || d.x_type == PC_U8 || d.x_type == PC_S8, PC_ERROR_TYPE, "x_type is %d, wanted PC_F32, PC_U8 or PC_S8", d.x_type);
  const Bounds x = bounds_of(d.x_type == PC_S8 ? PC_S8 : PC_U8);
  PC_CHECK(d.x_zero_point >= x.low && d.x_zero_point <= x.high, PC_ERROR_VALUE, "x_zero_point is %d, wanted %d to %d", d.x_zero_point, x.low, x.high);
  return PC_OK;
}

// Scales and zero points of a result that is float32, uint8 or int8.
template <class Desc> pc_status check_qparams(const Desc& d) {
  const bool per_row = d.x_type == PC_F32 && d.x_scale == 0.0f;
  PC_CHECK(positive(d.x_scale) || per_row, PC_ERROR_VALUE, "x_scale is %g, wanted positive and finite", static_cast<double>(d.x_scale));
  if (d.y_type == PC_F32) return PC_OK;
  PC_CHECK(!per_row, PC_ERROR_VALUE, "x_scale is 0 (per row), which goes with y_type PC_F32 only");
  PC_CHECK(positive(d.y_scale), PC_ERROR_VALUE, "y_scale is %g, wanted positive and finite", static_cast<double>(d.y_scale));
  const Bounds y = bounds_of(d.y_type);
  PC_CHECK(d.y_zero_point >= y.low && d.y_zero_point <= y.high, PC_ERROR_VALUE, "y_zero_point is %d, wanted %d to %d", d.y_zero_point, y.low, y.high);
  return PC_OK;
}

// m, n and k against a weight's n and k; fills in the strides that are 0.
template <class Desc> pc_status check_shape(Desc* d, int64_t n, int64_t k) {
  PC_CHECK(d->m >= 0 && d->n == n && d->k == k, PC_ERROR_SHAPE, "m, n, k are %lld, %lld, %lld, wanted m >= 0 and the weight's n and k, %lld, %lld",
           ll(d->m), ll(d->n), ll(d->k), ll(n), ll(k));
  if (d->ldx == 0) d->ldx = d->k;
  if (d->ldy == 0) d->ldy = d->n;
  PC_CHECK(d->ldx >= d->k && d->ldy >= d->n, PC_ERROR_SHAPE, "ldx and ldy are %lld and %lld, wanted at least k = %lld and n = %lld", ll(d->ldx),
           ll(d->ldy), ll(d->k), ll(d->n));
  PC_TRY(check_rows(d->m));
  if (d->m <= 1 || d->k == 0) d->ldx = d->k;  // no second row, or nothing in one: it leads nowhere
  if (d->m <= 1) d->ldy = d->n;
  return PC_OK;
}

template <class Desc> pc_status check_operands(const Desc& d, const void* x, const void* y, Span* x_span, Span* y_span) {
  *x_span = {x, 0};
  *y_span = {y, 0};
  PC_CHECK(span_bytes(d.m, d.k, d.ldx, size_of(d.x_type), &x_span->bytes) && span_bytes(d.m, d.n, d.ldy, size_of(d.y_type), &y_span->bytes),
           PC_ERROR_OVERFLOW, "x [%lld, %lld] or y [%lld, %lld] is larger than memory", ll(d.m), ll(d.k), ll(d.m), ll(d.n));
  PC_CHECK((x || !x_span->bytes) && (y || !y_span->bytes), PC_ERROR_NULL, "%s is NULL", x || !x_span->bytes ? "y" : "x");
  PC_CHECK(is_aligned(x, size_of(d.x_type)) && is_aligned(y, size_of(d.y_type)) && is_aligned(d.bias, alignof(float)), PC_ERROR_ALIGNMENT,
           "x, y or bias is not aligned to its element type");
  return PC_OK;
}

// 1 / x_scale of float32 x with a given scale, else 0.
template <class Desc> pc_status inverse_of_x_scale(const Desc& d, float* inverse) {
  *inverse = 0;
  if (d.x_type != PC_F32 || d.x_scale == 0.0f) return PC_OK;
  *inverse = 1.0f / d.x_scale;
  PC_CHECK(std::isfinite(*inverse), PC_ERROR_VALUE, "x_scale is %g, too small for its inverse to be finite", static_cast<double>(d.x_scale));
  return PC_OK;
}

constexpr int64_t kRowsAtOnce = 16;  // quantized together: their ranges become scales in one vector, and they are still in the cache

// float32 x that is quantized on the way.
struct FloatRows {
  const float* x;
  int64_t ldx, k;
  float scale, inverse_scale;  // given; or scale 0: of each row by its range
  int32_t zero_point;
  bool centered;  // to int16 less the zero point, else to uint8

  // Rows [m, m + count) of x, at most kRowsAtOnce, to y, row_bytes apart and padded to k_padded values with zeros; and what goes with each row.
  pc_status quantize(const QuantKernel& quant, int64_t m, int count, char* y, size_t row_bytes, int64_t k_padded, float* scales,
                     int32_t* zero_points) const {
    const FloatSpan span{x + m * ldx, ldx, count, k};
    const bool dynamic = scale == 0.0f;
    float low[kRowsAtOnce], high[kRowsAtOnce], inverse[kRowsAtOnce];
    if (dynamic) {
      if (!quant.row_ranges(span, low, high)) return not_finite(span, m, "NaN or infinity");
      if (!quant.row_qparams(low, high, count, scales, zero_points, inverse)) return too_wide(m, low, high);
    } else {
      std::fill_n(scales, count, scale);
      std::fill_n(zero_points, count, zero_point);
      std::fill_n(inverse, count, inverse_scale);
    }
    const auto convert = centered ? quant.quantize_rows_centered : quant.quantize_rows;
    if (!convert(span, inverse, zero_points, dynamic, y, static_cast<ptrdiff_t>(row_bytes))) return not_finite(span, m, "NaN");
    const int64_t value_size = centered ? 2 : 1, padding = (k_padded - k) * value_size;
    for (int i = 0; padding && i < count; ++i) std::memset(y + static_cast<size_t>(i) * row_bytes + k * value_size, 0, static_cast<size_t>(padding));
    return PC_OK;
  }

 private:
  // One of the rows from m on holds what can't be quantized: `what`; NaN alone where infinities saturate.
  static pc_status not_finite(const FloatSpan& span, int64_t m, const char* what) {
    const bool nan_alone = std::strcmp(what, "NaN") == 0;
    for (int64_t i = 0; i < span.rows; ++i)
      for (int64_t j = 0; j < span.count; ++j) {
        const float value = span.x[i * span.ld + j];
        if (nan_alone ? std::isnan(value) : !std::isfinite(value))
          return fail(PC_ERROR_NONFINITE, "x holds %s in row %lld and can't be quantized", what, ll(m + i));
      }
    return fail(PC_ERROR_NONFINITE, "x holds %s and can't be quantized", what);
  }

  // One of the rows from m on has a range whose width is not finite.
  static pc_status too_wide(int64_t m, const float* low, const float* high) {
    int i = 0;
    while (std::isfinite(high[i] - low[i])) ++i;
    return fail(PC_ERROR_NONFINITE, "x goes from %g to %g in row %lld: the width of that range is not finite", static_cast<double>(low[i]),
                static_cast<double>(high[i]), ll(m + i));
  }
};

}  // namespace pc
