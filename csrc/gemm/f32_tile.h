// The float32 tile over packed panels of float32 or float16: each output is one accumulator that takes k in order, so a row's bits do not depend
// on the rows beside it. float16 becomes float32 as it is loaded, exactly.
//
// Tile: AVX-512 12 x 32, AVX2 6 x 16, scalar 4 x 4. A step of one k loads 2 weight vectors and MR broadcasts for 2 * MR multiply-adds: the
// multiplier is the bound. Blocks of k leave their sums in y and take them up again, which changes no bit.
//
// For a few rows of x several panels side by side: 2 accumulators of a row would wait for each other, 8 hide the latency. There memory is the bound.
#pragma once

#include "gemm/gemm.h"
#include "gemm/lanes.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = VL == 1 ? 4 : 2;
constexpr int NR = NV * VL;
constexpr int MR = VL == 16 ? 12 : VL == 8 ? 6 : 4;

PC_INLINE vf load_weight(const float* w) { return vf_load(w); }
PC_INLINE vf load_weight(const uint16_t* w) { return vf_load_half(w); }

// Panels beside each other for R rows, as registers allow.
template <int R> constexpr int panels() { return VL == 16 ? (R <= 2 ? 4 : R <= 4 ? 2 : 1) : VL == 8 ? (R == 1 ? 4 : R == 2 ? 2 : 1) : 1; }

template <int R, int V> PC_INLINE void start(const F32Tile& t, vf (&acc)[R][V]) {
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < V; ++v)
      acc[r][v] = t.first ? vf_zero() : vf_loadn(t.y + r * t.ldy + v * VL, lanes_of(t.columns, v));
}

template <int R, int V> PC_INLINE void finish(const F32Tile& t, const vf (&acc)[R][V]) {
  const vf low = vf_set1(t.low), high = vf_set1(t.high);
  PC_UNROLL for (int r = 0; r < R; ++r) {
    float* y = t.y + r * t.ldy;
    PC_UNROLL for (int v = 0; v < V; ++v) {
      vf value = acc[r][v];
      if (t.last) {
        if (t.bias) value = vf_add(value, vf_load(t.bias + v * VL));
        value = vf_min(high, vf_max(low, value));
      }
      const int n = lanes_of(t.columns, v);
      if (n == VL)
        vf_store(y + v * VL, value);
      else
        vf_storen(y + v * VL, value, n);
    }
  }
}

template <class W, int R> void tile(const F32Tile& t) {
  vf acc[R][NV];
  start(t, acc);
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const float* x0 = t.x;
  const float* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const float* x8 = R > 8 ? x0 + 8 * ld1 : x0;
  const W* w = (const W*)t.w;
  for (int64_t k = t.k; k > 0; --k) {
    vf b[NV];
    PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = load_weight(w + v * VL);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const float* x = r < 4 ? x0 : r < 8 ? x4 : x8;
      const int q = r % 4;
      const vf a = vf_set1(*(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3));
      PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vf_muladd(a, b[v], acc[r][v]);
    }
    w += NR;
    ++x0;
    ++x4;
    ++x8;
  }
  finish(t, acc);
}

template <class W, int R> void wide(const F32Tile& t) {
  constexpr int P = panels<R>();
  vf acc[R][P * NV];
  start(t, acc);
  const int last = (t.columns - 1) / NR;
  const W* w[P];  // panels that do not exist are computed as copies of the last, and not stored
  PC_UNROLL for (int p = 0; p < P; ++p) w[p] = (const W*)t.w + (p < last ? p : last) * t.panel_stride;
  const float* x = t.x;
  for (int64_t k = 0; k < t.k; ++k) {
    vf a[R];
    PC_UNROLL for (int r = 0; r < R; ++r) a[r] = vf_set1(x[r * t.ldx + k]);
    PC_UNROLL for (int p = 0; p < P; ++p)
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        const vf b = load_weight(w[p] + k * NR + v * VL);
        PC_UNROLL for (int r = 0; r < R; ++r) acc[r][p * NV + v] = vf_muladd(a[r], b, acc[r][p * NV + v]);
      }
  }
  finish(t, acc);
}

template <class W, int R> constexpr void fill(GemmF32Kernel* kernel) {
  kernel->tile[R - 1] = tile<W, R>;
  if constexpr (panels<R>() > 1) {
    kernel->wide[R - 1] = wide<W, R>;
    kernel->panels[R - 1] = panels<R>();
  }
  if constexpr (R > 1) fill<W, R - 1>(kernel);
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
