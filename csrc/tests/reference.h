// docs/exactness.md as plain scalar code, operation by operation: what the kernels are compared with, to the bit. Written from that page and not
// from the kernels. Compiled with -ffp-contract=off like everything here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pycompress.h"

namespace reference {

struct Limits {
  int32_t low, high;
};
inline Limits limits_of(pc_type type) {
  if (type == PC_U8) return {0, 255};
  if (type == PC_S8) return {-128, 127};
  return {INT32_MIN, INT32_MAX};
}

// clip(rint(value) + zero_point, low, high); the addition is exact in double.
inline int32_t rounded(float value, int32_t zero_point, Limits limits) {
  const double q = std::nearbyint(static_cast<double>(value)) + zero_point;
  return static_cast<int32_t>(std::min<double>(limits.high, std::max<double>(limits.low, q)));
}

inline int32_t quantize(float x, float scale, int32_t zero_point, Limits limits) { return rounded(x / scale, zero_point, limits); }

inline float dequantize(int32_t q, float scale, int32_t zero_point) { return static_cast<float>(q - zero_point) * scale; }

struct QParams {
  float scale;
  int32_t zero_point;
};

// by_inverse: the form for rows, where 1 / scale has to be finite.
inline QParams dynamic_qparams(float low, float high, bool by_inverse) {
  const float scale = (high - low) / 255.0f;
  if (by_inverse ? !std::isfinite(1.0f / scale) : scale == 0.0f) return {1.0f / 255.0f, 0};
  const float exact = 0.0f - low / scale;
  return {scale, static_cast<int32_t>(std::nearbyint(std::min(255.0f, std::max(0.0f, exact))))};
}

inline QParams row_qparams(const float* x, int64_t k) {
  float low = 0, high = 0;
  for (int64_t i = 0; i < k; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  return dynamic_qparams(low, high, true);
}

// ---- activations

template <int N> float horner(float x, const float (&lowest_first)[N]) {
  float r = lowest_first[N - 1];
  for (int i = N - 2; i >= 0; --i) {
    r = r * x;
    r = r + lowest_first[i];
  }
  return r;
}

inline float exp_nonpositive(float x) {
  static const float e[] = {1, 1, 0.499999911f, 0.166664213f, 0.0416683592f, 0.0083747711f, 0.00138294208f};
  if (x < -87.0f) return 0;
  const float n = std::nearbyintf(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  return horner(r, e) * std::ldexp(1.0f, static_cast<int>(n));
}

inline float clamp(float y, float low, float high) {
  if (y < low) y = low;
  if (y > high) y = high;
  return y;
}

inline float hardswish(float y) { return (y * std::min(std::max(y + 3.0f, 0.0f), 6.0f)) / 6.0f; }

inline float silu(float y) {
  const float e = exp_nonpositive(-std::fabs(y));
  return y * ((y >= 0 ? 1.0f : e) / (1.0f + e));
}

inline float gelu(float y) {
  static const float g[] = {1.1283803f,      0.636573851f,    0.103085764f,    -0.0199528635f,   0.000870852557f,
                            0.000938040554f, -0.00034720049f, 6.11964715e-05f, -5.67972938e-06f, 2.2165041e-07f};
  const float z = std::fabs(y) * 0.70710678f, c = std::min(z, 5.0f);
  const float t = std::max(horner(c, g) * c, z * z);
  const float e = 0.5f * exp_nonpositive(-t);
  return y >= 0 ? y - y * e : y * e;
}

inline float activate(pc_activation activation, float y, float low, float high) {
  switch (activation) {
    case PC_ACTIVATION_CLAMP:
      return clamp(y, low, high);
    case PC_ACTIVATION_HARDSWISH:
      return hardswish(y);
    case PC_ACTIVATION_SILU:
      return silu(y);
    case PC_ACTIVATION_GELU:
      return gelu(y);
    default:
      return y;
  }
}

// ---- the last step of gemm_s8

inline int32_t add_saturated(int32_t a, int32_t b) {
  const int64_t sum = static_cast<int64_t>(a) + b;
  return static_cast<int32_t>(std::min<int64_t>(INT32_MAX, std::max<int64_t>(INT32_MIN, sum)));
}

inline float to_f32(int32_t acc, float x_scale, float w_scale, const float* bias, pc_activation activation, float low, float high) {
  float y = static_cast<float>(acc) * (x_scale * w_scale);
  if (bias) y = y + *bias;
  return activate(activation, y, low, high);
}

inline int32_t to_q8(int32_t acc, const pc_gemm_s8_desc& d, float w_scale, const float* bias) {
  const Limits type = limits_of(d.y_type);
  const float scale = d.x_scale * w_scale;
  if (bias) acc = add_saturated(acc, rounded(*bias / scale, 0, {INT32_MIN, INT32_MAX}));
  if (d.activation > PC_ACTIVATION_CLAMP)
    return quantize(activate(d.activation, static_cast<float>(acc) * scale, 0, 0), d.y_scale, d.y_zero_point, type);
  Limits limits = type;
  if (d.activation == PC_ACTIVATION_CLAMP)
    limits = {quantize(d.low, d.y_scale, d.y_zero_point, type), quantize(d.high, d.y_scale, d.y_zero_point, type)};
  return rounded(static_cast<float>(acc) * (scale / d.y_scale), d.y_zero_point, limits);
}

}  // namespace reference
