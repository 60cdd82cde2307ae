// int8 with few values of k: the panel of w stays in registers, and rows of x go by.
//
// With k = 16 a tile of 12 x 32 has 48 cycles of products and writes 24 vectors of bytes: the last step takes longer than the products, and begins
// only when they have all been started. Here 4 / V rows are finished at a time, so that the products of the next rows run beside the last step of
// these, and neither w, nor the start, nor the scales are loaded again. Registers: STEPS * V of w (16 at the most, so that 32 outputs have up to
// 32 values of k), 2 * V of start and scale, 4 sums, an operand, 4 constants: 29 of 32. Bound: the multipliers, and beside them the conversions.
#pragma once

#include "gemm/s8_quads.h"

namespace pc {
namespace PC_NS {
namespace {

template <int V, int STEPS> void short_rows(const S8Tile& t, int64_t rows) {
  constexpr int R = 4 / V;
  vi w[STEPS][V], start[V];
  vf scale[V];
  PC_UNROLL for (int v = 0; v < V; ++v) {
    start[v] = vi_load(t.start + v * VL);
    scale[v] = vf_load(t.scale + v * VL);
    PC_UNROLL for (int s = 0; s < STEPS; ++s) w[s][v] = vi_load((const int32_t*)(t.w + (s * NV + v) * VL * 4));
  }
  const ByteRangeVectors range = vb_range(t.bytes.zero_point, t.bytes.low, t.bytes.high, t.bytes.flip);
  const ptrdiff_t ldx = t.ldx, ldy = t.ldy;
  const int columns = t.columns;
  const uint8_t* x = (const uint8_t*)t.x;
  char* y = (char*)t.y;
  for (int64_t r = 0; r < rows; r += R, x += R * ldx, y += R * ldy) {
    const int64_t left = rows - r;
    vi acc[4];
    PC_UNROLL for (int i = 0; i < R; ++i) {
      const uint8_t* row = x + (i < left ? i * ldx : 0);
      PC_UNROLL for (int s = 0; s < STEPS; ++s) {
        const vi a = vi_broadcast_quad(row + 4 * s);
        PC_UNROLL for (int v = 0; v < V; ++v) acc[i * V + v] = vi_dot4(s == 0 ? start[v] : acc[i * V + v], a, w[s][v]);
      }
    }
    vi q[4];
    PC_UNROLL for (int i = 0; i < 4; ++i) q[i] = vi_from_vf(vf_mul(vf_from_vi(acc[i]), scale[i % V]));
    const vb bytes = vb_clip(q, range);
    PC_UNROLL for (int i = 0; i < R; ++i) {
      if (i >= left) break;
      if (columns == V * VL)
        vb_store<V>(y + i * ldy, bytes, i);
      else
        vb_storen<V>(y + i * ldy, bytes, i, columns);
    }
  }
}

template <int V, int STEPS> constexpr void fill_short(S8ShortFunction* by_steps) {
  by_steps[STEPS - 1] = short_rows<V, STEPS>;
  if constexpr (STEPS > 1) fill_short<V, STEPS - 1>(by_steps);
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
