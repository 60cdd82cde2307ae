// A group of 16 outputs by a panel of rows: shared by float32 and int8, which differ in what one dword of weights does to a vector of rows (Op).
//
// Each output alone: a step is one broadcast and as many products as there are vectors of rows, with x from L1. Outputs are taken several at
// a time: their chains of sums hide the latency of the products, and one load brings the positions of all. AVX-512: 4 outputs by 4 vectors;
// AVX2: 1 by 8. Bound: loads, 5 for 4 products (AVX2: 9 for 8).
// 4 outputs that share columns: a vector of x meets 4 broadcasts. AVX-512 holds 4 x 4 sums. AVX2 holds 4 x 3 of float32, because 4 x 2 are as many
// chains as the latency of 2 products a cycle takes, none to spare; and 4 x 2 of int8, whose products need registers of their own. Bound: products.
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
template <class Op, int R, int I, int W> PC_INLINE void some(const SparseGroup& g, int j, int v) {
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
  const uint8_t* position = g.position + j / R;
  for (int64_t s = g.steps; s > 0; --s) {
    uint64_t next = 0;  // positions: loads are what is scarce
    PC_UNROLL for (int i = 0; i < I; ++i) {
      if (i == 0) memcpy(&next, position, I);
      const char* p = x + (next & 0xff) * stride;
      next >>= 8;
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

#if defined(PC_SIMDE)  // which takes minutes to compile what is unrolled
template <class Op> constexpr int widest(int) { return 1; }
constexpr int together(int r, int) { return r > 1 ? 1 : 2; }
#else
template <class Op> constexpr int widest(int r) { return VL == 16 ? 4 : VL == 8 ? (r == 1 ? 8 : Op::kShared) : 4; }
constexpr int together(int r, int w) { return r > 1 || VL == 1 || w > 4 ? 1 : VL == 16 ? (w > 1 ? 4 : 8) : w > 2 ? 2 : 4; }
#endif

template <class Op, int R, int W> void tile(const SparseGroup& g, int v) {
  constexpr int I = together(R, W);
  for (int j = 0; j < G; j += I * R) some<Op, R, I, W>(g, j, v);
}

template <class Op, int R, int W = widest<Op>(R)> PC_INLINE void rest_of_rows(const SparseGroup& g, int v) {
  if constexpr (W > 0) {
    if (g.vectors - v == W)
      tile<Op, R, W>(g, v);
    else
      rest_of_rows<Op, R, W - 1>(g, v);
  }
}

// The next group follows in memory: its lines come while this one is multiplied.
PC_INLINE void prefetch_next(const SparseGroup& g, int units) {
  const char* value = (const char*)(g.value + g.steps * G);
  const char* position = (const char*)(g.position + g.steps * units);
  for (int64_t i = 0; i < g.steps * G * 4; i += 64) prefetch(value + i);
  for (int64_t i = 0; i < g.steps * units; i += 64) prefetch(position + i);
}

template <class Op, int R> void multiply(const SparseGroup& g) {
  int v = 0;
  prefetch_next(g, G / R);
  constexpr int W = widest<Op>(R);
  for (; g.vectors - v > W + 1 || (W < 3 && g.vectors - v > W); v += W) tile<Op, R, W>(g, v);
  if constexpr (W > 2)
    if (g.vectors - v > W) {  // a single vector is the slowest
      tile<Op, R, W - 1>(g, v);
      v += W - 1;
    }
  rest_of_rows<Op, R>(g, v);
}

// ---- the last step

// Sums have rows of x in their lanes; a result by rows wants outputs there. Last holds in registers what belongs to the outputs and
// to the rows, one of them the same in every lane: outputs(first, lanes) or output(i), row(r) or rows(first). put() is one vector of
// results, of which the first n lanes are written.
template <class Last, bool Whole> PC_INLINE void finish_square(const SparseFinish& f, Last& last, int c0, int n, int r0, int rows) {
  vf square[VL];
  PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = vf_load((const float*)f.sum + (c0 + i) * kSparseRows + r0);
  vf_transpose(square);
  char* y = (char*)f.t.y + r0 * f.t.ldy + c0 * Last::kSize;
  if constexpr (Whole && Last::kSize == 1 && VL == 8) {
    PC_UNROLL for (int r = 0; r < VL; r += 4) last.put_four(f.t, y + r * f.t.ldy, r0 + r, square + r);
    return;
  }
  PC_UNROLL for (int r = 0; r < VL; ++r) {
    if (!Whole && r >= rows) break;
    last.row(f.t, r0 + r);
    last.put(y, square[r], Whole ? VL : n);
    y += f.t.ldy;
  }
}

template <class Last> void finish_few(const SparseFinish& f) {
  Last last(f.t);
  for (int r = 0; r < f.rows; ++r) {
    const float* sum = (const float*)f.sum + r * kSparseSums;
    char* y = (char*)f.t.y + r * f.t.ldy;
    last.row(f.t, r);
    for (int c = 0; c < f.t.columns; c += VL) {
      last.outputs(f.t, c);
      last.put(y + c * Last::kSize, vf_load(sum + c), f.t.columns - c < VL ? f.t.columns - c : VL);
    }
  }
}

template <class Last> void finish(const SparseFinish& f) {
  if (f.few) return finish_few<Last>(f);
  Last last(f.t);
  if (f.by_output) {
    for (int i = 0; i < f.t.columns; ++i) {
      last.output(f.t, i);
      for (int r = 0; r < f.rows; r += VL) {
        last.rows(f.t, r);
        last.put((char*)f.t.y + i * f.t.ldy + r * Last::kSize, vf_load((const float*)f.sum + i * kSparseRows + r), f.rows - r < VL ? f.rows - r : VL);
      }
    }
    return;
  }
  // Runs of whole cache lines of a row of y, one after the other.
  for (int r0 = 0; r0 < f.rows; r0 += VL)
    for (int c0 = 0; c0 < f.t.columns; c0 += VL) {
      const int n = f.t.columns - c0 < VL ? f.t.columns - c0 : VL;
      last.outputs(f.t, c0);
      if (n == VL && f.rows - r0 >= VL)
        finish_square<Last, true>(f, last, c0, n, r0, VL);
      else
        finish_square<Last, false>(f, last, c0, n, r0, f.rows - r0);
    }
}

uint8_t largest(const uint8_t* position, int64_t count) {
  uint8_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = position[i] > most ? position[i] : most;
  return most;
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
