// float32 GEMM: each output is one accumulator that takes k in order, so a row's bits do not depend on the rows beside it.
//
// Tile: AVX-512 12 x 32, AVX2 6 x 16, scalar 4 x 4. A step of one k loads 2 weight vectors and MR broadcasts for 2 * MR multiply-adds: the
// multiplier is the bound. Blocks of k leave their sums in y and take them up again, which changes no bit.
#include "gemm/gemm.h"
#include "gemm/lanes.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = VL == 1 ? 4 : 2;
constexpr int MR = VL == 16 ? 12 : VL == 8 ? 6 : 4;

constexpr int PREFETCH = 128;  // floats ahead

template <int R> void tile(const F32Tile& t) {
  vf acc[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v)
      acc[r][v] = t.first ? vf_zero() : vf_loadn(t.y + r * t.ldy + v * VL, lanes_of(t.columns, v));
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const float* x0 = t.x;
  const float* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const float* x8 = R > 8 ? x0 + 8 * ld1 : x0;
  const float* w = t.w;
  for (int64_t k = t.k; k > 0; --k) {
    vf b[NV];
    PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = vf_load(w + v * VL);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const float* x = r < 4 ? x0 : r < 8 ? x4 : x8;
      const int q = r % 4;
      const vf a = vf_set1(*(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3));
      PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vf_muladd(a, b[v], acc[r][v]);
    }
    w += NV * VL;
    ++x0;
    ++x4;
    ++x8;
  }
  const vf low = vf_set1(t.low), high = vf_set1(t.high);
  PC_UNROLL for (int r = 0; r < R; ++r) {
    float* y = t.y + r * t.ldy;
    PC_UNROLL for (int v = 0; v < NV; ++v) {
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

// VL inputs from j on (or the `rest` that there are) of a panel of rows of w: squares are transposed in registers.
template <bool Whole> PC_INLINE void pack_rows(const float* w, int64_t ldn, int columns, int64_t j, int rest, float* panel) {
  PC_UNROLL for (int v = 0; v < NV; ++v) {
    vf square[VL];
    PC_UNROLL for (int i = 0; i < VL; ++i) {
      const float* row = w + (v * VL + i) * ldn + j;
      square[i] = Whole ? vf_load(row) : v * VL + i < columns ? vf_loadn(row, rest) : vf_zero();
    }
    vf_transpose(square);
    PC_UNROLL for (int i = 0; i < VL; ++i)
      if (Whole || i < rest) vf_store(panel + (j + i) * NV * VL + v * VL, square[i]);
  }
}

void pack_panel(const float* w, int64_t ldn, int64_t ldk, int columns, int64_t k, float* panel) {
  constexpr int NR = NV * VL;
  int64_t j = 0;
  if (ldk == 1) {
    for (; columns == NR && j + VL <= k; j += VL) {
      // No hardware follows that many rows at once. A prefetch beyond the array does nothing.
      for (int i = 0; i < NR; ++i) prefetch(w + i * ldn + j + PREFETCH);
      pack_rows<true>(w, ldn, columns, j, VL, panel);
    }
    for (; j < k; j += VL) pack_rows<false>(w, ldn, columns, j, k - j < VL ? (int)(k - j) : VL, panel);
  } else if (columns == NR && ldn == 1) {  // columns of w: they are the panel's rows already
    for (; j < k; ++j)
      for (int v = 0; v < NV; ++v) vf_store(panel + j * NR + v * VL, vf_load(w + j * ldk + v * VL));
  }
  for (; j < k; ++j)
    for (int i = 0; i < NR; ++i) panel[j * NR + i] = i < columns ? w[i * ldn + j * ldk] : 0.0f;
}

template <int R> constexpr void fill(F32TileFunction* by_rows) {
  by_rows[R - 1] = tile<R>;
  if constexpr (R > 1) fill<R - 1>(by_rows);
}

constexpr GemmF32Kernel make() {
  GemmF32Kernel kernel{"gemm_f32/" PC_ISA_NAME, MR, NV * VL, {}, pack_panel};
  fill<MR>(kernel.tile);
  return kernel;
}

}  // namespace

extern const GemmF32Kernel gemm_f32;
constexpr GemmF32Kernel gemm_f32 = make();

}  // namespace PC_NS
}  // namespace pc
