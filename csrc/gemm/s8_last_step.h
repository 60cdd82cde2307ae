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

// Each kind of result. store() takes vector v of the row that row() named, and writes its first n lanes. whole() takes a plain
// tile: see S8Tile.
struct ToS32 {
  explicit PC_INLINE_MEMBER ToS32(const S8Tile&) {}
  PC_INLINE_MEMBER void row(const S8Tile&, int) {}
  PC_INLINE_MEMBER void store(const S8Tile&, char* y, vi acc, int v, int n) {
    if (n == VL)
      vi_store((int32_t*)y + v * VL, acc);
    else
      vi_storen((int32_t*)y + v * VL, acc, n);
  }
  template <int R, int NV> static PC_INLINE_MEMBER void whole(const S8Tile& t, const vi (&acc)[R][NV]) {
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v) vi_store((int32_t*)((char*)t.y + r * t.ldy) + v * VL, acc[r][v]);
  }
};

struct ToF32 {
  vf low, high, x_scale;
  explicit PC_INLINE_MEMBER ToF32(const S8Tile& t) : low(vf_set1(t.low)), high(vf_set1(t.high)) {}
  PC_INLINE_MEMBER void row(const S8Tile& t, int r) { x_scale = vf_set1(t.x_scale[r]); }
  PC_INLINE_MEMBER void store(const S8Tile& t, char* y, vi acc, int v, int n) {
    if (t.bias_q) acc = vi_add_saturate(acc, vi_load(t.bias_q + v * VL));
    vf value = vf_mul(vf_from_vi(acc), vf_mul(x_scale, vf_load(t.scale + v * VL)));
    if (t.bias) value = vf_add(value, vf_load(t.bias + v * VL));
    value = vf_min(high, vf_max(low, value));
    pin(value);
    if (n == VL)
      vf_store((float*)y + v * VL, value);
    else
      vf_storen((float*)y + v * VL, value, n);
  }
  template <bool Plain, int R, int NV> PC_INLINE_MEMBER void rows(const S8Tile& t, const vi (&acc)[R][NV]) {
    PC_UNROLL for (int r = 0; r < R; ++r) {
      row(t, r);
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        vf value = vf_mul(vf_from_vi(acc[r][v]), vf_mul(x_scale, vf_load(t.scale + v * VL)));
        if (!Plain && t.bias) value = vf_add(value, vf_load(t.bias + v * VL));
        if (!Plain) value = vf_min(high, vf_max(low, value));
        pin(value);
        vf_store((float*)((char*)t.y + r * t.ldy) + v * VL, value);
      }
    }
  }
  template <int R, int NV> static PC_INLINE_MEMBER void whole(const S8Tile& t, const vi (&acc)[R][NV]) {
    if (!t.bias && !t.clamp)
      ToF32(t).rows<true>(t, acc);
    else
      ToF32(t).rows<false>(t, acc);
  }
};

struct ToQ8 {
  vf low, high;
  vi zero_point;
  explicit PC_INLINE_MEMBER ToQ8(const S8Tile& t) : low(vf_set1(t.low)), high(vf_set1(t.high)), zero_point(vi_set1(t.y_zero_point)) {}
  PC_INLINE_MEMBER void row(const S8Tile&, int) {}
  PC_INLINE_MEMBER void store(const S8Tile& t, char* y, vi acc, int v, int n) {
    if (t.bias_q) acc = vi_add_saturate(acc, vi_load(t.bias_q + v * VL));
    const vf value = vf_mul(vf_from_vi(acc), vf_load(t.scale + v * VL));
    vi q = vi_add(vi_from_vf(vf_min(vf_max(value, low), high)), zero_point);
    pin(q);
    if (n == VL)
      vi_store_8(y + v * VL, q);
    else
      vi_store_8n(y + v * VL, q, n);
  }
  // 4 vectors make one of bytes, of one row or several. The conversion to an integer needs no clamp before it, and the packing saturates.
  template <int R, int NV> static PC_INLINE_MEMBER void whole(const S8Tile& t, const vi (&acc)[R][NV]) {
    constexpr int rows = 4 / NV;
    const ByteRangeVectors range = vb_range(t.bytes.zero_point, t.bytes.low, t.bytes.high, t.bytes.flip);
    const float* scale = t.scale;
    const ptrdiff_t ldy = t.ldy;
    const int columns = t.columns;
    char* y = (char*)t.y;
    PC_UNROLL for (int r = 0; r < R; r += rows) {
      vi q[4];
      PC_UNROLL for (int i = 0; i < 4; ++i) {
        const int row = r + i / NV < R ? r + i / NV : r;
        q[i] = vi_from_vf(vf_mul(vf_from_vi(acc[row][i % NV]), vf_load(scale + i % NV * VL)));
      }
      const vb bytes = vb_clip(q, range);
      PC_UNROLL for (int i = 0; i < rows; ++i) {
        if (r + i >= R) break;
        if (columns == NV * VL)
          vb_store<NV>(y + (r + i) * ldy, bytes, i);
        else
          vb_storen<NV>(y + (r + i) * ldy, bytes, i, columns);
      }
    }
  }
};

// What is rare, out of the way of the registers: what is not plain.
template <class Last, int R, int NV> PC_NOINLINE void last_step_in_memory(const S8Tile& t, const vi (&acc)[R][NV]) {
  Last last(t);
  for (int r = 0; r < R; ++r) {
    last.row(t, r);
    PC_UNROLL for (int v = 0; v < NV; ++v) {
      const int n = t.columns - v * VL;
      if (n > 0) last.store(t, (char*)t.y + r * t.ldy, acc[r][v], v, n > VL ? VL : n);
    }
  }
}

template <class Last, int R, int NV> PC_INLINE void last_step(const S8Tile& t, vi (&acc)[R][NV]) {
  apply_weight_zero_points(t, acc);
  if (t.plain) {
    Last::whole(t, acc);
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
