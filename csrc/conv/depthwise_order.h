// The last step of the int8 depthwise kernels, and what does not depend on how they multiply.
#pragma once

#include "conv/depthwise.h"
#include "gemm/s8_last_step.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

// Operation by operation as prepare_panel() of the int8 GEMM does it.
bool last_step_of(const DepthwiseLastStep& p, bool* safe) {
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

template <class Last> void finish(const S8Tile& t, const int32_t* sums, ptrdiff_t ldx, int64_t count) {
  Last last(t);
  for (int64_t i = 0; i < count; ++i) {
    last.row(t, 0);
    char* y = (char*)t.y + i * t.ldy;
    for (int c = 0, v = 0; c < t.columns; c += VL, ++v) {
      const int n = t.columns - c < VL ? t.columns - c : VL;
      const vi sum = n == VL ? vi_load(sums + i * ldx + c) : vi_loadn(sums + i * ldx + c, n);
      last.store(t, y, sum, v, n);
    }
  }
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
