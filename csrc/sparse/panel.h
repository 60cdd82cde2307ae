// A group of 16 outputs by a panel of rows: shared by float32 and int8, which differ in what one dword of weights does to a vector of rows (Op).
//
// Each output alone: a step is one broadcast and as many products as there are vectors of rows, with x from L1. Outputs are taken several at
// a time, so that 8 chains of sums hide the latency of the products. Bound: loads, 5 for 4 products.
// 4 outputs that share columns: a vector of x meets 4 broadcasts. AVX-512 holds 4 x 4 sums, AVX2 4 x 2. Bound: products.
#pragma once

#include "simd/simd.h"
#include "sparse/sparse.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int G = kSparseGroup;

PC_INLINE vi load_sum(const int32_t* p, vi) { return vi_load(p); }
PC_INLINE vf load_sum(const int32_t* p, vf) { return vf_load((const float*)p); }
PC_INLINE void store_sum(int32_t* p, vi x) { vi_store(p, x); }
PC_INLINE void store_sum(int32_t* p, vf x) { vf_store((float*)p, x); }

// Outputs j.. of the group by vectors v.. of the panel: I times R outputs, W vectors.
template <class Op, int R, int I, int W> PC_INLINE void tile(const SparseGroup& g, int j, int v) {
  typedef typename Op::Vector V;
  V acc[I * R][W];
  int32_t* sum[I * R];
  PC_UNROLL for (int i = 0; i < I * R; ++i) {
    sum[i] = g.sum + g.output[j + i] * kSparseRows + v * VL;
    PC_UNROLL for (int w = 0; w < W; ++w) {
      acc[i][w] = g.first ? Op::zero() : load_sum(sum[i] + w * VL, V());
      pin(acc[i][w]);
    }
  }
  const char* x = (const char*)g.x + v * VL * 4;
  const size_t stride = (size_t)g.vectors * VL * 4;
  const uint32_t* value = g.value + j;
  const uint16_t* position = g.position + j / R;
  for (int64_t s = g.steps; s > 0; --s) {
    PC_UNROLL for (int i = 0; i < I; ++i) {
      const char* p = x + position[i] * stride;
      if (R == 1) {
        const typename Op::Weight w = Op::weight(value + i);
        PC_UNROLL for (int u = 0; u < W; ++u) acc[i][u] = Op::multiply(acc[i][u], p + u * VL * 4, w);
      } else {
        typename Op::Rows rows[W];
        PC_UNROLL for (int u = 0; u < W; ++u) rows[u] = Op::rows(p + u * VL * 4);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const typename Op::Weight w = Op::weight(value + i * R + r);
          PC_UNROLL for (int u = 0; u < W; ++u) acc[i * R + r][u] = Op::multiply(acc[i * R + r][u], rows[u], w);
        }
      }
    }
    value += G;
    position += G / R;
  }
  PC_UNROLL for (int i = 0; i < I * R; ++i)
    PC_UNROLL for (int w = 0; w < W; ++w) store_sum(sum[i] + w * VL, acc[i][w]);
}

constexpr int widest(int r) { return VL == 16 ? 4 : VL == 8 ? (r == 1 ? 8 : 2) : 4; }
constexpr int together(int r, int w) { return r > 1 || VL == 1 || w > 4 ? 1 : VL == 16 ? (w > 2 ? 2 : w == 2 ? 4 : 8) : w > 2 ? 2 : 4; }

template <class Op, int R, int W> void outputs(const SparseGroup& g, int v) {
  constexpr int I = together(R, W);
  for (int j = 0; j < G; j += I * R) tile<Op, R, I, W>(g, j, v);
}

template <class Op, int R, int W = widest(R)> PC_INLINE void rest_of_rows(const SparseGroup& g, int v) {
  if constexpr (W > 0) {
    if (g.vectors - v == W)
      outputs<Op, R, W>(g, v);
    else
      rest_of_rows<Op, R, W - 1>(g, v);
  }
}

template <class Op, int R> void multiply(const SparseGroup& g) {
  int v = 0;
  for (; g.vectors - v > widest(R); v += widest(R)) outputs<Op, R, widest(R)>(g, v);
  rest_of_rows<Op, R>(g, v);
}

// Last: as in gemm/s8_last_step.h. Sums have their rows in lanes; a result by rows wants outputs there.
template <class Last> void finish(const SparseFinish& f) {
  Last last(f.t);
  if (f.by_output) {
    S8Tile t = f.t;  // what belongs to an output is the same in every lane, what belongs to a row is not
    float scale[VL], bias[VL];
    int32_t bias_q[VL];
    for (int i = 0; i < t.columns; ++i) {
      for (int l = 0; l < VL; ++l) {
        if (f.t.scale) scale[l] = f.t.scale[i];
        if (f.t.bias) bias[l] = f.t.bias[i];
        if (f.t.bias_q) bias_q[l] = f.t.bias_q[i];
      }
      t.scale = f.t.scale ? scale : nullptr;
      t.bias = f.t.bias ? bias : nullptr;
      t.bias_q = f.t.bias_q ? bias_q : nullptr;
      for (int r = 0; r < f.rows; r += VL) {
        last.rows(t, r);
        last.start_of_rows(t, r, i);
        vf sum = vf_load((const float*)f.sum + i * kSparseRows + r);
        last.put(t, (char*)t.y + i * t.ldy + r * Last::kSize, sum, 0, f.rows - r < VL ? f.rows - r : VL);
      }
    }
    return;
  }
  for (int r0 = 0; r0 < f.rows; r0 += VL)
    for (int c0 = 0; c0 < f.t.columns; c0 += VL) {
      vf square[VL];
      PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = vf_load((const float*)f.sum + (c0 + i) * kSparseRows + r0);
      vf_transpose(square);
      const int n = f.t.columns - c0 < VL ? f.t.columns - c0 : VL, rows = f.rows - r0;
      PC_UNROLL for (int r = 0; r < VL; ++r) {
        if (r >= rows) break;
        last.row(f.t, r0 + r);
        last.start_of_outputs(f.t, r0 + r, c0 / VL);
        last.put(f.t, (char*)f.t.y + (r0 + r) * f.t.ldy, square[r], c0 / VL, n);
      }
    }
}

void transpose(const float* x, ptrdiff_t ld, int rows, int64_t count, float* panel, ptrdiff_t stride) {
  const float* row[VL];
  for (int i = 0; i < VL; ++i) row[i] = x + (i < rows ? i : rows - 1) * ld;
  int64_t k = 0;
  for (; k + VL <= count; k += VL) {
    vf square[VL];
    PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = vf_load(row[i] + k);
    vf_transpose(square);
    PC_UNROLL for (int i = 0; i < VL; ++i) vf_store(panel + (k + i) * stride, square[i]);
  }
  if (k < count) {
    vf square[VL];
    const int rest = (int)(count - k);
    PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = vf_loadn(row[i] + k, rest);
    vf_transpose(square);
    PC_UNROLL for (int i = 0; i < VL; ++i)
      if (i < rest) vf_store(panel + (k + i) * stride, square[i]);
  }
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
