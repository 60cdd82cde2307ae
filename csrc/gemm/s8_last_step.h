// The last step of an int8 tile, in registers: acc[R][NV] becomes int32, float32 or requantized bytes. Shared by the kernels of both
// groupings. The order of the float32 operations is fixed by docs/exactness.md.
#pragma once

#include "gemm/gemm.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

template <int R, int NV> PC_INLINE void apply_weight_zero_points(const S8Tile& t, vi (&acc)[R][NV]) {
  if (!t.w_zero_point) return;
  PC_UNROLL for (int r = 0; r < R; ++r) {
    const vi sum = vi_set1(t.x_sum[r]);
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_sub(acc[r][v], vi_mul(sum, vi_load(t.w_zero_point + v * VL)));
  }
}

// The first n lanes of vector v of row r. Full: all.
template <bool Full> PC_INLINE int lanes_of_vector(const S8Tile& t, int v) {
  const int n = Full ? VL : t.columns - v * VL;
  return n > VL ? VL : n < 0 ? 0 : n;
}

struct ToS32 {
  template <bool Full, int R, int NV> static PC_INLINE_MEMBER void store(const S8Tile& t, const vi (&acc)[R][NV]) {
    PC_UNROLL for (int r = 0; r < R; ++r) {
      int32_t* y = (int32_t*)((char*)t.y + r * t.ldy);
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        if (Full)
          vi_store(y + v * VL, acc[r][v]);
        else
          vi_storen(y + v * VL, acc[r][v], lanes_of_vector<Full>(t, v));
      }
    }
  }
};

struct ToF32 {
  template <bool Full, bool Plain, int R, int NV> static PC_INLINE_MEMBER void store_as(const S8Tile& t, const vi (&acc)[R][NV]) {
    const vf low = vf_set1(t.low), high = vf_set1(t.high);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const vf x_scale = vf_set1(t.x_scale[r]);
      float* y = (float*)((char*)t.y + r * t.ldy);
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        vf value = vf_mul(vf_from_vi(acc[r][v]), vf_mul(x_scale, vf_load(t.scale + v * VL)));
        if (!Plain && t.bias) value = vf_add(value, vf_load(t.bias + v * VL));
        if (!Plain) value = vf_min(high, vf_max(low, value));
        pin(value);
        if (Full)
          vf_store(y + v * VL, value);
        else
          vf_storen(y + v * VL, value, lanes_of_vector<Full>(t, v));
      }
    }
  }

  template <bool Full, int R, int NV> static PC_INLINE_MEMBER void store(const S8Tile& t, const vi (&acc)[R][NV]) {
    if (Full && !t.bias && !t.clamp)
      store_as<Full, true>(t, acc);
    else
      store_as<Full, false>(t, acc);
  }
};

// Two vectors of a row side by side are half of a vector of bytes: the halves go two by two. One minimum is all that the conversion to an integer
// needs: what is below int32 becomes its least value, and the packing saturates.
struct ToQ8 {
  template <bool Full, int R, int NV> static PC_INLINE_MEMBER void store(const S8Tile& t, const vi (&acc)[R][NV]) {
    constexpr int halves = R * NV / 2, per_row = NV / 2;
    const vf high = vf_set1(t.high);
    PC_UNROLL for (int h = 0; h < halves; h += 2) {
      vi q[4];
      PC_UNROLL for (int i = 0; i < 4; ++i) {
        const int half = h + i / 2 < halves ? h + i / 2 : h, r = half / per_row, v = half % per_row * 2 + i % 2;
        q[i] = vi_from_vf(vf_min(vf_mul(vf_from_vi(acc[r][v]), vf_load(t.scale + v * VL)), high));
      }
      const vb bytes = vb_clip(q, t.bytes.zero_point, t.bytes.low, t.bytes.flip);
      PC_UNROLL for (int i = 0; i < 2; ++i) {
        if (h + i == halves) continue;
        const int r = (h + i) / per_row, v = (h + i) % per_row * 2, n = t.columns - v * VL;
        uint8_t* y = (uint8_t*)t.y + r * t.ldy + v * VL;
        if (Full || n >= 2 * VL)
          vb_store_half(y, bytes, i);
        else if (n > 0)
          vb_store_half_n(y, bytes, i, n);
      }
    }
  }
};

// What is rare, out of the way of the registers: a panel with fewer outputs, and a bias that may saturate.
template <class Last, int R, int NV> PC_NOINLINE void last_step_in_memory(const S8Tile& t, vi (&acc)[R][NV]) {
  if (t.bias_q)
    for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_add_saturate(acc[r][v], vi_load(t.bias_q + v * VL));
  if (t.columns == NV * VL)
    Last::template store<true>(t, acc);
  else
    Last::template store<false>(t, acc);
}

template <class Last, int R, int NV> PC_INLINE void last_step(const S8Tile& t, vi (&acc)[R][NV]) {
  apply_weight_zero_points(t, acc);
  if (t.columns == NV * VL && !t.bias_q) {
    Last::template store<true>(t, acc);
  } else {
    vi copy[R][NV];
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v) copy[r][v] = acc[r][v];
    last_step_in_memory<Last>(t, copy);
  }
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
